"""`adatp export`: rows of many files as one table of fixed columns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adatp_cli.cli.errors import reporting
from adatp_cli.cli.options import Quiet
from adatp_cli.cli.output import Output
from adatp_cli.errors import UsageError
from adatp_cli.files import replacing
from adatp_cli.text import plural


def export(
    rows: Annotated[
        list[Path],
        typer.Argument(
            metavar="ROWS...",
            show_default=False,
            help="Files of JSON Lines, as ask --json, batch and eval write them.",
        ),
    ],
    table: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", show_default=False, help="The table: OUT.parquet or OUT.csv."
        ),
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
    quiet: Quiet = False,
) -> None:
    """Put the rows of many files into one table, whose columns are always the same.

    Columns are the record's keys (see `adatp schema`), joined by _; what has no fixed number of
    values is JSON.
    """
    output = Output(quiet=quiet)
    with reporting(output):
        from adatp_cli.batch.table import WRITERS, read_rows

        write = WRITERS.get(table.suffix.lower())
        if write is None:
            raise UsageError(
                f"{table}: is no table by its name", "name it last, as OUT.parquet or OUT.csv"
            )
        _check(rows, table, overwrite=overwrite)
        with replacing(table, "the table") as beside:
            cut: list[str] = []
            count = write(read_rows(rows, cut.append), beside)
        for name in cut:
            output.note(f"{name}: the last row was cut short and is left out")
        output.note(f"{plural(count, 'row')} in {table}")


def _check(rows: list[Path], table: Path, *, overwrite: bool) -> None:
    """Refuse to write over what is there.

    Raises
    ------
    UsageError
        The table is one of the files that are read, or exists already.
    """
    if not table.exists():
        return
    if any(path.exists() and path.samefile(table) for path in rows):
        raise UsageError(f"{table}: is read and written at once", "name another file last")
    if not overwrite:
        raise UsageError(f"{table}: exists already", "replace it with --overwrite")
