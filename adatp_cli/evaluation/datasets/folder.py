"""What benchmarks share: a folder with videos and an annotation file, each cell asked for by name.

Whatever does not fit is one line that names the file, the row and the column.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adatp_cli.answering.tasks import FileClip
from adatp_cli.errors import ModelError, UsageError
from adatp_cli.evaluation.questions import letters
from adatp_cli.tables import csv_lines, json_lines, read_bytes, read_text
from adatp_cli.text import printable, shown

LETTER_CLOSING = "Answer with the option's letter from the given choices directly."
# Benchmarks name a video by its id, or with another ending than the copy on disk has.
_ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".MP4")
_COLUMNS_SHOWN = 8
_WHAT = "the annotations"
_AGAIN = "get the annotation file again"

_Rows = Iterator[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of annotations; `place` names file and row for messages.

    A cell is read as what is expected of it, or that is a `UsageError`.
    """

    place: str
    cells: Mapping[str, Any]
    benchmark: str = ""

    def error(self, message: str) -> UsageError:
        return UsageError(f"{self.place}: {message}", "is it the benchmark's own annotation file?")

    def cell(self, column: str) -> Any:
        """Whatever stands in a column; there has to be one."""
        if column not in self.cells:
            found = ", ".join(map(shown, list(self.cells)[:_COLUMNS_SHOWN])) or "nothing"
            raise UsageError(
                f"{self.place}: there is no column {column!r}, found {found}",
                f"is it an annotation file of {self.benchmark}?",
            )
        return self.cells[column]

    def text(self, column: str) -> str:
        """A cell's text, which is not blank; a whole number counts as its digits."""
        value = self.cell(column)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"{column} expects text, not {shown(value)}")
        return value

    def maybe(self, column: str) -> str:
        """A cell's text, empty where the cell is or there is no such column."""
        return "" if self.cells.get(column) in (None, "") else self.text(column)

    def texts(self, column: str) -> tuple[str, ...]:
        """A cell's list of texts, 1 to 26 of them: the options of a question."""
        value = _parsed(self.cell(column))  # CSV knows no lists
        if not isinstance(value, list) or not 1 <= len(value) <= 26:
            raise self.error(f"{column} expects a list of 1 to 26 texts, not {shown(value)}")
        for option in value:
            if isinstance(option, bool) or not isinstance(option, str | int | float):
                raise self.error(f"{column} expects texts, not {shown(option)}")
        return tuple(map(str, value))

    def seconds(self, column: str) -> float | None:
        """A cell's time in seconds, None where there is none."""
        value = self.cells.get(column)
        if value in (None, ""):
            return None
        seconds = _parsed(value)
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not number or not math.isfinite(seconds) or seconds < 0:
            raise self.error(f"{column} expects seconds, not {shown(seconds)}")
        return float(seconds)

    def letter(self, column: str, options: Sequence[str]) -> str:
        """The letter of the right option, where the cell holds it."""
        answer = self.text(column).strip().rstrip(".").upper()
        known = letters(len(options))
        if len(answer) != 1 or answer not in known:
            raise self.error(f"{column} {shown(self.cells[column])} is none of {', '.join(known)}")
        return answer

    def nth_letter(self, column: str, options: Sequence[str]) -> str:
        """The letter of the right option, where the cell holds its number from 0 on."""
        number = self.cell(column)
        if isinstance(number, str) and re.fullmatch(r"\s*[0-9]{1,18}\s*", number):
            number = int(number)
        if isinstance(number, bool) or not isinstance(number, int):
            raise self.error(f"{column} expects a whole number, not {shown(number)}")
        if not 0 <= number < len(options):
            raise self.error(f"{column} {number} is none of 0 to {len(options) - 1}")
        return letters(26)[number]

    def groups(self, columns: Mapping[str, str]) -> dict[str, str]:
        """The parts of divisions that the row belongs to: division -> column, where it says one."""
        return {title: self.maybe(name) for title, name in columns.items() if self.maybe(name)}


