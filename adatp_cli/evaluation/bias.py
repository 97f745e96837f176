"""The two biases of attention, as numbers: where in the clip and where in the frame it piles up.

AdaTP (arXiv 2505.20100) says that attention from text to visual tokens piles up at both ends of the
clip, and in shallow layers on the same places of every frame. The same is asked of the tokens that
a profile keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from adatp_cli.errors import PruningError
from adatp_cli.pruning.attention_rows import attention_rows, project_query
from adatp_cli.pruning.selection import largest

Floats = npt.NDArray[np.float64]
# The paper's clips have 32 frames, and its last eighth of them are 4.
PARTS = 32
EIGHTHS = 8
TOP = 0.1

What = Literal["attention", "kept"]


class AttentionWatch:
    """Context manager that computes one row of attention in every layer of the prefill inside it.

    The row is the last prompt token's, in float32, from what entered the layer's attention and the
    keys in its cache: no attention matrix is built and fused attention stays on. It sees pruned
    prefills as they are. `language_model` is the decoder stack with `layers`.
    """

    def __init__(self, language_model: nn.Module) -> None:
        layers: Any = language_model.layers
        self._parts: list[nn.Module] = [layer.self_attn for layer in layers]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._rows: dict[int, Tensor] = {}

    def __enter__(self) -> AttentionWatch:
        self._rows = {}
        for index, part in enumerate(self._parts):
            hook = partial(self._see, index)
            self._handles.append(part.register_forward_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *_error: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    @property
    def rows(self) -> list[Tensor]:
        """For each layer (n,) float32 on the CPU: attention to all n tokens that entered it.

        Mean over heads; sums to 1, text included. A `PruningError` where no prefill ran inside.
        """
        if len(self._rows) != len(self._parts):
            raise PruningError("no prefill was seen")
        return [self._rows[index] for index in range(len(self._parts))]

    def _see(
        self, index: int, part: Any, _args: tuple[Any, ...], kwargs: dict[str, Any], _output: Any
    ) -> None:
        hidden: Tensor = kwargs["hidden_states"]
        if hidden.shape[1] == 1:  # decoding
            return
        cos, sin = kwargs["position_embeddings"]
        keys = kwargs["past_key_values"].layers[index].keys[0]
        query = project_query(part, hidden[:, -1:], (cos[0, -1:], sin[0, -1:]))
        seen = torch.tensor([keys.shape[1]])
        row = attention_rows(query.to(keys.device), keys, seen, part.scaling)[0].cpu()
        if not bool(torch.isfinite(row).all()):
            raise PruningError(
                f"the attention of layer {index} is not a finite number",
                "load the model with --dtype bfloat16 or float32",
            )
        self._rows[index] = row


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """The visual tokens that entered one layer, for one question."""

    tokens: npt.NDArray[np.int64]  # (n,): token t*P + p is position p of frame t
    attention: Floats  # (n,) what the last prompt token paid to each in that layer; any scale


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One question under one profile: `frames` of rows x cols tokens, and a look at each layer."""

    frames: int
    rows: int
    cols: int
    looks: Sequence[Look]


def sample_of(
    arrays: Mapping[str, npt.NDArray[Any]], rows: Sequence[npt.NDArray[np.float32]]
) -> Sample:
    """One question from its trace and the attention rows of its prefill, one for each layer.

    Line breaks that a method put between the tokens that it kept are left out.
    """
    frames, (height, width) = int(arrays["frames"]), map(int, arrays["grid"])
    start = int(arrays["video_token_start"])
    breaks = arrays.get("entered_break", np.zeros(0, dtype=bool))
    tokens = np.arange(frames * height * width)
    looks = []
    for layer, row in enumerate(rows):
        tokens = arrays.get(f"kept_{layer}", tokens)
        if breaks.any():
            visual = row[start : start + len(breaks)][~breaks]
        else:
            visual = row[start : start + len(tokens)]
        looks.append(Look(tokens, visual.astype(np.float64)))
    return Sample(frames, height, width, looks)


