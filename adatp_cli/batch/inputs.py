"""From what a user names as the source of a batch to clips with their questions; shards of them."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

from adatp_cli.batch.walk import (
    VIDEO_EXTENSIONS,
    ClipJob,
    Collection,
    Skipped,
    expand_pattern,
    is_pattern,
    kind_of,
    walk_folder,
)
from adatp_cli.errors import UsageError
from adatp_cli.files import StrPath, read_whole
from adatp_cli.tables import csv_lines, json_lines, read_text
from adatp_cli.text import decoded, is_utf16, plural, printable, shown
from adatp_cli.video.source import is_address, local_path, refused_address

STDIN = "-"
_SOURCES = "give a folder, a quoted glob, a manifest (.jsonl, .csv, .tsv), or - for a list on stdin"
_NO_QUESTION_HINT = "ask with -q QUESTION or with --questions FILE"
_LIST_HINT = "write one path a line"
# A list of files has no NUL in its first bytes unless it is separated by them; a video has.
_HEAD_BYTES = 1 << 16

_MANIFESTS = (".jsonl", ".csv", ".tsv")
_MANIFEST_HINT = "a manifest has the columns video and question"
# Between question_id, which is a name of its own, and quesiton.
_ALIKE = 0.85

_SHARD_HINT = "as in --shard 2/5: the second of five shares"


class NoVideoError(UsageError):
    """A folder or pattern in which there is no video."""


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
        _need_questions(asked)
        entries = dict.fromkeys(_stdin_entries(stdin, null_separated=null_separated))
        return Collection(tuple(ClipJob(local_path(entry), asked, entry) for entry in entries))
    source = local_path(source)
    if is_address(source):
        refused = refused_address(source)
        raise UsageError(refused.message, refused.hint)
    try:
        mode = os.stat(source).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        if not is_pattern(source):
            hint = _SOURCES if asked else f"{_SOURCES}; {_NO_QUESTION_HINT}"
            raise UsageError(
                f"{printable(source) or repr('')}: no such file or folder", hint
            ) from None
        found = expand_pattern(source, asked, follow_links=follow_links)
        return _some(found, source, "no video matches the pattern")
    except OSError as error:
        raise UsageError(
            f"{printable(source)}: cannot be read: {error.strerror}", "check the path"
        ) from None
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
        raise UsageError(f"{printable(source)}: is {kind_of(mode)}, which is no source", _SOURCES)
    if _ending(source) in _MANIFESTS:
        return _manifest(source, asked)
    _need_questions(asked)
    return Collection((ClipJob(source, asked, os.path.basename(source)),))


def read_questions_file(path: StrPath) -> list[str]:
    """The questions in a text file, one a line; blank lines and those behind # are none."""
    hint = "write one question a line, as UTF-8 text"
    text = read_text(path, "the questions", hint)
    # Not splitlines(): it also breaks at characters that may stand inside a question.
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise UsageError(f"{printable(os.fspath(path))}: holds no question", hint)
    return found


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _need_questions(asked: tuple[str, ...]) -> None:
    if not asked:
        raise UsageError("no question is asked", _NO_QUESTION_HINT)


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
        if b"\0" in data and not (null_separated or wide):
            raise UsageError(
                "the list on stdin holds NUL bytes",
                "give -0 if they separate its entries; a video itself goes to `adatp ask -`",
            )
        data += read_whole(stdin, "the list on stdin", _LIST_HINT)
    except OSError as error:
        raise UsageError(
            f"the list on stdin cannot be read: {error.strerror}", _LIST_HINT
        ) from None
    if wide:
        try:
            data = os.fsencode(decoded(data))
        except UnicodeError:
            raise UsageError("the list on stdin is damaged UTF-16", "write it as UTF-8") from None
    if null_separated:
        entries = data.split(b"\0")
    else:
        lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        entries = [line.removesuffix(b"\r") for line in lines]
    found = [os.fsdecode(entry) for entry in entries if entry]
    if not found:
        raise UsageError("no file on stdin", _LIST_HINT)
    return found


# Manifests: JSON Lines, CSV or TSV with a `video` and maybe a `question` a row; paths are relative
# to the manifest's folder. What else a row has is not looked at.


