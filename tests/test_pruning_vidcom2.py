"""VidCom2 by hand and against the description, written out in loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from adatp_cli.cost import KNOWN_SHAPES
from adatp_cli.errors import UsageError
from adatp_cli.pruning.knobs import VidCom2Knobs, VidCom2Profile
from adatp_cli.pruning.method import ClipSignals, VisualLayout
from adatp_cli.pruning.methods.vidcom2 import (
    VidCom2,
    commonness,
    frame_budgets,
    select_as_released,
    select_exactly,
)

SHAPE = KNOWN_SHAPES["0.5b"].language


def clip(frames: int, per_frame: int = 9, width: int = 8, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    scenes = torch.randn(frames // 3 + 1, per_frame, width, generator=random)
    return scenes[torch.arange(frames) // 3] + 0.3 * torch.randn(
        frames, per_frame, width, generator=random
    )


def in_loops(tokens: Tensor) -> tuple[list[list[float]], list[list[float]]]:
    """The likenesses, number by number."""
    values = tokens.double().tolist()
    width = tokens.shape[-1]
    flat = [token for frame in values for token in frame]

    def variance(channel: int) -> float:
        column = [token[channel] for token in flat]
        mean = sum(column) / len(column)
        return sum((value - mean) ** 2 for value in column) / len(column)

    steady = sorted(range(width), key=variance)[: width // 2]
    unit = []
    for frame in values:
        rows = []
        for token in frame:
            part = [token[c] for c in steady]
            norm = math.sqrt(sum(value * value for value in part))
            rows.append([value / norm for value in part])
        unit.append(rows)

    def mean_of(rows: list[list[float]]) -> list[float]:
        return [sum(column) / len(rows) for column in zip(*rows, strict=True)]

    def kernel(point: list[float], centre: list[float]) -> float:
        squared = sum((a - b) ** 2 for a, b in zip(point, centre, strict=True))
        return sum(math.exp(-squared / (2 * a)) for a in (1 / 8, 1 / 4, 1 / 2, 1, 2))

    whole = mean_of([row for rows in unit for row in rows])
    of_clip = [[kernel(row, whole) for row in rows] for rows in unit]
    both = [
        [kernel(row, mean_of(rows)) + own for row, own in zip(rows, clip_row, strict=True)]
        for rows, clip_row in zip(unit, of_clip, strict=True)
    ]
    return both, of_clip


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_likeness_is_the_sum_of_kernels(frames: int) -> None:
    tokens = clip(frames)
    both, of_clip = commonness(tokens)
    expected_both, expected_clip = in_loops(tokens)
    torch.testing.assert_close(both, torch.tensor(expected_both), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(of_clip, torch.tensor(expected_clip), rtol=1e-4, atol=1e-4)


def test_frames_unlike_the_clip_keep_more() -> None:
    # Mean likeness 1.0 and 1.0 + 0.01 ln 3: shares 3/4 and 1/4.
    of_clip = torch.tensor([[1.0] * 100, [1.0 + 0.01 * math.log(3)] * 100])
    assert frame_budgets(of_clip, 0.2).tolist() == [25, 15]
    assert frame_budgets(of_clip, 0.88).tolist() == [100, 66]  # the first would be 110
    assert frame_budgets(of_clip, 0.001).tolist() == [1, 1]
    assert frame_budgets(torch.ones(1, 100), 0.25).tolist() == [25]


def test_halves_round_to_even() -> None:
    assert frame_budgets(torch.ones(1, 10), 0.25).tolist() == [2]
    assert frame_budgets(torch.ones(1, 10), 0.35).tolist() == [4]


def test_the_least_alike_stay_and_repairs_reach_the_count() -> None:
    likeness = torch.tensor([[0.3, 0.1, 0.2, 0.9], [0.5, 0.4, 0.8, 0.7]])
    even = torch.ones(2, 4)
    assert select_exactly(likeness, even, 4).nonzero().tolist() == [[0, 1], [0, 2], [1, 0], [1, 1]]
    # Two of each frame by rounding (1.5 each): the larger 0.5 of those kept goes.
    assert select_exactly(likeness, even, 3).nonzero().tolist() == [[0, 1], [0, 2], [1, 1]]
    # Two of each again (2.5 each, to even): 0.3 is the smallest that was left out.
    assert select_exactly(likeness, even, 5).nonzero().tolist() == [
        [0, 0],
        [0, 1],
        [0, 2],
        [1, 0],
        [1, 1],
    ]


@pytest.mark.parametrize("frames", [1, 2, 5, 16])
def test_counts(frames: int) -> None:
    both, of_clip = commonness(clip(frames))
    for count in range(frames, frames * 9):
        exact = select_exactly(both, of_clip, count)
        assert int(exact.sum()) == count
        released = select_as_released(both, of_clip, count)
        assert int(released.sum()) <= count
        assert bool(released.any(1).all())  # no frame is empty
        budgets = released.sum(1)
        for frame, budget in enumerate(budgets.tolist()):
            order = sorted(range(9), key=lambda p: (float(both[frame, p]), p))
            assert released[frame].nonzero().flatten().tolist() == sorted(order[:budget])


@pytest.mark.parametrize("count", ["exact", "release"])
def test_the_entry_holds_the_tokens_themselves(count: str) -> None:
    tokens = clip(6).to(torch.bfloat16)
    layout = VisualLayout(3, 6, 3, 3)
    method = VidCom2(VidCom2Profile(name="x", budget=0.3, vidcom2=VidCom2Knobs(count=count)))  # type: ignore[arg-type]
    signals = ClipSignals(torch.zeros(6, 2), tokens=tokens.flatten(0, 1))
    plan = method.plan(layout, signals, SHAPE)
    assert plan.entry is not None
    assert plan.entry.embeddings.dtype == torch.bfloat16
    assert torch.equal(plan.entry.embeddings, tokens.flatten(0, 1)[plan.entry.owners])
    assert not plan.entry.breaks.any()
    assert plan.entry.macs == 0
    if count == "exact":
        assert len(plan.entry.owners) == plan.keep_counts[0]


def test_a_token_for_every_frame_is_the_least() -> None:
    layout, tokens = VisualLayout(3, 32, 3, 3), clip(32).flatten(0, 1)
    signals = ClipSignals(torch.zeros(32, 2), tokens=tokens)
    with pytest.raises(UsageError, match="at least 32 tokens for 32 frames"):
        VidCom2(VidCom2Profile(name="x", budget=0.05)).plan(layout, signals, SHAPE)
