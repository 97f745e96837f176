"""UniComp (arXiv 2512.03575): groups of frames, budgets by uniqueness, greedy merging.

After the released code (TimeMarker-LLM/UniComp, 1904269), by its script's path. It ends every group
of frames with a line break of text, which its own budget leaves out; here they count, so that
methods compare at equal cost (our choice), and the tokens' budget is what they leave.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from adatp_cli.errors import UsageError
from adatp_cli.pruning.families import InputCompression, needed
from adatp_cli.pruning.knobs import UniCompKnobs
from adatp_cli.pruning.method import ClipSignals, SignalNeeds, VisualEntry, VisualLayout
from adatp_cli.pruning.segments import SegmentTable, neighbour_similarity


class UniComp(InputCompression):
    """Average alike frames, then keep in each the tokens that are least like the others."""

    @property
    def needs(self) -> SignalNeeds:
        return SignalNeeds(frame_vectors=True, tower_keys=True)

    def fewest(self, frames: int) -> int:  # noqa: ARG002 - it depends on how many are alike
        return 2

    def compress(
        self, layout: VisualLayout, signals: ClipSignals, count: int
    ) -> tuple[VisualEntry, SegmentTable]:
        tokens = needed(signals.tokens, "visual tokens").view(layout.frames, layout.per_frame, -1)
        vectors = needed(signals.frame_vectors, "pooled frame vectors")
        keys = needed(signals.tower_keys, "the vision tower's keys")
        knobs, means = self.profile.unicomp, tokens.float().mean(1)
        # At most 1 + int(1/r) frames to a group, where r is the share of tokens that stay.
        bounds = frame_groups(means, knobs.frame_threshold, 1 + layout.visual // count)
        table = SegmentTable(bounds, neighbour_similarity(means))
        firsts = torch.tensor(bounds[:-1])
        fused = torch.stack([tokens[a:b].float().mean(0) for a, b in pairwise(bounds)])
        groups = len(firsts)
        if groups * layout.per_frame <= count:
            owners = (firsts[:, None] * layout.per_frame + torch.arange(layout.per_frame)).flatten()
            breaks = torch.zeros(len(owners), dtype=torch.bool)
            entry = VisualEntry(fused.flatten(0, 1).to(tokens), owners, breaks)
            return entry, table
        if count < 2 * groups:
            raise UsageError(
                f"a budget of {self.budget:g} cannot be reached: it leaves {count} tokens to "
                f"{groups} groups of frames, each of which needs two",
                "raise the budget, or take fewer frames",
            )
        budgets = group_budgets(vectors[firsts], count - groups, layout.per_frame)
        entry = _assemble(fused, keys[firsts], firsts, budgets, layout, knobs, tokens.dtype)
        compared = groups**2 * vectors.shape[-1]
        return dataclasses.replace(entry, macs=entry.macs + compared), table


def frame_groups(means: Tensor, threshold: float, longest: int) -> tuple[int, ...]:
    """Frame numbers at which groups begin, and T at the end.

    A frame joins the open group when one less its cosine to the group's first frame is at most the
    threshold, and the group holds fewer than `longest` frames. `means` are (T, D).
    """
    unit = F.normalize(means.double(), dim=-1).cpu()
    bounds = [0]
    for frame in range(1, len(unit)):
        apart = 1 - float(unit[frame] @ unit[bounds[-1]])
        if apart > threshold or frame - bounds[-1] >= longest:
            bounds.append(frame)
    return (*bounds, len(unit))


def group_budgets(vectors: Tensor, total: int, per_frame: int) -> list[int]:
    """Tokens of each group, at most `total` together: more for what is unlike the other groups.

    `vectors` are (T', De), of each group's first frame; `total` is at least T'.
    """
    groups = len(vectors)
    cap = min(per_frame, max(1, 2 * (total // groups)))
    if groups <= total // cap:
        return [cap] * groups
    unit = F.normalize(vectors.double(), dim=-1).cpu()
    alike = (unit @ unit.T).mean(1)
    unique = (alike.mean() - alike) * groups**0.5
    budgets = (total * unique.softmax(0)).floor().long()
    over = budgets > cap
    budgets = budgets.clamp_max(cap)
    while bool(over.any()) and not bool(over.all()):
        more = (total - int(budgets.sum())) // int((~over).sum())
        if more <= 0:
            break
        budgets[~over] += more
        over = budgets > cap
        budgets = budgets.clamp_max(cap)
    return [int(value) for value in budgets]


def merge_order(keys: Tensor, threshold: float) -> tuple[list[int], Tensor]:
    """Which tokens of a frame stand for the others, the most unique first, and whom they stand for.

    Walks from the token least like all others to the one most like them, by `keys` (P, dh); a token
    that no earlier one stands for is selected, and stands for all whose cosine is within the
    threshold of 1. Row i of the (P, P) bool marks the neighbourhood of i.
    """
    unit = F.normalize(keys.float(), dim=-1)
    alike = unit @ unit.T
    near = 1 - alike < threshold
    near.fill_diagonal_(fill_value=True)
    marks = near.cpu()
    claimed = torch.zeros(len(unit), dtype=torch.bool)
    selected = []
    for place in alike.mean(1).sort(stable=True).indices.tolist():
        if not bool(claimed[place]):
            selected.append(place)
            claimed |= marks[place]
    return selected, marks


def fit(selected: Sequence[int], budgets: Sequence[int]) -> list[int]:
    """Tokens that each group keeps of those selected; what some leave goes to the others evenly."""
    allowed = list(budgets)
    if sum(selected) > sum(budgets):
        short = [m < b for m, b in zip(selected, budgets, strict=True)]
        slack = sum(b - m for m, b in zip(selected, budgets, strict=True) if m < b)
        more = slack // max(1, short.count(False))
        allowed = [b if is_short else b + more for b, is_short in zip(budgets, short, strict=True)]
    return [min(m, b) for m, b in zip(selected, allowed, strict=True)]


def _assemble(
    fused: Tensor,
    keys: Tensor,
    firsts: Tensor,
    budgets: list[int],
    layout: VisualLayout,
    knobs: UniCompKnobs,
    dtype: torch.dtype,
) -> VisualEntry:
    """Merge each group (T', P, D) and close it with a line break."""
    walks = [merge_order(frame, knobs.token_threshold) for frame in keys]
    kept = fit([len(selected) for selected, _ in walks], budgets)
    width = fused.shape[-1]
    rows, owners, breaks = [], [], []
    for group, (selected, near) in enumerate(walks):
        places = sorted(selected[: kept[group]])
        index = torch.tensor(places, dtype=torch.int64)
        around = near[index].to(fused)
        mean = around @ fused[group] / around.sum(1, keepdim=True)
        rows += [(fused[group][index.to(fused.device)] + mean) / 2, fused.new_zeros(1, width)]
        first = int(firsts[group]) * layout.per_frame
        own = [first + place for place in places]
        # A group that keeps nothing has its line break all the same, as in the release.
        owners += [*own, own[-1] if own else first]
        breaks += [*([False] * len(own)), True]
    compared = len(walks) * layout.per_frame * keys.shape[-1] + sum(kept) * width
    macs = layout.per_frame * compared
    made = torch.cat(rows).to(dtype)
    return VisualEntry(made, torch.tensor(owners), torch.tensor(breaks), macs)
