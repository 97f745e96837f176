"""AdaTP: attention-debiased token pruning (arXiv 2505.20100).

No official code exists. What the paper leaves open is a knob of the profile, marked there as our
choice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from adatp_cli.cost import LanguageShape
from adatp_cli.errors import ProfileError, UsageError
from adatp_cli.pruning.budget import Schedule, pruned_layers, solve_budget
from adatp_cli.pruning.knobs import NO_ENCODER, AdaTPProfile, LocalKnobs, LocalMode
from adatp_cli.pruning.method import (
    ClipSignals,
    LayerStep,
    ModelContext,
    PruningMethod,
    PruningPlan,
    ScoreRequest,
    SignalNeeds,
    TokenSchedule,
    VisualEntry,
    VisualLayout,
)
from adatp_cli.pruning.segments import (
    SegmentTable,
    debiased_frame_relevance,
    frame_relevance,
    neighbour_similarity,
    segment_bounds,
    segment_budgets,
    select_tokens,
)


class AdaTP(PruningMethod):
    """Progressive pruning by attention, shared out by segment and spread over positions."""

    profile: AdaTPProfile

    @classmethod
    def resolve(cls, profile: AdaTPProfile, context: ModelContext) -> Any:
        knobs, local = profile.schedule, profile.local
        first, last = pruned_layers(context.layers, knobs.first_layer, knobs.last_layer)
        encodes = cls(profile).needs.encoder
        signal = profile.segments.signal
        if signal == "auto":
            signal = "relevance" if encodes else "tower"
        encoder = profile.relevance.encoder
        if encodes and context.encoder is not None:
            encoder = context.encoder
        local = local.replace(
            first_layer=first if local.first_layer == "auto" else local.first_layer,
            last_layer=last if local.last_layer == "auto" else local.last_layer,
        )
        _check_local(local, first, last, context.layers)
        resolved = profile.replace(
            schedule=knobs.replace(first_layer=first, last_layer=last),
            segments=profile.segments.replace(signal=signal),
            relevance=profile.relevance.replace(encoder=encoder),
            local=local,
        )
        return super().resolve(resolved, context)

    @property
    def needs(self) -> SignalNeeds:
        encodes = self.profile.relevance.encoder not in NO_ENCODER
        return SignalNeeds(frame_vectors=encodes, question_vector=encodes)

    def token_schedule(self, frames: int, per_frame: int, shape: LanguageShape) -> TokenSchedule:
        schedule = self._schedule(frames * per_frame, shape)
        rows = dict.fromkeys(self.scored_layers(schedule), self.profile.scores.rows)
        before = (0,) if schedule.counts[0] < frames * per_frame else ()
        return TokenSchedule(schedule.counts, (*before, *schedule.drops), rows)

    def plan(self, layout: VisualLayout, signals: ClipSignals, shape: LanguageShape) -> AdaTPPlan:
        schedule, table = self._schedule(layout.visual, shape), self._cut(signals)
        entry = self.entry(layout, signals, table, schedule.counts[0])
        return AdaTPPlan(self, layout, schedule, table, entry)

    def entry(
        self,
        layout: VisualLayout,  # noqa: ARG002 - for subclasses
        signals: ClipSignals,  # noqa: ARG002
        table: SegmentTable,  # noqa: ARG002
        count: int,  # noqa: ARG002
    ) -> VisualEntry | None:
        """The `count` tokens that enter layer 0; None for the clip as it is."""
        return None

    def local_mode(self, layer: int, drops: tuple[int, ...]) -> LocalMode:
        """What the local step does at one of the layers before which tokens go."""
        knobs = self.profile.local
        first = drops[0] if knobs.first_layer == "auto" else knobs.first_layer
        last = drops[-1] if knobs.last_layer == "auto" else knobs.last_layer
        return knobs.mode if first <= layer <= last else "off"

    def scored_layers(self, schedule: Schedule) -> list[int]:
        """Layers that need scores: not those that may keep everything, unless `strict` may drop
        more than it must."""
        counts, drops = schedule.counts, schedule.drops
        return [
            layer
            for layer in drops
            if counts[layer] < counts[layer - 1] or self.local_mode(layer, drops) == "strict"
        ]

    def _schedule(self, visual: int, shape: LanguageShape) -> Schedule:
        knobs = self.profile.schedule
        first, last = pruned_layers(shape.layers, knobs.first_layer, knobs.last_layer)
        return solve_budget(self.budget, visual, shape, range(first, last + 1))

    def _cut(self, signals: ClipSignals) -> SegmentTable:
        """Segments by the chosen signal, weighted where relevance is known before the prefill."""
        knobs = self.profile.segments
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
        whole = (0, len(vectors))
        bounds = whole if knobs.signal == "none" else segment_bounds(similarity, threshold)
        return SegmentTable(bounds, similarity, relevance, self.profile.relevance.weight)


class AdaTPPlan(PruningPlan):
    """AdaTP's choices for one question.

    With `relevance.encoder: attention` the segments' weights come at the first pruning layer.
    """

    segments: SegmentTable

    def __init__(
        self,
        method: AdaTP,
        layout: VisualLayout,
        schedule: Schedule,
        segments: SegmentTable,
        entry: VisualEntry | None,
    ) -> None:
        scored = method.scored_layers(schedule)
        layers = scored if entry is None else [0, *scored]
        counts = {layer: schedule.counts[layer] for layer in layers}
        super().__init__(counts, method.positions, entry, segments)
        self._knobs = method.profile
        self._modes = {layer: method.local_mode(layer, schedule.drops) for layer in scored}
        self._layout = layout

    def request(self, layer: int) -> ScoreRequest:
        knobs = self._knobs
        asks = knobs.relevance.encoder == "attention" and layer == min(self._modes)
        return ScoreRequest(knobs.scores.rows, knobs.relevance.text_tokens if asks else 0)

    def choose(self, step: LayerStep) -> Tensor:
        frame = step.owners // self._layout.per_frame
        if step.question is not None and step.baseline is not None:
            relevance = debiased_frame_relevance(
                step.question, step.baseline, frame, self._layout.frames
            )
            self.segments = replace(self.segments, relevance=relevance)
        table = self.segments
        segment = table.of_frames()[frame]
        capacity = torch.bincount(segment, minlength=len(table.weights)).tolist()
        budgets = segment_budgets(step.keep, table.weights, table.lengths, capacity)
        chosen = select_tokens(
            step.scores,
            segment,
            step.owners % self._layout.per_frame,
            budgets,
            mode=self._modes[step.layer],
            representative=self._knobs.local.representative,
        )
        return step.alive[chosen]


def _check_local(local: LocalKnobs, first: int, last: int, layers: int) -> None:
    """Refuse layers in which nothing is dropped: the step would be off without a word."""
    if local.mode == "off":
        return
    begin, end = int(local.first_layer), int(local.last_layer)
    if end >= layers or max(begin, first) > min(end, last):
        raise UsageError(
            f"local.first_layer is {begin} and local.last_layer {end}, but tokens are dropped in "
            f"layers {first} to {last} of this model's 0 to {layers - 1}",
            "choose layers in that range, or leave the step out with mode: off",
        )
