"""How a function becomes a command: its options from a dataclass, its sink, its errors mapped."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer

from adatp_cli.cli.errors import reporting
from adatp_cli.cli.options import OWN_PANELS, RunOptions
from adatp_cli.cli.output import Output
from adatp_cli.cli.parsing import Command, Group, examples


def group(**about: Any) -> typer.Typer:
    """A command of commands."""
    return typer.Typer(cls=Group, no_args_is_help=True, **about)


def register(
    app: typer.Typer,
    panel: str | None,
    function: Callable[..., int | None],
    *shown: str,
    name: str | None = None,
    writes: bool = True,
) -> None:
    """Make a function of its options and an `Output` a command of `app`.

    Each field of the dataclass of its options becomes an option or argument. What the function
    raises becomes a line and an exit code; what it returns is the exit code.

    Parameters
    ----------
    panel
        Where the help of `app` shows it.
    shown
        Two command lines for the end of its own help.
    name
        Where it is not the function's.
    writes
        Whether something will be written to stdout: a closed one is then refused at once.
    """
    kinds = typing.get_type_hints(function).values()
    options: Any = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)

    def command(**given: Any) -> None:
        told = {key: given[key] for key in ("json", "quiet", "verbose", "stats") if key in given}
        output = Output(**told)
        with reporting(output, writes=writes):
            if options is None:
                code = function(output)
            else:
                asked = options(**given)
                if isinstance(asked, RunOptions):
                    asked.check()
                code = function(asked, output)
        if code:
            raise typer.Exit(code)

    # Typer reads a command's options off its signature.
    parameters = [] if options is None else _parameters(options)
    command.__annotations__ = {item.name: item.annotation for item in parameters}
    setattr(command, "__signature__", inspect.Signature(parameters))  # noqa: B010 - mypy knows none
    decorate = app.command(
        name or function.__name__,
        cls=Command,
        help=inspect.getdoc(function),
        rich_help_panel=panel,
        epilog=examples(*shown),
    )
    decorate(command)


def _parameters(options: type) -> list[inspect.Parameter]:
    """The fields as parameters: a command's own by the panels of its help, then the shared ones.

    One that spells its option as a shared one does takes its place, and the shared one keeps its
    default.
    """
    hints = typing.get_type_hints(options)
    shared = dataclasses.fields(RunOptions) if issubclass(options, RunOptions) else ()
    own = [item for item in dataclasses.fields(options) if item not in shared]
    if shared:
        panels = (None, *OWN_PANELS)
        own.sort(key=lambda item: panels.index(item.metadata["declared"].rich_help_panel))
    found: dict[str, inspect.Parameter] = {}
    for item in (*own, *shared):
        declared = item.metadata["declared"]
        default = inspect.Parameter.empty if item.default is dataclasses.MISSING else item.default
        spelled = declared.default if isinstance(declared.default, str) else item.name
        given = inspect.Parameter(
            item.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[hints[item.name], declared],
        )
        found.setdefault(spelled, given)
    return list(found.values())
