"""`adatp chat`: a conversation in pipes and on a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from adatp_cli.cli import chat
from adatp_cli.cli import open_model as open_model_module
from adatp_cli.record import schema_text
from tests.conftest import Run
from tests.goldens.runs import HERE

FIRST, SECOND = "What colour is the circle?", "What moves?"
PROMPT = "\x1b[?2004h"  # it takes pasted text from here on


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(HERE / "shapes.mp4", tmp_path))


def test_each_line_is_a_question_and_gets_an_answer(adatp: Run, clip: Path) -> None:
    done = adatp("chat", clip, "-m", "tiny", stdin=f"{FIRST}\n\n  \n{SECOND}\n".encode())
    assert done.code == 0
    first, second = done.out.splitlines()
    assert first == adatp("ask", clip, FIRST, "-m", "tiny").out.strip()
    assert second
    assert done.err.count("tokens kept") == 2


def test_records_have_their_turn_and_fit_the_schema(adatp: Run, clip: Path) -> None:
    done = adatp("chat", clip, "-m", "tiny", "--json", stdin=f"{FIRST}\n{SECOND}\n".encode())
    records = [json.loads(line) for line in done.out.splitlines()]
    schema = json.loads(schema_text())
    for record in records:
        jsonschema.validate(record, schema)
    assert [record["turn"] for record in records] == [1, 2]
    assert [record["question"] for record in records] == [FIRST, SECOND]
    first, second = records
    # The earlier turn stands in the prompt; the clip is neither decoded nor encoded again.
    assert second["tokens"]["text"] > first["tokens"]["text"] + 5
    assert first["seconds"]["vision"] > 0
    assert second["seconds"]["vision"] == second["seconds"]["decode"] == 0


def test_a_clip_that_changes_its_place_begins_anew(adatp: Run, clip: Path, clips: Path) -> None:
    other = clips / "plain.mp4"
    lines = f"{FIRST}\n/clip {other}\n{FIRST}\n/clip {clip}\n{FIRST}\n"
    done = adatp("chat", clip, "-m", "tiny", "--json", stdin=lines.encode())
    first, second, third = (json.loads(line) for line in done.out.splitlines())
    assert second["video"] == str(other)
    assert second["tokens"]["text"] == first["tokens"]["text"] == third["tokens"]["text"]
    assert third["answer"] == first["answer"]
    assert third["seconds"]["vision"] == 0  # still in the store


def test_settings_hold_from_there_on(adatp: Run, clip: Path) -> None:
    changes = "/profile vanilla\n/frames 5\n", "/profile adatp-light\n/budget 0.15\n"
    lines = f"{FIRST}\n{changes[0]}{FIRST}\n{changes[1]}{FIRST}\n"
    done = adatp("chat", clip, "-m", "tiny", "--json", stdin=lines.encode())
    records = [json.loads(line) for line in done.out.splitlines()]
    assert [record["profile"]["name"] for record in records] == ["adatp", "vanilla", "adatp-light"]
    assert [record["video_info"]["frames_used"] for record in records] == [16, 5, 5]
    assert records[2]["profile"]["budget"] == 0.15


def test_what_was_answered_is_saved_and_shown(adatp: Run, clip: Path) -> None:
    lines = f"/show a.html\n{FIRST}\n/save a.jsonl\n/show a.html\n/show a.html\n/show a.txt\n"
    done = adatp("chat", clip, "-m", "tiny", stdin=lines.encode())
    assert done.code == 6
    saved = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    assert [record["question"] for record in saved] == [FIRST]
    assert FIRST in Path("a.html").read_text()
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3  # no answer yet, a file that is there, another ending


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/profil adatp", "did you mean"),
        ("/profile", "needs a word more"),
        ("/profile nothing", "no profile"),
        ("/budget 2", "budget"),
        ("/frames many", "whole number"),
        ("/clip absent.mp4", "absent.mp4"),
        ("/save rows.csv", ".jsonl"),
    ],
)
def test_a_mistake_is_a_line_and_the_conversation_goes_on(
    adatp: Run, clip: Path, line: str, said: str
) -> None:
    done = adatp("chat", clip, "-m", "tiny", stdin=f"{line}\n{FIRST}\n".encode())
    assert done.code == 6
    assert said in done.error
    assert done.out == "green\n"


def test_a_clip_that_is_none_is_refused_before_the_model_is_loaded(
    adatp: Run, tmp_path: Path
) -> None:
    done = adatp("chat", tmp_path / "absent.mp4", "-m", "tiny", stdin=b"")
    assert done.code == 3
    assert "absent.mp4" in done.error


def test_the_oldest_turns_go_when_the_context_is_full(
    adatp: Run, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = open_model_module.open_model

    def small(*args: Any, **asked: Any) -> Any:
        opened = loads(*args, **asked)
        opened.loaded.context_length = 16 * 36 + 1 + 128 + 60
        return opened

    monkeypatch.setattr(chat, "open_model", small)
    lines = "".join(f"{FIRST} {number}\n" for number in range(5))
    done = adatp("chat", clip, "-m", "tiny", "--json", stdin=lines.encode())
    assert done.code == 0, done.err
    records = [json.loads(line) for line in done.out.splitlines()]
    texts = [record["tokens"]["text"] for record in records]
    assert len(texts) == 5
    assert texts[0] < texts[1] < max(texts) <= 61
    assert "the context is full: the oldest 2 messages are left out" in done.err


class Terminal:
    """The program on a terminal of its own, which answers where its cursor stands."""

    def __init__(self, command: list[str]) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color"},
        )  # fmt: skip
        os.close(theirs)
        self.seen = ""
        self._at = 0

    def until(self, text: str) -> None:
        """Read on until `text` has come, behind what was waited for before."""
        latest = time.monotonic() + 60
        while (found := self.seen.find(text, self._at)) < 0:
            assert time.monotonic() < latest, self.seen
            if select.select([self._ours], [], [], 0.1)[0]:
                got = os.read(self._ours, 65536)
                if b"\x1b[6n" in got:
                    os.write(self._ours, b"\x1b[1;1R")
                self.seen += got.decode("utf-8", "replace")
        self._at = found + len(text)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())


@pytest.fixture
def terminal(clip: Path) -> Iterator[Terminal]:
    terminal = Terminal([sys.executable, "-m", "adatp_cli", "chat", str(clip), "-m", "tiny"])
    yield terminal
    terminal.process.kill()
    terminal.process.wait()


def test_on_a_terminal_lines_are_edited_and_ctrl_d_ends(terminal: Terminal) -> None:
    terminal.until(PROMPT)
    terminal.type("What colour is the cirXcle?\x1b[D\x1b[D\x1b[D\x1b[D\x7f\r")
    terminal.until("tokens kept")
    assert "green" in terminal.seen
    terminal.until(PROMPT)
    terminal.type("half a line\x03")  # Ctrl-C at the prompt leaves the line, not the program
    terminal.until(PROMPT)
    terminal.type("\x1b[A\r")  # the question before
    terminal.until("tokens kept")
    terminal.until(PROMPT)
    terminal.type("/help\r")
    terminal.until("/save FILE")
    terminal.until(PROMPT)
    terminal.type("\x04")
    assert terminal.process.wait(20) == 0


def test_ctrl_c_stops_an_answer_and_not_the_program(terminal: Terminal) -> None:
    terminal.until(PROMPT)
    terminal.type(f"{FIRST * 80}\r")
    terminal.until("prefill: ")
    terminal.process.send_signal(signal.SIGINT)
    terminal.until("stopped")
    terminal.until(PROMPT)
    terminal.type(f"{FIRST}\r")
    terminal.until("tokens kept")
    terminal.until(PROMPT)
    terminal.type("/quit\r")
    assert terminal.process.wait(20) == 0
