"""Markdown as a terminal shows it best: tables with their columns under each other."""

from __future__ import annotations

import re

from rich.cells import cell_len

_CELL_ENDS = re.compile(r"(?<!\\)\|")
_RULE = re.compile(r"[|:\- ]+")
_NUMBER = re.compile(r"[-+<±]? ?[0-9].*|-")
_BETWEEN = "  "


def aligned(page: str, columns: int) -> str:
    """A page of headings, lists and tables as plain text for a terminal.

    Parameters
    ----------
    page
        Markdown as `adatp_cli.text.markdown_cell` and the reports write it.
    columns
        Of the terminal. A table that is wider comes in parts, each with the first column.
    """
    lines: list[str] = []
    table: list[list[str]] = []
    for line in [*page.split("\n"), ""]:
        if line.startswith("|"):
            if not _RULE.fullmatch(line):
                cells = _CELL_ENDS.split(line)[1:-1]
                table.append([_plain(cell.strip()) for cell in cells])
            continue
        lines += _drawn(table, columns)
        table = []
        lines.append(_plain(re.sub(r"^#+ |\*\*", "", line)))
    return "\n".join(lines[:-1])


def _plain(text: str) -> str:
    """Text without the backslashes that keep it text in Markdown."""
    return re.sub(r"\\(.)", r"\1", text)


def _drawn(table: list[list[str]], columns: int) -> list[str]:
    if not table:
        return []
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    parts: list[list[int]] = [[]]
    left = columns - widths[0]
    for number, width in enumerate(widths[1:], 1):
        if parts[-1] and width + len(_BETWEEN) > left:
            parts.append([])
            left = columns - widths[0]
        parts[-1].append(number)
        left -= width + len(_BETWEEN)
    lines: list[str] = []
    for part in parts:
        lines += [""] if lines else []
        for cells in table:
            shown = [_padded(cells[0], widths[0], right=False)]
            shown += [_padded(cells[at], widths[at], right=_is_numbers(table, at)) for at in part]
            lines.append(_BETWEEN.join(shown).rstrip())
    return lines


def _is_numbers(table: list[list[str]], at: int) -> bool:
    return all(_NUMBER.fullmatch(cells[at]) for cells in table[1:])


def _padded(text: str, width: int, *, right: bool) -> str:
    room = " " * (width - cell_len(text))
    return room + text if right else text + room
