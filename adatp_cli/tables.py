"""Tables that others wrote: a file's text, and its rows as JSON Lines or CSV, each with its place.

The place names file and line for messages. Errors are `UsageError`s with the hint that is given.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from adatp_cli.errors import UsageError
from adatp_cli.files import StrPath, read_whole
from adatp_cli.text import decoded, printable, shown

# Spreadsheets save with the separator of their country.
_SEPARATORS = (",", ";", "\t")
# Excel's own first line, which names the separator.
_EXCEL_SEPARATOR = re.compile(r'"?sep=([,;\t|])"?', re.IGNORECASE)


def read_bytes(path: StrPath, what: str, hint: str) -> bytes:
    """A file's bytes; `what` it is, such as "the manifest", for messages."""
    name = printable(os.fspath(path))
    try:
        with open(path, "rb") as file:
            return read_whole(file, f"{name}: {what}", hint)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{name}: {what} cannot be read: {reason}", "check the path") from None


def read_text(path: StrPath, what: str, hint: str) -> str:
    """A file's text, UTF-8 or, where it says so, UTF-16."""
    try:
        return decoded(read_bytes(path, what, hint))
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        place = f"{printable(os.fspath(path))}, line {line}"
        raise UsageError(f"{place}: is not UTF-8 text", f"save {what} as UTF-8") from None


def json_lines(text: str, name: str, hint: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of JSON Lines, one for each line that is not blank."""
    # Not splitlines(): JSON may hold the other line separators of Unicode as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{name}, line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise UsageError(f"{place}: is not JSON", hint) from None
        if not isinstance(value, dict):
            raise UsageError(f"{place}: expects an object, not {shown(value)}", hint)
        yield place, value


def csv_lines(text: str, name: str, hint: str) -> Iterator[tuple[str, list[str]]]:
    """The rows of CSV that are not blank, the one with the columns' names first."""
    first, _, rest = text.partition("\n")
    told = _EXCEL_SEPARATOR.fullmatch(first.strip("\r"))
    separator = told[1] if told else max(_SEPARATORS, key=first.count)
    above = 1 if told else 0
    source = io.StringIO(rest if told else text, newline="")
    reader = csv.reader(source, delimiter=separator, strict=True)
    while True:
        place = f"{name}, line {reader.line_num + 1 + above}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UsageError(f"{place}: is not CSV: {error}", hint) from None
        if any(cell.strip() for cell in cells):  # blank rows are what spreadsheets leave below
            yield place, cells
