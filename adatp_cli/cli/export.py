"""`adatp export`: rows of many files as one table of fixed columns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adatp_cli.cli.errors import reporting
from adatp_cli.cli.options import Overwrite, Quiet
from adatp_cli.cli.output import Output
from adatp_cli.files import OutputPath, check_outputs, is_stdout, replacing
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
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Put the rows of many files into one table, whose columns are always the same.

    Columns are the record's keys (see `adatp schema`), joined by _; what has no fixed number of
    values is JSON.
    """
    output = Output(quiet=quiet)
    with reporting(output, writes=is_stdout(table)):
        from adatp_cli.batch.table import WRITERS, read_rows

        target = OutputPath("OUT", table, tuple(WRITERS), "a table", may_be_stdout=True)
        check_outputs([target], rows, overwrite=overwrite)
        write = WRITERS.get(table.suffix.lower(), WRITERS[".csv"])  # a stream gets CSV
        with replacing(table, "the table") as beside:
            cut: list[str] = []
            count = write(read_rows(rows, cut.append), beside)
        for name in cut:
            output.note(f"{name}: the last row was cut short and is left out")
        output.note(f"{plural(count, 'row')} in {table}")
