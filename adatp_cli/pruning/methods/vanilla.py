"""No pruning: every visual token goes through every layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from adatp_cli.cost import LanguageShape
from adatp_cli.pruning.method import (
    ClipSignals,
    LayerStep,
    PruningMethod,
    PruningPlan,
    VisualLayout,
)


class VanillaPlan(PruningPlan):
    """Keeps everything and asks for nothing."""

    @property
    def keep_counts(self) -> Mapping[int, int]:
        return {}

    def choose(self, step: LayerStep) -> Tensor:
        return step.alive


@dataclass(frozen=True, slots=True)
class Vanilla(PruningMethod):
    """What every other method is measured against."""

    def layer_limits(self, visual: int, shape: LanguageShape) -> tuple[int, ...]:
        return (visual,) * shape.layers

    def plan(self, layout: VisualLayout, signals: ClipSignals, shape: LanguageShape) -> VanillaPlan:
        del layout, signals, shape  # nothing to plan from
        return VanillaPlan()
