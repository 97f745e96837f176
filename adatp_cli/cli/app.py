"""The program: its commands, and the entry point that never shows a traceback."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from adatp_cli import __version__
from adatp_cli.cli import (
    ask,
    batch,
    bench,
    bias,
    chat,
    demo,
    doctor,
    evaluate,
    export,
    models,
    profiles,
    serve,
    show,
)
from adatp_cli.cli.errors import telling
from adatp_cli.cli.options import OWN_PANELS, RunOptions
from adatp_cli.cli.output import Output
from adatp_cli.cli.parsing import Command, Group
from adatp_cli.cli.streams import (
    OutputClosedError,
    check_stdout,
    repair_streams,
    stdout_failure,
)
from adatp_cli.errors import UsageError
from adatp_cli.record import schema_text


def _group(**about: Any) -> typer.Typer:
    return typer.Typer(cls=Group, no_args_is_help=True, **about)


app = _group(
    name="adatp",
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 all answered, 1 unexpected, 2 usage, 3 a video cannot be read, "
    "4 model or environment, 5 out of memory, 6 a batch ended with some failures, "
    '130 interrupted.\n\nExamples:\nadatp demo\nadatp ask clip.mp4 "what happens?"',
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


def schema(output: Output) -> None:
    """Print the JSON Schema that every line of --json fits.

    Examples:
    adatp schema > answer_record.schema.json
    adatp schema | jq '.properties | keys'
    """
    output.write(schema_text())


def register(
    to: typer.Typer,
    panel: str | None,
    function: Callable[..., int | None],
    *,
    name: str | None = None,
    writes: bool = True,
) -> None:
    """Make a function of an `Output` and of options a command, shown in a panel of `to`'s help.

    Its options are the fields of a subclass of `RunOptions`, or else the function's parameters.
    Its docstring is the help; what it raises becomes a line and an exit code, what it returns is
    the exit code. Where it writes to stdout (`writes`), a closed one is refused at once.
    """
    hints = typing.get_type_hints(function)
    wanted = hints.get("options")

    def command(**given: Any) -> None:
        told = {key: given[key] for key in ("json", "quiet", "verbose", "stats") if key in given}
        output = Output(**told)
        with telling(output):
            _check_folder()
            if writes:
                check_stdout()
            if wanted is None:
                code = function(output=output, **given)
            else:
                options = wanted(**given)
                options.check()
                code = function(options, output)
        if code:
            raise typer.Exit(code)

    # Typer reads a command's options off its signature.
    parameters = _of_function(function, hints) if wanted is None else _of_fields(wanted)
    command.__annotations__ = {item.name: item.annotation for item in parameters}
    setattr(command, "__signature__", inspect.Signature(parameters))  # noqa: B010 - mypy knows none
    text, _, examples = (inspect.getdoc(function) or "").partition("\n\nExamples:\n")
    decorate = to.command(
        name or function.__name__,
        cls=Command,
        # Lines are broken where the screen ends, not where the source does.
        help=re.sub(r"(?<=\S)\n[ \t]*(?=\S)", " ", text),
        rich_help_panel=panel,
        epilog=f"Examples:\n{examples}",
    )
    decorate(command)


def _check_folder() -> None:
    """Refuse a deleted one: libraries would end the process, each in its own way."""
    try:
        os.getcwd()
    except OSError:
        raise UsageError("the current folder has been deleted", "cd to one that exists") from None


def _of_function(function: Callable[..., object], hints: dict[str, Any]) -> list[inspect.Parameter]:
    given = inspect.signature(function).parameters.values()
    return [_parameter(one.name, one.default, hints) for one in given if one.name != "output"]


def _of_fields(options: type[RunOptions]) -> list[inspect.Parameter]:
    """A command's own by the panels of its help, then the shared ones.

    One that spells its option as a shared one does takes its place, and the shared one keeps its
    default.
    """
    hints = typing.get_type_hints(options)
    every = dataclasses.fields(RunOptions)
    shared = [item for item in every if item.name not in options.WITHOUT]
    own = [item for item in dataclasses.fields(options) if item not in every]
    panels = (None, *OWN_PANELS)
    own.sort(key=lambda item: panels.index(item.metadata["declared"].rich_help_panel))
    found: dict[str, inspect.Parameter] = {}
    for item in (*own, *shared):
        spelled = item.metadata["declared"].default
        key = spelled if isinstance(spelled, str) else item.name
        found.setdefault(key, _parameter(item.name, item, hints))
    return list(found.values())


def _parameter(name: str, item: dataclasses.Field[Any], hints: dict[str, Any]) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if item.default is dataclasses.MISSING else item.default,
        annotation=Annotated[hints[name], item.metadata["declared"]],
    )


_START, _ASK, _ABOUT = "Start here", "Ask", "About"
of_models = _group(
    help="Models and encoders: which are here, fetching one, where it lies.",
    epilog="Examples:\nadatp models list\nadatp models pull 0.5b",
)
of_profiles = _group(
    help="List, show and check pruning profiles.",
    epilog="Examples:\nadatp profiles list\nadatp profiles show adatp -m 0.5b",
)
register(app, _START, demo.demo)
register(app, _START, doctor.doctor)
register(app, _ASK, ask.ask)
register(app, _ASK, chat.chat)
register(app, _ASK, show.show)
register(app, _ASK, batch.batch, writes=False)
register(app, _ASK, serve.serve, writes=False)
register(app, _ASK, evaluate.evaluate, name="eval")
register(app, _ASK, export.export, writes=False)
register(app, _ASK, bias.bias)
register(app, _ASK, bench.bench)
app.add_typer(of_models, name="models", rich_help_panel=_ABOUT)
register(of_models, None, models.list_models, name="list")
register(of_models, None, models.path)
register(of_models, None, models.pull, writes=False)
app.add_typer(of_profiles, name="profiles", rich_help_panel=_ABOUT)
register(of_profiles, None, profiles.list_profiles, name="list")
register(of_profiles, None, profiles.show)
register(of_profiles, None, profiles.validate)
register(app, _ABOUT, schema)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program on `arguments` (default: the process's) and return its exit code."""
    repair_streams()
    try:
        with telling(Output()):
            code = _run(arguments)
    except typer.Exit as end:
        return end.exit_code
    return code


def _run(arguments: Sequence[str] | None) -> int:
    """The exit code; only what stands outside of a command's own `telling` is raised."""
    try:
        code = app(args=arguments, prog_name="adatp", standalone_mode=False)
    except OSError as error:  # of a help that could not be written
        raise stdout_failure(error) from error
    except SystemExit as end:
        if end.code != 1:  # SIGTERM's
            raise
        raise OutputClosedError from None  # rich's way where nobody reads a help to its end
    return code if isinstance(code, int) else 0
