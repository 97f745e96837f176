"""`adatp schema`: the JSON Schema of the answer record."""

from __future__ import annotations

from adatp_cli.cli.errors import reporting
from adatp_cli.cli.output import Output
from adatp_cli.record import schema_text


def schema() -> None:
    """Print the JSON Schema that every line of --json fits."""
    output = Output()
    with reporting(output):
        output.write(schema_text())
