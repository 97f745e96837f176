"""The file that a batch writes to: whole rows, each once, whatever ends a run."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adatp_cli.batch import results
from adatp_cli.batch.results import ResultFile
from adatp_cli.batch.row_format import csv_header, csv_line, jsonl_line
from adatp_cli.errors import AdatpError, UsageError
from tests.batch_rows import fill, key, keys_in, row

FORMATS = pytest.mark.parametrize("form", ["jsonl", "csv"])


# Runs that end early


CUT_ROWS = [row(number, ok=number % 4 != 3) for number in range(6)]
CUT_FILES = {
    "jsonl": [jsonl_line(item).encode() for item in CUT_ROWS],
    "csv": [csv_header().encode(), *(csv_line(item).encode() for item in CUT_ROWS)],
}


@settings(max_examples=60)
@given(data=st.data(), form=st.sampled_from(["jsonl", "csv"]))
def test_cut_anywhere_and_resumed_each_row_is_there_once(data: st.DataObject, form: str) -> None:
    rows, lines = CUT_ROWS, CUT_FILES[form]
    whole = b"".join(lines)
    cut = data.draw(st.integers(0, len(whole)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows"
        path.write_bytes(whole[:cut])
        with ResultFile.open(path, format=form, resume=True) as file:
            # What was whole is kept: no row is asked twice without need.
            count = sum(len(b"".join(lines[:n])) <= cut for n in range(1, len(lines) + 1))
            assert len(file.done) == max(0, count - (form == "csv"))
        fill(path, form, rows, resume=True)
        assert sorted(keys_in(path, form)) == sorted(key(item) for item in rows)
        fill(path, form, rows, resume=True)
        assert len(keys_in(path, form)) == len(rows)


@FORMATS
def test_a_torn_row_is_told(tmp_path: Path, form: str) -> None:
    path = tmp_path / "rows"
    fill(path, form, [row(0), row(2)])
    path.write_bytes(path.read_bytes()[:-3])
    with ResultFile.open(path, format=form, resume=True) as file:
        assert file.done == {key(row(0)): True}
        assert "cut short" in file.notes[0]
    path.write_bytes(path.read_bytes() + b"\0\0\0")  # what a power cut may leave
    with ResultFile.open(path, format=form, resume=True) as file:
        assert file.done == {key(row(0)): True}


SCRIPT = """
import sys
from adatp_cli.batch.results import ResultFile
from tests.batch_rows import key, row
path, form, action = sys.argv[1:4]
with ResultFile.open(path, format=form, resume=True) as file:
    for number in range(int(sys.argv[4])):
        if key(row(number)) not in file.done:
            file.write(row(number))
            print(number, flush=True)
    if action == "retry":
        file.forget_failed(list(file.done))
    if action == "hold":
        print("held", flush=True)
        sys.stdin.read()
"""


def other_run(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@FORMATS
def test_killed_again_and_again(tmp_path: Path, form: str) -> None:
    path = tmp_path / "rows"
    for _ in range(3):
        run = other_run(path, form, "", 10_000)
        assert run.stdout is not None
        for _ in range(7):
            run.stdout.readline()
        run.send_signal(signal.SIGKILL)  # the next row is on its way
        run.communicate()
    before = set(keys_in_whole_rows(path, form))
    assert len(before) >= 21
    fill(path, form, [row(number) for number in range(30)], resume=True)
    keys = keys_in(path, form)
    assert len(keys) == len(set(keys))
    assert before | {key(row(number)) for number in range(30)} == set(keys)


def keys_in_whole_rows(path: Path, form: str) -> list[str]:
    with ResultFile.open(path, format=form, resume=True) as file:
        return list(file.done)


def test_only_one_run_may_write_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    run = other_run(path, "jsonl", "hold", 1)
    assert run.stdout is not None
    assert [run.stdout.readline() for _ in range(2)] == ["0\n", "held\n"]
    before = path.read_bytes()
    for how in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(UsageError, match="another run is writing"):
            ResultFile.open(path, **how)
    assert path.read_bytes() == before
    run.kill()
    run.communicate()
    fill(path, "jsonl", [row(1)], resume=True)
    assert keys_in(path, "jsonl") == [key(row(0)), key(row(1))]


def test_a_file_that_is_replaced_before_it_is_locked_is_not_the_one_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "rows", tmp_path / "other"
    fill(path, "jsonl", [row(0)])
    fill(other, "jsonl", [row(1)])
    lock = results.lock

    def late(fd: int) -> bool:
        if other.exists():
            other.replace(path)
        return lock(fd)

    monkeypatch.setattr(results, "lock", late)
    fill(path, "jsonl", [row(2)], resume=True)
    assert keys_in(path, "jsonl") == [key(row(1)), key(row(2))]


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with ResultFile.open(tmp_path / "rows") as file:
        assert "no locks" in file.notes[0]
        file.write(row(0))
    assert keys_in(tmp_path / "rows", "jsonl") == [key(row(0))]


def test_a_run_that_replaces_its_file_keeps_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    fill(path, "jsonl", [row(0, ok=False), row(1)])
    with ResultFile.open(path, resume=True) as file:
        file.forget_failed(file.done)
        with pytest.raises(UsageError, match="another run is writing"):
            ResultFile.open(path, resume=True)
        file.write(row(0))
    assert keys_in(path, "jsonl") == [key(row(1)), key(row(0))]


# Disks and pipes


LIMITED = """
import resource, signal, sys
from adatp_cli.batch.results import ResultFile
from adatp_cli.errors import AdatpError
from tests.batch_rows import row
path, form, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    with ResultFile.open(path, format=form, resume=True) as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        if sys.argv[4] == "retry":
            file.forget_failed(list(file.done))
        for number in range(100):
            file.write(row(number))
