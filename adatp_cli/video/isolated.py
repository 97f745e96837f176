"""Decoding in a process of its own, so that no clip can take the program down.

A child decodes (`adatp_cli.video.worker`), is watched, limited, killed and replaced; pixels come
back in memory that both processes see, at no cost of a copy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from adatp_cli.errors import AdatpError, MemoryLimitError, ModelError, VideoError
from adatp_cli.text import printable
from adatp_cli.video.channel import (
    Channel,
    ChannelClosedError,
    Message,
    append,
    error_of,
    frames_of,
    keep_size,
    map_pixels,
    shared_file,
)
from adatp_cli.video.decode import InProcessReader, check_clip, check_decoder, picture_bytes
from adatp_cli.video.frames import Filled, Frames, PictureList, Pixels, Resize, unwatched
from adatp_cli.video.sampling import Sampling
from adatp_cli.video.source import Source, check_source, unreadable

WORKER = (sys.executable, "-P", "-m", "adatp_cli.video.worker")
# Named by `--clip-timeout`: what a long recording on a busy machine needs, and a batch can wait.
CLIP_S = 300.0
# decord leaves the other half of a clip's time to PyAV.
_DECORD_SHARE = 0.5
_ENVIRONMENT = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR",
    "PYTHONHOME", "PYTHONUTF8", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX",
)  # fmt: skip
# Imports from a cold disk, on a machine that has other things to do.
_STARTING_S = 120.0
_DYING_S = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What the child may take."""

    stall_s: float = 120.0  # between two signs of life: the longest that one frame may take
    clip_s: float = CLIP_S  # for one clip, over all attempts
    memory_bytes: int = 4 << 30  # of the child's own, on Linux; pixels have another limit
    # The child is replaced after so many clips, or when so much more memory than at its start is
    # left behind after one.
    clips: int = 100
    growth_bytes: int = 512 << 20


@dataclass(slots=True)
class Deadline:
    """Until when a clip must be decoded, by `time.monotonic`; what the parent takes puts it off."""

    at: float


