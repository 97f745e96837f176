"""No pruning: every visual token goes through every layer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from adatp_cli.cost import LanguageShape
from adatp_cli.pruning.method import (
    ClipSignals,
    LayerStep,
    PruningMethod,
    PruningPlan,
    TokenSchedule,
    VisualLayout,
)


class VanillaPlan(PruningPlan):
    """Keeps everything and asks for nothing."""

    @property
    def keep_counts(self) -> Mapping[int, int]:
        return {}

    def choose(self, step: LayerStep) -> Tensor:
        return step.alive


class Vanilla(PruningMethod):
    """What every other method is measured against."""

    def token_schedule(self, frames: int, per_frame: int, shape: LanguageShape) -> TokenSchedule:
        return TokenSchedule((frames * per_frame,) * shape.layers)

    def plan(self, layout: VisualLayout, signals: ClipSignals, shape: LanguageShape) -> VanillaPlan:
        del layout, signals, shape  # nothing to plan from
        return VanillaPlan()
