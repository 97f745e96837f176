"""The one place that writes: answers or JSON to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any

from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from adatp_cli.cli.costs import ending, statistics, summary
from adatp_cli.cli.options import Stats
from adatp_cli.cli.progress import BatchProgress
from adatp_cli.cli.streams import OutputClosedError, Stderr, WordWrap, write_stdout
from adatp_cli.cli.tables import aligned
from adatp_cli.record import AnswerRecord, ErrorInfo, FailureRecord, Seconds, json_line
from adatp_cli.text import for_terminal, one_line, printable


class Output:
    """Where a command's results, progress and errors go.

    Parameters
    ----------
    json
        Records as JSON lines on stdout in place of streamed text.
    quiet
        Nothing on stderr but errors.
    verbose
        Every stage on stderr, and tracebacks.
    stats
        How much is told of what an answer cost.
    """

    def __init__(
        self,
        *,
        json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        stats: Stats = Stats.short,
    ) -> None:
        self.json = json
        self.quiet = quiet
        self.verbose = verbose
        self.stats = stats
        self._stderr = Stderr()
        self._spinner = Spinner("dots", style="status.spinner")
        self._status: Live | None = None
        self._mid_line = False
        self._wrap: WordWrap | None = None
        if sys.stdout.isatty():
            self._wrap = WordWrap(shutil.get_terminal_size().columns)
        self._asked = -1

    # stdout

    def write(self, text: str) -> None:
        """Write to stdout and flush: as it is, but nothing that a terminal would obey to one.

        Raises
        ------
        OutputClosedError
            The reader has gone.
        AdatpError
            The output takes no more: it is closed, or a disk is full.
        """
        self._clear_status()
        write_stdout(for_terminal(text) if sys.stdout.isatty() else text)
        self._mid_line = not text.endswith("\n") if text else self._mid_line

    def line(self, text: str) -> None:
        """Write one line, or several, to stdout."""
        self.write(f"{text}\n")

    def page(self, text: str) -> None:
        """Write Markdown as it is, and on a terminal with its tables' columns aligned."""
        width = shutil.get_terminal_size().columns
        self.write(aligned(text, width) if sys.stdout.isatty() else text)

    def csv_row(self, text: str) -> None:
        """Write a row of a table as it is, and on one line to a terminal."""
        one = f"{printable(text.rstrip())}\r\n"
        self.write(one if sys.stdout.isatty() else text)

    def data(self, value: Any) -> None:
        """Write a value to stdout as one line of JSON."""
        self.line(json_line(value))

    def text_chunk(self, text: str) -> None:
        """A piece of the answer, as it comes; nothing in JSON mode."""
        if not self.json and (shown := text if self._wrap is None else self._wrap.feed(text)):
            self.write(shown)

    def answered(
        self, record: AnswerRecord, *, own: Seconds | None = None, truth: str | None = None
    ) -> None:
        """The end of an answer: its record in JSON mode, how it ended and what it cost on stderr.

        Parameters
        ----------
        own
            What a later question about a clip took, which it is then told in.
        truth
            Where it is known; it stands below the answer.
        """
        if self.json:
            self.line(record.to_json())
        else:
            self.write(f"{self._rest()}\n")
        said = ending(record)
        if said is not None:
            self.note(said)
        if truth is not None and not self.json:
            right = record.answer == truth
            self._print(
                Text("right", style="green")
                if right
                else Text.assemble(("wrong", "red"), f": the truth is {one_line(truth)}")
            )
        if self.stats is Stats.short:
            self._print(Text(summary(record, own), style="dim"))
        elif self.stats is Stats.full:
            for label, text in statistics(record, own):
                self._row(label, Text(text))

    def failed(self, record: FailureRecord) -> None:
        """A question without an answer: its record in JSON mode. The error itself comes apart."""
        if self.json:
            self.line(record.to_json())

    # stderr

    def note(self, *lines: str) -> None:
        """Something the user should know. Each text is one line, whatever name is part of it."""
        for line in lines:
            indent = line[: len(line) - len(line.lstrip(" "))]
            self._print(Text(indent + one_line(line)))

    def question(self, index: int, text: str) -> None:
        """Which of several questions the coming answer is to; said once, to people."""
        if index != self._asked and not self.json:
            self._asked = index
            self._print(Text(f"{index + 1}. {one_line(text)}", style="bold"))

    def stage(self, text: str) -> None:
        """What is going on: a moving line on a terminal, a plain one with --verbose."""
        text = one_line(text)
        if self.verbose:
            self.note(text)
        elif not self.quiet and self._stderr.is_terminal:
            self._spinner.update(text=Text(text, no_wrap=True, overflow="ellipsis"))
            if self._status is None:
                self._status = Live(
                    self._spinner,
                    console=self._stderr,
                    refresh_per_second=12.5,
                    transient=True,
                    redirect_stdout=False,  # an answer is not for the terminal of stderr
                    redirect_stderr=False,
                )
                self._status.start()

    def agreed(self, question: str) -> bool:
        """Ask on stderr, and take a yes from stdin; anything else is a no."""
        self._clear_status()
        # typer's own way writes the last letter of its question to stdout.
        self._stderr.print(Text(f"{question} [y/N] "), end="", soft_wrap=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def progress_line(self, text: str) -> None:
        """What is announced once stays on the screen; what counts up to its end does not."""
        (self.stage if text.startswith(("loading ", "fetching ")) else self.note)(text)

    def progress(self, total: int, noun: str, *, rows_seen: bool) -> BatchProgress:
        """How far a run of `total` rows is: a bar, where it does not stand between the rows."""
        moving = self._stderr.is_terminal and not rows_seen
        self._clear_status()
        return BatchProgress(self._stderr, total, noun=noun, moving=moving, quiet=self.quiet)

    def trouble(self, text: str) -> None:
        """Several lines on what went wrong, whatever --quiet says."""
        self._clear_status()
        self._end_line()
        self._stderr.print(Text(for_terminal(text)), soft_wrap=True)

    def error(self, info: ErrorInfo) -> None:
        """One line: what, on which file, what to do next."""
        text = f"{info.message}; {info.hint}" if info.hint else info.message
        self._clear_status()
        self._end_line()
        self._say(Text.assemble(("error: ", "bold red"), text))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """A block at whose end, however it ends, no moving line is left on the terminal."""
        try:
            yield
        finally:
            self._clear_status()

    def _row(self, label: str, text: Text) -> None:
        self._print(Text.assemble((f"{label:<12}", "dim"), text))

    def _print(self, text: Text) -> None:
        if self.quiet:
            return
        self._clear_status()
        self._say(text)

    def _say(self, text: Text) -> None:
        """One line on stderr; on a terminal it is broken between words."""
        self._stderr.print(text, soft_wrap=not self._stderr.is_terminal)

    def _clear_status(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _end_line(self) -> None:
        """Finish a half-written answer, so that an error does not stand behind it on a terminal."""
        rest = self._rest()
        if self._mid_line or rest:
            self._mid_line = False
            if sys.stdout.isatty():
                with contextlib.suppress(OutputClosedError):
                    self.write(f"{rest}\n")

    def _rest(self) -> str:
        """The word of an answer that is not shown yet."""
        return "" if self._wrap is None else self._wrap.rest()
