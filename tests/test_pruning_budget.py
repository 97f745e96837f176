"""From a cost share to tokens per layer: exact, never above, for every depth."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adatp_cli.cost import KNOWN_SHAPES, LanguageShape, paper_cost, paper_layer_cost
from adatp_cli.errors import UsageError
from adatp_cli.pruning.budget import (
    drop_layer,
    keep_schedule,
    pruned_layers,
    solve_budget,
)
from adatp_cli.pruning.knobs import LayerOrAuto

SEVEN_B = KNOWN_SHAPES["7b"].language
PUBLISHED = range(2, 17)
TINY = LanguageShape(12, 192, 6, 2, 32, 512, 512)


def vanilla(visual: int, shape: LanguageShape) -> int:
    return shape.layers * paper_layer_cost(visual, shape)


def test_the_published_rho_gives_the_published_share():
    counts = keep_schedule(0.8516, 6272, 28, range(2, 17))
    assert f"{paper_cost(counts, SEVEN_B) / vanilla(6272, SEVEN_B):.1%}" == "27.3%"
    assert counts[:4] == (6272, 6272, 5341, 4549)
    assert len(set(counts[16:])) == 1


def test_the_published_share_gives_the_published_rho():
    solved = solve_budget(0.273, 6272, SEVEN_B, PUBLISHED)
    assert solved.rho == pytest.approx(0.8516, abs=2e-5)
    assert solved.drops == tuple(PUBLISHED)
    assert paper_cost(solved.counts, SEVEN_B) / vanilla(6272, SEVEN_B) <= 0.273


@pytest.mark.parametrize(
    ("layers", "last"), [(28, 16), (24, 12), (80, 68), (12, 7), (23, 13), (8, 5), (4, 2), (3, 2)]
)
def test_the_last_pruned_layer_follows_the_depth(layers: int, last: int):
    assert pruned_layers(layers, 2, "auto") == (2, last)


@pytest.mark.parametrize(("layers", "first"), [(28, 2), (24, 2), (80, 2), (23, 2), (12, 1), (4, 1)])
def test_the_first_pruned_layer_follows_the_depth(layers: int, first: int):
    assert pruned_layers(layers, "auto", "auto")[0] == first


@pytest.mark.parametrize(("first", "last"), [(0, "auto"), (12, "auto"), (2, 12), (5, 4), (-1, 3)])
def test_layers_outside_the_model_are_refused(first: int, last: LayerOrAuto):
    with pytest.raises(UsageError, match=r"schedule\.(first|last)_layer is"):
        pruned_layers(12, first, last)


def test_an_unreachable_share_names_the_smallest_and_that_one_works():
    with pytest.raises(UsageError, match="cannot be reached") as caught:
        solve_budget(0.05, 6272, SEVEN_B, PUBLISHED)
    smallest = float(caught.value.hint.split()[-1])
    assert smallest == pytest.approx(2 / 28, abs=2e-4)
    assert solve_budget(smallest, 6272, SEVEN_B, PUBLISHED).counts[-1] == 1
    with pytest.raises(UsageError):
        solve_budget(smallest - 1e-4, 6272, SEVEN_B, PUBLISHED)


def test_the_whole_budget_keeps_everything():
    for drops in (range(1, 8), (0,), (3, 6, 9)):
        assert solve_budget(1.0, 576, TINY, drops).counts == (576,) * 12


@pytest.mark.parametrize(
    ("drops", "kept", "share"),
    [
        ((2,), (1568,), 0.27542),  # FastV's published counts and costs
        ((2,), (627,), 0.15075),
        ((0,), (1568,), 0.21968),
        ((0,), (608,), 0.08278),
        ((8, 16, 24), (257, 125, 62), 0.3016),  # PyramidDrop as FastVID's authors ran it
    ],
)
def test_published_counts_come_back_from_their_cost(
    drops: tuple[int, ...], kept: tuple[int, ...], share: float
):
    counts = [6272] * 28
    for layer, count in zip(drops, kept, strict=True):
        counts[layer:] = [count] * (28 - layer)
    cost = paper_cost(counts, SEVEN_B) / vanilla(6272, SEVEN_B)
    assert cost == pytest.approx(share, abs=5e-5 if len(drops) == 1 else 5e-4)
    if len(drops) == 1:
        assert solve_budget(cost, 6272, SEVEN_B, drops).counts == tuple(counts)


@pytest.mark.parametrize(("budget", "factor"), [(0.273, 0.481), (0.22, 0.401), (0.151, 0.264)])
def test_three_stages_at_a_budget_follow_one_factor(budget: float, factor: float):
    assert solve_budget(budget, 6272, SEVEN_B, (2, 9, 16)).rho == pytest.approx(factor, abs=1e-3)


@st.composite
def problems(draw: st.DrawFn) -> tuple[float, int, LanguageShape, tuple[int, ...]]:
    layers = draw(st.integers(3, 40))
    heads = draw(st.sampled_from([2, 4, 8]))
    shape = LanguageShape(layers, heads * 32, heads, 2, 32, draw(st.integers(64, 1024)), 100)
    drops = draw(st.sets(st.integers(0, layers - 1), min_size=1, max_size=20))
    return draw(st.floats(0.01, 1.0)), draw(st.integers(36, 8000)), shape, tuple(sorted(drops))


@settings(deadline=None, max_examples=200)
@given(problems())
def test_never_above_the_share_and_as_close_as_tokens_allow(
    problem: tuple[float, int, LanguageShape, tuple[int, ...]],
):
    share, visual, shape, drops = problem
    smallest = paper_cost(keep_schedule(0.0, visual, shape.layers, drops), shape)
    if smallest / vanilla(visual, shape) > share:
        with pytest.raises(UsageError, match="cannot be reached"):
            solve_budget(share, visual, shape, drops)
        return
    solved = solve_budget(share, visual, shape, drops)
    counts = (visual, *solved.counts)  # what there is before layer 0, and then layer by layer
    assert len(counts) == shape.layers + 1
    assert all(1 <= b <= a for a, b in pairwise(counts))
    assert {layer for layer in range(shape.layers) if counts[layer + 1] < counts[layer]} <= {*drops}
    cost = paper_cost(solved.counts, shape) / vanilla(visual, shape)
    assert cost <= share
    # One more token after any drop that may take one is too much.
    for first, end in pairwise((*drops, shape.layers)):
        count = counts[first + 1]
        if count < counts[first]:
            more = paper_layer_cost(count + 1, shape) - paper_layer_cost(count, shape)
            assert cost + (end - first) * more / vanilla(visual, shape) > share - 1e-12


@settings(deadline=None, max_examples=100)
@given(
    st.floats(0.3, 1.0),
    st.integers(3, 64),
    st.sampled_from(["0.5b", "7b", "72b", "tiny"]),
    st.sampled_from([(0,), (1,), (1, 3, 5), (1, 2, 3, 4, 5, 6, 7)]),
)
def test_within_half_a_point_on_every_real_model(
    share: float, frames: int, name: str, drops: tuple[int, ...]
):
    shape = TINY if name == "tiny" else KNOWN_SHAPES[name].language
    visual = frames * (36 if name == "tiny" else 196)
    # One token of the fewest, in all twelve layers, is 0.9 % of its clip's cost.
    grain = 1.2 / visual if len(drops) == 1 else 0.0
    solved = solve_budget(share, visual, shape, drops)
    cost = paper_cost(solved.counts, shape) / vanilla(visual, shape)
    assert 0 <= share - cost < max(0.005, grain)


@pytest.mark.parametrize(("layer", "drops"), [("auto", 2), (3, 3), (27, 27)])
def test_one_drop_is_where_the_knob_says(layer: int, drops: int):
    assert drop_layer(28, layer, "fastv.layer") == drops
    for wrong in (0, 28):
        with pytest.raises(UsageError, match=r"fastv\.layer is"):
            drop_layer(28, wrong, "fastv.layer")


@given(
    st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(1, 7000), st.integers(3, 40), st.data()
)
def test_a_larger_rho_never_keeps_less(
    one: float, other: float, visual: int, layers: int, data: st.DataObject
):
    drops = sorted(data.draw(st.sets(st.integers(0, layers - 1), min_size=1)))
    fewer, more = (keep_schedule(rho, visual, layers, drops) for rho in sorted((one, other)))
    assert all(a <= b for a, b in zip(fewer, more, strict=True))
    assert min(fewer) >= 1
