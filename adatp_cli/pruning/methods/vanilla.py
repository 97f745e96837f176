"""No pruning: every visual token goes through every layer."""

from __future__ import annotations

from adatp_cli.cost import LanguageShape
from adatp_cli.pruning.method import (
    ClipSignals,
    PruningMethod,
    PruningPlan,
    TokenSchedule,
    VisualLayout,
)


class Vanilla(PruningMethod):
    """What every other method is measured against."""

    def token_schedule(self, frames: int, per_frame: int, shape: LanguageShape) -> TokenSchedule:
        return TokenSchedule((frames * per_frame,) * shape.layers)

    def plan(
        self,
        layout: VisualLayout,  # noqa: ARG002 - nothing to plan
        signals: ClipSignals,  # noqa: ARG002
        shape: LanguageShape,  # noqa: ARG002
    ) -> PruningPlan:
        return PruningPlan({})
