"""Manifests: files that name clips and what to ask about each, as JSON Lines, CSV or TSV.

A row has a `video` and may have a `question`; what else it has is not looked at. Paths are relative
to the manifest's folder.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from adatp_cli.batch.walk import ClipJob, Collection
from adatp_cli.errors import UsageError
from adatp_cli.files import read_whole
from adatp_cli.tables import csv_lines, json_lines
from adatp_cli.text import decoded, printable, shown
from adatp_cli.video.source import local_path

_VIDEO = "video"
_QUESTION = "question"
_HINT = "a manifest has the columns video and question"
_CSV_HINT = 'a manifest has the columns video and question, a comma in a cell needs "quotes"'
# Between question_id, which is a name of its own, and quesiton.
_ALIKE = 0.85


@dataclass(frozen=True, slots=True)
class _Row:
    """A row as it stands in the file; `place` names file and line for messages."""

    place: str
    cells: Mapping[str, object]


def read_manifest(path: str, asked: tuple[str, ...]) -> Collection:
    """The clips of a manifest, each with the questions of all of its rows."""
    read = MANIFEST_EXTENSIONS[os.path.splitext(path)[1].lower()]
    folder = os.path.dirname(path)
    questions: dict[str, dict[str, None]] = {}
    fell_back = False
    for row in read(_text(path), printable(path)):
        video = _cell(row, _VIDEO)
        if video is None:
            raise UsageError(f"{row.place}: the row names no video", _HINT)
        own = _cell(row, _QUESTION)
        if own is None and not asked:
            raise UsageError(
                f"{row.place}: the row has no question", "write one, or ask all such rows with -q"
            )
        fell_back = fell_back or own is None
        questions.setdefault(video, {}).update(dict.fromkeys(asked if own is None else [own]))
    if not questions:
        raise UsageError(f"{printable(path)}: the manifest has no rows", _HINT)
    jobs = tuple(
        ClipJob(local_path(video, folder), tuple(texts), video)
        for video, texts in questions.items()
    )
    unused = bool(asked) and not fell_back
    note = f"{printable(path)}: every row has its own question, so -q asks nothing"
    return Collection(jobs, notes=(note,) if unused else ())


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return decoded(read_whole(file, f"{printable(path)}: the manifest", _HINT))
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        place = f"{printable(path)}, line {line}"
        raise UsageError(f"{place}: is not UTF-8 text", "save the manifest as UTF-8") from None
    except OSError as error:
        raise UsageError(
            f"{printable(path)}: the manifest cannot be read: {error.strerror}", "check the file"
        ) from None


def _cell(row: _Row, name: str) -> str | None:
    """The text of a cell, None where there is none or a blank one."""
    value = row.cells.get(name)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{row.place}: {name} expects text, not {shown(value)}", _HINT)
    return value if value is not None and value.strip() else None


def _json_rows(text: str, name: str) -> Iterator[_Row]:
    for place, data in json_lines(text, name, 'as in {"video": "clip.mp4"}'):
        columns = [_column(key) for key in data]
        _check_columns(columns, place)
        yield _Row(place, dict(zip(columns, data.values(), strict=True)))


def _csv_rows(text: str, name: str) -> Iterator[_Row]:
    columns: list[str] = []
    for place, cells in csv_lines(text, name, _CSV_HINT):
        if not columns:
            columns = [_column(cell) for cell in cells]
            _check_columns(columns, place)
        elif len(cells) > len(columns) and any(cells[len(columns) :]):
            counts = f"{len(cells)} cells under {len(columns)} columns"
            raise UsageError(f"{place}: {counts}", _CSV_HINT)
        else:
            yield _Row(place, dict(zip(columns, cells, strict=False)))


def _column(name: str) -> str:
    return name.strip().lower()


def _check_columns(columns: list[str], place: str) -> None:
    """Refuse rows without a `video`, and a `question` that is only misspelt."""
    found = ", ".join(shown(name) for name in columns[:8]) or "nothing"
    if _VIDEO not in columns:
        raise UsageError(f"{place}: there is no column video, found {found}", _HINT)
    if any(columns.count(name) > 1 for name in (_VIDEO, _QUESTION)):
        raise UsageError(f"{place}: a column stands twice, found {found}", _HINT)
    others = [name for name in columns if name != _VIDEO]
    # With -q a misspelt column would go unnoticed, and other questions be asked than are written.
    alike = difflib.get_close_matches(_QUESTION, others, n=1, cutoff=_ALIKE)
    if _QUESTION not in columns and alike:
        raise UsageError(
            f"{place}: unknown column {shown(alike[0])} (did you mean 'question'?)", _HINT
        )


MANIFEST_EXTENSIONS = {".jsonl": _json_rows, ".csv": _csv_rows, ".tsv": _csv_rows}
