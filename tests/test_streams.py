"""Every command on every kind of stream: what belongs on stdout is there, and nothing else is."""

from __future__ import annotations

import ast
import csv
import io
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import adatp_cli
from adatp_cli.cli.app import app
from tests.conftest import Finished
from tests.streams import SAME, Programs, screen


def commands(of: Any, *names: str) -> Iterator[tuple[str, ...]]:
    """The program, its commands and theirs, by their names."""
    yield names
    for name, command in getattr(of, "commands", {}).items():
        yield from commands(command, *names, name)


HELP = tuple(commands(typer.main.get_command(app)))
STDIN = ("file", "pipe", "pty", "closed")
STDOUT = ("file", "pipe", "pty")
STDERR = ("file", "pipe", "pty", SAME)
TINY = ("-m", "tiny", "-n", "2")
SHAPES = ("shapes", "--clips", "1", *TINY)
# What answers, with its form on stdout, in which a number may be another one in another run.
WITH_MODEL = {
    "ask": (("ask", "CLIP", "What?", "Who?", *TINY), "text"),
    "ask as JSON": (("ask", "CLIP", "What?", "Who?", "--json", *TINY), "jsonl"),
    "batch": (("batch", "FOLDER", "-q", "What?", *TINY), "jsonl"),
    "batch as CSV": (("batch", "CLIP", "-q", "What?", "--output-format", "csv", *TINY), "csv"),
    "eval as JSON": (("eval", *SHAPES, "-p", "vanilla", "--json"), "jsonl"),
    "eval": (("eval", *SHAPES, "-p", "vanilla"), "table"),
    "bench": (("bench", "CLIP", "-p", "vanilla", "--repeat", "1", "--no-vision",
               "--max-new-tokens", "1", *TINY), "table"),
    "bias": (("bias", *SHAPES, "-p", "adatp"), "table"),
    "demo": (("demo",), "text"),
    "doctor": (("doctor", "-m", "tiny", "--json"), "json"),
}  # fmt: skip
# stdin, stdout, stderr and --quiet: the pairs of streams where a bar moves come first, for all
# commands; the others are for those that most is done with.
CELLS = (
    ("closed", "file", "pty", False),
    ("pty", "pipe", "pty", False),
    ("pipe", "pty", SAME, False),
    ("file", "pipe", "file", True),
    ("closed", "pty", "pipe", True),
)
FEWER = 2
OFTEN = ("ask", "ask as JSON", "batch", "batch as CSV", "eval as JSON")


@pytest.fixture(scope="module")
def programs(decoders: tuple[str, ...]) -> Iterator[Programs]:
    with Programs(decoders) as programs:
        yield programs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> Path:
    """A clip, and a file that is none."""
    folder = tmp_path_factory.mktemp("sources")
    shutil.copy(clip, folder / "clip.mp4")
    (folder / "text.mp4").write_text("no video")
    return folder


def told(text: str, form: str) -> object:
    """What stands on stdout, without what may differ between two runs; it must be of its form."""
    if form == "jsonl":
        rows = [json.loads(line) for line in text.splitlines()]
        return [(row["ok"], row["video"], row["question"], row.get("answer")) for row in rows]
    if form == "json":
        return list(json.loads(text))
    if form == "csv":
        assert text.endswith("\r\n")
        return [[row["video"], row["answer"]] for row in csv.DictReader(io.StringIO(text))]
    if form == "table":  # drawn on a terminal
        return re.findall("[a-z]{2,}", text)
    return text


def untorn(text: str, form: str) -> str:
    """What is stdout's of what stands whole on a terminal that both streams go to."""
    begins = {"jsonl": ("{",), "csv": ("ok,", "true,"), "text": ("blue", "one")}[form]
    end = "\r\n" if form == "csv" else "\n"
    return "".join(f"{line}{end}" for line in screen(text) if line.startswith(begins))


@pytest.mark.parametrize("name", WITH_MODEL)
def test_a_command_says_the_same_on_all_streams(
    programs: Programs, clip: Path, folder: Path, name: str
) -> None:
    given, form = WITH_MODEL[name]
    arguments = [{"CLIP": clip, "FOLDER": folder}.get(one, one) for one in given]
    found = []
    for stdin, stdout, stderr, quiet in CELLS[: None if name in OFTEN else FEWER]:
        quietly = ["--quiet"] if quiet else []
        run = programs.run(*arguments, *quietly, stdin=stdin, stdout=stdout, stderr=stderr)
        assert run.code == (6 if name == "batch" else 0), run.err
        if stderr != "pty":
            assert "\x1b" not in run.err
        if quiet:
            assert run.err == ""
        found.append(told(untorn(run.out, form) if stderr == SAME else run.out, form))
    assert found[0]
    assert all(one == found[0] for one in found)