@dataclass(frozen=True, slots=True, eq=False)
class LayerBias:
    """One layer: mean over questions, or while they are counted their sum."""

    tokens: float  # visual tokens that enter it
    # (PARTS,) how the tokens in question are spread over equal parts of the clip, in its order: the
    # top tenth by attention, or those that were kept. Sums to 1.
    top_parts: Floats
    parts: Floats  # (PARTS,) the same for all of the attention, or again for what was kept
    places: Floats  # (rows, cols) the same over the places of a frame

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

    def __add__(self, other: LayerBias) -> LayerBias:
        return LayerBias(
            self.tokens + other.tokens,
            self.top_parts + other.top_parts,
            self.parts + other.parts,
            self.places + other.places,
        )

    def __truediv__(self, count: int) -> LayerBias:
        return LayerBias(
            self.tokens / count, self.top_parts / count, self.parts / count, self.places / count
        )


@dataclass(frozen=True, slots=True)
class BiasSummary:
    """What was measured over a dataset."""

    title: str  # the dataset's
    questions: Mapping[str, int]  # how many each view is a mean over, by profile
    failed: Mapping[str, int]  # questions without a measurement, by kind of error, of all profiles
    # Every layer under a profile: its `attention`, or the tokens that were `kept` up to it; the
    # unpruned run's attention first.
    views: Mapping[tuple[str, What], Sequence[LayerBias]]

    @property
    def before(self) -> Sequence[LayerBias]:
        """Attention of the unpruned run."""
        return next(iter(self.views.values()))

    @property
    def kept(self) -> dict[str, Sequence[LayerBias]]:
        """What each profile that prunes keeps."""
        return {profile: layers for (profile, what), layers in self.views.items() if what == "kept"}


class Tally:
    """Adds up samples, question by question, each of the same weight."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, What], list[LayerBias]] = {}
        self._counts: dict[str, int] = {}

    def add(self, profile: str, sample: Sample, *, prunes: bool) -> None:
        """Take one question's looks; a `ValueError` where a layer has no attention to the clip."""
        kinds: tuple[What, ...] = ("attention", "kept") if prunes else ("attention",)
        for what in kinds:
            layers = [_bias(sample, look, what) for look in sample.looks]
            before = self._sums.get((profile, what))
            if before is not None:
                layers = [one + other for one, other in zip(before, layers, strict=True)]
            self._sums[profile, what] = layers
        self._counts[profile] = self._counts.get(profile, 0) + 1

    def summary(self, title: str, failed: Mapping[str, int]) -> BiasSummary:
        """The means."""
        views = {
            view: [layer / self._counts[view[0]] for layer in layers]
            for view, layers in self._sums.items()
        }
        return BiasSummary(title, dict(self._counts), dict(failed), views)


def _bias(sample: Sample, look: Look, what: What) -> LayerBias:
    """One layer for one question."""
    count = len(look.tokens)
    weights = top = np.full(count, 1 / count)
    if what == "attention":
        total = float(look.attention.sum())
        if not total > 0:
            raise ValueError("the attention to the clip is zero")
        weights = look.attention / total
        chosen = top_tokens(look.attention)
        top = np.zeros(count)
        top[chosen] = 1 / len(chosen)
    per_frame = sample.rows * sample.cols
    frame, place = np.divmod(look.tokens, per_frame)
    return LayerBias(
        count,
        spread(_sums(frame, top, sample.frames)),
        spread(_sums(frame, weights, sample.frames)),
        _sums(place, weights, per_frame).reshape(sample.rows, sample.cols),
    )


def _sums(index: npt.NDArray[np.int64], weights: Floats, count: int) -> Floats:
    """(count,) sums of the weights by index."""
    return np.bincount(index, weights, count).astype(np.float64)


def top_tokens(attention: Floats, share: float = TOP) -> npt.NDArray[np.int64]:
    """Indices of the largest `share` of values, at least one; ties go to the earlier."""
    count = max(1, round(share * len(attention)))
    chosen: npt.NDArray[np.int64] = largest(torch.from_numpy(attention), count).numpy()
    return chosen


def spread(per_frame: Floats, parts: int = PARTS) -> Floats:
    """(T,) amounts of frames as (parts,) amounts of equal parts of the clip; the sum stays.

    A frame that two parts share is divided between them by how much of it lies in each.
    """
    frames = len(per_frame)
    total = np.concatenate(([0.0], np.cumsum(per_frame)))
    edges = np.linspace(0.0, frames, parts + 1)
    return np.diff(np.interp(edges, np.arange(frames + 1), total))
