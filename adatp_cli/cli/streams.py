"""The standard streams: there whatever the process was started with, and no harm when they break.

A closed stdout is an error of whoever has something to write to it; a stderr that is closed or full
has nobody to be told, and the program goes on in silence.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import sys
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console

from adatp_cli.errors import AdatpError

_CELL_ENDS = re.compile(r"(?<!\\)\|")
_RULE = re.compile(r"[|:\- ]+")
_NUMBER = re.compile(r"[-+<±]? ?[0-9].*|-")
_BETWEEN = "  "


class OutputClosedError(Exception):
    """Whoever read stdout has closed it; there is nobody left to write for."""


class ClosedStdout(io.TextIOBase):
    """Stands where a process was started without a stdout."""

    def write(self, text: str) -> int:  # noqa: ARG002 - as every stream has it
        raise OSError(errno.EBADF, "stdout is closed")


class Stderr(Console):
    """A console that goes on in silence when stderr takes no more."""

    def __init__(self) -> None:
        super().__init__(stderr=True, highlight=False, markup=False, emoji=False)

    def __exit__(self, *exception: object) -> None:
        try:
            super().__exit__(*exception)  # where everything that is printed is written
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        self.quiet = True
        discard(sys.stderr)


def repair_streams() -> None:
    """Make the streams usable: there, able to carry any text, and none of them a file's number.

    A process may be started with a stream closed, which Python shows as None, or in a locale that
    cannot encode an answer or a file's name.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # or the next file to be opened would be what libraries take for stderr
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    if sys.stdout is None:
        sys.stdout = ClosedStdout()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard(stream: TextIO) -> None:
    """Send the rest of a stream nowhere, so that the flush at exit does not fail as well."""
    with contextlib.suppress(io.UnsupportedOperation):  # one of no file, which keeps nothing back
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, stream.fileno())
        os.close(devnull)


def check_stdout() -> None:
    """Refuse, before any work, a stdout that cannot take its result."""
    write_stdout("")


def write_stdout(text: str) -> None:
    """Write to stdout and flush."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        raise stdout_failure(error) from error


def stdout_failure(error: OSError) -> OutputClosedError | AdatpError:
    """What a failed write to stdout is told as; what is left to be written goes nowhere."""
    discard(sys.stdout)
    if isinstance(error, BrokenPipeError):
        return OutputClosedError()
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    hint = "make room, or write elsewhere" if full else "write elsewhere, as in > FILE"
    return AdatpError(f"the output cannot be written: {error.strerror or error}", hint)


class WordWrap:
    """Breaks a text that comes in pieces between words; each word is given out once it is whole."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._at = 0
        self._gap = self._word = ""

    def feed(self, text: str) -> str:
        """What can be shown now that `text` has come."""
        shown = ""
        for character in text:
            if character == "\n":
                shown += self.rest() + "\n"
            elif character.isspace():
                shown += self._flushed()
                self._gap += character
            else:
                self._word += character
        return shown

    def rest(self) -> str:
        """The last word; the next one begins a line."""
        shown = self._flushed()
        self._at, self._gap = 0, ""
        return shown

    def _flushed(self) -> str:
        if not self._word:
            return ""
        shown = self._gap + self._word
        if self._at and self._at + cell_len(shown) > self._columns:
            self._at, shown = 0, f"\n{self._word}"
        self._at += cell_len(shown.removeprefix("\n"))
        self._gap = self._word = ""
        return shown


def aligned(page: str, columns: int) -> str:
    """A page of Markdown as plain text for a terminal: tables with their columns aligned.

    A table that is wider than the terminal comes in parts, each with the first column.
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
            shown = ""
            for at in (0, *part):
                room = " " * (widths[at] - cell_len(cells[at]))
                right = at > 0 and all(_NUMBER.fullmatch(row[at]) for row in table[1:])
                shown += (room + cells[at] if right else cells[at] + room) + _BETWEEN
            lines.append(shown.rstrip())
    return lines
