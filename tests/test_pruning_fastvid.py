"""FastVID by hand and against the description, written out in loops."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from adatp_cli.cost import KNOWN_SHAPES
from adatp_cli.profiles import load_profile
from adatp_cli.pruning.knobs import FastVIDKnobs, FastVIDProfile
from adatp_cli.pruning.method import ClipSignals, VisualLayout
from adatp_cli.pruning.methods import method_of
from adatp_cli.pruning.methods.fastvid import FastVID, cut, density_peaks, merge, squared_distances
from adatp_cli.pruning.segments import largest, neighbour_similarity

SEVEN_B = KNOWN_SHAPES["7b"].language


def clip(frames: int, per_frame: int = 16, width: int = 6, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    scenes = torch.randn(frames // 5 + 1, per_frame, width, generator=random)
    return scenes[torch.arange(frames) // 5] + 0.3 * torch.randn(
        frames, per_frame, width, generator=random
    )


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def peaks(points: list[list[float]], k: int) -> list[float]:
    """Density times distance to what is denser, number by number."""
    n, width = len(points), len(points[0])
    d = [
        [math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / width) for b in points]
        for a in points
    ]
    rho = [math.exp(-sum(sorted(v * v for v in row)[: min(k, n)]) / min(k, n)) for row in d]
    scores = []
    for i in range(n):
        denser = [d[i][j] for j in range(n) if rho[j] > rho[i] or (rho[j] == rho[i] and j < i)]
        scores.append(rho[i] * (min(denser) if denser else max(max(row) for row in d)))
    return scores


def test_cuts_are_the_smallest_similarities_and_all_below_the_threshold() -> None:
    similarity = torch.tensor([0.99, 0.5, 0.97, 0.85, 0.98])
    assert cut(similarity, 1, 0.9) == (0, 2, 4, 6)
    assert cut(similarity, 4, 0.9) == (0, 2, 3, 4, 6)
    assert cut(similarity, 2, -1.0) == (0, 2, 6)
    assert cut(similarity, 8, 0.9) == (0, 1, 2, 3, 4, 5, 6)
    assert cut(torch.zeros(0), 8, 0.9) == (0, 1)
    assert cut(torch.tensor([0.95, 0.95]), 2, 0.9) == (0, 1, 3)  # the earlier of equals


@pytest.mark.parametrize("count", [1, 2, 3, 9, 30])
@pytest.mark.parametrize("k", [1, 4])
def test_density_peaks(count: int, k: int) -> None:
    points = torch.randn(count, 5, generator=torch.Generator().manual_seed(count))
    torch.testing.assert_close(
        density_peaks(points, k),
        torch.tensor(peaks(points.double().tolist(), k)),
        rtol=1e-3,
        atol=1e-4,
    )


def test_equal_points_have_an_order_all_the_same() -> None:
    points = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]])
    assert squared_distances(points)[0].tolist() == [0.0, 0.0, 12.5]
    scores = density_peaks(points, 1)  # all densities are exp(-0) = 1
    assert scores.tolist() == pytest.approx([12.5**0.5, 0.0, 12.5**0.5])
    assert density_peaks(torch.zeros(0, 3), 4).shape == (0,)


def test_the_largest_of_each_row_in_order() -> None:
    scores = torch.tensor([[0.2, 0.9, 0.2, 0.5], [1.0, 1.0, 1.0, 1.0]])
    assert largest(scores, 2).tolist() == [[1, 3], [0, 1]]
    assert largest(scores, 0).shape == (2, 0)


def merged_in_loops(
    tokens: Tensor, salient: Tensor, bounds: tuple[int, ...], context: int, knobs: FastVIDKnobs
) -> dict[int, list[float]]:
    values = tokens.double().tolist()
    per_frame = len(values[0])
    made: dict[int, list[float]] = {}
    for begin, end in pairwise(bounds):
        length = end - begin
        anchors = [f for f in range(begin, end) if (end - 1 - f) % knobs.anchor_step == 0]
        assert len(anchors) == math.ceil(length / knobs.anchor_step)
        rest = {
            f: [p for p in range(per_frame) if p not in salient[f].tolist()]
            for f in range(begin, end)
        }
        each = min(context * length // len(anchors), per_frame - salient.shape[1])
        for anchor in anchors if each else ():
            score = peaks([values[anchor][p] for p in rest[anchor]], knobs.neighbours)
            order = sorted(range(len(score)), key=lambda i: (-score[i], i))[:each]
            centres = [rest[anchor][i] for i in sorted(order)]
            members: dict[int, list[list[float]]] = {c: [] for c in centres}
            alone = knobs.anchor_step == 1  # every frame is an anchor and has its own rest
            for f in [anchor] if alone else range(begin, end):
                for p in rest[f]:
                    best = max(centres, key=lambda c: (cosine(values[f][p], values[anchor][c]), -c))
                    members[best].append(values[f][p])
            for c in centres:
                n = len(members[c])
                mean = [sum(column) / n for column in zip(*members[c], strict=True)]
                b = max(knobs.merge, 1 / (n + 1))
                made[anchor * per_frame + c] = [
                    b * x + (1 - b) * u for x, u in zip(values[anchor][c], mean, strict=True)
                ]
    return made


@pytest.mark.parametrize("frames", [1, 2, 3, 9, 13])
@pytest.mark.parametrize("context", [1, 3])
@pytest.mark.parametrize("step", [1, 4])
def test_merging(frames: int, context: int, step: int) -> None:
    knobs = FastVIDKnobs(segments=2, anchor_step=step)
    tokens = clip(frames, seed=frames)
    salient = largest(torch.rand(frames, 16, generator=torch.Generator().manual_seed(1)), 5)
    bounds = cut(neighbour_similarity(tokens.mean(1)), 2, 0.5)
    with FlopCounterMode(display=False) as counter:
        made, owners, macs = merge(tokens, salient, bounds, context, knobs)
    expected = merged_in_loops(tokens, salient, bounds, context, knobs)
    assert sorted(owners.tolist()) == sorted(expected)
    for row, owner in zip(made, owners.tolist(), strict=True):
        torch.testing.assert_close(row, torch.tensor(expected[owner]), rtol=1e-4, atol=1e-4)
    assert 2 * macs == counter.get_total_flops() > 0


def test_a_merged_token_by_hand() -> None:
    """One frame, one salient token; of the other three the first is the centre of all."""
    tokens = torch.tensor([[[9.0, 9.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]])
    made, owners, _ = merge(tokens, torch.tensor([[0]]), (0, 1), 1, FastVIDKnobs(neighbours=2))
    # Densities: nearest neighbours are 1 apart for all; the earliest counts as densest.
    assert owners.tolist() == [1]
    # 0.6 of the centre and 0.4 of the mean of all three, itself among them.
    torch.testing.assert_close(made, torch.tensor([[0.6 * 1.0 + 0.4 * 2.0, 0.0]]))


def test_where_every_frame_is_an_anchor_none_takes_in_another() -> None:
    tokens = torch.tensor([[[9.0, 9.0], [1.0, 0.0]], [[9.0, 9.0], [5.0, 0.0]]])
    salient, knobs = torch.tensor([[0], [0]]), FastVIDKnobs(anchor_step=1)
    made, owners, _ = merge(tokens, salient, (0, 2), 1, knobs)
    assert made.tolist() == [[5.0, 0.0], [1.0, 0.0]]
    assert owners.tolist() == [3, 1]


@pytest.mark.parametrize(("budget", "tokens"), [(0.2197, 1568), (0.0829, 608), (0.085, 608)])
def test_published_counts(budget: float, tokens: int) -> None:
    method = method_of(load_profile("fastvid").with_budget(budget))
    assert method.token_schedule(32, 196, SEVEN_B).visual_per_layer == (tokens,) * 28


@pytest.mark.parametrize("frames", [1, 2, 7, 8, 20])
@pytest.mark.parametrize("budget", [0.15, 0.4, 0.8])
def test_the_whole_entry(frames: int, budget: float) -> None:
    tokens = clip(frames, seed=3)
    layout = VisualLayout(3, frames, 4, 4)
    random = torch.Generator().manual_seed(4)
    attention = torch.rand(frames, 16, generator=random)
    signals = ClipSignals(
        torch.zeros(frames, 2),
        frame_vectors=tokens.mean(1),
        tokens=tokens.flatten(0, 1),
        probe_attention=attention,
    )
    plan = FastVID(FastVIDProfile(name="x", budget=budget)).plan(layout, signals, SEVEN_B)
    entry = plan.entry
    assert entry is not None
    assert plan.segments is not None
    each = plan.keep_counts[0] // frames
    context = int(each * 0.4)
    assert len(entry.owners) <= each * frames
    assert entry.owners.tolist() == sorted(set(entry.owners.tolist()))
    by_owner = dict(zip(entry.owners.tolist(), entry.embeddings, strict=True))
    salient = largest(attention, each - context)
    for frame in range(frames):
        for place in salient[frame].tolist():  # unchanged
            assert torch.equal(by_owner.pop(frame * 16 + place), tokens[frame, place])
    expected = merged_in_loops(tokens, salient, plan.segments.bounds, context, FastVIDKnobs())
    assert sorted(by_owner) == sorted(expected)
    for owner, row in by_owner.items():
        torch.testing.assert_close(row, torch.tensor(expected[owner]), rtol=1e-4, atol=1e-4)
