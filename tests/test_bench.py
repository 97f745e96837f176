"""What `adatp bench` measures: profiles, rounds, baseline, memory, and the sums made of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adatp_cli.bench.baseline import PeakWatch, PlainTransformers
from adatp_cli.bench.results import PLAIN, Measuring, NotMeasured, Sample, summarise
from adatp_cli.bench.runner import Bench, BenchPlan
from adatp_cli.errors import MemoryLimitError, UsageError
from adatp_cli.model import memory as memory_module
from adatp_cli.model.load import LoadedModel
from adatp_cli.record import EndToEndFlops, Flops, PaperFlops, TokenCounts
from adatp_cli.video.frames import Frames
from adatp_cli.video.sampling import Sampling
from tests.session_case import hooks_on, load_random, noisy_clip, profile, run_of, session_of

NEW_TOKENS = 4


class NoisyReader:
    """Gives noise in as many frames as are wanted, up to `most`."""

    def __init__(self, most: int = 100) -> None:
        self.most = most

    def read(self, *_: Any, **__: Any) -> Frames:
        sampling: Sampling = _[1]
        return noisy_clip(min(sampling.frames or 1, self.most))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_random(tmp_path_factory.mktemp("model"))


def bench_of(loaded: LoadedModel, *, reader: NoisyReader | None = None, **changes: Any) -> Bench:
    plan = BenchPlan((5,), ("What?", "And then?"), 2, NEW_TOKENS, Sampling())
    plan = dataclasses.replace(plan, **changes)
    bare = dataclasses.replace(loaded, relevance=None)
    entrants = [
        run_of("all", session_of(bare, profile(None), new_tokens=NEW_TOKENS)),
        run_of("some", session_of(loaded, profile(0.4), new_tokens=NEW_TOKENS)),
    ]
    return Bench(loaded, entrants, plan, reader or NoisyReader(), "clip", "clip")


def samples_of(events: Iterator[Any]) -> list[Sample]:
    return [event for event in events if isinstance(event, Sample)]


def test_every_contender_is_measured_in_every_round_and_each_begins_one(
    loaded: LoadedModel,
) -> None:
    events = list(bench_of(loaded, frames=(3, 5), repeat=3).run())
    samples = samples_of(iter(events))
    assert len(samples) == 2 * 3 * 3
    for frames in (3, 5):
        for name in (PLAIN, "all", "some"):
            assert sum(one.frames == frames and one.contender == name for one in samples) == 3
    turns = [event for event in events if isinstance(event, Measuring)]
    first = {}
    for event in turns:
        if event.frames == 5:
            first.setdefault(event.turn, event.contender)
    assert set(first.values()) == {PLAIN, "all", "some"}
    assert {event.frames for event in turns if event.turn == 0} == {2}


def test_answers_have_one_length_and_the_model_is_as_before(loaded: LoadedModel) -> None:
    settings: Any = loaded.model.generation_config
    ends, hooks = settings.eos_token_id, hooks_on(loaded.model)
    # A model that would end at once: every token is an end.
    settings.eos_token_id = list(range(512))
    try:
        samples = samples_of(bench_of(loaded).run())
        assert settings.eos_token_id == list(range(512))
    finally:
        settings.eos_token_id = ends
    assert {one.tokens.generated for one in samples} == {NEW_TOKENS}
    assert hooks_on(loaded.model) == hooks


def test_counts_of_plain_transformers_are_those_of_keeping_all(loaded: LoadedModel) -> None:
    """The one is worked out from shapes and read off the cache, the other from the session."""
    by_name = {one.contender: one for one in samples_of(bench_of(loaded, repeat=1).run())}
    plain, kept, some = by_name[PLAIN], by_name["all"], by_name["some"]
    assert plain.tokens == kept.tokens
    assert plain.flops == kept.flops
    assert plain.cache_bytes == kept.cache_bytes
    assert some.cache_bytes < kept.cache_bytes
    assert some.tokens.kept_final < kept.tokens.kept_final


def test_the_baseline_has_nothing_of_ours_in_it(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(loaded)
    whole: Any = loaded.model
    seen: list[tuple[int, list[str]]] = []
    given = whole.generate

    def watched(**inputs: Any) -> Any:
        hooks = hooks_on(whole)
        seen.append((hooks, sorted(inputs)))
        return given(**inputs)

    frames = noisy_clip(3)
    prompt = bench._runs["all"].session.plan.prompt("What?", 3)
    # transformers adds hooks of its own to the first run.
    bench._plain.run(frames, 0.0, prompt, PeakWatch("cpu"))
    before = hooks_on(whole)
    monkeypatch.setattr(whole, "generate", watched)
    bench._plain.run(frames, 0.0, prompt, PeakWatch("cpu"))
    assert [hooks for hooks, _ in seen] == [before, before]
    assert "pixel_values_videos" in seen[0][1]
    assert "inputs_embeds" in seen[1][1]


def test_the_split_baseline_computes_what_the_whole_one_does(loaded: LoadedModel) -> None:
    bench = bench_of(loaded)
    frames = noisy_clip(4)
    prompt = bench._runs["all"].session.plan.prompt("What?", 4)
    with torch.inference_mode():
        _, embeddings = bench._plain._encode(frames, prompt.input_ids)
        model: Any = loaded.model
        pixels = loaded.preprocess(frames.pixels)[None]
        whole = model(input_ids=prompt.input_ids, pixel_values_videos=pixels).logits
        split = model(inputs_embeds=embeddings).logits
    assert torch.equal(whole, split)


def test_the_baseline_counts_no_second_twice(loaded: LoadedModel) -> None:
    bench = bench_of(loaded)
    prompt = bench._runs["all"].session.plan.prompt("What?", 4)
    visual = torch.zeros(prompt.n_visual + 1, loaded.shape.language.hidden)
    started = time.perf_counter()
    found = bench._plain.run_language_model(visual, prompt, PeakWatch("meta"))
    assert found.seconds["total"] <= time.perf_counter() - started
    assert found.peak_bytes is None


def test_stages_add_up(loaded: LoadedModel) -> None:
    for one in samples_of(bench_of(loaded, repeat=1).run()):
        taken = one.seconds
        assert taken["total"] == pytest.approx(taken["first_token"] + taken["generate"])
        if one.contender != PLAIN:
            parts = ("decode", "vision", "relevance", "prefill")
            assert taken["first_token"] == pytest.approx(sum(taken[name] for name in parts))
            assert taken["next_first_token"] > 0
            assert taken["choosing"] <= taken["prefill"]
        if one.contender == "all":
            assert taken["relevance"] == 0
        if one.contender == "some":
            assert taken["choosing"] > 0
            assert taken["relevance"] > 0


def test_without_vision_the_language_model_runs_alone(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner: Any = loaded.model.model
    monkeypatch.setattr(inner, "get_video_features", None)
    samples = samples_of(bench_of(loaded, vision=False).run())
    assert len(samples) == 6
    for one in samples:
        assert not {"decode", "vision", "first_token"} & set(one.seconds)
        assert one.frames == 5
        assert one.tokens.visual == 5 * loaded.shape.tokens_per_frame


def test_what_does_not_fit_is_not_measured_and_the_rest_is(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(loaded, repeat=1)

    def refuse(_frames: int, _text: int) -> None:
        raise MemoryLimitError("5 frames need more", "buy")

    monkeypatch.setattr(bench._runs["some"].session.plan, "check_memory", refuse)
    events = list(bench.run())
    (missing,) = [event for event in events if isinstance(event, NotMeasured)]
    assert missing == NotMeasured("some", 5, "5 frames need more")
    rows = summarise(["all", "some"], samples_of(iter(events)), [missing])
    assert [(row.contender, row.not_measured) for row in rows] == [
        (PLAIN, None), ("all", None), ("some", "5 frames need more"),
    ]  # fmt: skip


def test_memory_that_runs_out_midway_is_not_measured(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(loaded)

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(bench._plain, "run", fail)
    events = list(bench.run())
    assert [event.contender for event in events if isinstance(event, NotMeasured)] == [PLAIN]
    samples = samples_of(iter(events))
    assert {one.contender for one in samples} == {"all", "some"}
    rows = summarise(["all", "some"], samples, [NotMeasured(PLAIN, 5, "no room")])
    assert rows[1].ratio == {}
    assert rows[1].overhead is None


def test_a_clip_that_is_too_short_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(UsageError, match="5 frames are wanted, and it has 4"):
        list(bench_of(loaded, reader=NoisyReader(4)).run())


@pytest.mark.skipif(PeakWatch("cpu").method is None, reason="the kernel does not tell")
def test_the_peak_is_the_most_that_was_held_and_not_what_is_left() -> None:
    watch = PeakWatch("cpu")
    np.ones(400_000_000 // 8)  # an earlier peak, which must not count
    with watch.watch() as peak:
        np.ones(200_000_000 // 8)
    assert peak.above is not None
    assert peak.above == pytest.approx(200_000_000, rel=0.1)


def sample(contender: str, prefill: float, *, peak: int | None = 100) -> Sample:
    tokens = TokenCounts(10, 50, [50, 50], 50, 1.0, 5)
    flops = Flops(PaperFlops(1, 1, 1.0), EndToEndFlops(100, 100, 1.0, 40, 0, 50, 2, 8))
    seconds = {"vision": 4.0, "prefill": prefill, "generate": 2.0}
    if contender != PLAIN:
        seconds |= {"relevance": 0.1, "choosing": 0.3}
    return Sample(contender, 8, seconds, tokens, flops, peak, 1000)


def test_ratios_are_of_one_round_and_then_the_median() -> None:
    plain = [sample(PLAIN, value) for value in (1.0, 2.0, 10.0)]
    ours = [sample("ours", value, peak=50) for value in (0.5, 1.6, 2.0)]
    _, row = summarise(["ours"], [*plain, *ours], [])
    assert row.ratio["prefill"] == 0.5  # of 0.5, 0.8 and 0.2; the medians' ratio is another
    assert row.ratio["peak_bytes"] == 0.5
    assert row.overhead == pytest.approx(0.2)
    assert (row.seconds["prefill"].low, row.seconds["prefill"].high) == (0.5, 2.0)
    assert row.tokens_per_second is not None
    assert row.tokens_per_second.median == 2.0
    assert row.flop_per_second == {"vision": 10.0, "prefill": 32.5}


def test_memory_that_is_not_measured_is_none() -> None:
    rows = summarise(["ours"], [sample(PLAIN, 1.0, peak=None), sample("ours", 1.0, peak=None)], [])
    assert [row.peak_bytes for row in rows] == [None, None]
    assert "peak_bytes" not in rows[1].ratio


def test_rows_stand_in_the_order_of_the_profiles(tmp_path: Path) -> None:
    samples = [sample("b", 1.0), sample("a", 1.0), sample(PLAIN, 1.0)]
    assert [row.contender for row in summarise(["a", "b"], samples, [])] == [PLAIN, "a", "b"]


def test_the_baseline_is_refused_where_its_one_pass_of_the_tower_does_not_fit(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(loaded, repeat=1)
    asked: list[bool] = []

    def refuse(_frames: int, _text: int, *, vision: bool) -> None:
        asked.append(vision)
        raise MemoryLimitError("5 frames need more", "buy")

    monkeypatch.setattr(bench._plain, "check_memory", refuse)
    events = list(bench.run())
    (missing,) = [event for event in events if isinstance(event, NotMeasured)]
    assert missing == NotMeasured(PLAIN, 5, "5 frames need more")
    assert asked == [True]
    assert {one.contender for one in samples_of(iter(events))} == {"all", "some"}


def test_the_baseline_needs_more_with_the_tower_and_with_more_frames(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, needed = PlainTransformers(loaded, 4), list[int]()
    estimate_run = memory_module.estimate_run

    def see(*given: Any, **named: Any) -> memory_module.MemoryEstimate:
        estimate = estimate_run(*given, **named)
        needed.append(estimate.total)
        return estimate

    monkeypatch.setattr(memory_module, "estimate_run", see)
    for frames, vision in ((40, False), (40, True), (80, True)):
        plain.check_memory(frames, 20, vision=vision)
    assert needed == sorted(set(needed))
