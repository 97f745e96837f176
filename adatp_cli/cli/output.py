"""The one place that writes: answers or JSON to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.spinner import Spinner
from rich.text import Text

from adatp_cli.cli.options import Stats
from adatp_cli.cli.streams import OutputClosedError, Stderr, WordWrap, aligned, write_stdout
from adatp_cli.record import AnswerRecord, ErrorInfo, FailureRecord, Seconds, json_line
from adatp_cli.text import amount, duration, for_terminal, one_line, percent, plural, printable

_LINE_EVERY_S = 30.0


class Output:
    """Where a command's results, progress and errors go."""

    def __init__(
        self,
        *,
        json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        stats: Stats = "short",
    ) -> None:
        self.json = json  # records on stdout in place of streamed text
        self.quiet = quiet  # nothing on stderr but errors
        self.verbose = verbose  # every stage on stderr, and tracebacks
        self.stats = stats  # how much is told of what an answer cost
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
        """Write to stdout and flush: as it is, but nothing that a terminal would obey to one."""
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
        self,
        record: AnswerRecord,
        *,
        own: Seconds | None = None,
        truth: str | None = None,
        turn: int | None = None,
    ) -> None:
        """The end of an answer: its record in JSON mode, how it ended and what it cost on stderr.

        `own` is what a later question about the clip took by itself; `truth` stands below the
        answer where it is known; `turn` is the answer's number in a conversation.
        """
        if self.json:
            self._record(record, turn)
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
        if self.stats == "short":
            self._print(Text(summary(record, own), style="dim"))
        elif self.stats == "full":
            for label, text in statistics(record, own):
                self._print(Text.assemble((f"{label:<12}", "dim"), text))

    def failed(self, record: FailureRecord, turn: int | None = None) -> None:
        """A question without an answer: its record in JSON mode. The error itself comes apart."""
        if self.json:
            self._record(record, turn)

    def _record(self, record: AnswerRecord | FailureRecord, turn: int | None) -> None:
        self.data(record.to_dict() if turn is None else {**record.to_dict(), "turn": turn})

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

    def clear(self) -> None:
        """Take the moving line away, for who writes to the terminal next."""
        self._clear_status()
        self._end_line()

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


class BatchProgress:
    """Counts the rows of a run, and says how far it is: with a bar, or a line every half minute."""

    def __init__(
        self, console: Console, total: int, *, noun: str, moving: bool, quiet: bool
    ) -> None:
        self.answered = 0
        self.failed: Counter[str] = Counter()
        self.failed_clips: dict[str, str] = {}  # with the first thing that went wrong
        self._videos: set[str] = set()
        self._console = console
        self._total = total
        self._noun = noun
        self._quiet = quiet
        self._began = self._said = time.monotonic()
        self._bar: Progress | None = None
        if moving and not quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=console,
                transient=True,
                redirect_stdout=False,  # the rows of a run are not for the terminal of stderr
                redirect_stderr=False,
            )
            self._task = self._bar.add_task(noun, total=total)
            self._bar.start()

    @property
    def rows(self) -> int:
        """Rows written."""
        return self.answered + sum(self.failed.values())

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    @property
    def clips(self) -> int:
        """Clips with a row."""
        return len(self._videos)

    def advance(self, video: str, error: ErrorInfo | None) -> None:
        """Count one more row."""
        self._videos.add(video)
        if error is None:
            self.answered += 1
        else:
            self.failed[error.kind] += 1
            self.failed_clips.setdefault(video, error.message)
        failed = sum(self.failed.values())
        if self._bar is not None:
            text = f"{self._noun}, {failed} failed" if failed else self._noun
            self._bar.update(self._task, completed=self.rows, description=text)
        elif not self._quiet and time.monotonic() - self._said >= _LINE_EVERY_S:
            self._said = time.monotonic()
            left = self.seconds / self.rows * (self._total - self.rows)
            tail = f", {failed} failed" if failed else ""
            self._console.print(
                f"{self.rows} of {self._total} {self._noun}{tail}, about {duration(left)} left"
            )

    def __enter__(self) -> BatchProgress:
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def summary(record: AnswerRecord, own: Seconds | None = None) -> str:
    """What an answer cost in one line: tokens kept, the LLM's share in the paper's count, seconds.

    `own` is what a later question about the clip took, which decoding and encoding are no part of.
    """
    tokens, seconds = record.tokens, own or record.seconds
    return (
        f"{tokens.kept_final} of {tokens.visual} tokens kept, "
        f"{percent(record.flops.paper.ratio)} of the LLM's work, {_time(seconds.total)} s"
        + (", clip reused" if own else "")
    )


def ending(record: AnswerRecord) -> str | None:
    """What there is to say of how an answer ended: that it is empty, or was cut; else None."""
    cut, spent = record.finish_reason == "length", plural(record.tokens.generated, "token")
    more = "--max-new-tokens raises the limit"
    if cut and record.answer:
        return f"the answer was cut at {spent}; {more}"
    if cut:
        return f"the answer is empty: the model gave {spent} without text; {more}"
    if not record.answer:
        return "the answer is empty: the model ended at once; ask in other words"
    return None


def statistics(record: AnswerRecord, own: Seconds | None = None) -> list[tuple[str, str]]:
    """What an answer cost, as label and text; each fits a line of 80 columns. `own` as above."""
    tokens, paper, full = record.tokens, record.flops.paper, record.flops.end_to_end
    seconds = own or record.seconds
    llm = full.prefill + full.scoring + full.generate
    llm_vanilla = full.vanilla - full.vision
    encoders = [f"vision {amount(full.vision)}"]
    before = ["prefill"] if own else ["decode", "vision", "prefill"]
    if full.relevance:
        encoders.append(f"relevance {amount(full.relevance)}")
        before.insert(-1, "relevance")
    generated = f"generate {_time(seconds.generate)} for {plural(tokens.generated, 'token')}"
    begun = "" if own else f"load {_time(seconds.load)}, "
    reused = "; clip reused" if own else ""
    stages = [f"{name} {_time(getattr(seconds, name))}" for name in before]
    used, copied = record.video_info.frames_used, record.video_info.frames_copied
    frames = f"{used - copied} of {used} encoded; the others are near copies, with their tokens"
    return [
        *([("frames", frames)] if copied else []),
        (
            "tokens",
            f"{tokens.visual} visual, {tokens.kept_final} kept to the last layer, "
            f"{percent(tokens.kept_mean_ratio)} mean per layer",
        ),
        (
            "LLM cost",
            f"{amount(paper.pruned)} of {amount(paper.vanilla)}MAC "
            f"({percent(paper.ratio)}, paper), "
            f"{amount(llm)} of {amount(llm_vanilla)}FLOP ({percent(llm / llm_vanilla)})",
        ),
        (
            "end to end",
            f"{amount(full.pruned)} of {amount(full.vanilla)}FLOP ({percent(full.ratio)}), "
            f"{', '.join(encoders)}",
        ),
        ("first token", f"{_time(seconds.first_token)} s: {', '.join(stages)}{reused}"),
        ("in all", f"{_time(seconds.total)} s: {begun}{generated}"),
    ]


def _time(seconds: float) -> str:
    """At most four characters up to 9999 s: 0.35, 12.5, 125."""
    return f"{seconds:.{2 if seconds < 9.995 else 1 if seconds < 99.95 else 0}f}"
