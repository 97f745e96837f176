"""Local debiasing: one token per spatial position and segment before any position gets a second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

LocalMode = Literal["strict", "refill", "off"]
Representative = Literal["score", "first", "middle"]


def select_tokens(
    scores: Tensor,
    segment: Tensor,
    position: Tensor,
    budgets: Sequence[int],
    *,
    mode: LocalMode = "refill",
    representative: Representative = "score",
) -> Tensor:
    """Choose tokens segment by segment, representatives of spatial positions first.

    In each segment every spatial position has one representative among its alive tokens, and the
    best ``budgets[k]`` representatives stay. When the budget exceeds their number, `strict` stops
    there and `refill` goes on with the next best tokens (both our reading; the published text
    leaves it open). `off` skips the step: the best ``budgets[k]`` tokens stay. Equal scores go to
    the earlier token.

    Parameters
    ----------
    scores
        (n,) one score per alive token, in the tokens' order.
    segment, position
        (n,) int64: each token's segment and its spatial position in the frame.
    budgets
        Tokens to keep per segment.
    representative
        Which alive token stands for a position: the one with the largest `score`, or by time the
        `first` or the `middle` one (the earlier of two middles). Our choice; the default is
        `score`.

    Returns
    -------
    Tensor
        Ascending int64 indices into `scores`.
    """
    if mode == "off":
        second = torch.zeros_like(scores, dtype=torch.bool)
    else:
        second = ~representatives(scores, segment, position, representative)
    order = _lexical_order(segment, second, -scores)
    rank = _rank_within(segment[order])
    allowed = torch.tensor(budgets, dtype=torch.int64)[segment[order]]
    stays = rank < allowed
    if mode == "strict":
        stays &= ~second[order]
    return order[stays].sort().values


def representatives(
    scores: Tensor, segment: Tensor, position: Tensor, representative: Representative
) -> Tensor:
    """(n,) bool: the one token per segment and spatial position that stands for it."""
    key = scores.new_zeros(scores.shape) if representative != "score" else -scores
    order = _lexical_order(segment, position, key)
    _, group = torch.unique_consecutive(
        torch.stack((segment[order], position[order])), dim=1, return_inverse=True
    )
    rank = _rank_within(group)
    if representative == "middle":
        sizes = torch.bincount(group)
        wanted = (sizes[group] - 1) // 2
    else:
        wanted = torch.zeros_like(rank)
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen[order[rank == wanted]] = True
    return chosen


def _lexical_order(*keys: Tensor) -> Tensor:
    """Indices that sort by the first key, then the second, ...; ties keep their order."""
    order = torch.arange(keys[0].shape[0])
    for key in reversed(keys):
        order = order[torch.argsort(key[order], stable=True)]
    return order


def _rank_within(sorted_groups: Tensor) -> Tensor:
    """Place of each element in its run of equal values."""
    index = torch.arange(sorted_groups.shape[0])
    _, counts = torch.unique_consecutive(sorted_groups, return_counts=True)
    starts = torch.cumsum(counts, 0) - counts
    return index - torch.repeat_interleave(starts, counts)
