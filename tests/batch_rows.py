"""Numbered rows of a batch to write in tests; light to import, for tests that run processes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from adatp_cli import record
from adatp_cli.batch.results import ResultFile
from adatp_cli.batch.row_format import row_key, stamp
from tests.records import answer_record

NASTY = ["plain", 'a "quote", a comma', 'two\nlines\r\nand "\n', "=1+1", "été 日本 \udcff", ""]


def row(number: int, *, ok: bool = True, text: str | None = None) -> dict[str, Any]:
    text = NASTY[number % len(NASTY)] if text is None else text
    video = f"clip {number}.mp4"
    key = row_key(video, number, 10**18 + number, text, {"model": "tiny"})
    error = record.ErrorInfo("missing", f"{video}: {text}", "")
    one = (
        answer_record(video=video, question=text, answer=text)
        if ok
        else record.FailureRecord(video, text, error)
    )
    return {**one.to_dict(), "batch": stamp(key, number, 10**18 + number)}


def key(item: dict[str, Any]) -> str:
    return str(item["batch"]["key"])


def keys_in(path: Path, form: str) -> list[str]:
    """The keys in a file, read as anybody would."""
    if form == "csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [line["key"] for line in csv.DictReader(file, strict=True)]
    return [key(json.loads(line)) for line in path.read_text("ascii").splitlines()]


def fill(path: Path, form: str, rows: list[dict[str, Any]], **how: bool) -> None:
    with ResultFile.open(path, format=form, **how) as file:
        for item in rows:
            if key(item) not in file.done:
                file.write(item)
