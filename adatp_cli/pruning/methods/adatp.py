"""AdaTP: attention-debiased token pruning (arXiv 2505.20100).

No official code exists. What the paper leaves open is a knob of the profile, marked there as our
choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adatp_cli.cost import LanguageShape
from adatp_cli.errors import ProfileError
from adatp_cli.profiles import (
    LocalSettings,
    RelevanceSettings,
    ScheduleSettings,
    ScoreSettings,
    SegmentSettings,
)
from adatp_cli.pruning.budget import Schedule, solve_budget
from adatp_cli.pruning.local import LocalMode, select_tokens
from adatp_cli.pruning.method import (
    ClipSignals,
    LayerStep,
    PruningMethod,
    PruningPlan,
    ScoreRequest,
    VisualLayout,
)
from adatp_cli.pruning.scores import debiased_frame_relevance
from adatp_cli.pruning.segments import (
    SegmentTable,
    frame_relevance,
    neighbour_similarity,
    segment_bounds,
    segment_budgets,
    weigh_segments,
)


@dataclass(frozen=True, slots=True)
class AdaTP(PruningMethod):
    """Progressive pruning by attention, shared out by segment and spread over positions.

    Parameters
    ----------
    budget
        Share of the vanilla cost, paper convention.
    schedule, segments, relevance, local, scores
        As in the profile, where every knob is described.
    """

    budget: float
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    segments: SegmentSettings = field(default_factory=SegmentSettings)
    relevance: RelevanceSettings = field(default_factory=RelevanceSettings)
    local: LocalSettings = field(default_factory=LocalSettings)
    scores: ScoreSettings = field(default_factory=ScoreSettings)

    @property
    def needs_encoder(self) -> bool:
        return self.relevance.encoder not in ("none", "attention")

    def layer_limits(self, visual: int, shape: LanguageShape) -> tuple[int, ...]:
        return self._schedule(visual, shape).counts

    def plan(self, layout: VisualLayout, signals: ClipSignals, shape: LanguageShape) -> AdaTPPlan:
        return AdaTPPlan(self, layout, self._schedule(layout.visual, shape), self._cut(signals))

    def _schedule(self, visual: int, shape: LanguageShape) -> Schedule:
        knobs = self.schedule
        return solve_budget(self.budget, visual, shape, knobs.first_layer, knobs.last_layer)

    def _cut(self, signals: ClipSignals) -> SegmentTable:
        """Segments by the chosen signal, weighted where relevance is known before the prefill."""
        knobs = self.segments
        pooled = knobs.signal == "relevance" or (
            knobs.signal == "auto" and signals.frame_vectors is not None
        )
        vectors = signals.frame_vectors if pooled else signals.tower_vectors
        if vectors is None:
            raise ProfileError(
                "segments.signal is 'relevance', but no relevance encoder is in use",
                "set segments.signal to 'auto' or 'tower', or name a relevance.encoder",
            )
        relevance = None
        if signals.frame_vectors is not None and signals.question_vector is not None:
            relevance = frame_relevance(signals.frame_vectors, signals.question_vector)
        similarity = neighbour_similarity(vectors)
        threshold = knobs.threshold if pooled else knobs.tower_threshold
        bounds = segment_bounds(similarity, threshold)
        return weigh_segments(bounds, similarity, relevance, self.relevance.weight)


class AdaTPPlan(PruningPlan):
    """AdaTP's choices for one question.

    Parameters
    ----------
    method, layout
        What it plans for.
    schedule
        Tokens per layer.
    table
        The segments; with `relevance.encoder: attention` their weights come at the first pruning
        layer.
    """

    def __init__(
        self, method: AdaTP, layout: VisualLayout, schedule: Schedule, table: SegmentTable
    ) -> None:
        self._method = method
        self._layout = layout
        self._table = table
        self._schedule = schedule
        first, last = schedule.first_layer, schedule.last_layer
        local = method.local
        self._local_first = first if local.first_layer == "auto" else local.first_layer
        self._local_last = last if local.last_layer == "auto" else local.last_layer
        # A layer that may keep everything needs no scores, unless `strict` may drop more than it
        # must.
        self._counts = {
            layer: schedule.counts[layer]
            for layer in range(first, last + 1)
            if schedule.counts[layer] < schedule.counts[layer - 1] or self._mode(layer) == "strict"
        }

    @property
    def keep_counts(self) -> Mapping[int, int]:
        return self._counts

    @property
    def schedule(self) -> Schedule:
        """Tokens per layer as planned; `strict` may keep fewer."""
        return self._schedule

    @property
    def segments(self) -> SegmentTable:
        return self._table

    def request(self, layer: int) -> ScoreRequest:
        knobs = self._method
        asks = knobs.relevance.encoder == "attention" and layer == min(self._counts)
        return ScoreRequest(knobs.scores.rows, knobs.relevance.text_tokens if asks else 0)

    def choose(self, step: LayerStep) -> Tensor:
        frame = step.alive // self._layout.per_frame
        if step.question is not None and step.baseline is not None:
            self._weigh(step.question, step.baseline, frame)
        segment = self._table.of_frames()[frame]
        capacity = torch.bincount(segment, minlength=len(self._table.weights)).tolist()
        budgets = segment_budgets(step.keep, self._table.weights, self._table.lengths, capacity)
        chosen = select_tokens(
            step.scores,
            segment,
            step.alive % self._layout.per_frame,
            budgets,
            mode=self._mode(step.layer),
            representative=self._method.local.representative,
        )
        return step.alive[chosen]

    def _mode(self, layer: int) -> LocalMode:
        inside = self._local_first <= layer <= self._local_last
        return self._method.local.mode if inside else "off"

    def _weigh(self, question: Tensor, baseline: Tensor, frame: Tensor) -> None:
        """Replace the equal weights by those that the language model's own attention gives."""
        relevance = debiased_frame_relevance(question, baseline, frame, self._layout.frames)
        self._table = weigh_segments(
            self._table.bounds, self._table.similarity, relevance, self._method.relevance.weight
        )
