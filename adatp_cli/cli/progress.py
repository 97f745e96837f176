"""How far a batch is: a moving bar on a terminal, a plain line now and then off one."""

from __future__ import annotations

import time
from collections import Counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from adatp_cli.record import ErrorInfo

_LINE_EVERY_S = 30.0


class BatchProgress:
    """Counts rows and says where the run stands.

    Parameters
    ----------
    console
        Of stderr.
    total
        Rows to come.
    noun
        What a row is.
    moving
        Draw a bar; otherwise a line every half minute.
    quiet
        Say nothing.
    """

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

    def stop(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def duration(seconds: float) -> str:
    """'8 s', '3 min 5 s', '2 h 10 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
