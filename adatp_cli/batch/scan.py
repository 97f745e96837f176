"""Reading a result file that a run left behind, however that run ended."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Any

from adatp_cli.batch.row_format import COLUMNS, OLD_COLUMNS, Columns, csv_header
from adatp_cli.errors import UsageError
from adatp_cli.record import READ_VERSIONS
from adatp_cli.text import CSV_MARK

# No row is this long. It keeps a film that was given by mistake out of the memory.
_MAX_ROW_BYTES = 1 << 26
_KEY = re.compile(r"[0-9a-f]{64}")
_ROW_END = re.compile(rb",[0-9a-f]{64}\r?\n")  # the key is a CSV row's last cell
_JSON_START = b'{"schema_version"'
_TABLES = {
    f"{mark}{csv_header(columns).rstrip()}".encode(): columns
    for columns in (COLUMNS, OLD_COLUMNS)
    for mark in (CSV_MARK, "")
}
_HINT = "name another file with -o, or replace this one with --overwrite"


@dataclass(frozen=True, slots=True)
class Piece:
    """One row as it stands in the file, with its line end.

    The header of a CSV table has no `key`; it tells the `columns`.
    """

    raw: bytes
    key: str | None
    ok: bool
    columns: Columns = COLUMNS


@dataclass(slots=True)
class Scan:
    """What a result file holds: keys, True for answers; where whole rows end; CSV columns."""

    done: dict[str, bool] = field(default_factory=dict)
    end: int = 0
    torn: bool = False
    columns: Columns = COLUMNS


def scan(stream: BufferedReader, form: str, name: str) -> Scan:
    """Read a result file from its start."""
    result = Scan()
    for piece in pieces(stream, form, name):
        if piece is None:
            result.torn = True
            break
        result.end += len(piece.raw)
        if piece.key is None:
            result.columns = piece.columns
        else:
            result.done[piece.key] = result.done.get(piece.key, False) or piece.ok
    return result


def pieces(stream: BufferedReader, form: str, name: str) -> Iterator[Piece | None]:
    """The rows of a result file; None at the end for a last one that is not whole."""
    stream.seek(0)
    first, line = True, 1
    columns: Columns | None = None  # None: the header is still to come
    for raw, whole in _raw_rows(stream, quotes=form == "csv"):
        piece = None
        if whole:
            piece = _parse_json(raw) if form == "jsonl" else _parse_csv(raw, columns)
        if piece is not None:
            columns = piece.columns
        if piece is None and not (
            _is_torn(raw, form, whole=whole, first=first) and _at_end(stream)
        ):
            what = f"{name}: is no {form} file of rows of adatp batch"
            damage = f"{name}, line {line}: is no row of adatp batch, or a damaged one"
            raise UsageError(what if first else damage, _HINT)
        yield piece
        first = False
        line += raw.count(b"\n")


def stored(stream: BufferedReader, name: str) -> Iterator[dict[str, Any] | None]:
    """The records of a file of JSON Lines; None at the end for a last one that is not whole."""
    for line, (raw, whole) in enumerate(_raw_rows(stream, quotes=False), 1):
        row = _record(raw)
        torn = _is_torn(raw, "jsonl", whole=whole, first=line == 1) and _at_end(stream)
        if row is None and not torn:
            raise UsageError(
                f"{name}, line {line}: is no record of adatp",
                "give files of JSON Lines, as ask --json, batch and eval write them",
            )
        yield row


def _is_torn(raw: bytes, form: str, *, whole: bool, first: bool) -> bool:
    """Whether these bytes, which are no row of ours, may be what is left of one.

    Behind rows of ours stands nobody else's row; the first one is ours only if it begins so.
    """
    if whole and (form == "csv" or _is_json(raw)):
        return False
    if form == "csv" and _ROW_END.search(raw):
        return False  # not the rest of a row: whole ones behind a quote that is never closed
    if not first:
        return True
    starts = [header + b"\r\n" for header in _TABLES] if form == "csv" else [_JSON_START]
    return any(raw[: len(start)] == start[: len(raw)] for start in starts)


def _at_end(stream: BufferedReader) -> bool:
    return not stream.peek(1)


def _raw_rows(stream: BufferedReader, *, quotes: bool) -> Iterator[tuple[bytes, bool]]:
    """Each row's bytes, and whether it ends as rows do; `quotes`: not at line ends inside them.

    Inside a quoted cell a quote is written twice, so a row is over where their count is even.
    """
    lines: list[bytes] = []
    size, inside = 0, False
    while line := stream.readline(_MAX_ROW_BYTES):
        lines.append(line)
        size += len(line)
        inside ^= quotes and line.count(b'"') % 2 == 1
        whole = line.endswith(b"\n") and not inside
        if whole or size >= _MAX_ROW_BYTES:
            yield b"".join(lines), whole
            lines, size, inside = [], 0, False
    if lines:
        yield b"".join(lines), False


def _is_json(raw: bytes) -> bool:
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return True


def _record(raw: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or row.get("schema_version") not in READ_VERSIONS:
        return None
    return row if isinstance(row.get("ok"), bool) else None


def _parse_json(raw: bytes) -> Piece | None:
    row = _record(raw)
    batch = None if row is None else row.get("batch")
    key = batch.get("key") if isinstance(batch, dict) else None
    if row is None or not isinstance(key, str) or not _KEY.fullmatch(key):
        return None
    return Piece(raw, key, row["ok"])


def _parse_csv(raw: bytes, columns: Columns | None) -> Piece | None:
    """A row, or the header where no columns are known."""
    if columns is None:
        columns = _TABLES.get(raw.rstrip(b"\r\n"))
        return None if columns is None else Piece(raw, None, False, columns)
    try:
        text = raw.decode("utf-8")
        cells = next(csv.reader([text], strict=True), [])
    except (UnicodeDecodeError, csv.Error):
        return None
    if len(cells) != len(columns):
        return None
    row = dict(zip((name for name, _ in columns), cells, strict=True))
    if row["ok"] not in ("true", "false") or not _KEY.fullmatch(row["key"]):
        return None
    return Piece(raw, row["key"], row["ok"] == "true", columns)
