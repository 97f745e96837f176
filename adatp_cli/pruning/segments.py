"""From segments and budgets to the tokens that stay: AdaTP's steps, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adatp_cli.pruning.knobs import LocalMode, Representative

# Relevances this far apart, relative to the largest, are equal: float32's rounding is less.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class SegmentTable:
    """The segments of one clip under one question, with their weights: global debiasing.

    A segment is salient when its mean relevance reaches the mean over all frames; what differs by
    rounding alone counts as equal. Rule and weight are our choice: the paper says only that
    matching segments get more.
    """

    bounds: tuple[int, ...]  # S + 1, from 0 to T; segment k: frames bounds[k] .. bounds[k+1] - 1
    similarity: Tensor  # (T-1,) float64: cosine of each frame to the next, for the cuts
    relevance: Tensor | None = (
        None  # (T,) float64 on the CPU: match to the question, where measured
    )
    weight: float = 0.0  # lambda

    @property
    def lengths(self) -> tuple[int, ...]:
        """Frames per segment."""
        return tuple(b - a for a, b in pairwise(self.bounds))

    @cached_property
    def segment_relevance(self) -> tuple[float, ...] | None:
        """S means of `relevance`."""
        if self.relevance is None:
            return None
        return tuple(float(self.relevance[a:b].mean()) for a, b in pairwise(self.bounds))

    @cached_property
    def salient(self) -> tuple[bool, ...]:
        """Which segments match the question at least as well as the clip does on average."""
        if self.relevance is None or self.segment_relevance is None:
            return (False,) * len(self.lengths)
        rounding = _ROUNDING * float(self.relevance.abs().max())
        reached = float(self.relevance.mean()) - rounding
        return tuple(mean >= reached for mean in self.segment_relevance)

    @property
    def weights(self) -> tuple[float, ...]:
        """1 + lambda for a salient segment, else 1."""
        return tuple(1.0 + self.weight if salient else 1.0 for salient in self.salient)

    def of_frames(self) -> Tensor:
        """(T,) int64: the segment that each frame belongs to."""
        return torch.repeat_interleave(
            torch.arange(len(self.lengths)), torch.tensor(self.lengths, dtype=torch.int64)
        )


def neighbour_similarity(vectors: Tensor) -> Tensor:
    """(T-1,) float64 on the CPU: cosine of each frame's vector (T, D) to the next frame's."""
    unit = torch.nn.functional.normalize(vectors.detach().double().cpu(), dim=-1)
    return (unit[:-1] * unit[1:]).sum(-1)


def segment_bounds(similarity: Tensor, threshold: float) -> tuple[int, ...]:
    """Frame numbers at which segments begin, and T at the end.

    A new segment starts at frame t + 1 where ``similarity[t] < threshold`` (AdaTP, arXiv
    2505.20100, with threshold 0.95 on SigLIP's pooled frame vectors).
    """
    cuts = torch.nonzero(similarity < threshold).flatten() + 1
    return (0, *(int(cut) for cut in cuts), similarity.shape[0] + 1)


def frame_relevance(frame_vectors: Tensor, question_vector: Tensor) -> Tensor:
    """(T,) float64: cosine of each frame's vector (T, D) to the question's (D,)."""
    frames = torch.nn.functional.normalize(frame_vectors.detach().double().cpu(), dim=-1)
    question = torch.nn.functional.normalize(question_vector.detach().double().cpu(), dim=-1)
    return frames @ question


def debiased_frame_relevance(
    question: Tensor, baseline: Tensor, frame: Tensor, frames: int
) -> Tensor:
    """(T,) float64: relevance of each frame from the model's own attention, without position bias.

    The log of the attention that the question's tokens pay to a frame, less the log of what the
    newline token pays to it. The newline closes the video and has not seen the question, so it
    carries the pull towards the ends of the video but not the question's interest. Our choice; it
    needs no encoder. `question` and `baseline` are (n,) attention to each visual token, mean over
    the question's rows and the newline's row; `frame` (n,) the frame of each.
    """
    tiny = torch.finfo(torch.float32).tiny

    def mass(row: Tensor) -> Tensor:
        total = torch.zeros(frames, dtype=torch.float64)
        return total.index_add_(0, frame, row.double()).clamp_min(tiny)

    return mass(question).log() - mass(baseline).log()


def segment_budgets(
    total: int, weights: Sequence[float], lengths: Sequence[int], capacity: Sequence[int]
) -> tuple[int, ...]:
    """Share `total` tokens among segments: integers that sum to it, as far as there are tokens.

    Segment k gets ``total * w[k] len[k] / sum(w len)``, at least 1 and at most its capacity, the
    tokens alive in it; what a full segment cannot take is split again among the others in the same
    proportion. Fractions go to the largest remainders, ties to the earlier segment. With fewer
    tokens than segments the best weighted segments (by ``w len``) get one each. Minimum, cap and
    rounding are our choice.
    """
    total = min(total, sum(capacity))
    open_segments = [k for k, alive in enumerate(capacity) if alive > 0]
    budgets = [0] * len(capacity)
    # Exact arithmetic: a share that float rounding moves by one ulp could move a token.
    share = {k: Fraction(weights[k]) * lengths[k] for k in open_segments}
    if total <= len(open_segments):
        for k in sorted(open_segments, key=lambda k: (-share[k], k))[:total]:
            budgets[k] = 1
        return tuple(budgets)
    whole = sum(share.values(), Fraction(0))
    exact = {k: total * part / whole for k, part in share.items()}
    if any(not 1 <= value <= capacity[k] for k, value in exact.items()):
        exact = _waterfill(total, share, {k: capacity[k] for k in open_segments})
    for k, value in exact.items():
        budgets[k] = int(value)
    left = total - sum(budgets)
    by_remainder = sorted(open_segments, key=lambda k: (int(exact[k]) - exact[k], k))
    for k in by_remainder[:left]:
        budgets[k] += 1
    return tuple(budgets)


def _waterfill(
    total: int, share: dict[int, Fraction], capacity: dict[int, int]
) -> dict[int, Fraction]:
    """The x with ``x[k] = clip(level * share[k], 1, capacity[k])`` that sums to `total`.

    The sum rises with the level and bends only where a segment leaves its minimum or meets its cap,
    so the level lies on the straight piece between two such bends.
    """
    rising = {k: 1 / part for k, part in share.items()}  # level at which k leaves its minimum
    bends = sorted({*rising.values(), *(capacity[k] * level for k, level in rising.items())})

    def filled(level: Fraction) -> dict[int, Fraction]:
        return {k: min(max(level * share[k], Fraction(1)), Fraction(capacity[k])) for k in share}

    low, high = 0, len(bends) - 1
    while low < high:  # the first bend at which the sum reaches the total
        middle = (low + high) // 2
        if sum(filled(bends[middle]).values()) >= total:
            high = middle
        else:
            low = middle + 1
    above = filled(bends[low])
    if low == 0 or sum(above.values()) == total:
        return above
    below = filled(bends[low - 1])
    reached = sum(below.values(), Fraction(0))
    part = (total - reached) / (sum(above.values(), Fraction(0)) - reached)
    return {k: below[k] + part * (above[k] - below[k]) for k in share}


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