class ChildFailedError(Exception):
    """The child did not get through a clip; `what` says so in the words of a note."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind
        self.what = what

    def explained(self, name: str) -> AdatpError:
        if self.kind == MemoryLimitError.default_kind:
            hint = "use fewer --frames, or scale the clip down first"
            return MemoryLimitError(f"{name}: {self.what}", hint)
        hint = "the file may be damaged: convert it first, to H.264 for one"
        if self.kind == "timeout":
            hint = "give it longer with --clip-timeout SECONDS, or convert it first"
        return VideoError(f"{name}: {self.what}", hint, kind=self.kind)


class NotStartedError(ModelError):
    """The process that decodes does not start, whatever the clip is."""


class Child:
    """A running worker, and everything that has to be closed with it.

    `decord` says whether it may use that, `decoder` which one it was last heard to be at.
    """

    def __init__(self, command: Sequence[str], limits: Limits, *, decord: bool) -> None:
        ours, theirs = socket.socketpair()
        self._limits = limits
        self._channel = Channel(ours)
        # Of this process's environment what an interpreter needs: no tokens, no keys, no proxies.
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        # As the parent finds its modules, so does the child, wherever both were started.
        paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - our own module
                    [*command, str(theirs.fileno())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env={
                        **kept,
                        "OMP_NUM_THREADS": "1",
                        "OPENBLAS_NUM_THREADS": "1",
                        "PYTHONPATH": paths,
                    },
                    start_new_session=True,
                )
        except OSError as error:
            self._channel.close()
            raise _not_started(error.strerror or str(error)) from None
        self.decord = decord
        self.decoder = ""
        self._ready = False
        self._clips = 0
        self._first_bytes = 0
        self._left_bytes = 0
        with contextlib.suppress(ChannelClosedError):  # `await_ready` finds out
            self._channel.send({"memory_bytes": limits.memory_bytes, "decord": decord})

    def alive(self) -> bool:
        return self._process.poll() is None

    def used_up(self) -> bool:
        """Whether another one should take over."""
        grown = self._left_bytes - self._first_bytes
        return self._clips >= self._limits.clips or grown > self._limits.growth_bytes

    def ask(
        self,
        request: Message,
        files: Sequence[int],
        deadline: Deadline,
        heard: Callable[[Message], None],
    ) -> Message:
        """The child's reply to a request; `heard` gets the signs of life that come before it.

        The time that `heard` takes is not the child's.
        """
        limits = self._limits
        self._clips += 1
        # Until it is heard of, the first clip waits for decord to load, which may be fatal.
        self.decoder = "decord" if self.decord and self._clips == 1 else ""
        kept = 0.0  # for PyAV, of the time that is left
        try:
            self._channel.send(request, files)
            while True:
                now = time.monotonic()
                reply = self._hear(min(now + limits.stall_s, deadline.at - kept))
                if "progress" not in reply:
                    break
                began = time.monotonic()
                if "decoder" in reply:
                    self.decoder = str(reply["decoder"])
                    share = _DECORD_SHARE if self.decoder == "decord" else 0.0
                    kept = share * max(0.0, deadline.at - began)
                heard(reply)
                deadline.at += time.monotonic() - began
        except TimeoutError:
            what = f"the decoder hung (no progress in {limits.stall_s:g} s)"
            if time.monotonic() >= deadline.at - kept:
                what = f"decoding took longer than {limits.clip_s:g} s"
                if kept:
                    what = "decord took half of the clip's time"
            raise ChildFailedError("timeout", what) from None
        except ChannelClosedError:
            ending = self._ending()
            if ending == "SIGKILL":
                # Nobody here sent it: the system does when its memory runs out.
                raise self._overrun() from None
            what = f"the decoder crashed ({ending})"
            raise ChildFailedError("decoder_crashed", what) from None
        self._left_bytes = int(reply.get("memory_bytes", 0))
        if reply.get("overrun"):
            raise self._overrun()
        if "unexpected" in reply:
            what = f"decoding failed unexpectedly ({reply['unexpected']})"
            raise ChildFailedError("decoder_crashed", what)
        return reply

    def _hear(self, deadline: float) -> Message:
        """The child's next message; files that it sends along are not asked for, and closed."""
        message, files = self._channel.receive(deadline)
        for file in files:
            os.close(file)
        return message

    def kill(self) -> None:
        """End the process and all that it started, and wait for the end; for any thread."""
        if self.alive():  # else its number may be another's by now
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        # Not for ever: a disk that does not answer keeps even a killed process.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_DYING_S)

    def close(self) -> None:
        """Kill it and close its pipes; for the thread that talks to it."""
        self.kill()
        self._channel.close()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def await_ready(self) -> None:
        """Wait until it takes requests; NotStartedError where it will not."""
        if self._ready:
            return
        try:
            hello = self._hear(time.monotonic() + _STARTING_S)
        except TimeoutError:
            raise _not_started("it does not answer") from None
        except ChannelClosedError:
            raise _not_started(self._ending()) from None
        self._first_bytes = int(hello.get("memory_bytes", 0))
        self._ready = True

    def _overrun(self) -> ChildFailedError:
        size = f"{self._limits.memory_bytes / 2**30:.1f} GB"
        what = f"decoding ran out of memory (it may take {size})"
        return ChildFailedError(MemoryLimitError.default_kind, what)

    def _ending(self) -> str:
        """How the process ended: a signal's name or an exit code."""
        try:
            code = self._process.wait(_DYING_S)
        except subprocess.TimeoutExpired:
            return "it does not answer"
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
        return f"exit code {code}"


def _not_started(reason: str) -> NotStartedError:
    return NotStartedError(
        f"the process that decodes does not start ({reason})",
        "`adatp doctor` tells what does not work",
    )


Found = TypeVar("Found")


