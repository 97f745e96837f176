"""What the decoding child does is at worst an error of one clip, and nothing is left of it."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from adatp_cli.errors import AdatpError, MemoryLimitError, ModelError, VideoError
from adatp_cli.video import decord_decoder
from adatp_cli.video.channel import Message
from adatp_cli.video.decode import read_frames
from adatp_cli.video.frames import Frames
from adatp_cli.video.isolated import Child, IsolatedReader, Limits
from adatp_cli.video.sampling import Sampling

DATA = Path(__file__).parent / "data"
WORKERS = Path(__file__).parent / "decoding_workers.py"
CLIP = DATA / "unordered.mov"
TWO = Sampling(frames=2)

Faulty = Callable[..., IsolatedReader]


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    """`faulty("crash", "auto")`: a reader whose child has this fault, closed after the test."""
    made: list[IsolatedReader] = []

    def make(fault: str, when: str = "always", **limits: Any) -> IsolatedReader:
        command = (sys.executable, "-P", str(WORKERS), fault, when)
        made.append(IsolatedReader(Limits(**limits), command))
        return made[-1]

    yield make
    for reader in made:
        reader.close()


def children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if any(part in "".join(child.cmdline()) for part in ("video.worker", WORKERS.name))
    ]


def same(ours: Frames, theirs: Frames) -> bool:
    return np.array_equal(ours.pixels, theirs.pixels) and (
        (ours.info, ours.notes) == (theirs.info, theirs.notes)
    )


def read_here() -> Frames:
    """As the child reads it, of which decord is chosen there alone."""
    return read_frames(CLIP, TWO, decoder="decord" if decord_decoder.installed() else "pyav")


def failed(reader: IsolatedReader, clip: Path = CLIP, decoder: str = "auto") -> AdatpError:
    with pytest.raises(AdatpError) as caught:
        reader.read(clip, TWO, decoder=decoder)
    error = caught.value
    assert error.message.startswith(str(clip))
    assert error.hint
    assert "\n" not in error.message + error.hint
    return error


def test_frames_stay_when_others_are_read_and_the_child_is_gone() -> None:
    with IsolatedReader() as reader:
        first = reader.read(CLIP, TWO)
        reader.read(DATA / "h265_video.mp4", TWO)
        assert same(first, read_here())
    assert same(first, read_here())


def test_nothing_is_left_behind() -> None:
    def held() -> tuple[int, list[str]]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), os.listdir("/dev/shm")  # noqa: S108

    with IsolatedReader() as reader:
        reader.read(CLIP, TWO)
    before = held()
    reader = IsolatedReader()
    for _ in range(3):
        reader.read(CLIP, TWO)
        reader.read(CLIP.read_bytes(), TWO)
        with pytest.raises(VideoError):
            reader.read(WORKERS, TWO)
    assert len(children()) == 1
    reader.close()
    assert children() == []
    assert held() == before
    reader.close()
    for use in (lambda: reader.read(CLIP, TWO), reader.start):
        with pytest.raises(RuntimeError, match="closed"):
            use()


def test_the_child_starts_early_lives_on_and_is_used() -> None:
    with IsolatedReader() as reader:
        reader.start()
        reader.start()
        (child,) = children()
        reader.read(CLIP, TWO)
        reader.read(CLIP, TWO)
        assert [one.pid for one in children()] == [child.pid]


def test_the_child_knows_no_model_and_no_screen() -> None:
    code = "import sys, adatp_cli.video.worker; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    ours = {name for name in loaded if name.startswith("adatp_cli")}
    assert not {"torch", "transformers", "typer", "rich", "yaml"} & set(loaded)
    beside = {name for name in ours if "video" not in name}
    assert beside == {"adatp_cli", "adatp_cli.errors", "adatp_cli.text"}


def test_files_that_the_child_sends_unasked_are_closed(faulty: Faulty) -> None:
    reader = faulty("send_files")
    held = []
    for _ in range(2):
        assert same(reader.read(CLIP, TWO), read_here())
        gc.collect()
        held.append(len(os.listdir("/proc/self/fd")))
    assert held[0] == held[1]


@pytest.mark.parametrize(
    ("fault", "limits", "kind", "said"),
    [
        ("crash", {}, "decoder_crashed", "the decoder crashed (SIGSEGV)"),
        ("give_up", {}, "decoder_crashed", "the decoder crashed (exit code 7)"),
        ("talk_nonsense", {}, "decoder_crashed", "the decoder crashed (it does not answer)"),
        ("stumble", {}, "decoder_crashed", "unexpectedly (ZeroDivisionError: a bug of two lines)"),
        ("hang", {"stall_s": 1.0}, "timeout", "the decoder hung (no progress in 1 s)"),
        ("break_off", {"stall_s": 1.0}, "timeout", "the decoder hung (no progress in 1 s)"),
        ("crawl", {"clip_s": 1.0}, "timeout", "decoding took longer than 1 s"),
        ("allocate", {"memory_bytes": 900 << 20}, "out_of_memory", "ran out of memory"),
        ("run_out_of_memory", {}, "out_of_memory", "decoding ran out of memory (it may take 4.0"),
    ],
)
def test_a_fault_is_an_error_of_the_clip(
    faulty: Faulty, tmp_path: Path, fault: str, limits: dict[str, Any], kind: str, said: str
) -> None:
    reader = faulty(fault, "bad", **limits)
    bad = tmp_path / "bad.mov"
    bad.write_bytes(CLIP.read_bytes())
    for decoder in ("auto", "pyav"):
        error = failed(reader, bad, decoder)
        assert error.kind == kind
        assert said in error.message
        assert type(error) is (MemoryLimitError if kind == "out_of_memory" else VideoError)
    assert children() == []
    if not limits:
        assert same(reader.read(CLIP, TWO), read_here())


@pytest.mark.parametrize(
    ("fault", "limits"),
    [
        ("crash", {}),
        ("stumble", {}),
        ("hang", {"stall_s": 8.0}),
        ("crawl", {"clip_s": 16.0}),
        ("allocate", {"memory_bytes": 900 << 20}),
        ("run_out_of_memory", {}),
    ],
)
def test_pyav_gets_its_turn(faulty: Faulty, fault: str, limits: dict[str, Any]) -> None:
    reader = faulty(fault, "auto", **limits)
    frames = reader.read(CLIP, TWO)
    told, *rest = frames.notes
    assert told.startswith("decoded by PyAV: at the first try ")
    assert "\n" not in told
    expected = read_frames(CLIP, TWO, decoder="pyav")
    assert (frames.info, tuple(rest)) == (expected.info, expected.notes)
    assert np.array_equal(frames.pixels, expected.pixels)
    assert len(children()) == 1


def test_pyav_that_failed_is_not_asked_again(
    faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    ask = Child.ask

    def counted(child: Child, request: Message, *rest: Any) -> Message:
        asked.append(request["decoder"])
        return ask(child, request, *rest)

    monkeypatch.setattr(Child, "ask", counted)
    for fault in ("crash", "stumble", "run_out_of_memory"):
        failed(faulty(fault, CLIP.name))
    assert asked == ["auto"] * 3


def test_all_attempts_share_one_budget(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[float] = []
    ask = Child.ask

    def timed(child: Child, request: Message, files: Any, deadline: Any, heard: Any) -> Message:
        ends.append(deadline.at)
        return ask(child, request, files, deadline, heard)

    monkeypatch.setattr(Child, "ask", timed)
    reader = faulty("crash", "auto", clip_s=1000.0)
    began = time.monotonic()
    reader.read(CLIP, TWO)
    # What is put off is the time in which the children started.
    assert len(ends) == 2
    assert all(0 <= end - began - 1000.0 <= time.monotonic() - began for end in ends)


def test_a_child_that_does_not_start_is_tried_once_more(tmp_path: Path) -> None:
    mark = tmp_path / "once"
    code = f"""
        import os, runpy, sys
        if not os.path.exists({str(mark)!r}):
            open({str(mark)!r}, "w").close()
            raise SystemExit(3)
        sys.argv[0] = "worker"
        runpy.run_module("adatp_cli.video.worker", run_name="__main__")
    """
    with IsolatedReader(command=(sys.executable, "-c", textwrap.dedent(code))) as reader:
        assert same(reader.read(CLIP, TWO), read_here())
    assert mark.exists()


def test_a_decoder_that_is_demanded_gets_no_stand_in(faulty: Faulty) -> None:
    reader = faulty("crash", "auto")
    assert failed(reader, decoder="decord").kind == "decoder_crashed"


def test_the_child_says_nothing(faulty: Faulty, capfd: pytest.CaptureFixture[str]) -> None:
    for fault in ("chatter", "crash", "stumble"):
        faulty(fault, "auto").read(CLIP, TWO)
    assert capfd.readouterr() == ("", "")


def test_a_child_that_cannot_start_is_no_fault_of_the_clip() -> None:
    for command in ((sys.executable, "-c", "raise SystemExit(3)"), ("/no/such/program",)):
        with IsolatedReader(command=command) as reader:
            for _ in range(2):
                with pytest.raises(ModelError, match="does not start") as caught:
                    reader.read(CLIP, TWO)
                assert caught.value.exit_code == 4
                assert "adatp doctor" in caught.value.hint


def test_a_child_that_died_unasked_is_replaced_without_a_word() -> None:
    with IsolatedReader() as reader:
        reader.read(CLIP, TWO)
        (child,) = children()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # Dead, and not yet noticed.
        assert same(reader.read(CLIP, TWO), read_here())


def test_the_child_leaves_interrupts_to_its_parent() -> None:
    with IsolatedReader() as reader:
        reader.read(CLIP, TWO)
        (child,) = children()
        assert os.getpgid(child.pid) != os.getpgid(0)  # A terminal's Ctrl-C does not even reach it.
        child.send_signal(signal.SIGINT)
        reader.read(CLIP, TWO)
        assert [one.pid for one in children()] == [child.pid]


def test_the_child_is_replaced_before_it_grows_old(faulty: Faulty) -> None:
    def pids(reader: IsolatedReader) -> list[int]:
        found = []
        for _ in range(4):
            reader.start()
            while not (there := children()):  # forked, and not yet the program that it will be
                time.sleep(0.01)
            found.append(there[0].pid)
            reader.read(CLIP, TWO)
        reader.close()
        return found

    a, b, c, d = pids(IsolatedReader(Limits(clips=2)))
    assert a == b != c == d
    a, b, c, d = pids(faulty("leak", growth_bytes=100 << 20))
    assert a == b != c == d
    assert len(set(pids(IsolatedReader(Limits(growth_bytes=100 << 20))))) == 1


def test_closing_from_another_thread_ends_a_clip(faulty: Faulty) -> None:
    reader = faulty("hang")
    errors: list[Exception] = []

    def read() -> None:
        try:
            reader.read(CLIP, TWO)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    while not children():
        time.sleep(0.01)
    time.sleep(0.5)
    reader.close()
    assert children() == []
    thread.join(30)
    assert [type(error) for error in errors] == [RuntimeError]


def test_an_interrupt_ends_the_clip_and_not_the_reader(faulty: Faulty, tmp_path: Path) -> None:
    reader = faulty("hang", "bad")
    bad = tmp_path / "bad.mov"
    bad.write_bytes(CLIP.read_bytes())
    reader.read(CLIP, TWO)
    # A shell starts what it runs in the background with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            reader.read(bad, TWO)
    finally:
        signal.signal(signal.SIGINT, before)
    assert children() == []
    assert len(reader.read(CLIP, TWO)) == 2


@pytest.mark.parametrize("busy", [True, False], ids=["decoding", "idle"])
def test_the_child_dies_with_its_parent(busy: bool) -> None:
    code = f"""
        import sys
        from adatp_cli.video.isolated import IsolatedReader
        from adatp_cli.video.sampling import Sampling
        reader = IsolatedReader(command=(sys.executable, "-P", {str(WORKERS)!r}, "hang", "bad"))
        reader.read({str(CLIP)!r}, Sampling(frames=1))
        print(reader._child._process.pid, flush=True)
        reader.read({str(CLIP)!r}, Sampling(frames=1), name={"bad" if busy else "good"!r})
        sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(1.0)
        assert child.is_running()
        parent.kill()
    child.wait(30)


def test_a_stopped_child_dies_with_its_parent() -> None:
    code = f"""
        import sys
        from adatp_cli.video.isolated import IsolatedReader
        from adatp_cli.video.sampling import Sampling
        reader = IsolatedReader()
        reader.read({str(CLIP)!r}, Sampling(frames=1))
        print(reader._child._process.pid, flush=True)
        sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        child.suspend()
        parent.kill()
    child.wait(30)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a way")
def test_the_child_reaches_neither_files_nor_network_nor_secrets(
    faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "reached nothing" in failed(faulty("reach")).message


def test_a_limit_on_file_sizes_is_named_and_is_not_out_of_memory() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    clip = DATA / "flipping_a_pancake.mkv"
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        for source in (clip, clip.read_bytes()):  # in the child, and here
            with IsolatedReader() as reader, pytest.raises(ModelError, match="ulimit -f") as caught:
                reader.read(source, Sampling(frames=8))
            assert caught.value.exit_code == 4
            assert "--frames" in caught.value.hint
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
