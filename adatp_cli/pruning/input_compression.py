"""Methods that act before the language model: fewer visual tokens enter layer 0, and all stay."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adatp_cli.cost import LanguageShape, paper_layer_cost
from adatp_cli.errors import UsageError
from adatp_cli.pruning.budget import solve_budget, unreachable
from adatp_cli.pruning.knobs import NO_ENCODER, Positions
from adatp_cli.pruning.method import (
    ClipSignals,
    LayerStep,
    ModelContext,
    PruningMethod,
    PruningPlan,
    TokenSchedule,
    VisualEntry,
    VisualLayout,
)
from adatp_cli.pruning.segments import SegmentTable


@dataclass(frozen=True, slots=True)
class Compressed:
    """What a method makes of a clip, and the segments that it found, if any."""

    entry: VisualEntry
    segments: SegmentTable | None = None


class InputCompression(PruningMethod):
    """Keep or merge tokens once, before layer 0."""

    @classmethod
    def resolve(cls, profile: Any, context: ModelContext) -> Any:
        if profile.encoder not in NO_ENCODER and context.encoder is not None:
            knobs = profile.knobs.replace(encoder=context.encoder)
            profile = profile.replace(**{profile.method: knobs})
        return super().resolve(profile, context)

    @abstractmethod
    def compress(self, layout: VisualLayout, signals: ClipSignals, count: int) -> Compressed:
        """At most `count` tokens for the clip's `layout.visual`.

        Raises
        ------
        UsageError
            What the method adds of its own leaves no room in this clip's budget.
        """

    def planned(self, frames: int, per_frame: int, count: int) -> int:  # noqa: ARG002
        """The most tokens that the method makes when it may make `count`."""
        return count

    def fewest(self, frames: int) -> int:  # noqa: ARG002 - for subclasses
        """The fewest tokens that a clip of so many frames needs."""
        return 1

    def token_schedule(self, frames: int, per_frame: int, shape: LanguageShape) -> TokenSchedule:
        count = self._count(frames, per_frame, shape)
        if count < frames * per_frame:
            count = self.planned(frames, per_frame, count)
        return TokenSchedule((count,) * shape.layers, (0,))

    def plan(
        self, layout: VisualLayout, signals: ClipSignals, shape: LanguageShape
    ) -> InputCompressionPlan:
        count = self._count(layout.frames, layout.per_frame, shape)
        if count == layout.visual:
            return InputCompressionPlan(count, self.positions, None)
        with torch.inference_mode():
            return InputCompressionPlan(
                count, self.positions, self.compress(layout, signals, count)
            )

    def _count(self, frames: int, per_frame: int, shape: LanguageShape) -> int:
        """The most tokens in every layer that the budget allows."""
        visual, fewest = frames * per_frame, self.fewest(frames)
        smallest = paper_layer_cost(fewest, shape) / paper_layer_cost(visual, shape)
        if smallest > self.budget:
            why = f"this method needs at least {fewest} tokens for {frames} frames"
            raise unreachable(self.budget, smallest, why)
        return solve_budget(self.budget, visual, shape, (0,)).counts[0]


class InputCompressionPlan(PruningPlan):
    """What enters; nothing goes later. A budget for the whole clip leaves it as it is."""

    def __init__(self, most: int, positions: Positions, made: Compressed | None) -> None:
        self._most = most
        self._positions = positions
        self._made = made

    @property
    def keep_counts(self) -> Mapping[int, int]:
        return {0: self._most} if self._made else {}

    @property
    def entry(self) -> VisualEntry | None:
        return self._made.entry if self._made else None

    @property
    def positions(self) -> Positions:
        return self._positions

    @property
    def segments(self) -> SegmentTable | None:
        return self._made.segments if self._made else None

    def choose(self, step: LayerStep) -> Tensor:
        return step.alive


def needed(signal: Tensor | None, what: str) -> Tensor:
    """A signal that the method asked for.

    Raises
    ------
    UsageError
        It was not computed.
    """
    if signal is None:
        raise UsageError(f"this method needs {what}, which this run does not compute")
    return signal