class IsolatedReader:
    """A `FrameReader` that decodes in a child process, which lives on from clip to clip.

    Several threads may read; one clip is decoded at a time. Where the child crashes, hangs or runs
    out of memory while decord is at work, a fresh one goes on with PyAV in the time that is left,
    unless the decoder was given. If PyAV fails, the error is a VideoError with the kind
    ``decoder_crashed`` or ``timeout``, or a MemoryLimitError. `command` starts the child in place
    of `WORKER`; its socket's number is one more argument.
    """

    def __init__(self, limits: Limits | None = None, command: Sequence[str] = ()) -> None:
        self._limits = limits or Limits()
        self._command = tuple(command) or WORKER
        self._child: Child | None = None
        self._closed = False
        self._at = ""  # the decoder at which the last attempt ended
        self._reading = threading.Lock()
        self._changing = threading.Lock()

    def start(self) -> None:
        """Start the child ahead of the first clip, without waiting for it."""
        with self._reading:
            if can_isolate():
                self._running(decord=True)

    def check(self, source: Source, sampling: Sampling) -> None:
        """Refuse a clip by its packets and its first frame; the errors are those of `read`."""
        if not can_isolate():
            check_clip(source, sampling)
            return
        request = {**_request(source, sampling, None, "pyav"), "check": True}
        with self._reading, _bytes_of(source) as clip:
            try:
                self._asked(request, clip, self._deadline(), lambda reply, _: reply["checked"])
            except ChildFailedError as failure:
                raise failure.explained(source.name) from None

    def read(
        self,
        source: str | os.PathLike[str] | bytes | Source,
        sampling: Sampling,
        *,
        name: str | None = None,
        resize: Resize | None = None,
        decoder: str = "auto",
        on_frames: Filled = unwatched,
    ) -> Frames:
        """See `FrameReader.read`; also ModelError where the child does not start."""
        if not can_isolate():
            here = InProcessReader()
            return here.read(
                source, sampling, name=name, resize=resize, decoder=decoder, on_frames=on_frames
            )
        check_decoder(decoder)
        checked = check_source(source, name)
        request = _request(checked, sampling, resize, decoder)
        with self._reading, _bytes_of(checked) as clip:
            return self._decoded(checked.name, request, clip, on_frames)

    def read_pictures(self, pictures: PictureList, resize: Resize | None = None) -> Frames:
        """See `FrameReader.read_pictures`; also ModelError where the child does not start."""
        if not can_isolate():
            return InProcessReader().read_pictures(pictures, resize)
        with self._reading, shared_file() as clip:
            shown = [printable(path) for path in pictures.paths]
            request = {
                "pictures": {**dataclasses.asdict(pictures), "paths": shown},
                "sizes": [append(clip, picture_bytes(path)) for path in pictures.paths],
                "resize": None if resize is None else dataclasses.asdict(resize),
                "decoder": "pyav",
            }
            return self._decoded(shown[0], request, clip, unwatched)

    def close(self) -> None:
        """End the child, for any thread: whoever is reading gets a RuntimeError."""
        with self._changing:
            self._closed = True
            child = self._child
        if child is None:
            return
        child.kill()
        if self._reading.acquire(blocking=False):  # else whoever reads notices, and closes it
            try:
                self._drop()
            finally:
                self._reading.release()

    def __enter__(self) -> IsolatedReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _deadline(self) -> Deadline:
        return Deadline(time.monotonic() + self._limits.clip_s)

    def _decoded(self, name: str, request: Message, clip: int, on_frames: Filled) -> Frames:
        """A clip's frames; PyAV gets the time that is left where decord was chosen and failed."""

        def frames(reply: Message, rooms: _Rooms) -> Frames:
            return frames_of(reply, rooms.pixels(reply))

        deadline = self._deadline()
        notes: tuple[str, ...] = ()
        while True:
            try:
                found = self._asked(request, clip, deadline, frames, on_frames)
                return dataclasses.replace(found, notes=(*notes, *found.notes))
            except ChildFailedError as failure:
                if request["decoder"] != "auto" or self._at != "decord":
                    raise failure.explained(name) from None
                notes = (f"decoded by PyAV: at the first try {failure.what}",)
                request = {**request, "decoder": "pyav"}

    def _asked(
        self,
        request: Message,
        clip: int,
        deadline: Deadline,
        read: Callable[[Message, _Rooms], Found],
        on_frames: Filled = unwatched,
    ) -> Found:
        """What the child finds; one that did not get through it is gone afterwards."""
        self._at = ""
        try:
            began = time.monotonic()
            child = self._started(decord=request["decoder"] != "pyav")
            deadline.at += time.monotonic() - began
            with shared_file() as file:
                rooms = _Rooms(file, on_frames)
                try:
                    reply = child.ask(request, (file, clip), deadline, rooms.heard)
                finally:
                    self._at = child.decoder
                with _no_frames():
                    found = error_of(reply) if "error" in reply else read(reply, rooms)
        except BaseException as error:
            # An interrupt too: what the child says next would answer what nobody asks any more.
            self._drop()
            if self._closed and isinstance(error, ChildFailedError | ModelError):
                raise RuntimeError("the reader is closed") from None
            raise
        if child.used_up():
            self._drop()
        if isinstance(found, AdatpError):
            raise found
        return found

    def _started(self, *, decord: bool) -> Child:
        """A child that is ready, or the second one's failure to start."""
        try:
            child = self._running(decord=decord)
            child.await_ready()
        except NotStartedError:
            self._drop()
            child = self._running(decord=decord)
            child.await_ready()
        return child

    def _running(self, *, decord: bool) -> Child:
        child = self._child
        if child is not None and (not child.alive() or child.decord < decord):
            self._drop()
            child = None
        with self._changing:
            if self._closed:
                raise RuntimeError("the reader is closed")
            if child is None:
                child = Child(self._command, self._limits, decord=decord)
                self._child = child
        return child

    def _drop(self) -> None:
        with self._changing:
            child, self._child = self._child, None
        if child is not None:
            child.close()