def test_what_needs_no_model_says_the_same_on_all_streams(programs: Programs) -> None:
    """Every combination where something is said on stdout, and where there is an error."""
    for arguments, code in ((("profiles", "list", "--json"), 0), (("ask", "none.mp4", "Who?"), 3)):
        usual = programs.run(*arguments)
        assert usual.code == code
        assert (len(usual.out.splitlines()) > 10, usual.err.count("\n")) == (
            not code,
            int(code > 0),
        )
        for streams in itertools.product(STDIN, STDOUT, STDERR):
            _same(programs, arguments, streams, usual)


@pytest.mark.parametrize(
    "arguments",
    [
        ("profiles", "list"),
        ("profiles", "show", "adatp", "-m", "tiny"),
        ("models", "list"),
        ("schema",),
        ("ask", "-h"),
    ],
    ids=" ".join,
)
def test_every_pair_of_kinds_of_streams_for_what_prints_text(
    programs: Programs, arguments: tuple[str, ...]
) -> None:
    usual = programs.run(*arguments)
    assert (usual.code, usual.err) == (0, "")
    kinds = (enumerate(STDIN), enumerate(STDOUT), enumerate(STDERR))
    for (first, stdin), (second, stdout), (third, stderr) in itertools.product(*kinds):
        if (first + second + third) % 3 == 0:
            _same(programs, arguments, (stdin, stdout, stderr), usual)


def _same(
    programs: Programs, arguments: tuple[str, ...], streams: tuple[str, ...], usual: Finished
) -> None:
    run = programs.run(*arguments, stdin=streams[0], stdout=streams[1], stderr=streams[2])
    assert run.code == usual.code
    if streams[2] == SAME:
        assert _plain(run.out) == _plain(usual.out + usual.err)
    else:
        assert _plain(run.out) == _plain(usual.out)
        assert _plain(run.err) == _plain(usual.err)


def _plain(text: str) -> list[str]:
    return [line for line in screen(text) if line]


@pytest.mark.parametrize("command", [*HELP, ("--version",)], ids=" ".join)
@pytest.mark.parametrize("stdout", ["full", "closed"])
def test_help_that_cannot_be_written_is_the_line_that_other_commands_give(
    programs: Programs, command: tuple[str, ...], stdout: str
) -> None:
    help_or_version = command if command == ("--version",) else (*command, "--help")
    for stdin, stderr in (("file", "pipe"), ("closed", "pty")):
        run = programs.run(*help_or_version, stdin=stdin, stdout=stdout, stderr=stderr)
        assert (run.code, run.out) == (1, "")
        reason = "No space left on device; make room, or write elsewhere"
        if stdout == "closed":
            reason = "stdout is closed; write elsewhere, as in > FILE"
        # A terminal breaks it between words.
        assert " ".join(_plain(run.err)) == f"error: the output cannot be written: {reason}"


@pytest.mark.parametrize("name", WITH_MODEL)
def test_a_closed_stdout_is_told_before_any_work(programs: Programs, name: str) -> None:
    """The clip is not there, which is not even looked at."""
    run = programs.run(*WITH_MODEL[name][0], stdout="closed")
    assert run.code == 1
    assert "stdout is closed" in run.error
    assert len(run.err.splitlines()) == 1


