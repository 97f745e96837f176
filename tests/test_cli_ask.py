"""`adatp ask` as its users see it: streams, records, questions, stdin, exit codes."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

import adatp_cli.answering.run
import adatp_cli.answering.session
import adatp_cli.model.memory
from adatp_cli.answering.encode import ClipEncoder
from adatp_cli.errors import MemoryLimitError
from adatp_cli.record import schema_text
from adatp_cli.video.isolated import IsolatedReader
from tests.conftest import Run

VALIDATOR = jsonschema.Draft202012Validator(json.loads(schema_text()))
FEW = ("-n", "4", "--max-new-tokens", "5", "--dtype", "float32")
LABELS = ("tokens", "LLM cost", "end to end", "first token", "in all")


def test_the_answer_alone_is_on_stdout_and_what_it_cost_on_stderr(
    adatp: Run, checkpoint: Path, clip: Path
) -> None:
    streamed = adatp("ask", clip, "What happens?", "-m", checkpoint, *FEW, "--stats", "full")
    assert streamed.code == 0
    recorded = adatp("ask", clip, "What happens?", "-m", checkpoint, *FEW, "--json")
    (record,) = recorded.records
    VALIDATOR.validate(record)
    assert streamed.out == record["answer"] + "\n"
    lines = streamed.err.splitlines()
    assert lines[0] == f"{checkpoint} in float32 on cpu, profile adatp"
    assert lines[1] == "the answer was cut at 5 tokens; --max-new-tokens raises the limit"
    assert [line[:12].strip() for line in lines[2:]] == list(LABELS)
    assert all(len(line) <= 80 for line in lines[1:])
    assert "\x1b" not in streamed.err
    tokens, flops = record["tokens"], record["flops"]
    assert f"{tokens['visual']} visual, {tokens['kept_final']} kept" in lines[2]
    assert f"({100 * flops['paper']['ratio']:.1f} %, paper)" in lines[3]
    assert f"({100 * flops['end_to_end']['ratio']:.1f} %)" in lines[4]


def test_one_line_tells_the_cost_and_of_a_later_question_its_own(
    adatp: Run, checkpoint: Path, clip: Path
) -> None:
    def costs(*stats: str) -> list[str]:
        run = adatp("ask", clip, "What?", "Where?", "-m", checkpoint, *FEW, "-p", "adatp", *stats)
        assert run.code == 0
        return [line for line in run.err.splitlines() if "token" in line and "cut" not in line]

    first, second = costs()
    told = r"\d+ of \d+ tokens kept, 27\.\d % of the LLM's work, (\S+) s"
    whole, own = re.fullmatch(told, first), re.fullmatch(told + ", clip reused", second)
    assert whole is not None
    assert own is not None
    assert float(own[1]) < float(whole[1])
    assert costs("--stats", "short")[0].split(",")[:2] == first.split(",")[:2]
    assert costs("--stats", "none") == []
    *_, first_token, in_all = costs("--stats", "full")
    assert re.fullmatch(r"first token \S+ s: relevance \S+, prefill \S+; clip reused", first_token)
    assert re.fullmatch(r"in all      \S+ s: generate \S+ for 5 tokens", in_all)


def test_quiet_says_nothing_but_the_answer(adatp: Run, checkpoint: Path, clip: Path) -> None:
    run = adatp("ask", clip, "What?", "-m", checkpoint, *FEW, "--quiet")
    assert (run.code, run.err) == (0, "")
    assert run.out
    failed = adatp("ask", "none.mp4", "What?", "-m", checkpoint, "--quiet")
    assert failed.error == "error: none.mp4: no such file; check the path"


def test_verbose_tells_the_stages(adatp: Run, checkpoint: Path, clip: Path) -> None:
    run = adatp("ask", clip, "What?", "-m", checkpoint, *FEW, "--verbose")
    assert run.code == 0
    for stage in ("loading", "decode: ", "vision: 4 frames", "prefill: "):
        assert stage in run.err


def test_several_questions_read_and_encode_the_clip_once(
    adatp: Run, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for owner, name in ((IsolatedReader, "read"), (ClipEncoder, "finish")):
        original = getattr(owner, name)

        def counting(*args: Any, _name: str = name, _original: Any = original, **named: Any) -> Any:
            calls.append(_name)
            return _original(*args, **named)

        monkeypatch.setattr(owner, name, counting)
    run = adatp("ask", clip, "What?", "Which colour?", "-m", checkpoint, *FEW, "--json")
    assert calls == ["read", "finish"]
    assert [record["question"] for record in run.records] == ["What?", "Which colour?"]
    for record in run.records:
        VALIDATOR.validate(record)
    shown = adatp("ask", clip, "What?", "Which colour?", "-m", checkpoint, *FEW)
    assert shown.out == "".join(record["answer"] + "\n" for record in run.records)
    assert "1. What?" in shown.err
    assert "2. Which colour?" in shown.err


@pytest.mark.parametrize(
    ("command", "more", "code", "said"),
    [
        ("ask", ("--start", "9"), 2, "--start 9 s is beyond the end"),
        ("show", ("--start", "9"), 2, "--start 9 s is beyond the end"),
        ("bench", ("--start", "9"), 2, "--start 9 s is beyond the end"),
        ("ask", (), 3, "holds text, not a video"),
        ("show", (), 3, "holds text, not a video"),
        ("bench", (), 3, "holds text, not a video"),
    ],
)
def test_a_clip_is_looked_at_before_a_model_is(
    adatp: Run,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    more: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.setattr("adatp_cli.model.load.load_model", None)  # calling it would be unexpected
    (tmp_path / "text.mp4").write_text("no video")
    source = clip if more else tmp_path / "text.mp4"
    question = () if command == "bench" else ("What?",)
    output = ("-o", tmp_path / "x.png") if command == "show" else ()
    run = adatp(command, source, *question, *output, *more, "-m", "tiny")
    assert run.code == code
    assert said in run.error


def test_a_clip_on_stdin_that_does_not_end_is_left(
    adatp: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adatp_cli.cli.ask._CLIP_BYTES", 1 << 20)
    run = adatp("ask", "-", "What?", "-m", "tiny", stdin=b"y\n" * (1 << 20))
    assert run.code == 2
    assert "the clip on stdin: more than 1 MiB" in run.error


def test_questions_and_clip_come_from_stdin(adatp: Run, checkpoint: Path, clip: Path) -> None:
    given = ("-m", checkpoint, *FEW, "--json")
    by_name = adatp("ask", clip, "What?", "Where?", *given).records
    lines = adatp("ask", clip, "-", *given, stdin=b"What?\n\n  Where?  \r\n").records
    assert [record["question"] for record in lines] == ["What?", "Where?"]
    assert [record["answer"] for record in lines] == [record["answer"] for record in by_name]
    piped = adatp("ask", "-", "What?", *given, stdin=clip.read_bytes())
    (record,) = piped.records
    assert record["answer"] == by_name[0]["answer"]
    assert record["video_info"] == by_name[0]["video_info"]
    assert record["video"] == "standard input"


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (("-", "-"), b"", "a question - reads stdin, and so does the clip"),
        (("clip.mp4", "-", "-"), b"What?", "and so does another question"),
        (("clip.mp4", "-"), b" \n\n", "no question on stdin"),
        (("clip.mp4", " "), b"", "a question is blank"),
        (("clip.mp4",), b"", "QUESTION is missing"),
        ((), b"", "VIDEO is missing"),
    ],
)
def test_what_cannot_be_a_clip_or_a_question(
    adatp: Run, arguments: tuple[str, ...], stdin: bytes, said: str
) -> None:
    run = adatp("ask", *arguments, stdin=stdin)
    assert run.code == 2
    assert said in run.error


def test_a_leading_dash_goes_behind_two(
    adatp: Run, checkpoint: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "-clip.mp4").write_bytes(clip.read_bytes())
    monkeypatch.chdir(tmp_path)
    run = adatp("ask", "-m", checkpoint, *FEW, "--json", "--", "-clip.mp4", "-v?")
    (record,) = run.records
    assert (record["video"], record["question"]) == ("-clip.mp4", "-v?")


def test_a_clip_that_cannot_be_read_is_exit_3(adatp: Run, checkpoint: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("these are notes, not a video\n" * 9)
    (tmp_path / "empty.mp4").touch()
    for name in ("notes.mp4", "empty.mp4", "missing.mp4", "."):
        run = adatp("ask", tmp_path / name, "What?", "-m", checkpoint)
        assert run.code == 3
        assert run.out == ""
        assert str(tmp_path / name) in run.error


def test_a_wrong_clip_is_told_before_a_model_is_looked_for(adatp: Run) -> None:
    run = adatp("ask", "missing.mp4", "What?", "-m", "owner/none", "--offline")
    assert run.code == 3


def test_a_model_that_is_not_at_hand_is_exit_4(
    adatp: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    run = adatp("ask", clip, "What?", "-m", "someone/no-such-model", "--offline")
    assert run.code == 4
    for part in ("someone/no-such-model", "adatp demo", "-m tiny", "moving coloured shapes"):
        assert part in run.error


def test_out_of_memory_is_exit_5(
    adatp: Run, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (
        MemoryLimitError("too large", "use fewer frames"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ):

        def fail(*_args: Any, _error: Exception = error, **_named: Any) -> Iterator[Any]:
            raise _error

        monkeypatch.setattr(adatp_cli.answering.session.Session, "open", fail)
        run = adatp("ask", clip, "What?", "-m", checkpoint)
        assert run.code == 5
        assert "frames" in run.error


def test_the_unexpected_is_exit_1_with_a_traceback_for_those_who_ask(
    adatp: Run, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any, **_named: Any) -> Iterator[Any]:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr(adatp_cli.answering.session.Session, "open", fail)
    run = adatp("ask", clip, "What?", "-m", checkpoint)
    assert run.code == 1
    assert "unexpected ZeroDivisionError: first line second line; " in run.error
    assert "--verbose" in run.error
    loud = adatp("ask", clip, "What?", "-m", checkpoint, "--verbose")
    assert loud.code == 1
    assert "Traceback (most recent call last)" in loud.err


def test_an_interrupt_is_exit_130(
    adatp: Run, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_args: Any, **_named: Any) -> Iterator[Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(adatp_cli.answering.session.Session, "open", interrupt)
    run = adatp("ask", clip, "What?", "-m", checkpoint, "--json", "--verbose")
    assert (run.code, run.out) == (130, "")
    assert run.error == "error: interrupted"


def test_what_libraries_say_is_for_those_who_ask(
    adatp: Run,
    checkpoint: Path,
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def chatter(*_args: Any, **_named: Any) -> Iterator[Any]:
        warnings.warn("a kernel is missing", UserWarning, stacklevel=1)
        logging.getLogger("bitsandbytes").warning("compiled without a GPU")
        yield from ()

    def said(*arguments: str) -> tuple[bool, bool]:
        caplog.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            adatp("ask", clip, "What?", "-m", checkpoint, *arguments)
        kernel = any("kernel" in str(warning.message) for warning in caught)
        return kernel, "compiled without a GPU" in caplog.text

    monkeypatch.setattr(adatp_cli.answering.run.RunLoop, "clip", chatter)
    assert said() == (False, False)
    assert said("--verbose") == (True, True)


def test_json_has_a_row_for_each_question_that_failed(
    adatp: Run, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = adatp("ask", "missing.mp4", "What?", "Where?", "-m", checkpoint, "--json")
    assert missing.code == 3
    assert [row["question"] for row in missing.records] == ["What?", "Where?"]
    assert {row["error"]["kind"] for row in missing.records} == {"missing"}

    original = adatp_cli.answering.session.Session.answer

    def fail_second(self: Any, clip: Any, question: str, index: int = 0, **named: Any) -> Any:
        if index == 1:
            raise MemoryLimitError("too large", "use fewer frames")
        return original(self, clip, question, index, **named)

    monkeypatch.setattr(adatp_cli.answering.session.Session, "answer", fail_second)
    run = adatp("ask", clip, "A?", "B?", "C?", "-m", checkpoint, *FEW, "--json")
    assert run.code == 5
    assert [(row["question"], row["ok"]) for row in run.records] == [
        ("A?", True),
        ("B?", False),
        ("C?", False),
    ]
    for row in (*missing.records, *run.records):
        VALIDATOR.validate(row)
    failed = run.records[1]
    assert failed["model"]["name"] == str(checkpoint)
    assert failed["video_info"]["frames_used"] == 4
    assert failed["profile"]["schedule"]["last_layer"] == 7


def test_a_real_process_says_nothing_of_its_libraries_and_minds_no_closed_pipe(
    checkpoint: Path, clip: Path, program: tuple[str, ...]
) -> None:
    """Warnings at import come once a process, and a pipe breaks in a real one only."""
    asked = ["ask", str(clip), "-m", str(checkpoint), *FEW]
    cold = [sys.executable, "-m", "adatp_cli", *asked, "What?"]
    whole = subprocess.run(cold, capture_output=True, text=True, check=False)
    command = [*program, *asked]
    assert whole.returncode == 0
    assert len(whole.stderr.splitlines()) == 3  # the model, the cut and the cost
    with subprocess.Popen(
        [*command, "--verbose", "What?"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stderr.close()
        assert process.stdout.read() == whole.stdout
    assert process.returncode == 0
    with subprocess.Popen(
        [*command, "--json", "What?", "Where?", "Why?"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 0
    assert "Traceback" not in said
    assert "Broken" not in said
    assert "error" not in said
