"""From a cost share to tokens per layer: exact, never above, for every depth."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adatp_cli.cost import KNOWN_SHAPES, LanguageShape, paper_cost, paper_layer_cost
from adatp_cli.errors import UsageError
from adatp_cli.pruning.budget import LayerOrAuto, keep_schedule, pruned_layers, solve_budget

SEVEN_B = KNOWN_SHAPES["7b"].language
TINY = LanguageShape(12, 192, 6, 2, 32, 512, 512)


def vanilla(visual: int, shape: LanguageShape) -> int:
    return shape.layers * paper_layer_cost(visual, shape)


def test_the_published_rho_gives_the_published_share():
    counts = keep_schedule(0.8516, 6272, 28, 2, 16)
    assert f"{paper_cost(counts, SEVEN_B) / vanilla(6272, SEVEN_B):.1%}" == "27.3%"
    assert counts[:4] == (6272, 6272, 5341, 4549)
    assert len(set(counts[16:])) == 1


def test_the_published_share_gives_the_published_rho():
    solved = solve_budget(0.273, 6272, SEVEN_B)
    assert solved.rho == pytest.approx(0.8516, abs=2e-5)
    assert (solved.first_layer, solved.last_layer) == (2, 16)
    assert solved.share <= 0.273


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


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_a_share_outside_zero_to_one_is_refused(share: float):
    with pytest.raises(UsageError, match="share of the vanilla cost"):
        solve_budget(share, 6272, SEVEN_B)


def test_an_unreachable_share_names_the_smallest_and_that_one_works():
    with pytest.raises(UsageError, match="cannot be reached") as caught:
        solve_budget(0.05, 6272, SEVEN_B)
    smallest = float(caught.value.hint.split()[-1])
    assert smallest == pytest.approx(2 / 28, abs=2e-4)
    assert solve_budget(smallest, 6272, SEVEN_B).counts[-1] == 1
    with pytest.raises(UsageError):
        solve_budget(smallest - 1e-4, 6272, SEVEN_B)


def test_the_whole_budget_keeps_everything():
    assert solve_budget(1.0, 576, TINY).counts == (576,) * 12


@st.composite
def problems(draw: st.DrawFn) -> tuple[float, int, LanguageShape, int, LayerOrAuto]:
    layers = draw(st.integers(3, 40))
    heads = draw(st.sampled_from([2, 4, 8]))
    shape = LanguageShape(layers, heads * 32, heads, 2, 32, draw(st.integers(64, 1024)), 100)
    first = draw(st.integers(1, layers - 1))
    last = draw(st.just("auto") | st.integers(first, layers - 1))
    return draw(st.floats(0.01, 1.0)), draw(st.integers(36, 8000)), shape, first, last


@settings(deadline=None, max_examples=200)
@given(problems())
def test_never_above_the_share_and_as_close_as_tokens_allow(
    problem: tuple[float, int, LanguageShape, int, LayerOrAuto],
):
    share, visual, shape, first, last = problem
    smallest = paper_cost(
        keep_schedule(0.0, visual, shape.layers, *pruned_layers(shape.layers, first, last)), shape
    )
    if smallest / vanilla(visual, shape) > share:
        with pytest.raises(UsageError, match="cannot be reached"):
            solve_budget(share, visual, shape, first, last)
        return
    solved = solve_budget(share, visual, shape, first, last)
    counts = solved.counts
    assert len(counts) == shape.layers
    assert all(count == visual for count in counts[:first])
    assert all(1 <= b <= a for a, b in pairwise(counts))
    assert len(set(counts[solved.last_layer :])) == 1
    cost = paper_cost(counts, shape) / vanilla(visual, shape)
    assert cost == solved.share <= share
    # One more token at the deepest place that may take one is too much.
    if counts[-1] < visual:
        open_layers = [
            layer
            for layer in range(first, solved.last_layer + 1)
            if counts[layer] < counts[layer - 1]
        ]
        for layer in open_layers:
            copies = shape.layers - layer if layer == solved.last_layer else 1
            more = paper_layer_cost(counts[layer] + 1, shape) - paper_layer_cost(
                counts[layer], shape
            )
            assert cost + copies * more / vanilla(visual, shape) > share - 1e-12


@settings(deadline=None, max_examples=100)
@given(st.floats(0.3, 1.0), st.integers(3, 64), st.sampled_from(["0.5b", "7b", "72b", "tiny"]))
def test_within_half_a_point_on_every_real_model(share: float, frames: int, name: str):
    shape = TINY if name == "tiny" else KNOWN_SHAPES[name].language
    visual = frames * (36 if name == "tiny" else 196)
    solved = solve_budget(share, visual, shape)
    assert 0 <= share - solved.share < 0.005


@given(
    st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(1, 7000), st.integers(3, 40), st.data()
)
def test_a_larger_rho_never_keeps_less(
    one: float, other: float, visual: int, layers: int, data: st.DataObject
):
    first = data.draw(st.integers(1, layers - 1))
    last = data.draw(st.integers(first, layers - 1))
    fewer, more = (keep_schedule(rho, visual, layers, first, last) for rho in sorted((one, other)))
    assert all(a <= b for a, b in zip(fewer, more, strict=True))
    assert min(fewer) >= 1
