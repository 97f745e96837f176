"""Decode the next clips while the current one is answered."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

from adatp_cli.video.frames import Frames

Item = TypeVar("Item")

# Clips that wait decoded: one to go on with, one more for a clip that takes long to decode.
DEPTH = 2
_PATIENCE_S = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Decoded(Generic[Item]):
    """One clip's frames, or what kept it from having any, and the seconds that this took."""

    item: Item
    frames: Frames | Exception
    seconds: float


class DecodeAhead(Generic[Item]):
    """A thread that reads clips in order and stays at most `DEPTH` of them ahead.

    Parameters
    ----------
    items
        The clips.
    read
        Gives a clip's frames; what it raises becomes that clip's result.
    """

    def __init__(self, items: Iterable[Item], read: Callable[[Item], Frames]) -> None:
        self._items = items
        self._read = read
        self._ready: queue.Queue[Decoded[Item] | None] = queue.Queue(DEPTH)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="decode-ahead", daemon=True)

    def __enter__(self) -> DecodeAhead[Item]:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The thread is not waited for: it may be in the middle of a clip, and ends after it.
        self._closed.set()

    def results(self, stop: Callable[[], bool]) -> Iterator[Decoded[Item]]:
        """The clips in order, each as soon as it is there; ends early once `stop` says so."""
        while not stop():
            try:
                decoded = self._ready.get(timeout=_PATIENCE_S)
            except queue.Empty:
                continue
            if decoded is None:
                return
            yield decoded

    def _work(self) -> None:
        for item in self._items:
            started = time.perf_counter()
            frames: Frames | Exception
            try:
                frames = self._read(item)
            except Exception as error:
                frames = error
            self._put(Decoded(item, frames, time.perf_counter() - started))
            if self._closed.is_set():
                return
        self._put(None)

    def _put(self, decoded: Decoded[Item] | None) -> None:
        while not self._closed.is_set():
            try:
                self._ready.put(decoded, timeout=_PATIENCE_S)
            except queue.Full:
                continue
            return
