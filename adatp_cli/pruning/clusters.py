"""Density peaks: which tokens of a set stand for the others, as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor


def squared_distances(points: Tensor) -> Tensor:
    """(n, n) float32: mean squared difference per channel between the rows of (n, D)."""
    points = points.float()
    norms = points.square().sum(-1)
    products = points @ points.T
    squared = (norms[:, None] + norms[None] - 2 * products).clamp_min(0.0)
    squared.fill_diagonal_(0.0)
    return squared / points.shape[-1]


def density_peaks(points: Tensor, neighbours: int) -> Tensor:
    """How well each point serves as a cluster's centre: dense, and far from anything denser.

    Density is ``exp(-mean of the k smallest squared distances)``, the point itself among them; the
    score is density times the distance to the nearest denser point, or to the farthest of all pairs
    for the densest. Of equally dense points the earlier counts as denser (our choice; the published
    codes add noise).

    Parameters
    ----------
    points
        (n, D), any float type.
    neighbours
        k; at most n are used.

    Returns
    -------
    Tensor
        (n,) float32.
    """
    squared = squared_distances(points)
    count = len(squared)
    if count == 0:
        return squared.new_zeros(0)
    nearest = squared.topk(min(neighbours, count), largest=False).values
    density = (-nearest.mean(-1)).exp()
    distance = squared.sqrt()
    order = torch.arange(count, device=squared.device)
    denser = density[None] > density[:, None]
    denser |= (density[None] == density[:, None]) & (order[None] < order[:, None])
    apart = distance.masked_fill(~denser, float("inf")).min(-1).values
    return density * torch.where(denser.any(-1), apart, distance.max())


def largest(scores: Tensor, count: int) -> Tensor:
    """Ascending int64 indices along the last dimension of the `count` largest scores.

    Ties go to the earlier index.
    """
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    return order[..., :count].sort(dim=-1).values
