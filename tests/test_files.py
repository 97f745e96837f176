"""Where every command may write: asked before any work, in one way, and nothing is lost."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from adatp_cli.errors import UsageError
from adatp_cli.files import OutputPath, check_outputs, replacing
from tests.conftest import Run

NO_MODEL = ("-m", "no/model", "--offline")
# Each command's outputs: what it is called with, and the file that is written then.
WRITES = {
    "ask --trace": (("ask", "CLIP", "What?", "--trace", "OUT", *NO_MODEL), ".npz"),
    "batch -o": (("batch", "CLIP", "-q", "What?", "-o", "OUT", *NO_MODEL), ".jsonl"),
    "bench -o": (("bench", "CLIP", "-o", "OUT", *NO_MODEL), ".json"),
    "bench --plot": (("bench", "CLIP", "--plot", "OUT", *NO_MODEL), ".png"),
    "demo --save-clip": (("demo", "--save-clip", "OUT"), ".mp4"),
    "eval -o": (("eval", "shapes", "-o", "OUT", *NO_MODEL), ".jsonl"),
    "export": (("export", "ROWS", "OUT"), ".csv"),
    "show -o": (("show", "CLIP", "What?", "-o", "OUT", *NO_MODEL), ".png"),
    "show --trace": (("show", "CLIP", "What?", "-o", "a.png", "--trace", "OUT", *NO_MODEL), ".npz"),
}
EVERY = pytest.mark.parametrize("name", WRITES)


def called(name: str, clip: Path, out: str | Path) -> list[str | Path]:
    return [{"CLIP": clip, "OUT": out, "ROWS": clip}.get(one, one) for one in WRITES[name][0]]


@EVERY
def test_a_file_that_exists_is_left_alone(
    adatp: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / f"mine{WRITES[name][1]}"
    out.write_text("mine")
    run = adatp(*called(name, clip, out))
    assert run.code == 2
    assert f"mine{WRITES[name][1]}: exists already" in run.error
    assert "replace it with --overwrite" in run.error
    assert out.read_text() == "mine"


@EVERY
@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("none/x", "there is no such folder"),
        ("mine/x", "mine is no folder"),
        ("folder", "is a folder"),
        ("x" * 300, "File name too long"),
        ("loop", "Too many levels of symbolic links"),
        ("/proc/x", "cannot be written"),
        ("socket", "is no file that can be replaced"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_told_at_once(
    adatp: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    name: str, place: str, said: str,
) -> None:  # fmt: skip
    import socket

    monkeypatch.chdir(tmp_path)
    suffix = WRITES[name][1]
    (tmp_path / "mine").write_text("mine")
    (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / f"loop{suffix}").symlink_to(f"loop{suffix}")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(f"socket{suffix}")
    run = adatp(*called(name, clip, f"{place}{suffix}"), "--overwrite")
    assert run.code == 2
    assert said in run.error
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["mine", f"folder{suffix}", f"loop{suffix}", f"socket{suffix}"]
    )


@pytest.mark.parametrize("link", ["same", "symlink", "hard link", "another way"])
def test_no_input_is_ever_written_to(
    adatp: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: str
) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path)
    inputs = {
        "clip.mp4": clip.read_bytes(), "ask.txt": b"What?\n",
        "mine.yaml": b"name: mine\nmethod: vanilla\n",
        "set.jsonl": b'{"video": "clip.mp4", "question": "What?", "answer": "x"}\n',
        "list.jsonl": b'{"video": "clip.mp4", "question": "What?"}\n',
    }  # fmt: skip
    for name, content in inputs.items():
        (tmp_path / "in" / name).write_bytes(content)

    def named(name: str) -> str | Path:
        real, other = tmp_path / "in" / name, tmp_path / name
        if link == "same":
            return real
        if link == "another way":
            return f"in/../in/{name}"
        (other.symlink_to if link == "symlink" else other.hardlink_to)(real)
        return other

    clip_too, asked, profile, dataset, manifest = map(named, inputs)
    for arguments in (
        ("show", "in/clip.mp4", "What?", "-o", clip_too),
        ("batch", "in/clip.mp4", "-q", "What?", "-o", clip_too),
        ("batch", "in", "-q", "What?", "-o", clip_too),
        ("batch", "in/clip.mp4", "--questions", "in/ask.txt", "-o", asked),
        ("batch", "in/list.jsonl", "-o", manifest),
        ("batch", "in/clip.mp4", "-q", "What?", "-p", "in/mine.yaml", "-o", profile),
        ("bench", "in/clip.mp4", "-o", clip_too),
        ("bench", "in/clip.mp4", "-p", "in/mine.yaml", "-o", profile),
        ("eval", "in/set.jsonl", "-o", dataset),
        ("eval", "in/set.jsonl", "-o", clip_too),
    ):
        run = adatp(*arguments, "--overwrite", *NO_MODEL)
        assert run.code == 2, arguments
        assert "is read by this run" in run.error
    for name, content in inputs.items():
        assert (tmp_path / "in" / name).read_bytes() == content


def test_each_of_several_traces_is_looked_for(adatp: Run, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "t-2.npz").write_text("mine")
    given = ("ask", clip, "What?", "Who?", "-m", "tiny", "-n", "2", "--trace", tmp_path / "t.npz")
    assert "t-2.npz: exists already" in adatp(*given).error
    assert [path.name for path in tmp_path.iterdir()] == ["t-2.npz"]
    assert adatp(*given, "--overwrite").code == 0
    assert (tmp_path / "t-2.npz").read_bytes().startswith(b"PK")


@pytest.mark.parametrize("command", ["eval", "bias"])
@pytest.mark.parametrize("name", ["report.md", "summary.csv", "kinds.png", "bias-frames.png"])
def test_no_file_of_a_report_replaces_one_of_the_users(
    adatp: Run, tmp_path: Path, command: str, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    run = adatp(command, "shapes", "--report", tmp_path, *NO_MODEL)
    theirs = {"bias": ("summary.csv", "kinds.png"), "eval": ("bias-frames.png",)}[command]
    assert run.code == (4 if name in theirs else 2), run.err
    assert ("exists already" in run.error) == (name not in theirs)
    nowhere = tmp_path / name / "deeper" / "report"
    assert "is no folder" in adatp(command, "shapes", "--report", nowhere, *NO_MODEL).error


def test_two_outputs_are_two_files(adatp: Run, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    run = adatp("bench", clip, "-o", out, "--plot", out, *NO_MODEL)
    assert "x.png: is the file of -o too" in run.error
    rows = tmp_path / "r" / "answers.jsonl"
    (tmp_path / "r").mkdir()
    run = adatp("eval", "shapes", "--report", rows.parent, "-o", rows, *NO_MODEL)
    assert "is the file of --report too" in run.error


@EVERY
def test_overwriting_needs_something_to_replace(adatp: Run, clip: Path, name: str) -> None:
    command = WRITES[name][0][0]
    bare = {"ask": (clip, "What?"), "batch": (clip, "-q", "What?"), "bench": (), "demo": (),
            "eval": ("shapes",)}  # fmt: skip
    if command in bare:
        run = adatp(command, *bare[command], "--overwrite")
        assert (run.code, "nothing to replace" in run.error) == (2, True)


def test_stdins_file_and_stdouts_are_not_written_to(tmp_path: Path) -> None:
    """As in `adatp show - QUESTION -o clip.mp4 < clip.mp4`."""
    files = [tmp_path / "in", tmp_path / "out"]
    saved = [os.dup(number) for number in (0, 1)]
    try:
        for number, file in enumerate(files):
            file.touch()
            fd = os.open(file, os.O_RDWR)
            os.dup2(fd, number)
            os.close(fd)
        for file, said in zip(files, ("what stdin reads", "where stdout goes"), strict=True):
            with pytest.raises(UsageError, match=said):
                check_outputs([OutputPath("-o", file)], overwrite=True)
    finally:
        for number, fd in enumerate(saved):
            os.dup2(fd, number)
            os.close(fd)


def test_what_can_hold_nothing_may_be_written_to(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader, writer = os.pipe()
    for path in ("/dev/null", "/dev/full", fifo, f"/dev/fd/{writer}", f"/proc/self/fd/{writer}"):
        check_outputs([OutputPath("--trace", Path(path), (".npz",))])
    for path in ("/dev/fd/987654", f"/dev/fd/{reader}"):
        with pytest.raises(UsageError, match="Bad file descriptor"):
            check_outputs([OutputPath("-o", Path(path))])
    with pytest.raises(UsageError, match="something else goes to stdout"):
        check_outputs([OutputPath("--trace", Path("/dev/stdout"))])
    os.close(reader)
    os.close(writer)


def test_a_stream_gets_the_bytes_and_stays_what_it_is(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    with replacing(fifo, "the picture") as file:
        file.write_bytes(b"picture")
    reader.join()
    assert (got, fifo.is_fifo()) == ([b"picture"], True)
    with replacing(Path("/dev/null"), "the picture") as file:
        file.write_bytes(b"picture")
    assert Path("/dev/null").is_char_device()
    with (
        pytest.raises(UsageError, match="No space left on device"),
        replacing(Path("/dev/full"), "the picture") as file,
    ):
        file.write_bytes(b"picture")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    link, real = tmp_path / "latest.png", tmp_path / "real.png"
    link.symlink_to("real.png")
    for content in ("first", "second"):
        check_outputs([OutputPath("-o", link)], overwrite=content == "second")
        with replacing(link, "the picture") as file:
            file.write_text(content)
        assert link.is_symlink()
        assert real.read_text() == content


def test_a_folder_without_rights_is_told_before_anything_is_run(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    (tmp_path / "theirs").touch(mode=0o400)
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    for path in (folder / "x", tmp_path / "theirs"):
        with pytest.raises(UsageError, match="Permission denied"):
            check_outputs([OutputPath("-o", path)], overwrite=True)
