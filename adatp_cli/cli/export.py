"""`adatp export`: rows of many files as one table of fixed columns."""

from __future__ import annotations

from pathlib import Path

from adatp_cli.cli.options import OVERWRITE, QUIET, argument
from adatp_cli.cli.output import Output
from adatp_cli.cli.streams import check_stdout
from adatp_cli.files import OutputPath, check_outputs, is_stdout, replacing
from adatp_cli.text import plural


def export(
    output: Output,
    rows: list[Path] = argument(
        "ROWS...", "Files of JSON Lines, as ask --json, batch and eval write them."
    ),
    table: Path = argument("OUT", "The table: OUT.parquet or OUT.csv."),
    overwrite: bool = OVERWRITE,
    quiet: bool = QUIET,  # noqa: ARG001 - read by the output
) -> None:
    """Put the rows of many files into one table, whose columns are always the same.

    Columns are the record's keys (see `adatp schema`), joined by _; what has no fixed number of
    values is JSON.

    Examples:
    adatp export answers.jsonl answers.parquet
    adatp export monday.jsonl tuesday.jsonl week.csv
    """
    if is_stdout(table):
        check_stdout()
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
