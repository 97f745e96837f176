"""UniComp by hand and against the description, written out in loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from adatp_cli.cost import KNOWN_SHAPES
from adatp_cli.errors import UsageError
from adatp_cli.pruning.knobs import UniCompKnobs, UniCompProfile
from adatp_cli.pruning.method import ClipSignals, VisualLayout
from adatp_cli.pruning.methods.unicomp import UniComp, fit, frame_groups, group_budgets, merge_order

SHAPE = KNOWN_SHAPES["7b"].language


def turned(*degrees: float) -> Tensor:
    """Unit vectors in the plane, one per angle."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack((angles.cos(), angles.sin()), dim=1)


def test_groups_end_where_a_frame_differs_from_their_first() -> None:
    # One less the cosine of 5 degrees is 0.0038, of 6 degrees 0.0055.
    assert frame_groups(turned(0, 5, 5, 6, 10, 90), 0.005, 100) == (0, 3, 5, 6)
    assert frame_groups(turned(0, 3, 6, 9), 0.005, 100) == (0, 2, 4)  # drifting, by the first
    assert frame_groups(turned(0, 0, 0, 0, 0), 0.005, 2) == (0, 2, 4, 5)
    assert frame_groups(turned(0), 0.005, 5) == (0, 1)


def test_groups_alike_share_evenly_up_to_the_floor() -> None:
    vectors = turned(10, 10, 10)
    assert group_budgets(vectors, 10, 196) == [3, 3, 3]  # floors are not handed out
    assert group_budgets(vectors, 30, 10) == [10, 10, 10]  # everything


def test_a_group_unlike_the_others_gets_more() -> None:
    vectors = turned(0, 0, 0, 90)
    # Means of the cosines: 3/4, 3/4, 3/4, 1/4; their mean 5/8; times sqrt(4).
    unique = [-0.25, -0.25, -0.25, 0.75]
    whole = sum(math.exp(u) for u in unique)
    expected = [math.floor(40 * math.exp(u) / whole) for u in unique]
    assert group_budgets(vectors, 40, 196) == expected == [6, 6, 6, 19]
    # With a cap of 12, what is left over goes to the others.
    assert group_budgets(vectors, 40, 12) == [9, 9, 9, 12]


@given(
    st.lists(st.floats(0, 180), min_size=1, max_size=12), st.integers(0, 400), st.integers(1, 40)
)
def test_budgets_stay_within_total_and_cap(
    degrees: list[float], extra: int, per_frame: int
) -> None:
    total = len(degrees) + extra
    budgets = group_budgets(turned(*degrees), total, per_frame)
    assert sum(budgets) <= total
    assert max(budgets) <= min(per_frame, 2 * (total // len(degrees)))
    assert max(budgets) >= 1


def walk(keys: list[list[float]], threshold: float) -> list[int]:
    """The greedy walk, number by number."""

    def cosine(a: list[float], b: list[float]) -> float:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    alike = [[cosine(a, b) for b in keys] for a in keys]
    order = sorted(range(len(keys)), key=lambda i: (sum(alike[i]) / len(keys), i))
    visited: set[int] = set()
    selected = []
    for i in order:
        if i not in visited:
            selected.append(i)
            visited |= {j for j in range(len(keys)) if 1 - alike[i][j] < threshold} | {i}
    return selected


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.9])
def test_the_walk_is_greedy(seed: int, threshold: float) -> None:
    keys = torch.randn(25, 3, generator=torch.Generator().manual_seed(seed))
    selected, near = merge_order(keys, threshold)
    assert selected == walk(keys.double().tolist(), threshold)
    assert bool(near[selected].any(0).all())  # somebody stands for every token


