"""Ctrl-C in a run that can be ended between two rows."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType


class Interrupts:
    """The first Ctrl-C is noted, a second one raises KeyboardInterrupt at once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._count = 0

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def asked(self) -> bool:
        """Whether the run is to end."""
        return self._count > 0

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._count += 1
        if self._count > 1:
            raise KeyboardInterrupt
        self._say("finishing this row; Ctrl-C again stops at once")
