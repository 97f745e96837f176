"""Annotation files: tables in JSON, JSON Lines, CSV or parquet, each cell asked for by name.

Whatever does not fit is one line that names the file, the row and the column.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adatp_cli.errors import ModelError, UsageError
from adatp_cli.evaluation.questions import letters
from adatp_cli.files import read_whole
from adatp_cli.profile_yaml import shown
from adatp_cli.text import decoded
from adatp_cli.video.source import printable

EXTENSIONS = (".json", ".jsonl", ".csv", ".parquet")
# No benchmark's annotations are this large; a video given by mistake may be.
_MAX_BYTES = 1 << 30
_COLUMNS_SHOWN = 8
_SEPARATORS = (",", ";", "\t")


@dataclass(frozen=True, slots=True)
class Row:
    """One row; `place` names file and row for messages."""

    place: str
    cells: Mapping[str, Any]

    def text(self, column: str) -> str:
        """A cell's text, which is not blank; a whole number counts as its digits.

        Raises
        ------
        UsageError
            There is none.
        """
        value = self.cells.get(column)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"{column} expects text, not {shown(value)}")
        return value

    def maybe(self, column: str) -> str:
        """A cell's text, empty where the cell is or there is no such column."""
        value = self.cells.get(column)
        return "" if value is None or value == "" else self.text(column)

    def texts(self, column: str) -> tuple[str, ...]:
        """A cell's list of texts, 1 to 26 of them: the options of a question.

        Raises
        ------
        UsageError
            The cell holds no such list.
        """
        value = self.cells.get(column)
        if isinstance(value, str):  # CSV knows no lists
            value = _parsed(value)
        if not isinstance(value, list) or not value or len(value) > len(letters(26)):
            raise self.error(f"{column} expects a list of 1 to 26 texts, not {shown(value)}")
        return tuple(self._option(column, option) for option in value)

    def whole(self, column: str) -> int:
        """A cell's whole number.

        Raises
        ------
        UsageError
            The cell holds none.
        """
        value = self.cells.get(column)
        if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,18}\s*", value):
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(f"{column} expects a whole number, not {shown(value)}")
        return value

    def seconds(self, column: str) -> float | None:
        """A cell's time in seconds, None where there is none.

        Raises
        ------
        UsageError
            The cell holds something else.
        """
        value = self.cells.get(column)
        if value is None or value == "":
            return None
        if isinstance(value, str):
            value = _parsed(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(f"{column} expects seconds, not {shown(self.cells[column])}")
        if not math.isfinite(value) or value < 0:
            raise self.error(f"{column} expects seconds, not {shown(value)}")
        return float(value)

    def letter(self, column: str, options: Sequence[str]) -> str:
        """The letter of the right option.

        Raises
        ------
        UsageError
            The cell holds no letter of these options.
        """
        answer = self.text(column).strip().rstrip(".").upper()
        known = letters(len(options))
        if len(answer) != 1 or answer not in known:
            raise self.error(f"{column} {shown(self.cells[column])} is none of {', '.join(known)}")
        return answer

    def nth_letter(self, column: str, options: Sequence[str]) -> str:
        """The letter of the right option, from its number from 0 on.

        Raises
        ------
        UsageError
            The cell holds no such number.
        """
        number = self.whole(column)
        if not 0 <= number < len(options):
            raise self.error(f"{column} {number} is none of 0 to {len(options) - 1}")
        return letters(26)[number]

    def error(self, message: str) -> UsageError:
        """An error of this row."""
        return UsageError(f"{self.place}: {message}", "is it the benchmark's own annotation file?")

    def _option(self, column: str, option: object) -> str:
        if isinstance(option, int | float) and not isinstance(option, bool):
            return str(option)
        if not isinstance(option, str):
            raise self.error(f"{column} expects texts, not {shown(option)}")
        return option


def read_rows(path: Path, columns: Iterable[str], title: str) -> list[Row]:
    """The rows of an annotation file.

    Parameters
    ----------
    path
        Ends in one of `EXTENSIONS`.
    columns
        Every row must have these.
    title
        The benchmark's name, for messages.

    Raises
    ------
    UsageError
        The file cannot be read, is damaged, has no rows, or is another benchmark's.
    ModelError
        It is parquet, and pyarrow is not installed.
    """
    name = printable(os.fspath(path))
    extension = path.suffix.lower()
    if extension not in EXTENSIONS:
        raise UsageError(
            f"{name}: is no annotation file by its name", f"it ends in {', '.join(EXTENSIONS)}"
        )
    rows = list(_READERS[extension](path, name))
    if not rows:
        raise UsageError(f"{name}: holds no questions", "get the annotation file again")
    for row in rows:
        missing = [column for column in columns if column not in row.cells]
        if missing:
            found = ", ".join(shown(key) for key in list(row.cells)[:_COLUMNS_SHOWN]) or "nothing"
            raise UsageError(
                f"{row.place}: there is no column {missing[0]!r}, found {found}",
                f"is it an annotation file of {title}?",
            )
    return rows


def read_json(path: Path) -> Any:
    """A JSON file's value.

    Raises
    ------
    UsageError
        The file cannot be read or is not JSON.
    """
    name = printable(os.fspath(path))
    text = _text(path, name)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UsageError(f"{name}{line}: is not JSON", "get the annotation file again") from None


def _bytes(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            hint = "name the annotation file"
            return read_whole(file, f"{name}: the annotations", hint, most=_MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"{name}: the annotations cannot be read: {reason}", "check the path"
        ) from None


def _text(path: Path, name: str) -> str:
    try:
        return decoded(_bytes(path, name))
    except UnicodeDecodeError:
        raise UsageError(f"{name}: is not UTF-8 text", "get the annotation file again") from None


def _json_rows(path: Path, name: str) -> Iterator[Row]:
    value = read_json(path)
    if not isinstance(value, list):
        raise UsageError(
            f"{name}: expects a list of questions, not {shown(value)}", "name another file"
        )
    for number, entry in enumerate(value, 1):
        yield _row(f"{name}, entry {number}", entry)


def _jsonl_rows(path: Path, name: str) -> Iterator[Row]:
    # Not splitlines(): JSON may hold the other line separators of Unicode as they are.
    for number, line in enumerate(_text(path, name).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{name}, line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            raise UsageError(f"{place}: is not JSON", "write one object a line") from None
        yield _row(place, entry)


def _csv_rows(path: Path, name: str) -> Iterator[Row]:
    text = _text(path, name)
    separator = max(_SEPARATORS, key=text.split("\n", 1)[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    while True:
        # The head is read with the first row, and is line 1.
        place = f"{name}, line {max(reader.line_num, 1) + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UsageError(f"{place}: is not CSV: {error}", "get the file again") from None
        if None in cells or None in cells.values():
            raise UsageError(f"{place}: has not as many cells as columns", "get the file again")
        yield Row(place, {key.strip(): value for key, value in cells.items()})


def _parquet_rows(path: Path, name: str) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ModelError(
            f"{name}: reading parquet needs pyarrow",
            "pip install pyarrow, or give the annotations as JSON, JSON Lines or CSV",
        ) from None
    _bytes(path, name)
    try:
        entries = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{name}: is not parquet: {reason}", "get the file again") from None
    for number, entry in enumerate(entries, 1):
        yield _row(f"{name}, row {number}", entry)


def _row(place: str, entry: object) -> Row:
    if not isinstance(entry, dict):
        raise UsageError(f"{place}: expects an object, not {shown(entry)}", "name another file")
    return Row(place, entry)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


_READERS = {
    ".json": _json_rows,
    ".jsonl": _jsonl_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
