"""Local debiasing: which tokens of a segment stay."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adatp_cli.pruning.segments import representatives, select_tokens

# Two frames of three positions each, one segment; position 0 is hot in both frames.
SCORES = torch.tensor([0.9, 0.1, 0.3, 0.8, 0.4, 0.2])
ONE = torch.zeros(6, dtype=torch.int64)
PLACES = torch.tensor([0, 1, 2, 0, 1, 2])


def choose(budget: int, mode: str, representative: str = "score") -> list[int]:
    return select_tokens(
        SCORES,
        ONE,
        PLACES,
        [budget],
        mode=mode,  # type: ignore[arg-type]
        representative=representative,  # type: ignore[arg-type]
    ).tolist()


def test_without_the_step_the_hot_position_wins_twice():
    assert choose(2, "off") == [0, 3]
    assert choose(3, "off") == [0, 3, 4]


def test_with_the_step_every_position_comes_first_once():
    assert choose(2, "refill") == [0, 4]
    assert choose(3, "refill") == [0, 2, 4]
    assert choose(3, "strict") == [0, 2, 4]


def test_strict_stops_at_the_representatives_and_refill_goes_on():
    assert choose(5, "strict") == [0, 2, 4]
    assert choose(5, "refill") == [0, 2, 3, 4, 5]


def test_representatives_by_time():
    assert choose(2, "strict", "first") == [0, 2]
    three = torch.tensor([0.1, 0.9, 0.5])
    same = torch.zeros(3, dtype=torch.int64)
    assert representatives(three, same, same, "first").tolist() == [True, False, False]
    assert representatives(three, same, same, "middle").tolist() == [False, True, False]
    assert representatives(three[:2], same[:2], same[:2], "middle").tolist() == [True, False]
    assert representatives(three, same, same, "score").tolist() == [False, True, False]


def test_equal_scores_go_to_the_earlier_token():
    flat = torch.full((6,), 0.5)
    assert select_tokens(flat, ONE, PLACES, [2]).tolist() == [0, 1]
    assert select_tokens(flat, ONE, PLACES, [4], mode="off").tolist() == [0, 1, 2, 3]


@st.composite
def clips(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
    frames, places = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    cuts = [draw(st.booleans()) for _ in range(frames - 1)]
    segment_of = torch.tensor([0, *torch.tensor(cuts, dtype=torch.int64).cumsum(0).tolist()])
    size = frames * places
    alive = sorted(draw(st.sets(st.integers(0, size - 1), min_size=1)))
    tokens = torch.tensor(alive)
    steps = st.integers(0, 8)  # few values, so that ties happen
    scores = torch.tensor([draw(steps) / 8 for _ in alive])
    budgets = [draw(st.integers(0, size)) for _ in range(int(segment_of[-1]) + 1)]
    return scores, segment_of[tokens // places], tokens % places, budgets


def by_hand(
    scores: torch.Tensor,
    segment: torch.Tensor,
    place: torch.Tensor,
    budgets: list[int],
    mode: str,
    representative: str,
) -> list[int]:
    """The rule in plain loops."""
    kept: list[int] = []
    for k, budget in enumerate(budgets):
        mine = [i for i in range(len(scores)) if segment[i] == k]
        first: list[int] = []
        for p in sorted({int(place[i]) for i in mine}):
            there = [i for i in mine if place[i] == p]
            if representative == "score":
                first.append(max(there, key=lambda i: (scores[i], -i)))
            elif representative == "first":
                first.append(there[0])
            else:
                first.append(there[(len(there) - 1) // 2])
        if mode == "off":
            first = mine
        first.sort(key=lambda i: (-scores[i], i))
        rest = sorted(set(mine) - set(first), key=lambda i: (-scores[i], i))
        kept += (first if mode == "strict" else first + rest)[:budget]
    return sorted(kept)


@settings(deadline=None, max_examples=300)
@given(
    clips(),
    st.sampled_from(["strict", "refill", "off"]),
    st.sampled_from(["score", "first", "middle"]),
)
def test_selection_equals_plain_loops(
    clip: tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]],
    mode: str,
    representative: str,
):
    scores, segment, place, budgets = clip
    chosen = select_tokens(
        scores,
        segment,
        place,
        budgets,
        mode=mode,  # type: ignore[arg-type]
        representative=representative,  # type: ignore[arg-type]
    )
    assert chosen.tolist() == by_hand(scores, segment, place, budgets, mode, representative)
