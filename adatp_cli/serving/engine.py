"""One model, one answer at a time: requests wait in a short queue, their clips decoded ahead."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from adatp_cli.answering.clips import ClipStore, clip_key
from adatp_cli.answering.decoding import GenerationSettings
from adatp_cli.answering.run import Row, RunLoop
from adatp_cli.answering.session import Session
from adatp_cli.answering.tasks import ProfileRun
from adatp_cli.profiles import Profile
from adatp_cli.video.isolated import IsolatedReader, Limits

if TYPE_CHECKING:
    from adatp_cli.model.load import LoadedModel
    from adatp_cli.model.prompt import Message
    from adatp_cli.record import AnswerRecord
    from adatp_cli.video.frames import Frames
    from adatp_cli.video.sampling import Sampling
    from adatp_cli.video.source import Source


class QueueFullError(Exception):
    """As many requests wait as may."""


class StoppingError(Exception):
    """The server ends, and takes or keeps no request that is not being answered."""


class TooLateError(Exception):
    """A request's time is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be asked about a clip; `emit` gets what comes of it, from the engine's threads.

    That is what `RunLoop.clip` gives out, the exception that ended it if one did, and None at the
    end.
    """

    source: bytes | Source
    name: str
    questions: Sequence[str]
    profile: Profile
    settings: GenerationSettings
    sampling: Sampling
    emit: Callable[[object], None]
    frames_auto: bool = False
    history: tuple[Message, ...] = ()
    whole: bool = False  # nobody reads pieces of text
    deadline: float = float("inf")  # by time.monotonic
    cancelled: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise what ends it before its time."""
        if time.monotonic() > self.deadline:
            raise TooLateError


