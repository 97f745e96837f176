"""The session: a clip and questions in, true answers and true numbers out."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from adatp_cli import record
from adatp_cli.answering import encode as encode_module
from adatp_cli.answering import generate
from adatp_cli.answering.decoding import GenerationSettings
from adatp_cli.answering.events import ClipReady, Stage, TextChunk
from adatp_cli.answering.run import Row
from adatp_cli.answering.session import Session
from adatp_cli.errors import MemoryLimitError, ModelError, UsageError
from adatp_cli.model import memory as memory_module
from adatp_cli.model.load import LoadedModel
from adatp_cli.pruning.knobs import RelevanceKnobs
from adatp_cli.pruning.methods.adatp import AdaTPPlan
from adatp_cli.video.decode import InProcessReader
from adatp_cli.video.frames import Frames
from adatp_cli.video.sampling import Sampling
from tests.session_case import (
    FRAMES,
    QUESTION,
    answered,
    ask,
    encoded_in,
    events_of,
    hooks_on,
    load_random,
    noisy_clip,
    profile,
    session_of,
)

CLIP = Path(__file__).parent / "data" / "flipping_a_pancake.mkv"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_random(tmp_path_factory.mktemp("model"))


def plain_generate(loaded: LoadedModel, question: str, new_tokens: int) -> tuple[Any, Any]:
    """Ids and first logits of the library's own way, video in and tokens out."""
    frames = noisy_clip()
    prompt = session_of(loaded, profile(None)).plan.prompt(question, len(frames))
    with torch.inference_mode():
        output = loaded.model.generate(
            input_ids=prompt.input_ids,
            attention_mask=torch.ones_like(prompt.input_ids),
            pixel_values_videos=loaded.preprocess(frames.pixels)[None],
            max_new_tokens=new_tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return output.sequences[0, prompt.input_ids.shape[1] :].tolist(), output.logits[0][0]


@pytest.mark.parametrize("budget", [None, 1.0], ids=["vanilla", "whole budget"])
def test_keeping_all_is_the_library_bit_for_bit(loaded: LoadedModel, budget: float | None):
    ids, logits = plain_generate(loaded, QUESTION, 12)
    done = ask(session_of(loaded, profile(budget), new_tokens=12, trace=True))
    assert done.trace is not None
    assert done.trace.arrays["answer_ids"].tolist() == ids
    assert np.array_equal(done.trace.arrays["first_logits"], logits.numpy())
    assert done.record.tokens.kept_per_layer == [FRAMES * 36] * 12


def test_long_clips_are_encoded_in_passes_that_change_nothing(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
):
    pixels = noisy_clip(7).pixels
    monkeypatch.setattr(encode_module, "frames_at_once", lambda *_: 7)
    whole = encoded_in(loaded, pixels)
    monkeypatch.setattr(encode_module, "frames_at_once", lambda *_: 3)
    parts = encoded_in(loaded, pixels[:1], pixels[1:6], pixels[6:])
    assert torch.equal(whole.visual, parts.visual)
    assert torch.equal(whole.tower_vectors, parts.tower_vectors)
    assert whole.frame_vectors is not None
    assert parts.frame_vectors is not None
    torch.testing.assert_close(whole.frame_vectors, parts.frame_vectors)
    assert len(parts.visual) == 7 * 36 + 1


def test_streamed_text_equals_unstreamed(loaded: LoadedModel):
    # Sampling makes the random model say many different things.
    pruned = Session(loaded, profile(), GenerationSettings(40, temperature=1.5, seed=4))
    clip = pruned.encode("noise", noisy_clip())
    events = list(pruned.answer(clip, QUESTION, 3))
    chunks = [event for event in events if isinstance(event, TextChunk)]
    assert len(chunks) > 10
    assert {chunk.question_index for chunk in chunks} == {3}
    streamed = answered(iter(events)).record
    alone = ask(pruned, clip).record
    assert "".join(chunk.text for chunk in chunks) == streamed.answer == alone.answer
    assert streamed.tokens == alone.tokens


def test_half_characters_are_held_back(loaded: LoadedModel):
    text = "naïve 😀 日本 ok"
    ids = loaded.tokenizer.encode(text, add_special_tokens=False)
    pieces: list[str] = []
    stream = generate._Stream(loaded.tokenizer, pieces.append)
    stream.put(torch.tensor([[1, 2, 3]]))  # the prompt
    for number in ids:
        stream.put(torch.tensor([number]))
    stream.end()
    assert len(ids) > len(text)  # characters really are spread over tokens
    assert "".join(pieces) == stream.text == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert "😀" in "".join(pieces)


def test_an_answer_begins_with_no_blank(loaded: LoadedModel):
    pieces: list[str] = []
    stream = generate._Stream(loaded.tokenizer, pieces.append)
    stream.put(torch.tensor([[1, 2, 3]]))  # the prompt
    for number in loaded.tokenizer.encode(" \n a red  circle", add_special_tokens=False):
        stream.put(torch.tensor([number]))
    stream.end()
    assert "".join(pieces) == stream.text == "a red  circle"


def test_a_broken_character_at_the_end_is_given_out_at_last(loaded: LoadedModel):
    ids = loaded.tokenizer.encode("ok 😀", add_special_tokens=False)[:-1]
    pieces: list[str] = []
    stream = generate._Stream(loaded.tokenizer, pieces.append)
    for value in ([0], *([number] for number in ids)):
        stream.put(torch.tensor(value))
    assert "\ufffd" not in "".join(pieces)
    stream.end()
    assert "".join(pieces) == stream.text == loaded.tokenizer.decode(ids)


def test_the_checkpoint_says_what_ends_an_answer(loaded: LoadedModel):
    pruned = session_of(loaded, profile(), trace=True)
    clip = pruned.encode("noise", noisy_clip())
    free = ask(pruned, clip)
    assert free.trace is not None
    ids = free.trace.arrays["answer_ids"].tolist()
    assert free.record.finish_reason == "length"
    assert len(ids) == 6
    config = loaded.model.generation_config
    before = config.eos_token_id
    try:
        config.eos_token_id = [500, ids[1]]
        ended = ask(pruned, clip)
    finally:
        config.eos_token_id = before
    assert ended.trace is not None
    assert ended.record.finish_reason == "eos"
    assert ended.trace.arrays["answer_ids"].tolist() == ids[: ids.index(ids[1]) + 1]
    assert ended.record.tokens.generated == ids.index(ids[1]) + 1


def test_several_questions_decode_and_encode_once(loaded: LoadedModel):
    decoded: list[object] = []

    class Counting:
        def read(self, *_: Any, **__: Any) -> Frames:
            decoded.append(1)
            return noisy_clip()

    encoded: list[int] = []
    tower = loaded.model.model.vision_tower
    handle = tower.register_forward_pre_hook(lambda _module, args: encoded.append(len(args[0])))
    questions = [QUESTION, "How many?", "What colour is the circle?"]
    try:
        events = list(
            events_of(session_of(loaded, profile()), questions, reader=Counting(), prefill="each")
        )
    finally:
        handle.remove()
    assert len(decoded) == 1
    assert sum(encoded) == FRAMES
    records = [event.record for event in events if isinstance(event, Row)]
    assert [entry.question for entry in records] == questions
    alone = ask(session_of(loaded, profile()), question=questions[2]).record
    assert records[2].answer == alone.answer
    assert records[2].segments == alone.segments
    assert records[0].seconds.vision == records[2].seconds.vision


def test_a_real_clip_gives_a_record_that_fits_the_schema(loaded: LoadedModel):
    asked = session_of(loaded, profile(0.4))
    reader = InProcessReader()
    sampling = Sampling(frames=5)
    events = list(
        events_of(asked, [QUESTION], sampling, source=CLIP, reader=reader, video_name="pancake")
    )
    stages = [event.name for event in events if isinstance(event, Stage)]
    assert stages == ["decode", "vision", "relevance", "prefill"]
    ready = [event for event in events if isinstance(event, ClipReady)]
    done = answered(iter(events)).record
    assert ready[0].video_info == done.video_info
    schema = json.loads(record.schema_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads(done.to_json()))
    tokens, flops, seconds = done.tokens, done.flops, done.seconds
    assert done.video == "pancake"
    assert done.video_info.frames_used == 5
    assert tokens.visual == 180
    assert tokens.kept_per_layer[:1] == [180]
    assert tokens.kept_final == tokens.kept_per_layer[-1] == sum(s.kept for s in done.segments)
    assert tokens.kept_mean_ratio == pytest.approx(sum(tokens.kept_per_layer) / (12 * 180))
    assert 0.395 < flops.paper.ratio <= 0.4
    parts = flops.end_to_end
    assert parts.pruned == (
        parts.vision + parts.relevance + parts.prefill + parts.scoring + parts.generate
    )
    assert parts.ratio < 1
    assert (done.segments[0].first_frame, done.segments[-1].last_frame) == (0, 4)
    assert seconds.total >= seconds.first_token >= seconds.decode + seconds.prefill > 0
    assert done.peak_memory_bytes is not None
    assert done.peak_memory_bytes > 10_000_000
    knobs = done.profile
    assert knobs["schedule"] == {"first_layer": 1, "last_layer": 7}
    assert knobs["segments"]["signal"] == "relevance"
    assert "auto" not in json.dumps(knobs)


def test_sampling_follows_the_seed_and_leaves_the_generator_alone(loaded: LoadedModel):
    def sampled(seed: int, temperature: float = 3.0, top_p: float | None = None) -> str:
        settings = GenerationSettings(12, temperature, top_p, seed)
        return ask(Session(loaded, profile(), settings)).record.answer

    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)
    assert torch.equal(before, torch.random.get_rng_state())
    greedy = ask(session_of(loaded, profile(), new_tokens=12)).record.answer
    assert sampled(1, temperature=1e-4) == sampled(2, 3.0, top_p=1e-6) == greedy


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": 0.0},
        {"temperature": float("inf")},
        {"temperature": 1.0, "top_p": 0.0},
        {"temperature": 1.0, "top_p": 1.5},
        {"top_p": 0.9},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]):
    with pytest.raises(UsageError):
        GenerationSettings(**wrong)


