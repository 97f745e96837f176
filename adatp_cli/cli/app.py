"""The program: its commands, and the entry point that never shows a traceback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from adatp_cli import __version__
from adatp_cli.cli import (
    ask,
    batch,
    bench,
    bias,
    demo,
    doctor,
    evaluate,
    export,
    profiles,
    schema,
    show,
)
from adatp_cli.cli.errors import telling
from adatp_cli.cli.output import Output
from adatp_cli.cli.parsing import Command, Group
from adatp_cli.cli.streams import OutputClosedError, repair_streams, stdout_failure

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
app.command("export", cls=Command, rich_help_panel=_ASK)(export.export)
app.command("bias", cls=Command, rich_help_panel=_ASK)(bias.bias)
app.command("bench", cls=Command, rich_help_panel=_ASK)(bench.bench)
app.add_typer(profiles.app, name="profiles", rich_help_panel=_ABOUT)
app.command("schema", cls=Command, rich_help_panel=_ABOUT)(schema.schema)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program on `arguments` (default: the process's) and return its exit code."""
    repair_streams()
    try:
        with telling(Output()):
            return _run(arguments)
    except typer.Exit as end:
        return end.exit_code


def _run(arguments: Sequence[str] | None) -> int:
    """The exit code; only what stands outside of a command's own `reporting` is raised."""
    try:
        code = app(args=arguments, prog_name="adatp", standalone_mode=False)
    except OSError as error:  # of a help that could not be written
        raise stdout_failure(error) from error
    except SystemExit as end:
        if end.code != 1:  # SIGTERM's
            raise
        raise OutputClosedError from None  # rich's way where nobody reads a help to its end
    return code if isinstance(code, int) else 0
