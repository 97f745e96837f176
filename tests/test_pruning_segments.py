"""Segments, their weights and their share of the budget."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adatp_cli.pruning.segments import (
    SegmentTable,
    frame_relevance,
    neighbour_similarity,
    segment_bounds,
    segment_budgets,
)


def test_a_scene_cut_starts_a_segment():
    red, blue = torch.tensor([3.0, 0.1]), torch.tensor([0.1, 0.5])
    clip = torch.stack([red, red, blue, blue, blue, red])
    assert segment_bounds(neighbour_similarity(clip), 0.95) == (0, 2, 5, 6)


def test_a_still_clip_and_a_single_frame_are_one_segment():
    assert segment_bounds(neighbour_similarity(torch.ones(8, 4)), 0.95) == (0, 8)
    assert segment_bounds(neighbour_similarity(torch.ones(1, 4)), 0.95) == (0, 1)


def test_a_similarity_at_the_threshold_does_not_cut():
    assert segment_bounds(torch.tensor([0.95, 0.9499], dtype=torch.float64), 0.95) == (0, 2, 3)


def test_segments_that_match_the_question_weigh_more():
    relevance = torch.tensor([0.1, 0.1, 0.9, 0.7, 0.1])
    table = SegmentTable((0, 2, 4, 5), torch.zeros(4), relevance, 0.5)
    assert table.weights == (1.0, 1.5, 1.0)
    assert table.salient == (False, True, False)
    assert table.lengths == (2, 2, 1)
    assert table.of_frames().tolist() == [0, 0, 1, 1, 2]
    assert table.segment_relevance == pytest.approx((0.1, 0.8, 0.1))


def test_a_segment_at_the_mean_counts_as_matching():
    whole = SegmentTable((0, 3), torch.zeros(2), torch.tensor([0.1, 0.2, 0.3]), 0.5)
    assert (whole.weights, whole.salient) == ((1.5,), (True,))


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_segments_that_match_equally_weigh_the_same_whatever_rounding_says(scale: float) -> None:
    alike = torch.full((32,), 0.3077453742738147 * scale, dtype=torch.float64)
    bounds, similarity = (0, 15, 29, 30, 32), torch.zeros(31)
    means = [float(alike[a:b].mean()) for a, b in pairwise(bounds)]
    assert scale < 1 or min(means) < float(alike.mean())  # what a plain comparison would see
    assert SegmentTable(bounds, similarity, alike, 0.5).salient == (True,) * 4
    # Float32's noise, as two passes of an encoder leave it, is rounding too; a difference is not.
    noise = torch.tensor([1.0, -1.0] * 16) * 1e-7 * scale
    assert SegmentTable(bounds, similarity, alike + noise, 0.5).weights == (1.5,) * 4
    alike[:15] += 1e-3 * scale
    assert SegmentTable(bounds, similarity, alike, 0.5).weights == (1.5, 1.0, 1.0, 1.0)


def test_without_relevance_all_segments_weigh_the_same():
    table = SegmentTable((0, 2, 5), torch.zeros(4), None, 0.5)
    assert table.weights == (1.0, 1.0)
    assert table.salient == (False, False)
    assert table.segment_relevance is None


def test_relevance_is_a_cosine():
    frames = torch.tensor([[2.0, 0.0], [0.0, 5.0], [1.0, 1.0]])
    assert frame_relevance(frames, torch.tensor([0.1, 0.0])).tolist() == pytest.approx(
        [1.0, 0.0, 0.5**0.5]
    )


@pytest.mark.parametrize(
    ("total", "weights", "lengths", "capacity", "budgets"),
    [
        (10, (1, 1), (5, 5), (99, 99), (5, 5)),
        (10, (1, 1.5), (4, 4), (99, 99), (4, 6)),
        (10, (1, 1.5, 1), (4, 4, 8), (100, 2, 100), (3, 2, 5)),  # 2.67 and 5.33 after the re-split
        (7, (1, 1), (1, 1), (99, 99), (4, 3)),  # a tie goes to the earlier segment
        (5, (1, 1), (1, 1000), (9, 999), (1, 4)),  # at least 1
        (2, (1, 1.5, 1), (3, 3, 4), (9, 9, 9), (0, 1, 1)),  # fewer tokens than segments
        (50, (1, 1), (1, 1), (3, 4), (3, 4)),  # more than are alive
        (4, (1, 1, 1), (2, 2, 2), (9, 0, 9), (2, 0, 2)),  # a segment that is gone
        (0, (1, 1), (1, 1), (0, 0), (0, 0)),
    ],
)
def test_budgets_by_hand(
    total: int,
    weights: tuple[float, ...],
    lengths: tuple[int, ...],
    capacity: tuple[int, ...],
    budgets: tuple[int, ...],
):
    assert segment_budgets(total, weights, lengths, capacity) == budgets


@st.composite
def splits(draw: st.DrawFn) -> tuple[int, list[float], list[int], list[int]]:
    count = draw(st.integers(1, 12))
    weights = draw(st.lists(st.sampled_from([1.0, 1.5, 1.3]), min_size=count, max_size=count))
    lengths = draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    capacity = draw(st.lists(st.integers(0, 40), min_size=count, max_size=count))
    return draw(st.integers(0, 300)), weights, lengths, capacity


@settings(deadline=None, max_examples=400)
@given(splits())
def test_budgets_sum_up_and_respect_floor_cap_and_proportion(
    split: tuple[int, list[float], list[int], list[int]],
):
    total, weights, lengths, capacity = split
    budgets = segment_budgets(total, weights, lengths, capacity)
    alive = [k for k, size in enumerate(capacity) if size]
    assert sum(budgets) == min(total, sum(capacity))
    assert all(0 <= b <= c for b, c in zip(budgets, capacity, strict=True))
    if min(total, sum(capacity)) >= len(alive):
        assert all(budgets[k] >= 1 for k in alive)
    else:
        assert max(budgets) <= 1
        shares = [weights[k] * lengths[k] for k in range(len(weights))]
        chosen = [shares[k] for k in alive if budgets[k]]
        left = [shares[k] for k in alive if not budgets[k]]
        assert not chosen or not left or min(chosen) >= max(left)
    # Among segments that neither floor nor cap touches, tokens are in proportion, up to rounding.
    free = [k for k in alive if 1 < budgets[k] < capacity[k]]
    for a in free:
        for b in free:
            ratio = weights[a] * lengths[a] / (weights[b] * lengths[b])
            assert abs(budgets[a] - ratio * budgets[b]) <= 1 + ratio + 1e-9


@settings(deadline=None)
@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=3, max_size=3), min_size=1, max_size=20),
    st.floats(-1, 1),
)
def test_segments_cover_the_clip_once(vectors: list[list[float]], threshold: float):
    clip = torch.tensor(vectors)
    similarity = neighbour_similarity(clip)
    bounds = segment_bounds(similarity, threshold)
    assert bounds[0] == 0
    assert bounds[-1] == len(vectors)
    assert np.all(np.diff(bounds) > 0)
    cuts = set(bounds[1:-1])
    assert cuts == {t + 1 for t in range(len(vectors) - 1) if similarity[t] < threshold}