class Engine:
    """A loaded model that answers requests in the order in which their clips are ready.

    Two threads: one decodes the clip of the next request while the other answers. `waiting` counts
    the requests that are not at an end, the one that is being answered among them; at most
    `most_waiting` beside that one are taken.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        store: ClipStore,
        describe: Callable[[BaseException], Any],
        *,
        limits: Limits | None = None,
        most_waiting: int = 8,
    ) -> None:
        self.loaded = loaded
        self.store = store
        self.seconds: dict[str, float] = defaultdict(float)  # by stage, over all answers
        self.tokens: Counter[str] = Counter()  # prompt, visual, kept and generated
        self.waiting = 0
        self._loop = RunLoop(describe, stream=True)
        self._whole = RunLoop(describe)
        self._limits = limits or Limits()
        self._most = most_waiting + 1
        self._guard = threading.Condition()
        self._stopping = False
        self._incoming: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        # One clip that waits decoded is enough to keep the model busy, and bounds the memory.
        self._ready: queue.Queue[tuple[Request, _Decoded | Exception] | None] = queue.Queue(1)
        self._sessions = lru_cache(32)(self._session)
        self._threads = [
            threading.Thread(target=target, name=f"adatp-{name}", daemon=True)
            for name, target in (("decode", self._decode_all), ("engine", self._answer_all))
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, request: Request) -> None:
        """Take a request, or raise QueueFullError or StoppingError."""
        with self._guard:
            if self._stopping:
                raise StoppingError
            if self.waiting >= self._most:
                raise QueueFullError
            self.waiting += 1
        self._incoming.put(request)

    def stop(self) -> None:
        """Take no more requests, and refuse those that wait; what has begun goes on."""
        with self._guard:
            self._stopping = True

    def close(self) -> None:
        """`stop`, and wait for the answers that have begun."""
        self.stop()
        self._incoming.put(None)
        for thread in self._threads:
            thread.join()

    def run_for(self, profile: Profile, settings: GenerationSettings) -> ProfileRun:
        """The profile on this model; a ModelError or UsageError where it cannot be."""
        return self._sessions(profile, settings)

    def _session(self, profile: Profile, settings: GenerationSettings) -> ProfileRun:
        return ProfileRun.of(Session(self.loaded, profile, settings), self.loaded)

    def _decode_all(self) -> None:
        with IsolatedReader(self._limits) as reader:
            reader.start()
            while (request := self._incoming.get()) is not None:
                self._ready.put((request, self._decoded(request, reader)))
        self._ready.put(None)

    def _decoded(self, request: Request, reader: IsolatedReader) -> _Decoded | Exception:
        """What gives the clip's frames, or what kept it from having any."""
        started = time.perf_counter()
        try:
            if self._stopping:
                raise StoppingError
            request.check()
            run = self.run_for(request.profile, request.settings)
            sampling = self._sampling(request, run)
            key = clip_key(request.source, sampling, run.session)
            if key is not None and key in self.store:
                return _Decoded(None, 0.0)
            frames = reader.read(
                request.source, sampling, name=request.name, resize=run.session.plan.resize
            )
            return _Decoded(frames, time.perf_counter() - started)
        except Exception as error:
            return error

    def _answer_all(self) -> None:
        with IsolatedReader(self._limits) as reader:  # for a clip that left the store meanwhile
            while (item := self._ready.get()) is not None:
                request, decoded = item
                try:
                    if isinstance(decoded, Exception):
                        raise decoded
                    request.check()
                    decoded.reader = reader
                    self._answer(request, decoded)
                except Exception as error:
                    request.emit(error)
                finally:
                    if not isinstance(request.source, bytes) and request.source.file is not None:
                        os.close(request.source.file)
                    with self._guard:
                        self.waiting -= 1
                    request.emit(None)

    def _answer(self, request: Request, reader: _Decoded) -> None:
        if request.cancelled.is_set():
            return
        run = self.run_for(request.profile, request.settings)
        loop = self._whole if request.whole else self._loop
        events = loop.clip(
            run,
            request.source,
            request.questions,
            self._sampling(request, run),
            reader=reader,
            video_name=request.name,
            prefill="each",
            history=request.history,
            store=self.store,
        )
        # Closed when the client went away: that stops the answer at its next token.
        with contextlib.closing(events):
            for event in events:
                if request.cancelled.is_set():
                    return
                request.check()
                if isinstance(event, Row) and event.answered is not None:
                    record = _decoded_ahead(event.answered.record, reader.seconds)
                    self._count(record)
                    event = dataclasses.replace(event, record=record)
                request.emit(event)

    def _sampling(self, request: Request, run: ProfileRun) -> Sampling:
        plan = run.session.plan
        default = run.session.profile.frames or self.loaded.default_frames
        if request.frames_auto:
            default = plan.frame_budget(default, request.questions).frames
        return request.sampling.with_default_frames(default)

    def _count(self, record: AnswerRecord) -> None:
        seconds = dataclasses.asdict(record.seconds)
        for name in ("decode", "vision", "relevance", "prefill", "generate"):
            self.seconds[name] += seconds[name]
        self.tokens.update(
            prompt=record.tokens.text + record.tokens.visual,
            visual=record.tokens.visual,
            kept=record.tokens.kept_final,
            generated=record.tokens.generated,
        )


def _decoded_ahead(record: AnswerRecord, decode_s: float) -> AnswerRecord:
    """The record with the seconds of a decoder that was not waited for here."""
    told = record.seconds
    seconds = dataclasses.replace(
        told,
        decode=told.decode + decode_s,
        first_token=told.first_token + decode_s,
        total=told.total + decode_s,
    )
    return dataclasses.replace(record, seconds=seconds)


class _Decoded:
    """A `FrameReader` of a clip that was decoded ahead in so many seconds, else by `reader`."""

    def __init__(self, frames: Frames | None, seconds: float) -> None:
        self._frames = frames
        self.seconds = seconds
        self.reader: IsolatedReader | None = None

    def read(self, source: Any, sampling: Any, **asked: Any) -> Frames:
        """See `FrameReader.read`."""
        if self._frames is None and self.reader is not None:
            return self.reader.read(source, sampling, **asked)
        if self._frames is None:
            raise StoppingError
        return self._frames

    def read_pictures(self, pictures: Any, resize: Any = None) -> Frames:
        """Clients send no pictures."""
        raise NotImplementedError