def test_nothing_is_printed(loaded: LoadedModel, capfd: pytest.CaptureFixture[str]):
    ask(session_of(loaded, profile()))
    ask(Session(loaded, profile(), GenerationSettings(3, 1.0, 0.9)))
    assert capfd.readouterr() == ("", "")


def test_a_reader_that_goes_away_stops_the_run(loaded: LoadedModel):
    before = hooks_on(loaded.model)
    pruned = session_of(loaded, profile(), new_tokens=5000)
    events = pruned.answer(pruned.encode("noise", noisy_clip()), QUESTION)
    for event in events:
        if isinstance(event, TextChunk):
            break
    events.close()  # type: ignore[attr-defined]
    assert hooks_on(loaded.model) == before
    assert not [t for t in threading.enumerate() if t.name == "adatp-generate"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_in_the_middle_is_told_and_leaves_nothing_behind(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, stream: bool
):
    pruned = session_of(loaded, profile())
    clip = pruned.encode("noise.mp4", noisy_clip())
    whole = ask(pruned, clip).record.answer
    before = hooks_on(loaded.model)

    def fail(_self: object, _step: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(AdaTPPlan, "choose", fail)
        with pytest.raises(MemoryLimitError, match=r"noise\.mp4"):
            list(pruned.answer(clip, QUESTION, stream=stream))
    assert hooks_on(loaded.model) == before
    assert ask(pruned, clip).record.answer == whole


def test_a_clip_that_cannot_fit_is_refused_before_it_is_encoded(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(memory_module, "available_memory", lambda _device: 30_000_000)

    class Reader:
        def read(self, *_: Any, **__: Any) -> Frames:
            return noisy_clip(60)

    events = events_of(session_of(loaded, profile()), [QUESTION], reader=Reader())
    seen: list[object] = []
    with pytest.raises(MemoryLimitError, match="60 frames need about") as caught:
        seen.extend(events)
    assert "--frames" in caught.value.hint
    assert not [e for e in seen if isinstance(e, Stage) and e.name == "vision"]


def test_a_prompt_longer_than_the_model_reads_says_what_would_fit(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loaded, "context_length", 300)
    asked = session_of(loaded, profile(), new_tokens=10)
    with pytest.raises(UsageError, match="at most 290") as caught:
        asked.plan.prompt(QUESTION, FRAMES)
    assert caught.value.hint == "--frames 7 would fit"
    assert asked.plan.prompt(QUESTION, 7).length <= 290
    with pytest.raises(UsageError):
        asked.plan.prompt(QUESTION, 8)


def test_a_profile_that_needs_an_encoder_says_so(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loaded, "relevance", None)
    with pytest.raises(ModelError, match="none is loaded"):
        session_of(loaded, profile())
    for encoder in ("none", "attention"):
        done = ask(session_of(loaded, profile(relevance=RelevanceKnobs(encoder=encoder)))).record
        assert done.flops.end_to_end.relevance == 0
        assert done.profile["relevance"]["encoder"] == encoder
        assert (done.segments[0].relevance is None) == (encoder == "none")
    done = ask(session_of(loaded, profile(None))).record
    assert done.segments == []
    assert done.flops.end_to_end.ratio == done.flops.paper.ratio == 1.0
