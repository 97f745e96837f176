"""The two biases of attention, as numbers: where in the clip and where in the frame it piles up.

AdaTP (arXiv 2505.20100) says that attention from text to visual tokens piles up at both ends of the
clip, and in shallow layers on the same places of every frame. The same is asked of the tokens that
a profile keeps.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from adatp_cli.errors import PruningError
from adatp_cli.pruning.attention_rows import attention_rows, project_query
from adatp_cli.pruning.segments import largest

Floats = npt.NDArray[np.float64]
# The paper's clips have 32 frames, and its last eighth of them are 4.
PARTS = 32
EIGHTHS = 8
TOP = 0.1

What = Literal["attention", "kept"]
# The (n,) visual tokens that entered a layer, token t*P + p being position p of frame t, and what
# the last prompt token paid to each in that layer, at any scale.
Look = tuple[npt.NDArray[np.int64], Floats]


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


def looks_of(
    arrays: Mapping[str, npt.NDArray[Any]], rows: Sequence[npt.NDArray[np.float32]]
) -> list[Look]:
    """One question at each layer, from its trace and the attention rows of its prefill.

    Line breaks that a method put between the tokens that it kept are left out.
    """
    start = int(arrays["video_token_start"])
    breaks = arrays.get("entered_break", np.zeros(0, dtype=bool))
    tokens = np.arange(int(arrays["frames"]) * int(np.prod(arrays["grid"])))
    looks = []
    for layer, row in enumerate(rows):
        tokens = arrays.get(f"kept_{layer}", tokens)
        if breaks.any():
            visual = row[start : start + len(breaks)][~breaks]
        else:
            visual = row[start : start + len(tokens)]
        looks.append((tokens, visual.astype(np.float64)))
    return looks


class LayerBias(NamedTuple):
    """One layer, mean over questions."""

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
    """Adds up questions, each of the same weight."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, What], list[tuple[Any, ...]]] = {}  # of `LayerBias`
        self._counts = Counter[str]()

    def add(
        self,
        profile: str,
        arrays: Mapping[str, npt.NDArray[Any]],
        rows: Sequence[npt.NDArray[np.float32]],
        *,
        prunes: bool,
    ) -> None:
        """Take one question, given as to `looks_of`.

        A `ValueError` where a layer has no attention to the clip.
        """
        looks = looks_of(arrays, rows)
        grid = (int(arrays["frames"]), *map(int, arrays["grid"]))
        kinds: tuple[What, ...] = ("attention", "kept") if prunes else ("attention",)
        for what in kinds:
            layers: list[tuple[Any, ...]] = [_bias(look, grid, what) for look in looks]
            before = self._sums.get((profile, what))
            if before is not None:
                pairs = zip(before, layers, strict=True)
                layers = [tuple(map(operator.add, *pair)) for pair in pairs]
            self._sums[profile, what] = layers
        self._counts[profile] += 1

    def summary(self, title: str, failed: Mapping[str, int]) -> BiasSummary:
        """The means."""
        views = {
            view: [LayerBias(*(one / self._counts[view[0]] for one in layer)) for layer in layers]
            for view, layers in self._sums.items()
        }
        return BiasSummary(title, dict(self._counts), dict(failed), views)


def _bias(look: Look, grid: tuple[int, ...], what: What) -> LayerBias:
    """One layer for one question; the grid is (T, rows, cols)."""
    tokens, attention = look
    frames, rows, cols = grid
    weights = top = np.full(len(tokens), 1 / len(tokens))
    if what == "attention":
        total = float(attention.sum())
        if not total > 0:
            raise ValueError("the attention to the clip is zero")
        weights = attention / total
        chosen = top_tokens(attention)
        top = np.zeros(len(tokens))
        top[chosen] = 1 / len(chosen)
    frame, place = np.divmod(tokens, rows * cols)
    return LayerBias(
        len(tokens),
        spread(_sums(frame, top, frames)),
        spread(_sums(frame, weights, frames)),
        _sums(place, weights, rows * cols).reshape(rows, cols),
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
