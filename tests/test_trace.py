"""The trace: from its arrays alone anyone can recompute each choice that the method made."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from adatp_cli.answering.trace import Trace
from adatp_cli.errors import UsageError
from adatp_cli.model.load import LoadedModel
from adatp_cli.profiles import Profile
from adatp_cli.pruning.knobs import LocalKnobs, RelevanceKnobs, SegmentKnobs
from tests.session_case import FRAMES, ask, load_random, profile, session_of

Array = npt.NDArray[Any]
PLACES = 36


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_random(tmp_path_factory.mktemp("model"))


# A threshold that cuts the noisy clip into its scenes for the random model.
CUTS = SegmentKnobs(signal="tower", tower_threshold=0.95)
VARIANTS = {
    "refill": profile(segments=CUTS),
    "strict": profile(segments=CUTS, local=LocalKnobs(mode="strict")),
    "off": profile(segments=CUTS, local=LocalKnobs(mode="off")),
    "first": profile(segments=CUTS, local=LocalKnobs(mode="refill", representative="first")),
    "some layers": profile(
        segments=CUTS,
        local=LocalKnobs(mode="strict", representative="middle", first_layer=3, last_layer=4),
    ),
    "attention": profile(segments=CUTS, relevance=RelevanceKnobs(encoder="attention", weight=2.0)),
    "none": profile(0.3, segments=CUTS, relevance=RelevanceKnobs(encoder="none")),
}


def saved(trace: Trace | None, folder: Path) -> dict[str, Array]:
    assert trace is not None
    trace.save(folder / "t.npz")
    with np.load(folder / "t.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def split(total: int, share: Array, alive: Array) -> Array:
    """Tokens per segment, by handing out what is left again and again."""
    budget = np.zeros(len(share))
    total = min(total, int(alive.sum()))
    floor = (alive > 0).astype(float)
    if total < floor.sum():
        order = np.lexsort((np.arange(len(share)), -share))
        budget[[k for k in order if alive[k]][:total]] = 1
        return budget.astype(int)
    low, high = 0.0, 1e9
    for _ in range(200):  # the level at which clipped shares add up
        level = (low + high) / 2
        budget = np.clip(level * share, floor, alive)
        low, high = (level, high) if budget.sum() < total else (low, level)
    whole = np.floor(budget + 1e-9).astype(int)
    rest = np.round(budget - whole, 9)
    for k in np.lexsort((np.arange(len(share)), -rest))[: total - whole.sum()]:
        whole[k] += 1
    return whole


def choose(
    score: Array, segment: Array, place: Array, budget: Array, mode: str, stands: str
) -> set[int]:
    kept: set[int] = set()
    for k in range(len(budget)):
        mine = np.flatnonzero(segment == k)
        ranked = sorted(mine, key=lambda i: (-score[i], i))
        if mode == "off":
            kept |= set(ranked[: budget[k]])
            continue
        groups: dict[int, list[int]] = {}
        for i in mine:
            groups.setdefault(int(place[i]), []).append(int(i))
        first = set()
        for group in groups.values():
            best = min(group, key=lambda g: (-score[g], g))
            middle = group[(len(group) - 1) // 2]
            first.add({"score": best, "first": group[0], "middle": middle}[stands])
        order = [i for i in ranked if i in first]
        if mode == "refill":
            order += [i for i in ranked if i not in first]
        kept |= set(order[: budget[k]])
    return {int(i) for i in kept}


def limits(chosen: Profile, visual: int) -> list[int]:
    """Planned counts per layer of the 12-layer model: the paper's cost, a search over rho."""
    width, kv, mlp, layers, first, last = 192, 96, 384, 12, 1, 7

    def cost(counts: list[int]) -> int:
        return sum(
            2 * n * width * kv + 2 * n * width**2 + 2 * n**2 * width + 3 * n * width * mlp
            for n in counts
        )

    def counts(rho: float) -> list[int]:
        return [
            max(1, round(visual * rho ** max(0, min(layer, last) - first + 1)))
            for layer in range(layers)
        ]

    assert chosen.budget is not None
    allowed = chosen.budget * cost([visual] * layers)
    rhos = np.linspace(0, 1, 200_001)
    low, high = 0, len(rhos) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(counts(rhos[middle])) <= allowed else (low, middle)
    found, filled = counts(rhos[low]), True
    while filled:  # single tokens use up what rounding leaves, deepest layer first
        filled = False
        for layer in range(last, first - 1, -1):
            more = list(found)
            for deeper in range(layer, layers if layer == last else layer + 1):
                more[deeper] += 1
            if more[layer] <= more[layer - 1] and cost(more) <= allowed:
                found, filled = more, True
    return found