class Folder:
    """Where a benchmark's files are."""

    def __init__(self, path: Path, given: Path | None, title: str) -> None:
        self.path = path
        self.given = given  # the annotation file, or the folder of such files, that the user named
        self.title = title  # of the benchmark, for messages
        self.source = path  # where the questions are from, for messages
        self.notes: list[str] = []  # what the user should know of them, a line each

    def table(self, *patterns: str) -> Iterator[Row]:
        """The rows of the annotation file: the one that was named, or the first in its places."""
        if self.given is not None and not self.given.exists():
            raise UsageError(f"{place(self.given)}: no such annotation file", "check --annotations")
        usual = (path for pattern in patterns for path in sorted(self.path.glob(pattern)))
        found = self.given or next(usual, None)
        if found is None:
            raise UsageError(
                f"{place(self.path)}: there is no annotation file of {self.title} (looked for "
                f"{', '.join(patterns)})",
                "name it with --annotations FILE",
            )
        self.source = found
        return self.rows(found)

    def rows(self, path: Path) -> Iterator[Row]:
        """The rows of an annotation file, at least one.

        A `UsageError` where it cannot be read, is damaged or has none, and a `ModelError` where
        pyarrow is missing.
        """
        name, extension = place(path), path.suffix.lower()
        if extension not in _READERS:
            raise UsageError(
                f"{name}: is no annotation file by its name", f"it ends in {', '.join(_READERS)}"
            )
        rows = list(_READERS[extension](path, name))
        if not rows:
            raise UsageError(f"{name}: holds no questions", _AGAIN)
        return (Row(*row, self.title) for row in rows)

    def clip(self, row: Row, column: str, *names: str) -> FileClip:
        """The video file that a row names, below one of the folders of these names in this one."""
        return find_clip(row, row.text(column), [self.path / name for name in names])


def find_clip(
    row: Row,
    name: str,
    roots: Sequence[Path],
    start_s: float | None = None,
    end_s: float | None = None,
) -> FileClip:
    """The video file that a row calls `name`, below one of several folders.

    Where it is nowhere, at the path at which it was expected first.
    """
    check_name(name, row)
    stem, extension = os.path.splitext(name)
    stems = [name] if extension.lower() not in _ENDINGS else [name, stem]
    names = [name, *(f"{one}{end}" for one in stems for end in _ENDINGS)]
    paths = [root / one for root in roots for one in names]
    # Without an ending of its own it is expected with the first that is known.
    expected = paths[0] if extension else paths[1]
    found = next((path for path in paths if path.is_file()), expected)
    return FileClip(os.fspath(found), start_s, end_s)


def check_name(name: str, row: Row) -> None:
    """Refuse a video's name that leads out of the benchmark's folder."""
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or "\0" in name:
        raise row.error(f"the video's name {printable(name)!r} leads out of the folder")


def read_json(path: Path) -> Any:
    """A JSON file's value, or a `UsageError`."""
    text = read_text(path, _WHAT, _AGAIN)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UsageError(f"{place(path)}{line}: is not JSON", _AGAIN) from None


def read_object(path: Path, of: str, kind: type = object) -> Mapping[str, Any]:
    """A JSON file's object, or a `UsageError`; `of` says what its values are, all of one kind."""
    value = read_json(path)
    if not isinstance(value, dict) or not all(isinstance(one, kind) for one in value.values()):
        raise UsageError(f"{place(path)}: expects an object of {of}", "get it again")
    return value


def lettered(options: Iterable[str], form: str) -> str:
    """Options one a line, `form` a pattern such as ``({}) {}``."""
    return "\n".join(map(form.format, letters(26), options))


def bare(option: str) -> str:
    """An option without the letter that it is stored with: "A. Apples." """
    return option[2:].strip() if option[1:2] == "." else option


def letter_of(answer: str, options: Sequence[str]) -> str:
    """The letter of the first option that is the answer's text; empty where none is."""
    return letters(26)[options.index(answer)] if answer in options else ""


def place(path: Path) -> str:
    return printable(os.fspath(path))


def _json_rows(path: Path, name: str) -> _Rows:
    value = read_json(path)
    if not isinstance(value, list):
        raise UsageError(
            f"{name}: expects a list of questions, not {shown(value)}", "name another file"
        )
    for number, entry in enumerate(value, 1):
        where = f"{name}, entry {number}"
        if not isinstance(entry, dict):
            raise UsageError(f"{where}: expects an object, not {shown(entry)}", "name another file")
        yield where, entry


def _jsonl_rows(path: Path, name: str) -> _Rows:
    return json_lines(read_text(path, _WHAT, _AGAIN), name, "write one object a line")


def _csv_rows(path: Path, name: str) -> _Rows:
    lines = csv_lines(read_text(path, _WHAT, _AGAIN), name, "get the file again")
    columns = [cell.strip() for cell in next(lines, ("", []))[1]]
    for where, cells in lines:
        if len(cells) != len(columns):
            raise UsageError(f"{where}: has not as many cells as columns", "get the file again")
        yield where, dict(zip(columns, cells, strict=True))


def _parquet_rows(path: Path, name: str) -> _Rows:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ModelError(
            f"{name}: reading parquet needs pyarrow",
            "pip install pyarrow, or give the annotations as JSON, JSON Lines or CSV",
        ) from None
    read_bytes(path, _WHAT, _AGAIN)  # says why, where it cannot be read
    try:
        entries = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{name}: is not parquet: {reason}", "get the file again") from None
    return ((f"{name}, row {number}", entry) for number, entry in enumerate(entries, 1))


_READERS = {
    ".json": _json_rows,
    ".jsonl": _jsonl_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}


def _parsed(value: object) -> Any:
    """What a text says as JSON, where it says anything; other values as they are."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
