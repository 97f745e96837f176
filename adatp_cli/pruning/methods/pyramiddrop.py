"""PyramidDrop (arXiv 2410.17247): three drops, each by the attention of the layer that follows.

After the released code (Cooperx521/PyramidDrop, 6444f30), which is for images; video was never
released. Before a stage's layer, that layer's own norm, projections and rotary embedding give the
attention of the last prompt token. Keys and that one query are projected, where the release
projects everything. Stages follow the model's depth as in the release (N/4, N/2, 3N/4); lambda,
published as 0.5, follows from the budget, so that methods compare at equal cost (our choice).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from adatp_cli.cost import LanguageShape
from adatp_cli.pruning.budget import Schedule, pruned_layers, solve_budget
from adatp_cli.pruning.knobs import Positions
from adatp_cli.pruning.method import (
    ClipSignals,
    LayerStep,
    PruningMethod,
    PruningPlan,
    ScoreRequest,
    TokenSchedule,
    VisualLayout,
)
from adatp_cli.pruning.selection import largest


class PyramidDrop(PruningMethod):
    """Keep lambda, lambda^2 and lambda^3 of the visual tokens, at three layers.

    lambda follows from the budget. Positions are compact after every stage, as released.
    """

    def token_schedule(self, frames: int, per_frame: int, shape: LanguageShape) -> TokenSchedule:
        schedule = self._schedule(frames * per_frame, shape)
        rows = dict.fromkeys(_counts(schedule), 1)
        return TokenSchedule(schedule.counts, schedule.drops, rows, own_layer=True)

    def plan(
        self, layout: VisualLayout, signals: ClipSignals, shape: LanguageShape
    ) -> PyramidDropPlan:
        del signals  # the choice looks at the language model alone
        return PyramidDropPlan(_counts(self._schedule(layout.visual, shape)), self.positions)

    def _schedule(self, visual: int, shape: LanguageShape) -> Schedule:
        stages = stage_layers(shape.layers, self.profile.pyramiddrop.stages)
        return solve_budget(self.budget, visual, shape, stages)


class PyramidDropPlan(PruningPlan):
    """Up to three choices, each by the scores of its own layer."""

    def __init__(self, counts: Mapping[int, int], positions: Positions) -> None:
        self._counts = counts
        self._positions = positions

    @property
    def keep_counts(self) -> Mapping[int, int]:
        return self._counts

    @property
    def positions(self) -> Positions:
        return self._positions

    def request(self, layer: int) -> ScoreRequest:  # noqa: ARG002 - the same at any
        return ScoreRequest(own_layer=True)

    def choose(self, step: LayerStep) -> Tensor:
        return step.alive[largest(step.scores, step.keep)]


def stage_layers(layers: int, stages: Literal["quarters", "early"]) -> tuple[int, ...]:
    """The layers before which tokens are dropped, rising; fewer than three in a model of few."""
    if stages == "quarters":
        wanted = [layers // 4, layers // 2, 3 * layers // 4]
    else:
        first, last = pruned_layers(layers, "auto", "auto")
        wanted = [first, (first + last) // 2, last]
    return tuple(sorted({max(1, layer) for layer in wanted}))


def _counts(schedule: Schedule) -> dict[int, int]:
    """The stages at which anything goes."""
    counts = schedule.counts
    return {layer: counts[layer] for layer in schedule.drops if counts[layer] < counts[layer - 1]}
