"""`adatp batch` left alone: damaged clips by the hundred, kills at any moment, memory."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from adatp_cli.record import schema_text
from tests import fuzz

VALIDATOR = jsonschema.Draft202012Validator(json.loads(schema_text()))
CLIPS = 250
KILLS = 25
# What a damaged clip may come to; anything else is a fault of the program.
KNOWN = {
    "answered", "missing", "empty", "not_a_video", "no_video_stream", "truncated", "no_frames",
    "encrypted", "unreadable", "decoder_crashed", "timeout", "out_of_memory",
}  # fmt: skip


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> fuzz.Outcome:
    home = tmp_path_factory.mktemp("fuzz")
    (home / "clips").mkdir()
    fuzz.write_corpus(home / "clips", CLIPS, seed=0)
    return fuzz.drive(home / "clips", home / "rows.jsonl", str(checkpoint))


def test_no_damaged_clip_stops_the_batch_or_loses_its_row(fuzzed: fuzz.Outcome) -> None:
    assert fuzzed.code == 6, fuzzed.stderr
    assert "Traceback" not in fuzzed.stderr
    assert len({row["video"] for row in fuzzed.rows}) == len(fuzzed.rows) == CLIPS
    for row in fuzzed.rows:
        VALIDATOR.validate(row)
        if not row["ok"]:
            assert "\n" not in row["error"]["message"]
            assert row["error"]["hint"]


def test_damaged_clips_have_errors_that_are_known(fuzzed: fuzz.Outcome) -> None:
    kinds = fuzzed.kinds()
    odd = [row for row in fuzzed.rows if not row["ok"] and row["error"]["kind"] not in KNOWN]
    assert set(kinds) <= KNOWN, odd[:3]
    # Mutations that are all harmless, or all fatal, would prove nothing.
    assert CLIPS // 5 < kinds["answered"] < CLIPS
    assert len(kinds) >= 4


def test_memory_does_not_grow_with_the_number_of_clips(fuzzed: fuzz.Outcome) -> None:
    assert fuzzed.growth(after=10) < 100_000_000


class Preloaded:
    """Runs of the program that start in no time."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.preloaded"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self._read() == "ready"

    def start(self, arguments: list[str]) -> int:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(arguments) + "\n")
        self._server.stdin.flush()
        return int(self._read())

    def wait(self) -> int:
        return int(self._read())

    def close(self) -> None:
        self._server.communicate()

    def _read(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline().strip()


@pytest.fixture
def preloaded() -> Iterator[Preloaded]:
    server = Preloaded()
    yield server
    server.close()


def test_killed_at_any_moment_and_resumed_each_row_is_there_once(
    preloaded: Preloaded, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(80):
        shutil.copy(clip, clips / f"{number:03}.mp4")
    (clips / "080.mp4").write_bytes(b"no clip")
    out = tmp_path / "rows.jsonl"
    arguments = [
        "batch", str(clips), "-q", "What?", "-o", str(out), "--resume", "-m", str(checkpoint),
        "-n", "2", "--max-new-tokens", "1", "--quiet",
    ]  # fmt: skip
    rng = random.Random(0)
    kills = 0
    while kills < KILLS:
        child = preloaded.start(arguments)
        size = out.stat().st_size if out.exists() else 0
        # Half of the kills while it loads, half among the rows.
        if rng.random() < 0.5:
            time.sleep(rng.uniform(0.0, 0.6))
        else:
            while _running(child) and (not out.exists() or out.stat().st_size <= size):
                time.sleep(0.001)
            time.sleep(rng.uniform(0.0, 0.3))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        code = preloaded.wait()
        if code == -signal.SIGKILL:
            kills += 1
            continue
        assert code == 6
        _each_once(out, 81)
        out.unlink()
    preloaded.start(arguments)
    assert preloaded.wait() == 6
    _each_once(out, 81)


def _running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _each_once(out: Path, expected: int) -> None:
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        VALIDATOR.validate(row)
    assert len({row["video"] for row in rows}) == len(rows) == expected
