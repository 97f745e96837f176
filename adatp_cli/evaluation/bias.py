"""The two biases of attention, as numbers: where in the clip and where in the frame it piles up.

AdaTP (arXiv 2505.20100) says that attention from text to visual tokens piles up at both ends of the
clip, and in shallow layers on the same places of every frame. The same is asked of the tokens that
a profile keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from adatp_cli.pruning.selection import best

Floats = npt.NDArray[np.float64]
# The paper's clips have 32 frames, and its last eighth of them are 4.
PARTS = 32
EIGHTHS = 8
TOP = 0.1

What = Literal["attention", "kept"]


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """The visual tokens that entered one layer, for one question.

    Parameters
    ----------
    tokens
        (n,) int64: token t*P + p is position p of frame t.
    attention
        (n,) what the last prompt token paid to each in that layer; any scale.
    """

    tokens: npt.NDArray[np.int64]
    attention: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One question under one profile.

    Parameters
    ----------
    frames, rows, cols
        T frames of rows x cols tokens.
    looks
        One for each layer.
    """

    frames: int
    rows: int
    cols: int
    looks: Sequence[Look]


@dataclass(frozen=True, slots=True, eq=False)
class LayerBias:
    """One layer, mean over questions.

    Parameters
    ----------
    layer
        0 for the first.
    tokens
        Visual tokens that enter it.
    top_parts
        (PARTS,) how the tokens in question are spread over equal parts of the clip, in its order:
        the top tenth by attention, or those that were kept. Sums to 1.
    parts
        (PARTS,) the same for all of the attention; equal to `top_parts` for what was kept.
    places
        (rows, cols) how attention, or what was kept, is spread over the places of a frame.
    """

    layer: int
    tokens: float
    top_parts: Floats
    parts: Floats
    places: Floats

    @property
    def first_eighth(self) -> float:
        """Share of the tokens in question that lie in the first eighth of the clip."""
        return float(self.top_parts[: PARTS // EIGHTHS].sum())

    @property
    def last_eighth(self) -> float:
        """Share of the tokens in question that lie in its last eighth; even would be 1/8."""
        return float(self.top_parts[-PARTS // EIGHTHS :].sum())

    @property
    def eighths(self) -> list[float]:
        """Share of the attention, or of what was kept, in each eighth of the clip."""
        return [float(part.sum()) for part in np.split(self.parts, EIGHTHS)]

    @property
    def hottest(self) -> float:
        """The place of the frame that has most, to the mean over places; even would be 1."""
        return float(self.places.max() / self.places.mean())


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Every layer under one profile: its `attention`, or the tokens that were `kept` up to it."""

    profile: str
    what: What
    layers: tuple[LayerBias, ...]


@dataclass(frozen=True, slots=True)
class BiasSummary:
    """What was measured over a dataset.

    Parameters
    ----------
    title
        The dataset's.
    questions
        How many each view is a mean over, by profile.
    failed
        Questions without a measurement, by kind of error, over all profiles.
    views
        The unpruned run's attention first.
    """

    title: str
    questions: Mapping[str, int]
    failed: Mapping[str, int]
    views: tuple[View, ...]

    @property
    def before(self) -> View:
        """Attention of the unpruned run."""
        return self.views[0]

    def kept(self) -> list[View]:
        """What each profile that prunes keeps."""
        return [view for view in self.views if view.what == "kept"]


def spread(per_frame: Floats, parts: int = PARTS) -> Floats:
    """(T,) amounts of frames as (parts,) amounts of equal parts of the clip; the sum stays.

    A frame that two parts share is divided between them by how much of it lies in each.
    """
    frames = len(per_frame)
    total = np.concatenate(([0.0], np.cumsum(per_frame)))
    edges = np.linspace(0.0, frames, parts + 1)
    return np.diff(np.interp(edges, np.arange(frames + 1), total))


def top_tokens(attention: Floats, share: float = TOP) -> npt.NDArray[np.int64]:
    """Indices of the largest `share` of values, at least one; ties go to the earlier."""
    count = max(1, round(share * len(attention)))
    chosen: npt.NDArray[np.int64] = best(torch.from_numpy(attention), count).numpy()
    return chosen


def _add_up(index: npt.NDArray[np.int64], weights: Floats, count: int) -> Floats:
    """(count,) sums of the weights by index."""
    return np.bincount(index, weights, count).astype(np.float64)


@dataclass(slots=True, eq=False)
class _Sums:
    """What one layer of one view adds up to."""

    tokens: int = 0
    top_parts: Floats = field(default_factory=lambda: np.zeros(PARTS))
    parts: Floats = field(default_factory=lambda: np.zeros(PARTS))
    places: Floats = field(default_factory=lambda: np.zeros(0))

    def add(self, sample: Sample, look: Look, weights: Floats, top: Floats) -> None:
        per_frame = sample.rows * sample.cols
        frame, place = np.divmod(look.tokens, per_frame)
        self.tokens += len(look.tokens)
        self.top_parts += spread(_add_up(frame, top, sample.frames))
        self.parts += spread(_add_up(frame, weights, sample.frames))
        places = _add_up(place, weights, per_frame).reshape(sample.rows, sample.cols)
        self.places = self.places + places if self.places.size else places


class Tally:
    """Adds up samples, question by question, each of the same weight."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, What], list[_Sums]] = {}
        self._counts: dict[str, int] = {}

    def add(self, profile: str, sample: Sample, *, prunes: bool) -> None:
        """Take one question's looks.

        Raises
        ------
        ValueError
            A layer that no attention reached.
        """
        self._counts[profile] = self._counts.get(profile, 0) + 1
        kinds: tuple[What, ...] = ("attention", "kept") if prunes else ("attention",)
        for what in kinds:
            sums = self._sums.setdefault((profile, what), [_Sums() for _ in sample.looks])
            for layer, look in zip(sums, sample.looks, strict=True):
                even = np.full(len(look.tokens), 1 / len(look.tokens))
                if what == "kept":
                    layer.add(sample, look, even, even)
                    continue
                total = float(look.attention.sum())
                if not total > 0:
                    raise ValueError("the attention to the clip is zero")
                top = np.zeros(len(look.tokens))
                chosen = top_tokens(look.attention)
                top[chosen] = 1 / len(chosen)
                layer.add(sample, look, look.attention / total, top)

    def summary(self, title: str, failed: Mapping[str, int]) -> BiasSummary:
        """The means."""
        views = []
        for (profile, what), sums in self._sums.items():
            count = self._counts[profile]
            layers = tuple(
                LayerBias(
                    number,
                    layer.tokens / count,
                    layer.top_parts / count,
                    layer.parts / count,
                    layer.places / count,
                )
                for number, layer in enumerate(sums)
            )
            views.append(View(profile, what, layers))
        return BiasSummary(title, dict(self._counts), dict(failed), tuple(views))


def entering(arrays: Mapping[str, npt.NDArray[Any]], layers: int) -> list[npt.NDArray[np.int64]]:
    """From a trace: the visual tokens that entered each of so many layers."""
    tokens = np.arange(int(arrays["frames"]) * int(np.prod(arrays["grid"])))
    found = []
    for layer in range(layers):
        tokens = arrays.get(f"kept_{layer}", tokens)
        found.append(tokens)
    return found


def sample_of(
    arrays: Mapping[str, npt.NDArray[Any]], rows: Sequence[npt.NDArray[np.float32]]
) -> Sample:
    """One question from its trace and the attention rows of its prefill, one for each layer.

    Line breaks that a method put between the tokens that it kept are left out.
    """
    start = int(arrays["video_token_start"])
    breaks = arrays.get("entered_break", np.zeros(0, dtype=bool))
    looks = []
    for tokens, row in zip(entering(arrays, len(rows)), rows, strict=True):
        if breaks.any():
            visual = row[start : start + len(breaks)][~breaks]
        else:
            visual = row[start : start + len(tokens)]
        looks.append(Look(tokens, visual.astype(np.float64)))
    height, width = (int(side) for side in arrays["grid"])
    return Sample(int(arrays["frames"]), height, width, looks)
