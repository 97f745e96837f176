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


def rotate(vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding in the half-split layout of Qwen2.

    Parameters
    ----------
    vectors
        (heads, rows, head_dim).
    cos, sin
        (rows, head_dim).
    """
    half = vectors.shape[-1] // 2
    turned = torch.cat((-vectors[..., half:], vectors[..., :half]), dim=-1)
    return vectors * cos + turned * sin


def attention_rows(query: Tensor, keys: Tensor, seen: Tensor, scaling: float) -> Tensor:
    """Attention probabilities of a few queries, mean over heads.

    Query heads that share a key head are folded into rows, so that keys are never repeated in
    memory.

    Parameters
    ----------
    query
        (heads, rows, head_dim), rotary embedding applied.
    keys
        (kv_heads, n, head_dim), as the cache holds them.
    seen
        (rows,) int64 on the CPU: how many keys, from the first on, each query may see.
    scaling
        What products are multiplied with before the softmax.

    Returns
    -------
    Tensor
        (rows, n) float32; every row sums to 1, and is 0 where the query must not look.
    """
    heads, rows, width = query.shape
    kv_heads, count, _ = keys.shape
    folded = query.float().reshape(kv_heads, (heads // kv_heads) * rows, width)
    products = torch.matmul(folded, keys.float().transpose(1, 2)) * scaling
    products = products.view(heads, rows, count)
    if int(seen.min()) < count:
        hidden = torch.arange(count) >= seen[:, None]
        products = products.masked_fill(hidden.to(products.device), float("-inf"))
    return products.softmax(dim=-1).mean(dim=0)


def best(scores: Tensor, count: int) -> Tensor:
    """Ascending int64 indices of the `count` largest scores (n,); ties go to the earlier one."""
    return scores.sort(descending=True, stable=True).indices[:count].sort().values


def debiased_frame_relevance(
    question: Tensor, baseline: Tensor, frame: Tensor, frames: int
) -> Tensor:
    """Relevance of each frame from the model's own attention, without its position bias.

    The log of the attention that the question's tokens pay to a frame, less the log of what the
    newline token pays to it. The newline closes the video and has not seen the question, so it
    carries the pull towards the ends of the video but not the question's interest. Our choice; it
    needs no encoder.

    Parameters
    ----------
    question, baseline
        (n,) float32 attention to each visual token: mean over the question's rows, and the
        newline's row.
    frame
        (n,) int64: the frame of each token.
    frames
        T.

    Returns
    -------
    Tensor
        (T,) float64.
    """
    tiny = torch.finfo(torch.float32).tiny

    def mass(row: Tensor) -> Tensor:
        total = torch.zeros(frames, dtype=torch.float64)
        return total.index_add_(0, frame, row.double()).clamp_min(tiny)

    return mass(question).log() - mass(baseline).log()
