"""Tables of a report: as Markdown, as CSV, and written into its folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from adatp_cli.errors import AdatpError
from adatp_cli.files import OutputPath
from adatp_cli.text import CSV_MARK, csv_line, markdown_cell, printable

PAGE = "report.md"
NONE = "-"


def report_outputs(folder: Path | None, names: Iterable[str]) -> list[OutputPath]:
    """The files of a report, to be checked before anything is run; none without a folder."""
    if folder is None:
        return []
    return [OutputPath("--report", folder / name, makes_folder=True) for name in names]


def prepare_folder(folder: Path) -> None:
    """Make the report's folder.

    Raises
    ------
    AdatpError
        It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        shown = printable(os.fspath(folder))
        raise AdatpError(
            f"--report {shown}: cannot be made: {error.strerror}", "name another folder"
        ) from None


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write texts into the report's folder, by file name.

    Raises
    ------
    AdatpError
        The disk takes it not.
    """
    for name, text in texts.items():
        try:
            mark = CSV_MARK if name.endswith(".csv") else ""
            (folder / name).write_text(mark + text, encoding="utf-8", newline="")
        except OSError as error:
            raise AdatpError(
                f"{printable(os.fspath(folder / name))}: cannot be written: {error.strerror}",
                "make room, and run again",
            ) from error


def percent(share: float | None) -> str:
    """0.273 -> '27.3 %', and a dash for what is not known."""
    return NONE if share is None else f"{100 * share:.1f} %"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, a line for each row."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(markdown_cell(text) for text in line)} |\n" for line in lines)


def csv_text(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV; None is an empty cell."""
    return "".join(csv_line(line) for line in (head, *rows))