except AdatpError as error:
    print(error.message, error.hint, sep="; ")
"""


def limited_run(*arguments: str | Path | int) -> str:
    command = [sys.executable, "-c", LIMITED, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_run_that_is_ended_while_its_model_loads_leaves_no_empty_file(
    clip: Path, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "adatp_cli", "batch", clip, "-q", "What?", "-o", out]
    run = subprocess.Popen([*command, "-m", checkpoint], stderr=subprocess.PIPE, text=True)
    while not out.exists():  # locked before the model is loaded, which takes seconds
        assert run.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    run.terminate()
    _, said = run.communicate(timeout=60)
    assert (run.returncode, said) == (128 + signal.SIGTERM, "")
    assert not list(tmp_path.iterdir())


@FORMATS
def test_a_row_that_finds_no_room_is_cut_off_again(tmp_path: Path, form: str) -> None:
    path = tmp_path / "rows"
    told = limited_run(path, form, 9000 if form == "jsonl" else 1000, "")
    assert "rows: the rows cannot be written: File too large; make room and run again" in told
    assert "--resume" in told
    held = keys_in(path, form)  # raises if half a row is there
    assert held == [key(row(number)) for number in range(len(held))]
    assert len(held) > 2
    fill(path, form, [row(number) for number in range(12)], resume=True)
    assert keys_in(path, form) == [key(row(number)) for number in range(12)]


def test_a_rewriting_that_finds_no_room_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    fill(path, "jsonl", [row(0), row(1, ok=False), row(2)])
    before = path.read_bytes()
    assert "File too large" in limited_run(path, "jsonl", 1000, "retry")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_device_and_a_pipe() -> None:
    with pytest.raises(AdatpError, match="No space left"), ResultFile.open("/dev/full") as file:
        file.write(row(0))
    with ResultFile.open("/dev/null") as file:
        file.write(row(0))
    with pytest.raises(UsageError, match="cannot be resumed"):
        ResultFile.open("/dev/null", resume=True)
    reader, writer = os.pipe()
    with ResultFile.open(f"/dev/fd/{writer}", format="csv") as file:
        file.write(row(0))
        assert os.read(reader, 10_000).decode() == csv_header() + csv_line(row(0))
        os.close(reader)
        with pytest.raises(AdatpError, match="reader has gone"):
            file.write(row(1))
    os.close(writer)


def test_a_file_that_others_change_meanwhile_is_not_written_to(tmp_path: Path) -> None:
    changes: dict[str, tuple[Callable[[Path], object], str]] = {
        "remove": (Path.unlink, "was removed"),
        "empty": (lambda path: path.write_bytes(b""), "was changed"),
        "rename": (lambda path: path.rename(path.with_name("kept")), "was renamed"),
        "replace": (lambda path: (tmp_path / "other").replace(path), "was removed"),
    }
    (tmp_path / "other").touch()
    for name, (change, said) in changes.items():
        path = tmp_path / name
        with ResultFile.open(path) as file:
            file.write(row(0))
            change(path)
            with pytest.raises(AdatpError, match=said):
                file.write(row(1))
    fill(tmp_path / "kept", "jsonl", [row(1)], resume=True)
    assert keys_in(tmp_path / "kept", "jsonl") == [key(row(0)), key(row(1))]
