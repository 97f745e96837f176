"""Decode the next clips while the current one is answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from adatp_cli.answering.tasks import Decoded
from adatp_cli.video.frames import Frames
from adatp_cli.video.isolated import NotStartedError

Item = TypeVar("Item")

# Clips that wait decoded: one to go on with, one more for a clip that takes long to decode.
DEPTH = 2
# More readers than this wait for the disk, and for the model, more than they decode.
MOST_READERS = 4
_PATIENCE_S = 0.1


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


class FramePrefetcher(Generic[Item]):
    """Threads that read clips, at most `DEPTH` of them and one in each thread's hands ahead.

    Clips are begun in order, and come out in order whichever is there first. Without `ahead` a clip
    is begun only when it is asked for. What a read raises becomes that clip's result. `throughput`
    tells how long results were waited for, whole when `results` has ended.
    """

    # Threads of our own and no executor: at the end of the program an executor waits for its
    # threads, and each of these may be in the middle of a clip. They end after it.

    def __init__(
        self,
        items: Sequence[Item],
        *reads: Callable[[Item], Frames],
        ahead: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.throughput = Throughput()
        self._items = items
        self._clock = clock
        self._ahead = DEPTH + len(reads) if ahead else 0
        self._changed = threading.Condition()  # guards all that follows
        self._ready: dict[int, Decoded[Item]] = {}
        self._begun = 0
        self._asked = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, args=(read,), name="decode-ahead", daemon=True)
            for read in reads
        ]

    def __enter__(self) -> FramePrefetcher[Item]:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
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
                if self._changed.wait_for(lambda: number in self._ready, _PATIENCE_S):
                    return self._ready.pop(number)
        return None

    def _work(self, read: Callable[[Item], Frames]) -> None:
        """Read one clip after another, each once there is room for it."""

        def over() -> bool:
            return self._closed or self._begun == len(self._items)

        while True:
            with self._changed:
                self._changed.wait_for(lambda: over() or self._begun < self._asked + self._ahead)
                if over():
                    return
                number = self._begun
                self._begun += 1
            started = self._clock()
            frames: Frames | Exception
            try:
                frames = read(self._items[number])
            except Exception as error:
                frames = error
            decoded = Decoded(self._items[number], frames, self._clock() - started)
            with self._changed:
                self._ready[number] = decoded
                self._changed.notify_all()
            del frames, decoded  # not to hold a clip's pixels while waiting for room


def default_readers(*, on_gpu: bool, cores: int) -> int:
    """How many clips to decode at the same time.

    On a CPU one: the model computes with every core, and a decoder has threads of its own besides.
    A GPU leaves the cores to decoding, all but the one that drives it.
    """
    return max(1, min(MOST_READERS, cores - 1)) if on_gpu else 1
