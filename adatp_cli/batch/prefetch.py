"""Decode the next clips while the current one is answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

from adatp_cli.answering.tasks import Decoded
from adatp_cli.video.frames import Frames
from adatp_cli.video.isolated import NotStartedError

Item = TypeVar("Item")

# Clips that wait decoded: one to go on with, one more for a clip that takes long to decode.
DEPTH = 2
_PATIENCE_S = 0.1


class FramePrefetcher(Generic[Item]):
    """Threads that read clips, at most `DEPTH` of them and one in each thread's hands ahead.

    Clips are begun in order, and come out in order whichever is there first.

    Without `ahead` a clip is begun only when it is asked for. What a read raises becomes that
    clip's result. `throughput` tells how long results were waited for, whole when `results` has
    ended.
    """

    def __init__(
        self,
        items: Sequence[Item],
        read: Callable[[Item], Frames],
        *more: Callable[[Item], Frames],
        ahead: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.throughput = Throughput()
        self._items = items
        self._clock = clock
        reads = (read, *more)
        self._ahead = DEPTH + len(reads) if ahead else 0
        self._changed = threading.Condition()  # guards all that follows
        self._ready: dict[int, Decoded[Item]] = {}
        self._begun = 0
        self._asked = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, args=(one,), name="decode-ahead", daemon=True)
            for one in reads
        ]

    def __enter__(self) -> FramePrefetcher[Item]:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The threads are not waited for: each may be in the middle of a clip, and ends after it.
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def results(self, stop: Callable[[], bool]) -> Iterator[Decoded[Item]]:
        """The clips in order, each as soon as it is there; ends early once `stop` says so.

        NotStartedError goes on: it is no fault of a clip, and the next ones would fare no better.
        """
        throughput = self.throughput
        for number in range(len(self._items)):
            asked = self._clock()
            decoded = self._take(number, stop)
            taken = self._clock()
            if number == 0:
                throughput.first_s += taken - asked
            else:
                throughput.waited_s += taken - asked
            if decoded is None:
                return
            if isinstance(decoded.frames, NotStartedError):
                raise decoded.frames
            throughput.clips += 1
            throughput.decoding_s += decoded.seconds
            try:
                yield decoded
            finally:
                throughput.answering_s += self._clock() - taken

    def _take(self, number: int, stop: Callable[[], bool]) -> Decoded[Item] | None:
        """The result of clip `number`, waited for; None once `stop` says so."""
        with self._changed:
            self._asked = number + 1
            self._changed.notify_all()
        while not stop():
            with self._changed:
                if number not in self._ready:
                    self._changed.wait(_PATIENCE_S)
                if number in self._ready:
                    return self._ready.pop(number)
        return None

    def _work(self, read: Callable[[Item], Frames]) -> None:
        while (number := self._begin()) is not None:
            self._put(number, self._decoded(self._items[number], read))

    def _begin(self) -> int | None:
        """The next clip's number, once there is room for it; None when there is no more to do."""
        with self._changed:
            self._changed.wait_for(lambda: self._over() or self._begun < self._asked + self._ahead)
            if self._over():
                return None
            self._begun += 1
            return self._begun - 1

    def _over(self) -> bool:
        return self._closed or self._begun == len(self._items)

    def _decoded(self, item: Item, read: Callable[[Item], Frames]) -> Decoded[Item]:
        started = self._clock()
        frames: Frames | Exception
        try:
            frames = read(item)
        except Exception as error:
            frames = error
        return Decoded(item, frames, self._clock() - started)

    def _put(self, number: int, decoded: Decoded[Item]) -> None:
        with self._changed:
            self._ready[number] = decoded
            self._changed.notify_all()


# More readers than this wait for the disk, and for the model, more than they decode.
MOST_READERS = 4


@dataclass(slots=True)
class Throughput:
    """Seconds of a run, added up as it goes on."""

    first_s: float = 0.0  # until the first clip was decoded, which no decoding ahead can spare
    waited_s: float = 0.0  # the model stood still because a later clip was not decoded yet
    answering_s: float = 0.0  # somebody had a clip: encoding, answers, rows written
    decoding_s: float = 0.0  # all readers together, for the clips that were taken
    clips: int = 0  # taken, the ones that could not be read among them

    @property
    def waited_share(self) -> float:
        """The share of the time since the first clip in which the model waited for frames."""
        whole = self.waited_s + self.answering_s
        return self.waited_s / whole if whole > 0 else 0.0


def default_readers(*, on_gpu: bool, cores: int) -> int:
    """How many clips to decode at the same time.

    On a CPU one: the model computes with every core, and a decoder has threads of its own besides.
    A GPU leaves the cores to decoding, all but the one that drives it.
    """
    return max(1, min(MOST_READERS, cores - 1)) if on_gpu else 1
