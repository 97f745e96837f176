"""How a command's help is laid out: the commonest options first, and two examples at its end."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# In this order; a command shows those that it has in a panel of their own, before all others.
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
_FIRST, _LAST = "Used most", "Output"


def examples(*commands: str) -> str:
    """Command lines for the end of a help, a line each."""
    return "\n".join(["Examples:", *commands])


def one_paragraph_a_line(text: str | None) -> str | None:
    """A docstring whose lines are broken where the screen ends, not where the source does."""
    return None if text is None else re.sub(r"(?<=\S)\n[ \t]*(?=\S)", " ", text)


def arranged(params: Iterable[Any]) -> list[Any]:
    """A command's parameters in the order of its help; flags and arguments show no type."""
    found = without_types(params)
    for param in found:
        if "--help" in param.opts:
            param.rich_help_panel = _LAST
        elif 0 <= _place(param) < len(_COMMON):
            param.rich_help_panel = _FIRST
    return sorted(found, key=_order)


def without_types(params: Iterable[Any]) -> list[Any]:
    """The parameters; flags take no value, and what an argument is its name tells."""
    found = list(params)
    for param in found:
        if param.param_type_name == "argument":
            param.display_type_rich = _nothing
        elif getattr(param, "is_bool_flag", False):
            param.metavar = ""
    return found


def usage(context: Any) -> list[str]:
    """What stands behind a command's name: [OPTIONS] VIDEO QUESTION..."""
    words = ["[OPTIONS]"]
    for param in context.command.get_params(context):
        if param.param_type_name == "argument":
            name = (param.metavar or param.name.upper()).strip("[]")
            words.append(name if param.required else f"[{name}]")
    return words


def _order(param: Any) -> tuple[int, bool, bool]:
    panel = getattr(param, "rich_help_panel", None)
    return _place(param), panel == _LAST, "--help" in param.opts


def _place(param: Any) -> int:
    """Arguments first, then what is used most, then the rest."""
    if param.param_type_name == "argument":
        return -1
    known = [_COMMON.index(name) for name in param.opts if name in _COMMON]
    return min(known, default=len(_COMMON))


def _nothing(ctx: Any) -> None:
    """The type of what needs none."""