def test_what_is_not_used_goes_to_the_others() -> None:
    assert fit([2, 9, 9], [5, 5, 5]) == [2, 6, 6]  # three left over, one each
    assert fit([9, 9], [5, 5]) == [5, 5]
    assert fit([3, 4], [5, 5]) == [3, 4]
    # Where all fit in sum, nothing is handed on, as released.
    assert fit([1, 7], [5, 5]) == [1, 5]


def case(frames: int, per_scene: int = 3) -> tuple[VisualLayout, Tensor, ClipSignals]:
    random = torch.Generator().manual_seed(frames)
    scenes = torch.randn(frames // per_scene + 1, 16, 8, generator=random)
    scenes += torch.randn(len(scenes), 1, 8, generator=random)  # so that frames differ on average
    number = torch.arange(frames) // per_scene
    tokens = scenes[number] + 0.01 * torch.randn(frames, 16, 8, generator=random)
    vectors = torch.randn(len(scenes), 5, generator=random)[number]
    keys = torch.randn(len(scenes), 16, 3, generator=random)[number]
    signals = ClipSignals(
        torch.zeros(frames, 2),
        frame_vectors=vectors,
        tokens=tokens.flatten(0, 1),
        tower_keys=keys,
    )
    return VisualLayout(3, frames, 4, 4), tokens, signals


def test_groups_are_averaged_merged_and_closed_with_a_line_break() -> None:
    layout, tokens, signals = case(9)
    with FlopCounterMode(display=False) as counter:
        plan = UniComp(UniCompProfile(name="x", budget=0.2)).plan(layout, signals, SHAPE)
    entry, count = plan.entry, plan.keep_counts[0]
    assert entry is not None
    assert plan.segments is not None
    assert plan.segments.bounds == (0, 3, 6, 9)
    assert signals.frame_vectors is not None
    assert signals.tower_keys is not None
    knobs, firsts = UniCompKnobs(), [0, 3, 6]
    budgets = group_budgets(signals.frame_vectors[firsts], count - 3, 16)
    orders = [walk(signals.tower_keys[f].double().tolist(), knobs.token_threshold) for f in firsts]
    kept = fit([len(order) for order in orders], budgets)
    assert 0 < sum(kept) <= count - 3
    row = 0
    for group, first in enumerate(firsts):
        mean = tokens[first : first + 3].double().mean(0)
        keys = torch.nn.functional.normalize(signals.tower_keys[first].double(), dim=-1)
        for place in sorted(orders[group][: kept[group]]):
            assert entry.owners[row] == first * 16 + place
            around = 1 - keys @ keys[place] < knobs.token_threshold
            expected = (mean[place] + mean[around].mean(0)) / 2
            torch.testing.assert_close(
                entry.embeddings[row].double(), expected, rtol=1e-4, atol=1e-4
            )
            assert not entry.breaks[row]
            row += 1
        assert entry.breaks[row]
        row += 1
    assert row == len(entry.owners) <= count
    assert 2 * entry.macs == counter.get_total_flops()


def test_a_still_clip_fits_whole_and_has_no_line_breaks() -> None:
    layout, tokens, signals = case(9, per_scene=9)
    entry = UniComp(UniCompProfile(name="x", budget=0.35)).plan(layout, signals, SHAPE).entry
    assert entry is not None
    # At a share of about 0.35 a group has at most 1 + int(1 / 0.35) frames.
    assert len(entry.owners) == 3 * 16
    assert not entry.breaks.any()
    assert entry.macs == 0
    torch.testing.assert_close(entry.embeddings[:16], tokens[:3].mean(0))
    assert entry.owners[:16].tolist() == list(range(16))


def test_a_budget_without_room_for_line_breaks_is_refused() -> None:
    layout, _, signals = case(32, per_scene=1)
    with pytest.raises(UsageError, match="32 groups of frames"):
        UniComp(UniCompProfile(name="x", budget=0.06)).plan(layout, signals, SHAPE)
    assert (
        UniComp(UniCompProfile(name="x", budget=0.2)).plan(layout, signals, SHAPE).entry is not None
    )
