"""Several questions on one unpruned prefill: the same answers, and a cost that says what ran."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from adatp_cli import cost
from adatp_cli.answering.decoding import GenerationSettings, PrefillMode
from adatp_cli.answering.events import Answered, Clip, PrefillChosen
from adatp_cli.answering.generate import SharedPrefix
from adatp_cli.answering.plan import Plan, compare_prefills
from adatp_cli.answering.run import Row
from adatp_cli.answering.session import Session
from adatp_cli.errors import MemoryLimitError
from adatp_cli.model.load import LoadedModel
from adatp_cli.profiles import load_profile
from adatp_cli.profiles import unpruned as unpruned_of
from adatp_cli.record import AnswerRecord, schema_text
from adatp_cli.video.frames import Frames
from tests.conftest import Run
from tests.session_case import (
    answered,
    ask,
    events_of,
    load_random,
    noisy_clip,
    profile,
    session_of,
)

QUESTIONS = ("What happens first?", "And then, after the cut in the middle?", "Which colour?")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_random(tmp_path_factory.mktemp("model"))


def all_of(session: Session, clip: Clip, shared: SharedPrefix | None) -> list[Answered]:
    return [
        answered(session.answer(clip, question, stream=False, shared=shared))
        for question in QUESTIONS
    ]


def logits(event: Answered) -> Any:
    assert event.trace is not None
    return event.trace.arrays["first_logits"]


def ids(event: Answered) -> list[int]:
    assert event.trace is not None
    return list(event.trace.arrays["answer_ids"])


def test_the_answers_are_those_of_whole_prefills(loaded: LoadedModel):
    session = session_of(loaded, profile(None), new_tokens=16, trace=True)
    clip = session.encode("noise", noisy_clip())
    alone, together = all_of(session, clip, None), all_of(session, clip, SharedPrefix())
    assert np.array_equal(logits(alone[0]), logits(together[0]))  # the first one is a whole prefill
    for one, other in zip(alone, together, strict=True):
        assert ids(one) == ids(other)
        np.testing.assert_allclose(logits(one), logits(other), rtol=0, atol=1e-4)
        assert one.record.answer == other.record.answer
        assert one.record.tokens == dataclasses.replace(other.record.tokens, shared=0)
    spread = np.abs(logits(alone[0]) - logits(alone[1])).max()
    assert spread > 1e-2  # the questions do make a difference
    front = loaded_front(session)
    assert [event.record.tokens.shared for event in together] == [0, front, front]


def loaded_front(session: Session) -> int:
    """Text before the clip, its tokens and its newline."""
    prompt = session.plan.prompt(QUESTIONS[0], 9)
    return prompt.visual_start + prompt.n_visual + 1


def test_sampled_answers_are_the_same_too(loaded: LoadedModel):
    settings = GenerationSettings(12, temperature=1.5, seed=4)
    session = Session(loaded, profile(None), settings, keep_trace=True)
    clip = session.encode("noise", noisy_clip())
    alone, together = all_of(session, clip, None), all_of(session, clip, SharedPrefix())
    assert [ids(event) for event in alone] == [ids(event) for event in together]
    assert len({tuple(ids(event)) for event in alone}) == len(QUESTIONS)


def test_the_record_counts_what_ran(loaded: LoadedModel):
    session = session_of(loaded, profile(None))
    clip = session.encode("noise", noisy_clip())
    shared = SharedPrefix()
    for number, question in enumerate(QUESTIONS):
        whole = ask(session, clip, question=question).record.flops
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            events = session.answer(clip, question, stream=False, shared=shared)
            flops = answered(events).record.flops
        ran = flops.end_to_end.prefill + flops.end_to_end.generate
        assert ran == pytest.approx(int(counter.get_total_flops()), rel=0.001)
        assert flops.paper == whole.paper
        assert flops.end_to_end.vanilla == whole.end_to_end.vanilla
        if number == 0:
            assert flops == whole
        else:
            assert flops.end_to_end.prefill < whole.end_to_end.prefill / 5
            assert flops.end_to_end.ratio < 1


def test_a_question_behind_what_is_held_costs_what_sharing_counts():
    shape = cost.KNOWN_SHAPES["7b"].language
    front, behind = 14 + 6272 + 1, 25
    later = cost.prefill_cost([front + behind] * shape.layers, shape, front)
    one, two = (
        compare_prefills([1] * shape.layers, 6272, 14, [behind] * count, shape) for count in (1, 2)
    )
    assert later == two.shared - one.shared
    everything = [front + behind] * shape.layers
    assert cost.prefill_cost(everything, shape, 0) == cost.prefill_cost(everything, shape)


def test_a_pruned_prefill_neither_takes_nor_leaves_anything(loaded: LoadedModel):
    session = session_of(loaded, profile(0.4), trace=True)
    clip = session.encode("noise", noisy_clip())
    shared = SharedPrefix()
    alone, together = all_of(session, clip, None), all_of(session, clip, shared)
    for one, other in zip(alone, together, strict=True):
        assert other.record.tokens.shared == 0
        assert np.array_equal(logits(one), logits(other))
    assert shared._cache is None


def test_what_fails_or_is_of_another_clip_leaves_nothing_wrong(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
):
    session = session_of(loaded, profile(None), new_tokens=8, trace=True)
    clip, other = (session.encode("noise", noisy_clip(seed=seed)) for seed in (0, 1))
    alone = all_of(session, clip, None)
    shared = SharedPrefix()
    all_of(session, other, shared)
    # Another clip's keys have the same length and must not be taken for this one's.
    first = answered(session.answer(clip, QUESTIONS[0], stream=False, shared=shared))
    assert first.record.tokens.shared == 0
    assert ids(first) == ids(alone[0])

    layer = loaded.model.model.language_model.layers[5]

    def fail(*_: Any) -> None:
        raise RuntimeError("in the middle")

    handle = layer.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        answered(session.answer(clip, QUESTIONS[1], stream=False, shared=shared))
    handle.remove()
    second = answered(session.answer(clip, QUESTIONS[1], stream=False, shared=shared))
    assert second.record.tokens.shared == 0
    assert ids(second) == ids(alone[1])
    third = answered(session.answer(clip, QUESTIONS[2], stream=False, shared=shared))
    assert third.record.tokens.shared > 0
    assert ids(third) == ids(alone[2])


def test_a_reader_that_goes_away_leaves_nothing_half_done(loaded: LoadedModel):
    session = session_of(loaded, profile(None), new_tokens=30, trace=True)
    clip = session.encode("noise", noisy_clip())
    shared = SharedPrefix()
    for event in session.answer(clip, QUESTIONS[0], shared=shared):
        if type(event).__name__ == "TextChunk":
            break
    second = answered(session.answer(clip, QUESTIONS[1], stream=False, shared=shared))
    plain = ask(session, clip, question=QUESTIONS[1])
    assert ids(second) == ids(plain)


def test_what_is_kept_is_the_clips_front_alone(loaded: LoadedModel):
    session = session_of(loaded, profile(None))
    clip = session.encode("noise", noisy_clip())
    shared = SharedPrefix()
    all_of(session, clip, shared)
    assert shared._cache is not None
    lengths = {shared._cache.get_seq_length(layer) for layer in range(12)}
    assert lengths == {loaded_front(session)}
    assert shared._ids.shape == torch.Size([1, loaded_front(session)])


VALIDATOR = jsonschema.Draft202012Validator(json.loads(schema_text()))
FEW = ("-n", "8", "--max-new-tokens", "6", "--dtype", "float32")
SHARING = "FLOP on one unpruned prefill, "


def test_ask_and_batch_share_where_nothing_is_pruned(
    adatp: Run, checkpoint: Path, clip: Path
) -> None:
    given = ("-m", checkpoint, *FEW, "-p", "vanilla")
    run = adatp("ask", clip, *QUESTIONS, *given, "--json")
    alone = [adatp("ask", clip, one, *given, "--json").records[0] for one in QUESTIONS]
    assert SHARING not in run.err
    asked = [item for one in QUESTIONS for item in ("-q", one)]
    for records in (run.records, adatp("batch", clip, *asked, *given).records):
        assert [one["answer"] for one in records] == [one["answer"] for one in alone]
        first, *others = (one["tokens"].get("shared", 0) for one in records)
        assert first == 0
        for record in records:
            VALIDATOR.validate(record)
        tokens = alone[0]["tokens"]
        assert all(tokens["visual"] < one < tokens["visual"] + tokens["text"] for one in others)
    assert not any(one["tokens"]["shared"] for one in alone)


MANY = [f"What happens, part {number}?" for number in range(12)]


def told(err: str) -> list[tuple[str, str]]:
    """The line of numbers, and what comes of them."""
    lines = err.splitlines()
    return [(line, after) for line, after in itertools.pairwise(lines) if SHARING in line]


def costs(line: str) -> tuple[float, float]:
    """The two numbers of FLOP in the line: shared, and pruned for each."""
    found = re.findall(r"([\d.]+) ([kMGT])FLOP", line)
    shared, each = (float(count) * 10 ** (3 + 3 * "kMGT".index(prefix)) for count, prefix in found)
    return shared, each


def test_ask_picks_the_cheaper_way(adatp: Run, checkpoint: Path, clip: Path) -> None:
    given = ("-m", checkpoint, *FEW, "--json")
    run = adatp("ask", clip, *MANY, *given)
    ((line, then),) = told(run.err)
    assert line.startswith("12 questions: ")
    assert line.endswith("FLOP pruned for each")
    assert then == "nothing is pruned; --prefill each prunes"
    shared, each = costs(line)
    assert shared < each
    ran = [one["flops"]["end_to_end"]["prefill"] for one in run.records]
    assert sum(ran) == pytest.approx(shared, rel=0.005)
    plain = adatp("ask", clip, *MANY, *given, "-p", "vanilla").records
    assert [one["answer"] for one in run.records] == [one["answer"] for one in plain]
    assert {one["profile"]["name"] for one in run.records} == {"vanilla"}
    first, *others = (one["tokens"].get("shared", 0) for one in run.records)
    assert first == 0
    assert min(others) > 0
    for record in run.records:
        VALIDATOR.validate(record)

    few = adatp("ask", clip, *MANY[:1], *given)
    assert told(few.err) == []
    assert few.records[0]["profile"]["name"] == "adatp"
    assert told(adatp("ask", clip, *MANY, *given, "--quiet").err) == []


@pytest.mark.parametrize("named", [("-p", "adatp"), ("--budget", "0.3"), ("--trace", "one.npz")])
def test_what_was_asked_of_the_pruning_is_held_to(
    adatp: Run, checkpoint: Path, clip: Path, tmp_path: Path, named: tuple[str, str]
) -> None:
    option, value = named
    value = str(tmp_path / value) if option == "--trace" else value
    given = ("-m", checkpoint, *FEW, "--json", option, value)
    run = adatp("ask", clip, *MANY, *given)
    ((line, then),) = told(run.err)
    assert then == "--prefill shared would cost less, and prune nothing"
    assert {one["profile"]["name"] for one in run.records} == {"adatp"}
    assert not any(one["tokens"]["shared"] for one in run.records)
    shared, each = costs(line)
    ran = sum(one["flops"]["end_to_end"]["prefill"] for one in run.records)
    assert shared < each == pytest.approx(ran, rel=0.005)


def test_prefill_says_which_way(adatp: Run, checkpoint: Path, clip: Path) -> None:
    given = ("-m", checkpoint, *FEW, "--json")

    def asked(questions: list[str], *more: str) -> tuple[list[tuple[str, str]], set[str]]:
        run = adatp("ask", clip, *questions, *given, *more)
        return told(run.err), {one["profile"]["name"] for one in run.records}

    assert asked(MANY, "--prefill", "each") == ([], {"adatp"})
    low = ("-p", "adatp-light", "--budget", "0.2")
    assert asked(MANY[:2], *low, "--prefill", "cheaper") == ([], {"adatp-light"})
    lines, profiles = asked(MANY[:2], *low, "--prefill", "shared")
    assert profiles == {"vanilla"}
    shared, each = costs(lines[0][0])
    assert shared > each
    assert asked(MANY, "-p", "fastv", "--prefill", "cheaper")[1] == {"vanilla"}
    alone = adatp("ask", clip, *QUESTIONS, *given, "-p", "vanilla", "--prefill", "each").records
    assert not any(one["tokens"]["shared"] for one in alone)
    wrong = adatp("ask", clip, "Why?", *given, "--prefill", "half")
    assert wrong.code == 2
    assert "--prefill" in wrong.err


class Still:
    """Reads no file: gives a clip of noise."""

    def read(self, *_: Any, **__: Any) -> Frames:
        return noisy_clip()


def asking(session: Session, mode: PrefillMode) -> tuple[PrefillChosen, list[AnswerRecord]]:
    events = list(events_of(session, MANY, reader=Still(), stream=False, prefill=mode))
    (chosen,) = (event for event in events if isinstance(event, PrefillChosen))
    return chosen, [event.record for event in events if isinstance(event, Row)]


def test_sharing_that_does_not_fit_is_not_chosen(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(loaded, profile(0.4))
    assert asking(session, "cheaper")[0].shared
    check = Plan.check_questions

    def full(self: Plan, frames: int, questions: Sequence[str], **how: bool) -> None:
        check(self, frames, questions, **how)
        if self.profile.method == "vanilla":
            raise MemoryLimitError("too much", "buy")

    monkeypatch.setattr(Plan, "check_questions", full)
    chosen, records = asking(session, "cheaper")
    assert (chosen.shared, chosen.fits) == (False, False)
    assert chosen.cost.shared < chosen.cost.pruned
    assert chosen.profile == session.profile
    assert {one.profile["name"] for one in records} == {session.profile.name}
    with pytest.raises(MemoryLimitError):
        asking(session, "shared")


def test_who_shares_keeps_its_choice_of_frames() -> None:
    own = profile(0.4).replace(frames=12, reuse_frames=0.02)
    unpruned = unpruned_of(own)
    assert (unpruned.frames, unpruned.reuse_frames) == (12, 0.02)
    assert unpruned.replace(frames=None, reuse_frames=None) == load_profile("vanilla")
