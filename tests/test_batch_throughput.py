"""How well decoding keeps up with the model, and decoding several clips at once."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adatp_cli.batch.prefetch import (
    DEPTH,
    MOST_READERS,
    Decoded,
    FramePrefetcher,
    Throughput,
    default_readers,
)
from adatp_cli.cli.batch import decoding_limit, waiting
from adatp_cli.errors import VideoError
from adatp_cli.video.frames import Frames, VideoInfo
from tests.conftest import Run

FEW = ("-n", "4", "--max-new-tokens", "3", "--dtype", "float32")
SMALL = ("h265_video.mp4", "unordered.mov", "video_90.mov")
RATE = re.compile(
    r"^(\d+) clips, [\d.]+ a minute; the model waited for frames ([\d.]+) % of the time$",
    re.MULTILINE,
)
# Longer than any machine is busy; only a test that is about to fail waits so long.
LONG_S = 60.0


# The command


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in SMALL:
        shutil.copy(Path(__file__).parent / "data" / name, folder / name)
    (folder / "empty.mp4").write_bytes(b"")
    return folder


def told(row: dict[str, Any]) -> dict[str, Any]:
    """What a row says beside how long it took."""
    return {key: row[key] for key in row if key not in ("seconds", "peak_memory_bytes")}


def test_the_summary_tells_clips_a_minute_and_how_long_the_model_waited(
    adatp: Run, checkpoint: Path, clips: Path
) -> None:
    run = adatp("batch", clips, "-q", "What?", "-m", checkpoint, *FEW)
    assert run.code == 6, run.err
    assert "3 answered, 1 failed" in run.err
    said = RATE.search(run.err)
    assert said is not None, run.err
    assert said[1] == "4"
    assert 0 <= float(said[2]) <= 100
    summary = run.err[run.err.index("3 answered") :]
    assert max(len(line) for line in summary.splitlines() if str(clips) not in line) <= 80


def test_rows_and_their_order_do_not_depend_on_the_decoders(
    adatp: Run, checkpoint: Path, clips: Path
) -> None:
    runs = [
        adatp("batch", clips, "-q", "What?", "-m", checkpoint, *FEW, "--decoders", number)
        for number in ("0", "1", "3")
    ]
    one, two, three = ([told(row) for row in run.records] for run in runs)
    assert len(one) == 4
    assert one == two == three
    assert "with --decoders 0 nothing is decoded ahead" in runs[0].err


@pytest.mark.parametrize("number", ["-1", "65", "x"])
def test_an_impossible_number_of_decoders_is_refused(adatp: Run, clip: Path, number: str) -> None:
    run = adatp("batch", clip, "-q", "What?", "-m", "no/model", "--decoders", number)
    assert run.code == 2
    assert "--decoders" in run.err


def test_one_clip_says_nothing_of_waiting(adatp: Run, checkpoint: Path, clip: Path) -> None:
    run = adatp("batch", clip, "-q", "What?", "-m", checkpoint, *FEW)
    assert "1 clip," in run.err
    assert "waited" not in run.err


def test_ctrl_c_and_resume_with_several_decoders(
    adatp: Run, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "many", tmp_path / "rows.jsonl"
    folder.mkdir()
    for number in range(24):
        shutil.copy(clip, folder / f"{number:02}.mp4")
    command = [
        sys.executable, "-m", "adatp_cli", "batch", str(folder), "-q", "What?", "-o", str(out),
        "-m", str(checkpoint), *FEW, "--decoders", "3",
    ]  # fmt: skip
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (out.exists() and out.stat().st_size):
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate()
    done = out.read_bytes().count(b"\n")
    assert (child.returncode, 0 < done < 24) == (130, True), err
    assert f"--resume asks the {24 - done} questions that are left" in err
    assert "Traceback" not in err
    finished = adatp(*command[3:], "--resume")
    assert finished.code == 0, finished.err
    videos = re.findall(r'"video": "[^"]*/(\d\d)\.mp4"', out.read_text(encoding="utf-8"))
    assert videos == [f"{number:02}" for number in range(24)]


# What is said


def test_nothing_is_said_of_a_limit_where_the_model_hardly_waited() -> None:
    throughput = Throughput(first_s=50, waited_s=4, answering_s=96, decoding_s=90, clips=10)
    assert waiting(throughput) == "; the model waited for frames 4.0 % of the time"
    assert decoding_limit(throughput, 1, 8) == []
    assert waiting(Throughput(first_s=5, answering_s=1, decoding_s=5, clips=1)) == ""
    assert decoding_limit(Throughput(), 1, 8) == []


@pytest.mark.parametrize(
    ("decoders", "cores", "said"),
    [
        (1, 1, "no core is left for more decoders: scale clips down, or --shard them"),
        (4, 2, "no core is left for more decoders: scale clips down, or --shard them"),
        (1, 8, "8 cores can do more: try --decoders 3"),
        (1, 2, "2 cores can do more: try --decoders 2"),
        (2, 64, "64 cores can do more: try --decoders 3"),
    ],
)
def test_a_limit_is_told_with_what_helps(decoders: int, cores: int, said: str) -> None:
    throughput = Throughput(first_s=5, waited_s=60, answering_s=40, decoding_s=120, clips=50)
    lines = decoding_limit(throughput, decoders, cores)
    assert lines[-1] == said
    if decoders == 1:
        limit = "decoding is the limit: it takes 2.40 s a clip, the model 0.80 s"
        assert lines[0] == limit
    if decoders == 4:
        assert lines[0] == "some clips take longer to decode than the ones before them to answer"
    assert max(map(len, lines)) <= 80


def test_how_many_decoders_are_right() -> None:
    assert [default_readers(on_gpu=True, cores=cores) for cores in (1, 2, 3, 16)] == [
        1, 1, 2, MOST_READERS,
    ]  # fmt: skip
    assert default_readers(on_gpu=False, cores=64) == 1


# The accounting


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def frames_of(number: int) -> Frames:
    info = VideoInfo(
        decoder="pyav", codec="h264", width=1, height=1, fps=1.0, duration_s=1.0,
        frames_total=1, rotation=0,
    )  # fmt: skip
    return Frames(
        pixels=np.full((1, 1, 1, 3), number, dtype=np.uint8),
        timestamps_s=np.zeros(1),
        indices=np.zeros(1, dtype=np.int64),
        info=info,
    )


def never() -> bool:
    return False


def until(event: threading.Event) -> None:
    assert event.wait(LONG_S)


def numbers(results: Iterator[Decoded[int]]) -> Iterator[int]:
    for decoded in results:
        assert isinstance(decoded.frames, Frames)
        assert decoded.frames.pixels[0, 0, 0, 0] == decoded.item
        yield decoded.item


def test_every_second_is_counted_once_where_nothing_is_decoded_ahead() -> None:
    clock = Clock()

    def read(number: int) -> Frames:
        clock.now += 10 + number
        return frames_of(number)

    with FramePrefetcher([0, 1, 2], read, ahead=False, clock=clock) as ahead:
        for number in numbers(ahead.results(never)):
            clock.now += 100 * (number + 1)
    throughput = ahead.throughput
    assert (throughput.first_s, throughput.waited_s, throughput.answering_s) == (10, 11 + 12, 600)
    assert (throughput.decoding_s, throughput.clips) == (33, 3)
    assert throughput.waited_share == 23 / 623
    assert throughput.first_s + throughput.waited_s + throughput.answering_s == clock.now


def test_only_what_was_not_decoded_meanwhile_is_waited_for() -> None:
    clock = Clock()
    begun = [threading.Event() for _ in range(3)]
    wanted = [threading.Event() for _ in range(4)]
    answered: list[int] = []

    def read(number: int) -> Frames:
        begun[number].set()
        if number != 1:  # 1 is decoded while 0 is answered, the others when they are waited for
            until(wanted[number])
            clock.now += 7
        return frames_of(number)

    def stop() -> bool:  # asked whenever a clip is waited for
        wanted[len(answered)].set()
        return False

    with FramePrefetcher(range(3), read, clock=clock) as ahead:
        for number in numbers(ahead.results(stop)):
            answered.append(number)
            clock.now += 5
            if number == 0:
                until(begun[2])  # so 1 is there
    assert answered == [0, 1, 2]
    assert (ahead.throughput.first_s, ahead.throughput.waited_s, ahead.throughput.answering_s) == (
        7,
        7,
        15,
    )


def test_a_consumer_that_leaves_in_the_middle_is_counted() -> None:
    clock = Clock()
    with FramePrefetcher([0, 1], frames_of, clock=clock) as ahead:
        for _ in ahead.results(never):
            clock.now += 3
            break
    assert (ahead.throughput.answering_s, ahead.throughput.clips) == (3, 1)


# Several readers


class Gates:
    """A reader that is in a clip until the test lets it out."""

    def __init__(self, count: int) -> None:
        self.begun = [threading.Event() for _ in range(count)]
        self.go = [threading.Event() for _ in range(count)]

    def read(self, number: int) -> Frames:
        self.begun[number].set()
        until(self.go[number])
        return frames_of(number)

    def open(self, *which: int) -> None:
        for number in which:
            self.go[number].set()

    def close(self) -> None:
        self.open(*range(len(self.go)))


@pytest.fixture
def gates() -> Iterator[Gates]:
    made = Gates(12)
    yield made
    made.close()


def test_the_order_is_that_of_the_clips_whichever_is_there_first(gates: Gates) -> None:
    with FramePrefetcher(range(5), gates.read, gates.read, gates.read) as ahead:
        for number in range(3):
            until(gates.begun[number])
        gates.open(2, 1, 3, 4)
        until(gates.begun[4])  # begun by a reader that is through with a clip behind the first
        gates.open(0)
        assert list(numbers(ahead.results(never))) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("readers", [1, 3])
def test_no_more_clips_are_begun_than_there_is_room_for(readers: int) -> None:
    total, lock = 30, threading.Lock()
    begun = 0
    taken = 0
    most = 0

    def read(number: int) -> Frames:
        nonlocal begun, most
        with lock:
            begun += 1
            most = max(most, begun - taken)
        return frames_of(number)

    with FramePrefetcher(range(total), *[read] * readers) as ahead:
        for _ in ahead.results(never):
            # The readers get as far as they may before the next clip is asked for.
            room = min(total, taken + 1 + DEPTH + readers)
            _settle(lambda room=room: begun >= room)
            with lock:
                taken += 1
    assert most == 1 + DEPTH + readers  # the one in use among them


def _settle(there: Callable[..., bool]) -> None:
    end = time.monotonic() + LONG_S
    while not there():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_without_decoding_ahead_no_clip_is_begun_before_it_is_asked_for(gates: Gates) -> None:
    gates.close()
    with FramePrefetcher(range(4), gates.read, ahead=False) as ahead:
        assert not gates.begun[0].wait(0.05)
        for number in numbers(ahead.results(never)):
            assert [event.is_set() for event in gates.begun[:4]] == [
                other <= number for other in range(4)
            ]


def test_a_clip_that_fails_keeps_its_place(gates: Gates) -> None:
    def read(number: int) -> Frames:
        if number == 1:
            raise VideoError("no clip", "none")
        return gates.read(number)

    with FramePrefetcher(range(3), read, read) as ahead:
        until(gates.begun[2])
        gates.close()
        found = [decoded.frames for decoded in ahead.results(never)]
    assert [isinstance(frames, VideoError) for frames in found] == [False, True, False]


def test_a_stop_ends_the_waiting_and_the_threads(gates: Gates) -> None:
    asked_to = threading.Event()
    before = threading.active_count()
    with FramePrefetcher(range(12), gates.read, gates.read) as ahead:
        results = numbers(ahead.results(asked_to.is_set))
        gates.open(0)
        assert next(results) == 0
        until(gates.begun[2])
        asked_to.set()
        assert list(results) == []
    gates.close()
    _settle(lambda: threading.active_count() <= before)
    assert not gates.begun[5].is_set()
