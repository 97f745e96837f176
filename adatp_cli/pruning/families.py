"""The two families of methods: those that drop tokens at layers, and those that act before."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from adatp_cli.cost import LanguageShape, paper_layer_cost
from adatp_cli.errors import UsageError
from adatp_cli.pruning.budget import Schedule, drop_layer, solve_budget, unreachable
from adatp_cli.pruning.knobs import NO_ENCODER
from adatp_cli.pruning.method import (
    ClipSignals,
    LayerStep,
    ModelContext,
    PruningMethod,
    PruningPlan,
    ScoreRequest,
    TokenSchedule,
    VisualEntry,
    VisualLayout,
)
from adatp_cli.pruning.segments import SegmentTable, largest


class LayerDrops(PruningMethod):
    """Drop tokens before certain layers; unless a method chooses otherwise, the lowest scores."""

    request: ClassVar = ScoreRequest()

    @abstractmethod
    def drops(self, layers: int) -> tuple[int, ...]:
        """The layers before which tokens are dropped, rising, in a model of so many."""

    def choose(self, step: LayerStep, layout: VisualLayout) -> Tensor:  # noqa: ARG002
        """As `PruningPlan.choose`; exactly `step.keep` tokens."""
        return step.alive[largest(step.scores, step.keep)]

    def token_schedule(self, frames: int, per_frame: int, shape: LanguageShape) -> TokenSchedule:
        schedule = self._schedule(frames * per_frame, shape)
        rows = dict.fromkeys(_falls(schedule), self.request.last) if self.request.last else {}
        return TokenSchedule(schedule.counts, schedule.drops, rows, self.request.own_layer)

    def plan(
        self,
        layout: VisualLayout,
        signals: ClipSignals,  # noqa: ARG002 - the choice looks at the language model, if at anything
        shape: LanguageShape,
    ) -> PruningPlan:
        return _LayerDropsPlan(self, layout, _falls(self._schedule(layout.visual, shape)))

    def _schedule(self, visual: int, shape: LanguageShape) -> Schedule:
        return solve_budget(self.budget, visual, shape, self.drops(shape.layers))


class _LayerDropsPlan(PruningPlan):
    def __init__(self, method: LayerDrops, layout: VisualLayout, counts: dict[int, int]) -> None:
        super().__init__(counts, method.positions)
        self._method = method
        self._layout = layout

    def request(self, layer: int) -> ScoreRequest:  # noqa: ARG002 - the same at any
        return self._method.request

    def choose(self, step: LayerStep) -> Tensor:
        return self._method.choose(step, self._layout)


def _falls(schedule: Schedule) -> dict[int, int]:
    """Layer -> tokens left, where any go."""
    counts = schedule.counts
    return {layer: counts[layer] for layer in schedule.drops if counts[layer] < counts[layer - 1]}


class SingleLayer(LayerDrops):
    """FastV's schedule: everything before the knob `layer`, the same few tokens from it on."""

    @classmethod
    def resolve(cls, profile: Any, context: ModelContext) -> Any:
        layer = drop_layer(context.layers, profile.knobs.layer, f"{profile.method}.layer")
        knobs = profile.knobs.replace(layer=layer)
        return super().resolve(profile.replace(**{profile.method: knobs}), context)

    def drops(self, layers: int) -> tuple[int, ...]:
        return (drop_layer(layers, self.profile.knobs.layer, f"{self.profile.method}.layer"),)


class InputCompression(PruningMethod):
    """Keep or merge tokens once, before layer 0, and all in the layers."""

    @classmethod
    def resolve(cls, profile: Any, context: ModelContext) -> Any:
        if profile.encoder not in NO_ENCODER and context.encoder is not None:
            knobs = profile.knobs.replace(encoder=context.encoder)
            profile = profile.replace(**{profile.method: knobs})
        return super().resolve(profile, context)

    @abstractmethod
    def compress(
        self, layout: VisualLayout, signals: ClipSignals, count: int
    ) -> tuple[VisualEntry, SegmentTable | None]:
        """At most `count` tokens for the clip's `layout.visual`, and the segments found, if any.

        Raises
        ------
        UsageError
            What the method adds of its own leaves no room in this clip's budget.
        """

    def planned(self, frames: int, count: int) -> int:  # noqa: ARG002 - for subclasses
        """The most tokens that the method makes when it may make `count`."""
        return count

    def fewest(self, frames: int) -> int:  # noqa: ARG002 - for subclasses
        """The fewest tokens that a clip of so many frames needs."""
        return 1

    def token_schedule(self, frames: int, per_frame: int, shape: LanguageShape) -> TokenSchedule:
        count = self._count(frames, per_frame, shape)
        if count < frames * per_frame:
            count = self.planned(frames, count)
        return TokenSchedule((count,) * shape.layers, (0,))

    def plan(self, layout: VisualLayout, signals: ClipSignals, shape: LanguageShape) -> PruningPlan:
        count = self._count(layout.frames, layout.per_frame, shape)
        if count == layout.visual:
            return PruningPlan({}, self.positions)
        with torch.inference_mode():
            entry, segments = self.compress(layout, signals, count)
        return PruningPlan({0: count}, self.positions, entry, segments)

    def _count(self, frames: int, per_frame: int, shape: LanguageShape) -> int:
        """The most tokens in every layer that the budget allows."""
        visual, fewest = frames * per_frame, self.fewest(frames)
        smallest = paper_layer_cost(fewest, shape) / paper_layer_cost(visual, shape)
        if smallest > self.budget:
            why = f"this method needs at least {fewest} tokens for {frames} frames"
            raise unreachable(self.budget, smallest, why)
        return solve_budget(self.budget, visual, shape, (0,)).counts[0]


def needed(signal: Tensor | None, what: str) -> Tensor:
    """A signal that the method asked for; a UsageError where it was not computed."""
    if signal is None:
        raise UsageError(f"this method needs {what}, which this run does not compute")
    return signal
