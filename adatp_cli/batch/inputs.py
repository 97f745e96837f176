"""From what a user names as the source of a batch to clips with their questions."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from typing import BinaryIO

from adatp_cli.batch.manifest import MANIFEST_EXTENSIONS, read_manifest
from adatp_cli.batch.shards import Shard, parse_shard, select
from adatp_cli.batch.walk import (
    VIDEO_EXTENSIONS,
    ClipJob,
    Collection,
    Skipped,
    expand_pattern,
    is_pattern,
    walk_folder,
)
from adatp_cli.errors import UsageError
from adatp_cli.files import read_whole
from adatp_cli.text import decoded, is_utf16, plural, printable
from adatp_cli.video.source import is_address, local_path, refused_address

__all__ = [
    "ClipJob",
    "Collection",
    "NoVideoError",
    "Shard",
    "Skipped",
    "collect",
    "collect_all",
    "parse_shard",
    "read_questions_file",
    "select",
]

STDIN = "-"
_SOURCES = "give a folder, a quoted glob, a manifest (.jsonl, .csv, .tsv), or - for a list on stdin"
_NO_QUESTION_HINT = "ask with -q QUESTION or with --questions FILE"
# A list of files has no NUL in its first bytes unless it is separated by them; a video has.
_HEAD_BYTES = 1 << 16


def collect_all(
    sources: Sequence[str],
    questions: Sequence[str],
    *,
    stdin: BinaryIO | None = None,
    null_separated: bool = False,
    follow_links: bool = False,
) -> Collection:
    """What several sources name, in their order; a file that several of them name comes once.

    It is asked everything that is asked about it anywhere. A folder or pattern without a video is a
    note where another source has one. For the parameters see `collect`.
    """
    if list(sources).count(STDIN) > 1:
        raise UsageError("- is named twice, and there is one stdin", "name it once")
    jobs: dict[str, ClipJob] = {}
    skipped: list[Skipped] = []
    notes: list[str] = []
    ignored = 0
    nothing: NoVideoError | None = None
    for source in sources:
        try:
            found = collect(
                source,
                questions,
                stdin=stdin,
                null_separated=null_separated and (source == STDIN or STDIN not in sources),
                follow_links=follow_links,
            )
        except NoVideoError as error:
            nothing = nothing or error
            notes.append(error.message)
            continue
        for job in found.jobs:
            name = os.path.realpath(job.path) if len(sources) > 1 else job.path
            first = jobs.get(name, job)
            asked = tuple(dict.fromkeys([*first.questions, *job.questions]))
            jobs[name] = ClipJob(first.path, asked, first.relative)
        skipped += found.skipped
        notes += found.notes
        ignored += found.ignored
    if nothing is not None and not jobs:
        raise nothing
    return Collection(tuple(jobs.values()), tuple(skipped), ignored, tuple(notes))


class NoVideoError(UsageError):
    """A folder or pattern in which there is no video."""


def collect(
    source: str,
    questions: Sequence[str],
    *,
    stdin: BinaryIO | None = None,
    null_separated: bool = False,
    follow_links: bool = False,
) -> Collection:
    """Every clip that a source names, with what is asked about it.

    ``-`` is a list on stdin, one path a line; a folder, all videos below it; a manifest, its rows;
    any other file, that one clip; else a pattern with ``*``, ``?``, ``[...]`` or ``**``. Folders
    and patterns are sorted by path components, numbers by their value; lists and manifests keep
    the order in which each file first comes. A list's entry is always a job: what cannot be read
    becomes a failed row.
    """
    asked = tuple(dict.fromkeys(questions))
    if not all(question.strip() for question in asked):
        raise UsageError("a question is blank", "ask something")
    if null_separated and source != STDIN:
        raise UsageError("-0 is about a list on stdin", "give - as the source, or leave -0 out")
    if source == STDIN:
        return _listed(_stdin_entries(stdin, null_separated=null_separated), asked)
    source = local_path(source)
    if is_address(source):
        refused = refused_address(source)
        raise UsageError(refused.message, refused.hint)
    mode = _mode(source)
    if mode is None:
        if not is_pattern(source):
            hint = _SOURCES if asked else f"{_SOURCES}; {_NO_QUESTION_HINT}"
            raise UsageError(f"{printable(source) or repr('')}: no such file or folder", hint)
        found = expand_pattern(source, asked, follow_links=follow_links)
        return _some(found, source, "no video matches the pattern")
    if stat.S_ISDIR(mode):
        try:
            found = walk_folder(source, asked, follow_links=follow_links)
        except OSError as error:
            raise UsageError(
                f"{printable(source)}: the folder cannot be read: {error.strerror}",
                "check its rights",
            ) from None
        return _some(found, source, "no video in it or below it")
    if not stat.S_ISREG(mode):
        what = "a named pipe" if stat.S_ISFIFO(mode) else "a device or socket"
        raise UsageError(f"{printable(source)}: is {what}, which is no source", _SOURCES)
    if os.path.splitext(source)[1].lower() in MANIFEST_EXTENSIONS:
        return read_manifest(source, asked)
    _need_questions(asked)
    return Collection((ClipJob(source, asked, os.path.basename(source)),))


def read_questions_file(path: str | os.PathLike[str]) -> list[str]:
    """The questions in a text file, one a line; blank lines and those behind # are none."""
    shown = printable(os.fspath(path))
    hint = "write one question a line, as UTF-8 text"
    try:
        with open(path, "rb") as file:
            text = decoded(read_whole(file, f"{shown}: the questions", hint))
    except UnicodeDecodeError:
        raise UsageError(f"{shown}: is not UTF-8 text, so no file of questions", hint) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{shown}: the questions cannot be read: {reason}", hint) from None
    # Not splitlines(): it also breaks at characters that may stand inside a question.
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise UsageError(f"{shown}: holds no question", hint)
    return found