@pytest.mark.parametrize("name", VARIANTS)
def test_every_choice_can_be_recomputed(loaded: LoadedModel, tmp_path: Path, name: str):
    knobs = VARIANTS[name]
    done = ask(session_of(loaded, knobs, trace=True))
    arrays = saved(done.trace, tmp_path)
    visual = FRAMES * PLACES
    assert int(arrays["frames"]) == FRAMES
    assert arrays["grid"].tolist() == [6, 6]
    # Segments, from the similarities.
    cuts = np.flatnonzero(arrays["frame_similarity"] < knobs.segments.tower_threshold) + 1
    bounds: list[int] = [0, *cuts.tolist(), FRAMES]
    assert arrays["segment_bounds"].tolist() == bounds
    assert bounds == [0, 3, 6, 9]  # three frames to a segment, so that positions repeat
    # Weights, from the relevance.
    relevance = arrays["frame_relevance"]
    assert len(relevance) == (0 if name == "none" else FRAMES)
    weight = np.ones(len(bounds) - 1)
    if len(relevance):
        means = np.array([relevance[a:b].mean() for a, b in pairwise(bounds)])
        weight[means >= relevance.mean()] += knobs.relevance.weight
        assert len(set(weight)) == 2
    assert arrays["segment_weight"].tolist() == weight.tolist()
    # Tokens, layer by layer.
    planned = limits(knobs, visual)
    share = weight * np.diff(bounds)
    alive = np.arange(visual)
    measured = [visual]
    for layer in range(1, 8):
        assert arrays[f"alive_before_{layer}"].tolist() == alive.tolist()
        score = arrays[f"score_{layer}"]
        assert score.dtype == np.float32
        frame = alive // PLACES
        segment = np.searchsorted(bounds, frame, side="right") - 1
        inside = name != "some layers" or layer in (3, 4)
        mode = knobs.local.mode if inside else "off"
        count = len(arrays[f"kept_{layer}"])
        if name not in ("strict", "some layers"):
            assert count == planned[layer]
        limit = planned[layer] if mode == "strict" else count
        budget = split(limit, share, np.bincount(segment, minlength=len(weight)))
        kept = choose(score, segment, alive % PLACES, budget, mode, knobs.local.representative)
        assert arrays[f"kept_{layer}"].tolist() == alive[sorted(kept)].tolist()
        alive = arrays[f"kept_{layer}"]
        measured.append(len(alive))
    assert done.record.tokens.kept_per_layer == measured + [measured[-1]] * 4


def test_the_trace_shows_what_went_in_and_came_out(loaded: LoadedModel, tmp_path: Path):
    session = session_of(loaded, VARIANTS["refill"], trace=True)
    done = ask(session)
    arrays = saved(done.trace, tmp_path)
    prompt = session.plan.prompt(done.record.question, FRAMES)
    assert arrays["prompt_ids"].tolist() == prompt.input_ids[0].tolist()
    start = int(arrays["video_token_start"])
    ids = arrays["prompt_ids"]
    assert set(ids[start : start + FRAMES * PLACES + 1]) == {loaded.video_token_id}
    assert arrays["visual_tokens"].shape == (FRAMES * PLACES + 1, 192)
    newline = loaded.model.model.image_newline.detach().float().numpy()
    assert np.array_equal(arrays["visual_tokens"][-1], newline)
    assert arrays["first_logits"].argmax() == arrays["answer_ids"][0]
    assert len(arrays["answer_ids"]) == done.record.tokens.generated


def test_without_pruning_the_trace_is_there_all_the_same(loaded: LoadedModel, tmp_path: Path):
    arrays = saved(ask(session_of(loaded, profile(None), trace=True)).trace, tmp_path)
    assert not [name for name in arrays if name.startswith(("kept_", "score_", "alive_"))]
    assert arrays["segment_bounds"].tolist() == [0, FRAMES]
    assert ask(session_of(loaded, profile(None))).trace is None


def test_a_trace_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trace = Trace({"numbers": np.arange(3)})
    target = tmp_path / "no_suffix"
    trace.save(target)
    assert np.load(target)["numbers"].tolist() == [0, 1, 2]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UsageError, match="No space left"):
        trace.save(target)
    assert np.load(target)["numbers"].tolist() == [0, 1, 2]
    assert [entry.name for entry in tmp_path.iterdir()] == ["no_suffix"]
    with pytest.raises(UsageError, match="cannot be written"):
        trace.save(tmp_path / "missing" / "t.npz")