def test_a_closed_stdout_is_no_error_where_nothing_goes_there(
    programs: Programs, clip: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    run = programs.run("batch", clip, "-q", "What?", "-o", rows, *TINY, stdout="closed")
    assert run.code == 0
    assert json.loads(rows.read_text())["ok"]


@pytest.mark.parametrize("stderr", ["closed", "full", "unread"])
def test_a_stderr_that_takes_nothing_changes_no_exit_code(
    programs: Programs, clip: Path, stderr: str
) -> None:
    assert programs.run("ask", "no-such-clip.mp4", "What?", stderr=stderr).code == 3
    assert programs.run("frob", stderr=stderr).code == 2
    assert programs.run("ask", "--help", stdout="closed", stderr=stderr).code == 1
    run = programs.run("batch", clip, "-q", "What?", *TINY, stderr=stderr)
    assert (run.code, len(run.records)) == (0, 1)


@pytest.mark.parametrize("stdin", STDIN)
def test_what_is_read_from_stdin(programs: Programs, folder: Path, stdin: str) -> None:
    clip = folder / "clip.mp4"
    questions = programs.run("ask", clip, "-", *TINY, "--json", stdin=stdin, given=b"What?\nWho?\n")
    listed = f"{clip}\0".encode() * (stdin != "closed")
    rows = programs.run("batch", "-", "-0", "-q", "What?", *TINY, stdin=stdin, given=listed)
    if stdin == "closed":
        assert questions.code == 2
        assert "no question on stdin" in questions.error
    else:
        assert [record["question"] for record in questions.records] == ["What?", "Who?"]
    if stdin in ("pty", "closed"):
        assert rows.code == 2
        assert "no file or pipe" in rows.error
    else:
        assert [row["video"] for row in rows.records] == [str(clip)]
    typed = b"" if stdin == "pty" else clip.read_bytes()  # a byte of it would be Ctrl-C
    piped = programs.run("ask", "-", "What?", *TINY, stdin=stdin, given=typed)
    assert piped.code == (2 if stdin in ("pty", "closed") else 0)


def test_a_reader_that_has_had_enough_ends_the_help_quietly(programs: Programs) -> None:
    run = programs.run("--help", stdout="unread")
    assert (run.code, run.err) == (0, "")


def test_messages_are_broken_between_words_on_a_terminal_and_not_off_it(
    programs: Programs, tmp_path: Path
) -> None:
    name = f"{'a long name ' * 12}.mp4"
    asked = ("ask", name, "What?", "-m", "tiny")
    (line,) = programs.run(*asked, folder=tmp_path).err.splitlines()
    assert len(line) > 100
    shown = programs.run(*asked, stderr="pty", folder=tmp_path).err
    lines = screen(shown)
    assert len(lines) > 1
    assert max(map(len, lines)) <= 80
    assert " ".join(word.strip() for word in lines).split() == line.split()


def test_no_name_writes_a_line_or_moves_the_cursor_of_a_terminal(
    programs: Programs, clip: Path, tmp_path: Path
) -> None:
    forged = "9 answered, 0 failed"
    shutil.copy(clip, tmp_path / f"a\x1b[31m\x1b]0;x\x07\n{forged}.mp4")
    for name in (f".h\n{forged}\x1b[2J.mp4", f"b\r{forged}.mp4.part"):
        (tmp_path / name).touch()
    (tmp_path / f"c\n{forged}.mp4").write_text("no video")
    asked = ("batch", ".", "-q", "What?", *TINY)
    for more in ((), ("--verbose",), ("--output-format", "csv")):
        for stream in ("pty", "pipe"):
            run = programs.run(*asked, *more, stdout=stream, stderr=stream, folder=tmp_path)
            assert run.code == 6
            told = run.err + (run.out if stream == "pty" else "")
            for obeyed in ("\x1b]", "\x07", "\x1b[2J", "a\x1b[31m"):
                assert obeyed not in told
            if stream == "pipe":  # a terminal's lines break where they end
                assert not any(line.startswith(forged) for line in run.err.splitlines())


def test_rows_and_the_bar_share_no_terminal_whatever_the_rows_file_is_called(
    programs: Programs, clip: Path
) -> None:
    asked = ("batch", clip, "-q", "What?", "-q", "Who?", *TINY, "-o")
    to_stderr = programs.run(*asked, "/dev/stderr", stdout="closed", stderr="pty")
    assert len(told(untorn(to_stderr.err, "jsonl"), "jsonl")) == 2  # type: ignore[arg-type]
    to_stdout = programs.run(*asked, "/dev/stdout", stdout="file", stderr="pty")
    assert [row["question"] for row in to_stdout.records] == ["What?", "Who?"]
    assert "\x1b[?25l" in to_stdout.err  # the bar


def test_nothing_that_moves_takes_stdout_for_its_own() -> None:
    """rich redirects stdout to the terminal of stderr while anything of it moves, unless told."""
    calls = []
    for path in (Path(adatp_cli.__file__).parent / "cli").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"rich\.status|\.status\(|\btrack\(|rich\.prompt", text), path
        found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        calls += [call for call in found if getattr(call.func, "id", "") in ("Live", "Progress")]
    given = [{one.arg: ast.unparse(one.value) for one in call.keywords} for call in calls]
    assert len(given) >= 2
    assert all(call["redirect_stdout"] == call["redirect_stderr"] == "False" for call in given)
