"""Which tokens stay: the largest scores, and AdaTP's local debiasing, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adatp_cli.pruning.knobs import LocalMode, Representative


def largest(scores: Tensor, count: int) -> Tensor:
    """Ascending indices of the `count` largest along the last dimension, the earlier of equals."""
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    return order[..., :count].sort(dim=-1).values


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
    the earlier token. `scores`, `segment` and `position` (in the frame) are (n,), one per alive
    token in their order; gives ascending int64 indices into them.
    """
    by_score = np.argsort(-scores.numpy(), kind="stable")
    second = np.zeros(len(by_score), dtype=bool)
    if mode != "off":
        second = ~representatives(scores, segment, position, representative).numpy()
    # Segment by segment, representatives first, each group from the best score down.
    group = (2 * segment.numpy() + second).astype(np.int32)
    order = by_score[np.argsort(group[by_score], kind="stable")]
    rank = _rank_within(group[order] >> 1)
    stays = rank < np.asarray(budgets)[group[order] >> 1]
    if mode == "strict":
        stays &= ~second[order]
    return torch.from_numpy(np.sort(order[stays]))


def representatives(
    scores: Tensor, segment: Tensor, position: Tensor, representative: Representative
) -> Tensor:
    """(n,) bool: the one token per segment and spatial position that stands for it."""
    key = segment.numpy() * (int(position.max()) + 1) + position.numpy()
    if representative == "middle":
        # Tokens stand in the order of time, so a stable sort keeps it within each position.
        order = np.argsort(key, kind="stable")
        rank = _rank_within(key[order])
        _, sizes = np.unique(key[order], return_counts=True)
        chosen = order[rank == np.repeat((sizes - 1) // 2, sizes)]
    else:
        order = np.arange(len(key))
        if representative == "score":
            order = np.argsort(-scores.numpy(), kind="stable")
        # Written from the worst to the best, each place ends up with its best.
        holder = np.full(int(key.max()) + 1, -1)
        holder[key[order[::-1]]] = order[::-1]
        chosen = holder[holder >= 0]
    stands = np.zeros(len(key), dtype=bool)
    stands[chosen] = True
    return torch.from_numpy(stands)


def _rank_within(sorted_groups: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Place of each element in its run of equal values."""
    index = np.arange(len(sorted_groups))
    starts = np.r_[True, sorted_groups[1:] != sorted_groups[:-1]]
    return index - np.maximum.accumulate(np.where(starts, index, 0))