def _mode(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise UsageError(
            f"{printable(path)}: cannot be read: {error.strerror}", "check the path"
        ) from None


def _some(found: Collection, source: str, nothing: str) -> Collection:
    """What was found, or, where that is no video, an error that says what else was seen."""
    if found.jobs:
        _need_questions(found.jobs[0].questions)
        return found
    seen = []
    if found.ignored:
        seen.append(plural(found.ignored, "other file"))
    if found.skipped:
        first = found.skipped[0]
        told = f"{printable(first.path)}, {printable(first.reason)}"
        seen.append(f"{len(found.skipped)} skipped, the first: {told}")
    raise NoVideoError(
        f"{printable(source)}: {nothing}" + (f" ({'; '.join(seen)})" if seen else ""),
        f"videos are told by their extensions: {' '.join(sorted(VIDEO_EXTENSIONS))}",
    )


def _listed(entries: Iterable[str], asked: tuple[str, ...]) -> Collection:
    _need_questions(asked)
    jobs = (ClipJob(local_path(entry), asked, entry) for entry in dict.fromkeys(entries))
    return Collection(tuple(jobs))


def _stdin_entries(stdin: BinaryIO | None, *, null_separated: bool) -> list[str]:
    """The entries of the list on stdin; bytes that are no UTF-8 as the file system has them."""
    if stdin is None or stdin.isatty():
        raise UsageError(
            "the source is -, and stdin is no file or pipe",
            "as in: find clips -name '*.mp4' | adatp batch - -q QUESTION",
        )
    try:
        data = stdin.read(_HEAD_BYTES)
        wide = is_utf16(data)
        rest = b""
        if b"\0" not in data or null_separated or wide:
            rest = read_whole(stdin, "the list on stdin", "write one path a line")
    except OSError as error:
        raise UsageError(
            f"the list on stdin cannot be read: {error.strerror}", "write one path a line"
        ) from None
    if b"\0" in data and not (null_separated or wide):
        raise UsageError(
            "the list on stdin holds NUL bytes",
            "give -0 if they separate its entries; a video itself goes to `adatp ask -`",
        )
    data += rest
    if wide:
        data = _as_bytes(data)
    if null_separated:
        entries = data.split(b"\0")
    else:
        entries = [
            line.removesuffix(b"\r") for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        ]
    found = [os.fsdecode(entry) for entry in entries if entry]
    if not found:
        raise UsageError("no file on stdin", "write one path a line")
    return found


def _as_bytes(data: bytes) -> bytes:
    """A list in UTF-16 as the file system would spell it."""
    try:
        return os.fsencode(decoded(data))
    except UnicodeError:
        raise UsageError("the list on stdin is damaged UTF-16", "write it as UTF-8") from None


def _need_questions(asked: tuple[str, ...]) -> None:
    if not asked:
        raise UsageError("no question is asked", _NO_QUESTION_HINT)