def can_isolate() -> bool:
    """Whether sockets carry open files here, as a child needs; not on Windows."""
    return hasattr(socket, "send_fds")


@contextmanager
def _bytes_of(source: Source) -> Iterator[int]:
    """The clip as an open file: the child gets no path."""
    if source.data is not None:
        with shared_file(source.data) as file:
            yield file
        return
    if source.file is not None:
        yield source.file
        return
    try:
        # A pipe that has taken the file's place must not be waited for.
        file = os.open(source.path or "", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise unreadable(source.name, error) from None
    try:
        yield file
    finally:
        os.close(file)


def _request(source: Source, sampling: Sampling, resize: Resize | None, decoder: str) -> Message:
    return {
        "name": source.name,
        "size": source.size,
        "ending": source.ending,
        "sampling": dataclasses.asdict(sampling),
        "resize": None if resize is None else dataclasses.asdict(resize),
        "decoder": decoder,
    }


class _Rooms:
    """The shared file with a clip's pixels, and what was told of them on the way."""

    def __init__(self, file: int, on_frames: Filled) -> None:
        keep_size(file)
        self._file = file
        self._on_frames = on_frames
        self._number: object = None
        self._pixels: Pixels | None = None

    def heard(self, message: Message) -> None:
        """Tell how many frames are there, where the message does."""
        if "done" not in message:
            return
        with _no_frames():
            pixels, done = self.pixels(message), int(message["done"])
        self._on_frames(pixels, done)

    def pixels(self, message: Message) -> Pixels:
        """The frames that a message tells of: the same array for as long as they are the same."""
        shape = tuple(message["shape"])
        if self._pixels is None or message["room"] != self._number or shape != self._pixels.shape:
            self._pixels, self._number = map_pixels(self._file, shape), message["room"]
        return self._pixels


@contextmanager
def _no_frames() -> Iterator[None]:
    """What is said of a message that is not what it should be."""
    try:
        yield
    except (KeyError, TypeError, ValueError):
        raise ChildFailedError("decoder_crashed", "the decoder gave no frames") from None
