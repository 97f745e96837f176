"""Where the rows of a run go, and how it is gone on with: a file that outlives it, or stdout."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any, Protocol

from adatp_cli.cli.output import Output


class OutputFormat(StrEnum):
    jsonl = "jsonl"
    csv = "csv"


class Sink(Protocol):
    """Where rows go."""

    @property
    def done(self) -> Mapping[str, bool]:
        """Keys of the rows that are there already, and whether they are answers."""

    @property
    def on_terminal(self) -> bool:
        """Whether the rows are seen as they come: no bar can stand between them."""

    def write(self, row: dict[str, Any]) -> None:
        """Add a row for good."""

    def forget_failed(self, keys: Collection[str]) -> None:
        """Take failed rows out."""


class StdoutRows:
    """Rows on stdout, where nothing was before."""

    def __init__(self, output: Output, form: OutputFormat) -> None:
        self._output = output
        self._csv = form is OutputFormat.csv
        self._begun = False
        self.done: Mapping[str, bool] = {}
        self.on_terminal = sys.stdout.isatty()

    def write(self, row: dict[str, Any]) -> None:
        from adatp_cli.batch.results import csv_header, csv_line

        if not self._csv:
            self._output.data(row)
            return
        if not self._begun:
            self._output.write(csv_header())
        self._begun = True
        self._output.csv_row(csv_line(row))

    def forget_failed(self, keys: Collection[str]) -> None:
        """There are none."""