def _manifest(path: str, asked: tuple[str, ...]) -> Collection:
    """The clips of a manifest, each with the questions of all of its rows."""
    name, folder = printable(path), os.path.dirname(path)
    questions: dict[str, dict[str, None]] = {}
    fell_back = False
    for place, row in _manifest_rows(path, name):
        for column in ("video", "question"):
            value = row.get(column)
            if value is not None and not isinstance(value, str):
                raise UsageError(
                    f"{place}: {column} expects text, not {shown(value)}", _MANIFEST_HINT
                )
        video, own = row.get("video") or "", row.get("question") or ""
        if not video.strip():
            raise UsageError(f"{place}: the row names no video", _MANIFEST_HINT)
        if not own.strip() and not asked:
            raise UsageError(
                f"{place}: the row has no question", "write one, or ask all such rows with -q"
            )
        fell_back = fell_back or not own.strip()
        questions.setdefault(video, {}).update(dict.fromkeys([own] if own.strip() else asked))
    if not questions:
        raise UsageError(f"{name}: the manifest has no rows", _MANIFEST_HINT)
    jobs = tuple(
        ClipJob(local_path(video, folder), tuple(texts), video)
        for video, texts in questions.items()
    )
    unused = bool(asked) and not fell_back
    note = f"{name}: every row has its own question, so -q asks nothing"
    return Collection(jobs, notes=(note,) if unused else ())


def _manifest_rows(path: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row's place for messages, and its cells by the names of their columns in small letters.

    Refused are rows without a column `video`, and with a `question` that is only misspelt.
    """
    text = read_text(path, "the manifest", _MANIFEST_HINT)
    if _ending(path) == ".jsonl":
        for place, data in json_lines(text, name, 'as in {"video": "clip.mp4"}'):
            columns = _columns(data, place)
            yield place, dict(zip(columns, data.values(), strict=True))
        return
    hint = f'{_MANIFEST_HINT}, a comma in a cell needs "quotes"'
    columns = []
    for place, cells in csv_lines(text, name, hint):
        if not columns:
            columns = _columns(cells, place)
        elif any(cells[len(columns) :]):
            counts = f"{len(cells)} cells under {len(columns)} columns"
            raise UsageError(f"{place}: {counts}", hint)
        else:
            yield place, dict(zip(columns, cells, strict=False))


def _columns(names: Iterable[str], place: str) -> list[str]:
    columns = [name.strip().lower() for name in names]
    found = ", ".join(map(shown, columns[:8])) or "nothing"
    if "video" not in columns:
        raise UsageError(f"{place}: there is no column video, found {found}", _MANIFEST_HINT)
    if max(columns.count("video"), columns.count("question")) > 1:
        raise UsageError(f"{place}: a column stands twice, found {found}", _MANIFEST_HINT)
    # With -q a misspelt column would go unnoticed, and other questions be asked than are written.
    alike = difflib.get_close_matches("question", columns, n=1, cutoff=_ALIKE)
    if alike and alike[0] != "question":
        raise UsageError(
            f"{place}: unknown column {shown(alike[0])} (did you mean 'question'?)", _MANIFEST_HINT
        )
    return columns


# Shards: a share of a batch for each machine of several, without any of them asking the others.


def shard(jobs: Sequence[ClipJob], text: str) -> list[ClipJob]:
    """The jobs of one share, such as `2/5`, in their order.

    A job's share follows from its `relative` path alone: not from where the folder is mounted, nor
    from what else is in it, so a clip that is added or removed moves no other one.
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None:
        raise UsageError(f"--shard {printable(text)}: expects two numbers, i/n", _SHARD_HINT)
    index, count = int(match[1]), int(match[2])
    if not 1 <= index <= count:
        raise UsageError(
            f"--shard {text}: there is no such share, they go from 1 to n", _SHARD_HINT
        )
    return [job for job in jobs if _hash(job) % count == index - 1]


def _hash(job: ClipJob) -> int:
    name = (job.relative or job.path).replace(os.sep, "/")
    # Any text has to do, lone surrogates among it: names that are no UTF-8 hold them.
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest, "big")
