"""What typer does with the words of a command line, lays out as help, and says of mistakes.

Its sentences, and those of the library that checks its values, differ from version to version and
speak of types and inputs; none of them reaches a user.
"""

from __future__ import annotations

import difflib
import os
import re
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from adatp_cli.errors import UsageError
from adatp_cli.text import nearest

# A command shows those of these that it has, in this order, in a panel before all others.
_COMMON = (
    "--question",
    "--output",
    "--resume",
    "--model",
    "--profile",
    "--budget",
    "--frames",
    "--start",
    "--end",
    "--compare",
    "--data",
    "--clips",
    "--report",
    "--json",
)
_LAST = "Output"
_DASHED = "put -- before a file or question that starts with a dash"
_BLANKS = "put quotes around a text with blanks in it"


class Command(TyperCommand):
    """A command whose help shows the commonest options first, and no values behind flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        found = _without_types(super().get_params(ctx))
        for param in found:
            if "--help" in param.opts:
                param.rich_help_panel = _LAST
            elif 0 <= _place(param)[0] < len(_COMMON):
                param.rich_help_panel = "Used most"
        return sorted(found, key=_place)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return _usage(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, [_at_home(arg) for arg in args])
        except typer.TyperException as error:
            if getattr(error, "ctx", None) is None:
                error.ctx = ctx  # type: ignore[attr-defined]  # so that `refusal` knows the command
            raise


class Group(TyperGroup):
    """The same for a command with commands of its own."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


def refusal(error: typer.TyperException) -> UsageError:
    """What typer refuses, in our words; without a message where the help was the answer.

    typer keeps the classes of its errors to itself, so they are known by their names.
    """
    context: Any = getattr(error, "ctx", None)
    told = f"`{context.command_path if context else 'adatp'} --help` tells what is possible"
    kind = type(error).__name__
    if kind == "NoArgsIsHelpError":
        return UsageError(error.format_message())
    if kind == "MissingParameter":
        way = f"usage: {context.command_path} {' '.join(_usage(context))}; " if context else ""
        return UsageError(f"{_name(error.param)} is missing", way + told)  # type: ignore[attr-defined]
    if kind == "NoSuchOption":
        name = str(getattr(error, "option_name", ""))
        text = " " in name or not name.startswith("--")  # it may be meant as an argument
        return UsageError(
            f"there is no option {name}{_alike(name, context)}",
            f"{told}; {_DASHED}" if text else told,
        )
    if kind == "BadOptionUsage":
        name = str(getattr(error, "option_name", ""))
        if "does not take" in error.format_message():
            return UsageError(f"{name} takes no value", "leave out what stands behind it")
        return UsageError(f"{name} needs a value", _as_in(name, context) or told)
    if kind == "BadParameter":
        return _bad_value(error, told)
    return _without_a_class(error, context, told)


def _without_types(found: list[Any]) -> list[Any]:
    """The parameters; flags take no value, and what an argument is its name tells."""
    for param in found:
        if param.param_type_name == "argument":
            param.display_type_rich = lambda ctx: None  # noqa: ARG005 - called by name
        elif getattr(param, "is_bool_flag", False):
            param.metavar = ""
    return found


def _place(param: Any) -> tuple[int, bool, bool]:
    """Arguments first, then what is used most, then the rest."""
    if param.param_type_name == "argument":
        return -1, False, False
    known = [_COMMON.index(name) for name in param.opts if name in _COMMON]
    last = getattr(param, "rich_help_panel", None) == _LAST
    return min(known, default=len(_COMMON)), last, "--help" in param.opts


def _usage(context: Any) -> list[str]:
    """What stands behind a command's name: [OPTIONS] VIDEO QUESTION..."""
    words = ["[OPTIONS]"]
    for param in _params(context):
        if param.param_type_name == "argument":
            name = (param.metavar or param.name.upper()).strip("[]")
            words.append(name if param.required else f"[{name}]")
    return words


def _at_home(arg: str) -> str:
    """`--output=~/rows.jsonl` with the home folder; shells leave the ~ behind a = as it is."""
    name, equals, value = arg.partition("=")
    if name.startswith("--") and value.startswith("~"):
        return name + equals + os.path.expanduser(value)
    return arg


def _name(param: Any) -> str:
    if param is None:
        return "something"
    if param.param_type_name == "argument":
        return str(param.metavar or param.name.upper()).strip("[]").removesuffix("...")
    return str(max(param.opts, key=len))


def _params(context: Any) -> list[Any]:
    return context.command.get_params(context) if context else []


def _alike(name: str, context: Any) -> str:
    """` (did you mean --frames?)`, or nothing; the dashes say nothing of the likeness."""
    names = [opt[2:] for param in _params(context) for opt in param.opts if opt.startswith("--")]
    match = difflib.get_close_matches(name.removeprefix("--"), names, n=1, cutoff=0.5)
    return f" (did you mean --{match[0]}?)" if match and name.startswith("--") else ""


def _as_in(name: str, context: Any) -> str:
    param = next((param for param in _params(context) if name in param.opts), None)
    if param is not None and (words := _words(param)):
        return f"one of: {', '.join(words)}"
    return f"as in {name} {param.metavar}" if param is not None and param.metavar else ""


def _words(param: Any) -> list[str]:
    """The values that there are, of an option that takes one of a few."""
    choices = getattr(getattr(param, "type_descriptor", None), "choices", None) or ()
    return [str(getattr(choice, "value", choice)) for choice in choices]


def _bad_value(error: Any, told: str) -> UsageError:
    """A value of the wrong type, out of range, or none of those that there are."""
    errors = getattr(error.__cause__, "errors", None)  # of the library of typer's types
    listed: list[dict[str, Any]] = errors() if callable(errors) else []
    found = listed[0] if listed else {}
    given, param = str(found.get("input", "")), error.param
    name = f"{_name(param)} {repr(given)[:80] if found else ''}"
    if words := _words(param):
        return UsageError(
            f"{name} is not known{nearest(given, words)}", f"one of: {', '.join(words)}"
        )
    problem, limits = str(found.get("type", "")), found.get("ctx") or {}
    for kind, number in (("int", "a whole number"), ("float", "a number")):
        if problem.startswith(kind):
            likely = f"as in {_name(param)} {param.default}" if param.default is not None else told
            return UsageError(f"{name} is not {number}", likely)
    if problem == "greater_than_equal":
        return UsageError(f"{name} is below {limits.get('ge')}", "give a larger one")
    if problem == "less_than_equal":
        return UsageError(f"{name} is above {limits.get('le')}", "give a smaller one")
    return UsageError(f"{name} cannot be taken", told)


def _without_a_class(error: typer.TyperException, context: Any, told: str) -> UsageError:
    """What typer has only sentences for."""
    message = error.format_message()
    commands = sorted(getattr(context.command, "commands", ())) if context else []
    if command := re.match(r"No such command '(.*?)'", message, re.DOTALL):
        word = command[1]
        return UsageError(
            f"there is no command {word!r}{nearest(word, commands)}",
            f"one of: {', '.join(commands)}",
        )
    if extra := re.match(r"Got unexpected extra argument\(s\) \((.*)\)$", message, re.DOTALL):
        return UsageError(f"nothing more is taken here: {extra[1]}", f"{_BLANKS}; {told}")
    if message.startswith("Missing command"):
        return UsageError("a command is missing", f"one of: {', '.join(commands)}")
    return UsageError("the command line cannot be read", told)
