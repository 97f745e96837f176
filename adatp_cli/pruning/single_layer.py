"""Dropping tokens once, at one layer of the language model: FastV's schedule, for any choice."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from adatp_cli.cost import LanguageShape
from adatp_cli.pruning.budget import Schedule, drop_layer, solve_budget
from adatp_cli.pruning.knobs import Positions
from adatp_cli.pruning.method import (
    ClipSignals,
    LayerStep,
    ModelContext,
    PruningMethod,
    PruningPlan,
    ScoreRequest,
    TokenSchedule,
    VisualLayout,
)


class DropOnce(PruningMethod):
    """Every layer before the knob `layer` sees everything, all from it on the same few tokens."""

    rows: ClassVar[int] = 0  # of attention that a choice looks at

    @classmethod
    def resolve(cls, profile: Any, context: ModelContext) -> Any:
        layer = drop_layer(context.layers, profile.knobs.layer, f"{profile.method}.layer")
        knobs = profile.knobs.replace(layer=layer)
        return super().resolve(profile.replace(**{profile.method: knobs}), context)

    @abstractmethod
    def choose(self, step: LayerStep, layout: VisualLayout) -> Tensor:
        """As `PruningPlan.choose`; exactly `step.keep` tokens."""

    def token_schedule(self, frames: int, per_frame: int, shape: LanguageShape) -> TokenSchedule:
        schedule = self._schedule(frames * per_frame, shape)
        pruned = schedule.counts[-1] < frames * per_frame
        rows = {schedule.drops[0]: self.rows} if pruned and self.rows else {}
        return TokenSchedule(schedule.counts, schedule.drops, rows)

    def plan(
        self, layout: VisualLayout, signals: ClipSignals, shape: LanguageShape
    ) -> DropOncePlan:
        del signals  # the choice looks at the language model, if at anything
        return DropOncePlan(self, layout, self._schedule(layout.visual, shape))

    def _schedule(self, visual: int, shape: LanguageShape) -> Schedule:
        layer = self.profile.knobs.layer
        layer = drop_layer(shape.layers, layer, f"{self.profile.method}.layer")
        return solve_budget(self.budget, visual, shape, (layer,))


class DropOncePlan(PruningPlan):
    """One choice at one layer; none when everything fits the budget."""

    def __init__(self, method: DropOnce, layout: VisualLayout, schedule: Schedule) -> None:
        self._method = method
        self._layout = layout
        keep = schedule.counts[-1]
        self._counts = {schedule.drops[0]: keep} if keep < layout.visual else {}

    @property
    def keep_counts(self) -> Mapping[int, int]:
        return self._counts

    @property
    def positions(self) -> Positions:
        return self._method.positions

    def request(self, layer: int) -> ScoreRequest:  # noqa: ARG002 - the same at any
        return ScoreRequest(self._method.rows)

    def choose(self, step: LayerStep) -> Tensor:
        return self._method.choose(step, self._layout)
