"""Dropping tokens once, at one layer of the language model: FastV's schedule, for any choice."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from adatp_cli.cost import LanguageShape
from adatp_cli.profiles import LayerOrAuto, Positions
from adatp_cli.pruning.budget import Schedule, drop_layer, solve_budget
from adatp_cli.pruning.method import (
    ClipSignals,
    LayerStep,
    PruningMethod,
    PruningPlan,
    ScoreRequest,
    TokenSchedule,
    VisualLayout,
)


@dataclass(frozen=True, slots=True)
class DropOnce(PruningMethod):
    """Every layer before `layer` sees everything, every layer from it on the same few tokens.

    Parameters
    ----------
    budget
        Share of the vanilla cost, paper convention.
    layer
        As in the profile.
    positions
        Of the survivors.
    """

    budget: float
    layer: LayerOrAuto = "auto"
    positions: Positions = "original"

    @property
    @abstractmethod
    def name(self) -> str:
        """The profile's section."""

    @property
    def rows(self) -> int:
        """Rows of attention that a choice looks at."""
        return 0

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
        layer = drop_layer(shape.layers, self.layer, f"{self.name}.layer")
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
