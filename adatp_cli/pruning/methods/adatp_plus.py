"""AdaTP with fewer tokens from layer 0 on: what it would never look at need not enter.

AdaTP (arXiv 2505.20100) shows its first layers every token, which on a deep model costs 7 % before
anything is saved. Here the clip is thinned out first, segment by segment: the tokens that the
relevance encoder looks at, and tokens that stand for the rest, merged as FastVID does (arXiv
2503.11187). AdaTP's steps then go on with them. The combination is ours.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from adatp_cli.cost import LanguageShape
from adatp_cli.pruning.budget import Schedule, pruned_layers, solve_entry
from adatp_cli.pruning.families import needed
from adatp_cli.pruning.knobs import AdaTPPlusProfile, EntryKnobs
from adatp_cli.pruning.method import ClipSignals, SignalNeeds, VisualEntry, VisualLayout
from adatp_cli.pruning.methods.adatp import AdaTP
from adatp_cli.pruning.methods.fastvid import anchors_of, merge_segment
from adatp_cli.pruning.segments import SegmentTable, largest, segment_budgets


class AdaTPPlus(AdaTP):
    """AdaTP behind an entry of salient and merged tokens."""

    profile: AdaTPPlusProfile

    @property
    def needs(self) -> SignalNeeds:
        return SignalNeeds(frame_vectors=True, question_vector=True, probe_attention=True)

    def entry(
        self, layout: VisualLayout, signals: ClipSignals, table: SegmentTable, count: int
    ) -> VisualEntry | None:
        if count == layout.visual:
            return None
        tokens = needed(signals.tokens, "visual tokens")
        attention = needed(signals.probe_attention, "the pooling head's attention")
        grid = tokens.view(layout.frames, layout.per_frame, -1)
        with torch.inference_mode():
            return thin_out(grid, attention, table, count, self.profile.entry)

    def _schedule(self, visual: int, shape: LanguageShape) -> Schedule:
        knobs = self.profile.schedule
        first, last = pruned_layers(shape.layers, knobs.first_layer, knobs.last_layer)
        return solve_entry(
            self.budget, visual, shape, range(first, last + 1), self.profile.entry.left
        )


def thin_out(
    tokens: Tensor, attention: Tensor, table: SegmentTable, count: int, knobs: EntryKnobs
) -> VisualEntry:
    """A clip's tokens cut down to `count`.

    Each segment's share follows from its length alone: the question has its say inside the model.
    Per frame the most salient tokens enter as they are, and at a few anchor frames tokens into
    which the segment's rest is merged. What rounding leaves goes to the next salient ones. `tokens`
    are (T, P, D), `attention` (T, P): where the pooling head looks in each frame.
    """
    per_frame = tokens.shape[1]
    equal = (1.0,) * len(table.weights)
    capacity = [length * per_frame for length in table.lengths]
    budgets = segment_budgets(count, equal, table.lengths, capacity)
    made, owners, macs = [], [], 0
    for (begin, end), budget in zip(pairwise(table.bounds), budgets, strict=True):
        inside = slice(begin, end)
        found = _thin_segment(tokens[inside], attention[inside], budget, knobs)
        made.append(found[0])
        owners.append(found[1] + begin * per_frame)
        macs += found[2]
    every = torch.cat(owners)
    order = every.argsort()
    embeddings = torch.cat(made)[order.to(tokens.device)]
    return VisualEntry(embeddings, every[order], torch.zeros(count, dtype=torch.bool), macs)


def _thin_segment(
    tokens: Tensor, attention: Tensor, budget: int, knobs: EntryKnobs
) -> tuple[Tensor, Tensor, int]:
    """`budget` tokens for a segment's (L, P, D), their owners in it, and multiply-accumulates."""
    length, per_frame, _ = tokens.shape
    anchors = len(anchors_of(length, knobs))
    centres = min(round(budget * knobs.context / anchors), budget // anchors)
    salient = largest(attention, (budget - anchors * centres) // length)
    merged, centre, macs = merge_segment(tokens, salient, centres, knobs)
    first = torch.arange(length)[:, None] * per_frame
    taken = torch.cat(((first + salient).flatten(), centre))
    free = attention.flatten().clone()
    free[taken] = -1.0  # attention is never negative
    more = largest(free, budget - len(taken))
    whole = torch.cat(((first + salient).flatten(), more))
    made = torch.cat((tokens.flatten(0, 1)[whole.to(tokens.device)], merged.to(tokens)))
    return made, torch.cat((whole, centre)), macs
