"""The program: its commands, and the entry point that never shows a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from adatp_cli import __version__
from adatp_cli.cli import ask, batch, bench, bias, demo, doctor, evaluate, profiles, schema, show
from adatp_cli.cli.errors import failure_of
from adatp_cli.cli.output import Output
from adatp_cli.cli.parsing import Command, Group
from adatp_cli.errors import AdatpError

_START = "Start here"
_ASK = "Ask"
_ABOUT = "About"

app = typer.Typer(
    name="adatp",
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 all answered, 1 unexpected, 2 usage, 3 a video cannot be read, "
    "4 model or environment, 5 out of memory, 6 a batch ended with some failures, 130 interrupted.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        Output().line(f"adatp {__version__}")
        raise typer.Exit


@app.callback()
def adatp(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Ask questions about local video. Most visual tokens are pruned inside the model (AdaTP)."""


app.command("demo", cls=Command, rich_help_panel=_START)(demo.demo)
app.command("doctor", cls=Command, rich_help_panel=_START)(doctor.doctor)
app.command("ask", cls=Command, rich_help_panel=_ASK)(ask.ask)
app.command("show", cls=Command, rich_help_panel=_ASK)(show.show)
app.command("batch", cls=Command, rich_help_panel=_ASK)(batch.batch)
app.command("eval", cls=Command, rich_help_panel=_ASK)(evaluate.evaluate)
app.command("bias", cls=Command, rich_help_panel=_ASK)(bias.bias)
app.command("bench", cls=Command, rich_help_panel=_ASK)(bench.bench)
app.add_typer(profiles.app, name="profiles", rich_help_panel=_ABOUT)
app.command("schema", cls=Command, rich_help_panel=_ABOUT)(schema.schema)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program on `arguments` (default: the process's) and return its exit code."""
    _repair_streams()
    try:
        code = app(args=arguments, prog_name="adatp", standalone_mode=False)
    except (typer.TyperException, typer.Abort, AdatpError) as error:
        failure = failure_of(error)
        if failure.info.message:  # there is none where the help was the answer
            Output().error(failure.info)
        return failure.exit_code
    return code if isinstance(code, int) else 0


def _repair_streams() -> None:
    """Make both streams usable: there, and able to carry any text.

    A process may be started with a stream closed, which Python shows as None, or in a locale that
    cannot encode an answer or a file's name.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
