"""The cost model against the paper's printed numbers, and against its own laws."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adatp_cli import cost

SEVEN_B = cost.KNOWN_SHAPES["7b"]
FRAMES = 32
VISUAL = FRAMES * 196
TINY = cost.ModelShape(
    cost.LanguageShape(12, 192, 6, 2, 32, 512, 600), cost.VisionShape(4, 128, 4, 512, 96, 8)
)


def fastv(kept: int) -> list[int]:
    """FastV with K = 2 on the 7B: two full layers, the rest on the kept tokens."""
    return [VISUAL] * 2 + [kept] * 26


@pytest.mark.parametrize(
    ("visual_per_layer", "printed"),
    [
        pytest.param([VISUAL] * 28, "48.82", id="vanilla"),
        pytest.param(fastv(round(VISUAL * 0.25)), "13.45", id="fastv-25"),
        pytest.param(fastv(round(VISUAL * 0.20)), "11.38", id="fastv-20"),
        pytest.param(fastv(round(VISUAL * 0.15)), "9.35", id="fastv-15"),
        pytest.param(fastv(round(VISUAL * 0.10)), "7.36", id="fastv-10"),
        pytest.param([608] * 28, "4.04", id="608-from-layer-0"),
    ],
)
def test_paper_count_reproduces_the_printed_digits(
    visual_per_layer: list[int], printed: str
) -> None:
    tera = cost.paper_cost(visual_per_layer, SEVEN_B.language) / 1e12
    assert f"{tera:.2f}" == printed


def test_published_rho_spends_the_published_share() -> None:
    counts = [VISUAL] * 2 + [round(0.8516 ** (layer - 1) * VISUAL) for layer in range(2, 17)]
    counts += [counts[-1]] * (28 - len(counts))
    full = cost.paper_cost([VISUAL] * 28, SEVEN_B.language)
    assert cost.paper_cost(counts, SEVEN_B.language) / full == pytest.approx(0.273, abs=5e-4)


def test_vision_tower_of_the_published_models_costs_about_22_tflop() -> None:
    assert cost.vision_cost(FRAMES, SEVEN_B) / 1e12 == pytest.approx(22, abs=1)


@pytest.mark.parametrize(
    ("image", "patch", "grid"), [(384, 14, (14, 14)), (96, 8, (6, 6)), (378, 14, (14, 14))]
)
def test_pooling_rounds_the_grid_up(image: int, patch: int, grid: tuple[int, int]) -> None:
    shape = cost.ModelShape(
        SEVEN_B.language, replace(SEVEN_B.vision, image_size=image, patch_size=patch)
    )
    assert shape.grid == grid
    assert shape.tokens_per_frame == grid[0] * grid[1]


def test_generating_counts_each_step_against_the_growing_cache() -> None:
    """The closed form against one prefill of a single token per step, written out."""
    shape = TINY.language
    tokens = [100, 90, 80, 70, 60, 50, 40, 30, 20, 10, 5, 5]
    generated = 7
    width = shape.heads * shape.head_dim
    expected = 0
    for step in range(1, generated):
        for prompt in tokens:
            per_token = (
                2 * shape.hidden * width
                + 2 * shape.hidden * shape.kv_heads * shape.head_dim
                + 3 * shape.hidden * shape.intermediate
            )
            expected += per_token + 2 * (prompt + step) * width
        expected += shape.hidden * shape.vocab
    assert cost.generate_cost(tokens, generated, shape) == 2 * expected


def test_the_first_token_comes_with_the_prefill() -> None:
    assert cost.generate_cost([10] * 12, 1, TINY.language) == 0
    assert cost.generate_cost([10] * 12, 0, TINY.language) == 0


def test_score_rows_attend_to_the_layer_before() -> None:
    tokens = [100, 100, 50] + [50] * 9
    width = 6 * 32
    assert cost.scoring_cost(tokens, {2: 3}, TINY.language) == 2 * 3 * width * (192 + 100)
    assert cost.scoring_cost(tokens, {3: 1}, TINY.language) == 2 * width * (192 + 50)


def test_keys_projected_for_scores_alone_are_counted() -> None:
    tokens = [100] * 12
    rows = cost.scoring_cost(tokens, {6: 1}, TINY.language)
    with_keys = cost.scoring_cost(tokens, {6: 1}, TINY.language, {6: 100})
    assert with_keys - rows == 2 * 100 * 192 * 64


def test_a_pooling_head_alone_has_no_text() -> None:
    relevance = cost.RelevanceShape(128, 512, 4, 2, 128, 512, 64, 128)
    one, two = (cost.relevance_cost(n, 144, relevance.without_text()) for n in (1, 2))
    assert two == 2 * one
    text = cost.relevance_cost(1, 144, relevance) - one
    assert cost.relevance_cost(2, 144, relevance) == two + text > two


def test_parts_sum_to_the_total_and_relevance_is_optional() -> None:
    arguments = {"frames": 4, "text_tokens": 20, "visual_per_layer": [144] * 12, "generated": 5}
    relevance = cost.RelevanceShape(128, 512, 4, 2, 128, 512, 64, 128)
    without = cost.end_to_end_cost(TINY, **arguments)
    with_encoder = cost.end_to_end_cost(TINY, **arguments, relevance=relevance, score_rows={2: 1})
    assert without.relevance == without.scoring == 0
    assert with_encoder.relevance == cost.relevance_cost(4, 144, relevance) > 0
    assert with_encoder.total == without.total + with_encoder.relevance + with_encoder.scoring


def test_a_count_per_layer_is_demanded() -> None:
    with pytest.raises(ValueError, match="11 token counts for a model of 12 layers"):
        cost.paper_cost([1] * 11, TINY.language)


counts_per_layer = st.lists(st.integers(1, 7000), min_size=12, max_size=12)


@given(counts_per_layer, st.integers(0, 11))
def test_dropping_tokens_anywhere_is_cheaper_in_both_counts(counts: list[int], layer: int) -> None:
    fewer = counts.copy()
    fewer[layer] -= 1
    assert cost.paper_cost(fewer, TINY.language) < cost.paper_cost(counts, TINY.language)
    assert cost.prefill_cost(fewer, TINY.language) < cost.prefill_cost(counts, TINY.language)
    assert cost.generate_cost(fewer, 9, TINY.language) < cost.generate_cost(
        counts, 9, TINY.language
    )


@given(counts_per_layer)
def test_paper_count_is_the_sum_of_its_layers(counts: list[int]) -> None:
    layers = [cost.paper_layer_cost(count, TINY.language) for count in counts]
    assert cost.paper_cost(counts, TINY.language) == sum(layers)
