"""Rows of any number of files as one table with fixed columns, as Parquet or CSV.

The columns are the record's keys as the schema has them, those of objects joined by `_`, with
`file` before them and `seconds_answer` behind: the answer's own, without the loading. What has no
fixed number of values is JSON. Rows of every schema version fit; what one does not know is empty.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from adatp_cli.batch.results import stored
from adatp_cli.batch.row_format import OWN_SECONDS, look_up
from adatp_cli.errors import ModelError, UsageError
from adatp_cli.record import schema_text
from adatp_cli.text import CSV_MARK, csv_line, printable

_ROWS_AT_ONCE = 1000  # of a Parquet file's groups
_JSON = "json"
# How the schema's types are called by pyarrow.
_TYPES = {"boolean": "bool", "integer": "int64", "number": "double", "string": "string"}


@dataclass(frozen=True, slots=True)
class Column:
    """Where a column's values stand in a row, and their type: pyarrow's name for it, or `json`."""

    name: str
    path: tuple[str, ...]
    type: str


@cache
def columns() -> tuple[Column, ...]:
    """The columns of every table."""
    defined = json.loads(schema_text())["$defs"]
    answer, failure = (defined[name]["properties"] for name in ("answer_record", "failure_record"))
    found = [Column("file", ("file",), "string")]
    for key in defined["answer_record"]["required"]:
        known = failure if answer[key] == {"type": "null"} else answer
        found += _columns((key,), known[key], defined)
    return (*found, Column("seconds_answer", OWN_SECONDS, "double"))


def _columns(path: tuple[str, ...], schema: Any, defined: Any) -> Iterator[Column]:
    """The columns that a part of the schema comes to."""
    if "$ref" in schema:
        schema = defined[schema["$ref"].rsplit("/", 1)[1]]
    elif "anyOf" in schema:  # it, or null
        yield from _columns(path, schema["anyOf"][0], defined)
        return
    if "properties" in schema and (len(path) == 1 or path[0] != "profile"):
        for key, part in schema["properties"].items():
            yield from _columns((*path, key), part, defined)
        return
    names = schema.get("type", "integer" if isinstance(schema.get("const"), int) else "string")
    name = names if isinstance(names, str) else names[0]
    kind = "bool" if isinstance(schema.get("const"), bool) else _TYPES.get(name, _JSON)
    yield Column("_".join(path), path, kind)


def read_rows(paths: Sequence[Path], torn: Callable[[str], None]) -> Iterator[list[object]]:
    """Each row's cells; `torn` gets the names of files whose last row is cut short."""
    for path in paths:
        name = printable(os.fspath(path))
        try:
            with path.open("rb") as stream:
                for place, row in stored(stream, name):
                    if row is None:
                        torn(name)
                    else:
                        whole = _of_today(row) | {"file": os.fspath(path)}
                        yield [_cell(whole, column, place) for column in columns()]
        except OSError as error:
            raise UsageError(f"{name}: cannot be read: {error.strerror}", "check it") from None


def _of_today(row: dict[str, Any]) -> dict[str, Any]:
    """With what version 1 left out because it is none."""
    if row["schema_version"] == 1 and row["ok"]:
        added = {"frames_copied": 0, "sample_aspect_ratio": None}
        row |= {"tokens": {"shared": 0} | row["tokens"], "video_info": added | row["video_info"]}
    return row


def _cell(row: Mapping[str, Any], column: Column, place: str) -> object:
    value = look_up(row, column.path)
    if value is None:
        return None
    if column.type == _JSON:
        return json.dumps(value)
    if column.type == "string":  # nanoseconds were a number once
        return str(value).encode("utf-8", "backslashreplace").decode()
    fits = {"bool": bool, "int64": int, "double": int | float}[column.type]
    if not isinstance(value, fits) or isinstance(value, bool) is not (fits is bool):
        what = ".".join(column.path)
        raise UsageError(f"{place}: {what} is {value!r}", "the row was changed by hand")
    return value


def write_csv(rows: Iterable[list[object]], path: Path) -> int:
    """Write a table of comma-separated values, UTF-8; how many rows it got."""
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(CSV_MARK if path.is_file() else "")
        file.write(csv_line(column.name for column in columns()))
        for count, cells in enumerate(rows, 1):  # noqa: B007
            file.write(csv_line(cells))
    return count


def write_parquet(rows: Iterable[list[object]], path: Path) -> int:
    """Write a Parquet file; how many rows it got."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ModelError(
            "writing Parquet needs pyarrow", "pip install pyarrow, or write a .csv"
        ) from None
    fields = [
        pyarrow.field(c.name, pyarrow.type_for_alias("string" if c.type == _JSON else c.type))
        for c in columns()
    ]
    schema, count, left = pyarrow.schema(fields), 0, iter(rows)
    with parquet.ParquetWriter(path, schema) as writer:
        while group := list(islice(left, _ROWS_AT_ONCE)):
            arrays = [
                pyarrow.array(values, field.type)
                for values, field in zip(zip(*group, strict=True), fields, strict=True)
            ]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
            count += len(group)
    return count


WRITERS = {".parquet": write_parquet, ".csv": write_csv}
