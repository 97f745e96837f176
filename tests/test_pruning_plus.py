"""adatp-plus: what enters layer 0, and what AdaTP's steps make of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adatp_cli.cost import paper_cost
from adatp_cli.errors import ProfileError
from adatp_cli.profiles import load_profile, parse_profile
from adatp_cli.pruning.budget import solve_budget, solve_entry
from adatp_cli.pruning.knobs import EntryKnobs
from adatp_cli.pruning.method import ClipSignals, LayerStep, VisualLayout
from adatp_cli.pruning.methods import method_of
from adatp_cli.pruning.methods.adatp_plus import thin_out
from adatp_cli.pruning.segments import SegmentTable
from tests.pruning_case import SHAPE

KNOBS = EntryKnobs()
LAYERS = SHAPE.layers


def table_of(*bounds: int) -> SegmentTable:
    return SegmentTable(bounds, torch.zeros(bounds[-1] - 1))


def clip(frames: int, per_frame: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randn(frames, per_frame, 8, generator=random)
    return tokens, torch.rand(frames, per_frame, generator=random)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_exactly_as_many_enter_as_were_asked_for(data: st.DataObject) -> None:
    frames = data.draw(st.integers(1, 12))
    per_frame = data.draw(st.integers(1, 9))
    total = frames * per_frame
    count = data.draw(st.integers(1, max(1, total - 1)))
    cuts = data.draw(st.sets(st.integers(1, max(1, frames - 1)), max_size=4))
    bounds = (0, *sorted(cut for cut in cuts if cut < frames), frames)
    tokens, attention = clip(frames, per_frame, data.draw(st.integers(0, 99)))
    knobs = EntryKnobs(context=data.draw(st.floats(0, 1)))
    entry = thin_out(tokens, attention, table_of(*bounds), count, knobs)
    assert len(entry.owners) == len(entry.embeddings) == min(count, total)
    assert bool((entry.owners.diff() > 0).all())
    assert not entry.breaks.any()


def test_salient_tokens_enter_unchanged_and_the_rest_is_merged() -> None:
    tokens, attention = clip(4, 9)
    entry = thin_out(tokens, attention, table_of(0, 4), 16, EntryKnobs(context=0.4))
    best = attention.topk(2, dim=1).indices.sort().values  # and 6 are merged, 2 are left over
    flat = tokens.flatten(0, 1)
    for frame in range(4):
        for position in best[frame].tolist():
            place = (entry.owners == frame * 9 + position).nonzero().flatten()
            assert len(place) == 1
            assert torch.equal(entry.embeddings[place[0]], flat[frame * 9 + position])
    changed = [
        int(owner)
        for owner, row in zip(entry.owners, entry.embeddings, strict=True)
        if not torch.equal(row, flat[owner])
    ]
    assert len(changed) == 6
    assert {owner // 9 for owner in changed} == {3}  # the last frame of four is the anchor
    assert entry.macs > 0


def test_segments_share_by_length_and_not_by_weight() -> None:
    tokens, attention = clip(8, 9)
    table = SegmentTable((0, 2, 8), torch.zeros(7), torch.tensor([1.0, 1.0] + [0.0] * 6), 3.0)
    assert table.weights == (4.0, 1.0)
    entry = thin_out(tokens, attention, table, 24, KNOBS)
    assert int((entry.owners < 18).sum()) == 6


def test_fewer_tokens_than_frames_are_the_most_salient_ones() -> None:
    tokens, attention = clip(8, 9)
    entry = thin_out(tokens, attention, table_of(0, 8), 3, EntryKnobs(context=0.0))
    assert entry.owners.tolist() == sorted(attention.flatten().topk(3).indices.tolist())


@pytest.mark.parametrize("share", [0.03, 0.1, 0.25, 0.4])
def test_the_schedule_spends_the_budget_and_leaves_the_share(share: float) -> None:
    drops = (2, 3, 4, 5)
    vanilla = paper_cost([288] * LAYERS, SHAPE)
    counts = solve_entry(share, 288, SHAPE, drops, 0.3).counts
    assert share - 0.005 < paper_cost(counts, SHAPE) / vanilla <= share
    assert counts[0] == counts[1] < 288
    assert counts[-1] == round(counts[0] * 0.3)
    assert list(counts) == sorted(counts, reverse=True)


def test_a_budget_for_the_whole_clip_is_spent_inside() -> None:
    drops = (2, 3, 4, 5)
    schedule = solve_entry(0.9, 288, SHAPE, drops, 0.3)
    assert schedule == solve_budget(0.9, 288, SHAPE, drops)
    assert schedule.counts[0] == 288


def test_choices_inside_go_by_the_tokens_that_the_entered_ones_stand_for() -> None:
    layout = VisualLayout(start=3, frames=8, rows=3, cols=3)
    tokens, attention = clip(8, 9)
    vectors = torch.zeros(8, 4)
    vectors[:4, 0] = vectors[4:, 1] = 1.0  # two segments of four frames
    signals = ClipSignals(vectors, vectors, vectors[0], tokens.flatten(0, 1), attention)
    plan = method_of(load_profile("adatp-plus").with_budget(0.2)).plan(layout, signals, SHAPE)
    assert plan.entry is not None
    assert plan.segments is not None
    assert plan.segments.bounds == (0, 4, 8)
    assert plan.segments.weights == (1.5, 1.0)
    entered = len(plan.entry.owners)
    layer = min(set(plan.keep_counts) - {0})
    alive = torch.arange(entered)
    # All attention on the second half: without segments nothing of the first would stay.
    owners = plan.entry.owners
    kept = plan.choose(LayerStep(layer, 10, alive, owners, (owners >= 36).float()))
    assert len(kept) == 10
    assert int((owners[kept] < 36).sum()) == 6


def test_it_wants_an_encoder() -> None:
    text = "name: mine\nmethod: adatp-plus\nbudget: 0.2\nrelevance: {encoder: attention}\n"
    with pytest.raises(ProfileError, match=r"relevance\.encoder must be an encoder for adatp-plus"):
        parse_profile(text, "mine.yaml")
