"""Decoding in a process of its own, so that no clip can take the program down.

decord crashes, hangs and leaks on broken files, and FFmpeg may. So a child decodes
(`adatp_cli.video.worker`), is watched, limited, killed and replaced, and what it does is at worst
an error of one clip. Pixels come back in memory that both processes see, at no cost of a copy.
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
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from adatp_cli.errors import AdatpError, MemoryLimitError, ModelError, VideoError
from adatp_cli.video.channel import (
    Channel,
    ChannelClosedError,
    Message,
    error_of,
    frames_of,
    keep_size,
    shared_file,
)
from adatp_cli.video.decode import check_decoder, read_frames
from adatp_cli.video.frames import Frames
from adatp_cli.video.resize import Resize
from adatp_cli.video.sampling import Sampling
from adatp_cli.video.source import Source, check_source

WORKER = (sys.executable, "-P", "-m", "adatp_cli.video.worker")
# Imports from a cold disk, on a machine that has other things to do.
_STARTING_S = 120.0
_DYING_S = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What the child may take.

    Parameters
    ----------
    stall_s
        Seconds between two signs of life: the longest that decoding one frame may take.
    clip_s
        Seconds for one clip with one decoder.
    memory_bytes
        Of the child alone; the pixels that it hands over have a limit of their own. Held to on
        Linux.
    clips, growth_bytes
        The child is replaced after so many clips, or when this much more memory than at its start
        is left behind after one.
    """

    stall_s: float = 120.0
    clip_s: float = 3600.0
    memory_bytes: int = 4 << 30
    clips: int = 100
    growth_bytes: int = 512 << 20


class _ChildFailedError(Exception):
    """The child did not get through a clip; `what` says so in the words of a note."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind
        self.what = what

    def explained(self, name: str) -> AdatpError:
        """The error of the clip."""
        if self.kind == MemoryLimitError.default_kind:
            hint = "use fewer --frames, or scale the clip down first"
            return MemoryLimitError(f"{name}: {self.what}", hint)
        hint = "the file may be damaged: convert it first, to H.264 for one"
        return VideoError(f"{name}: {self.what}", hint, kind=self.kind)


class _Child:
    """A running worker, and everything that has to be closed with it."""

    def __init__(self, command: Sequence[str], memory_bytes: int, *, decord: bool) -> None:
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours)
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
                    env={**os.environ, "PYTHONPATH": paths},
                    start_new_session=True,
                )
        except OSError as error:
            self._channel.close()
            raise _not_startable(error.strerror or str(error)) from None
        self._ready = False
        self._clips = 0
        self._first_bytes = 0
        self._left_bytes = 0
        with contextlib.suppress(ChannelClosedError):  # `_await_ready` finds out
            self._channel.send({"memory_bytes": memory_bytes, "decord": decord})

    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def used_up(self, limits: Limits) -> bool:
        """Whether another one should take over."""
        grown = self._left_bytes - self._first_bytes
        return self._clips >= limits.clips or grown > limits.growth_bytes

    def ask(self, request: Message, files: Sequence[int], limits: Limits) -> Message:
        """The child's reply to a request.

        Raises
        ------
        _ChildFailedError
            It died over it, or it was not heard of for too long.
        """
        self._await_ready()
        self._clips += 1
        end = time.monotonic() + limits.clip_s
        try:
            self._channel.send(request, files)
            while True:
                stall = time.monotonic() + limits.stall_s
                reply, _ = self._channel.receive(min(stall, end))
                if "progress" not in reply:
                    self._left_bytes = int(reply.get("memory_bytes", 0))
                    return reply
        except TimeoutError:
            what = f"the decoder hung (no progress in {limits.stall_s:g} s)"
            if time.monotonic() >= end:
                what = f"decoding took longer than {limits.clip_s:g} s"
            raise _ChildFailedError("timeout", what) from None
        except ChannelClosedError:
            raise self._death(limits) from None

    def kill(self) -> None:
        """End the process and all that it started, and wait for the end; for any thread.

        Not for ever: a disk that does not answer keeps even a killed process.
        """
        if self.alive():  # else its number may be another's by now
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_DYING_S)

    def close(self) -> None:
        """Kill it and close its pipes; for the thread that talks to it."""
        self.kill()
        self._channel.close()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _await_ready(self) -> None:
        if self._ready:
            return
        try:
            hello, _ = self._channel.receive(time.monotonic() + _STARTING_S)
        except TimeoutError:
            raise _not_startable("it does not answer") from None
        except ChannelClosedError:
            raise _not_startable(self._ending()) from None
        self._first_bytes = int(hello.get("memory_bytes", 0))
        self._ready = True

    def _death(self, limits: Limits) -> _ChildFailedError:
        ending = self._ending()
        if ending == "SIGKILL":
            # Nobody here sent it: the system does when its memory runs out.
            return _overrun(limits)
        return _ChildFailedError("decoder_crashed", f"the decoder crashed ({ending})")

    def _ending(self) -> str:
        """How the process ended: a signal's name or an exit code."""
        try:
            code = self._process.wait(_DYING_S)
        except subprocess.TimeoutExpired:
            return "it does not answer"
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
        return f"exit code {code}"


class IsolatedReader:
    """A `FrameReader` that decodes in a child process.

    The child is started by `start`, else by the first clip, lives from clip to clip, and ends with
    `close` or with this process. Several threads may read; one clip is decoded at a time.

    Where the child crashes, hangs or runs out of memory over a clip, a fresh one tries again with
    PyAV alone, unless the decoder was given. If that fails too, the clip's error is a VideoError
    with the kind ``decoder_crashed`` or ``timeout``, or a MemoryLimitError.

    On systems whose sockets carry no open files (Windows) it decodes in this process.

    Parameters
    ----------
    limits
        What the child may take.
    command
        Starts the child, which gets its socket's number as one more argument.
    """

    def __init__(self, limits: Limits | None = None, command: Sequence[str] = WORKER) -> None:
        self._limits = limits or Limits()
        self._command = tuple(command)
        self._child: _Child | None = None
        self._closed = False
        self._reading = threading.Lock()
        self._changing = threading.Lock()

    def start(self) -> None:
        """Start the child ahead of the first clip, without waiting for it.

        Raises
        ------
        ModelError
            There is no starting it.
        """
        with self._reading:
            if can_isolate():
                self._running(decord=True)

    def read(
        self,
        source: str | os.PathLike[str] | bytes,
        sampling: Sampling,
        *,
        name: str | None = None,
        resize: Resize | None = None,
        decoder: str = "auto",
    ) -> Frames:
        """See `FrameReader.read`; also ModelError where the child does not start.

        Raises
        ------
        RuntimeError
            The reader is closed, or was meanwhile.
        """
        if not can_isolate():
            return read_frames(source, sampling, decoder=decoder, name=name, resize=resize)
        check_decoder(decoder)
        checked = check_source(source, name)
        with self._reading, shared_file(checked.data or b"") as clip:
            files = (clip,) if checked.path is None else ()
            request = _request(checked, sampling, resize, decoder)
            try:
                return self._decoded(request, files)
            except _ChildFailedError as failure:
                if decoder != "auto":
                    raise failure.explained(checked.name) from None
                first = failure.what
            try:
                frames = self._decoded({**request, "decoder": "pyav"}, files)
            except _ChildFailedError as failure:
                raise failure.explained(checked.name) from None
            note = f"decoded by PyAV: at the first try {first}"
            return dataclasses.replace(frames, notes=(note, *frames.notes))

    def close(self) -> None:
        """End the child, in the middle of a clip too; for any thread.

        Whoever is reading gets a RuntimeError.
        """
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _decoded(self, request: Message, clip: Sequence[int]) -> Frames:
        """One attempt; a child that did not get through it is gone afterwards."""
        try:
            child = self._running(decord=request["decoder"] != "pyav")
            with shared_file() as pixels:
                reply = child.ask(request, (pixels, *clip), self._limits)
                frames = _frames_or_error(reply, pixels, self._limits)
        except BaseException as error:
            # An interrupt too: what the child says next would answer what nobody asks any more.
            self._drop()
            if self._closed and isinstance(error, _ChildFailedError | ModelError):
                raise RuntimeError("the reader is closed") from None
            raise
        if child.used_up(self._limits):
            self._drop()
        if isinstance(frames, AdatpError):
            raise frames
        return frames

    def _running(self, *, decord: bool) -> _Child:
        child = self._child
        if child is not None and not child.alive():
            self._drop()
            child = None
        with self._changing:
            if self._closed:
                raise RuntimeError("the reader is closed")
            if child is None:
                child = _Child(self._command, self._limits.memory_bytes, decord=decord)
                self._child = child
        return child

    def _drop(self) -> None:
        with self._changing:
            child, self._child = self._child, None
        if child is not None:
            child.close()


def can_isolate() -> bool:
    """Whether this system has what a child needs."""
    return hasattr(socket, "send_fds")


def _request(source: Source, sampling: Sampling, resize: Resize | None, decoder: str) -> Message:
    # Paths as the bytes that they are, whatever the child takes for the file system's encoding.
    path = None if source.path is None else os.fsencode(source.path).decode("latin-1")
    return {
        "path": path,
        "name": source.name,
        "sampling": dataclasses.asdict(sampling),
        "resize": None if resize is None else dataclasses.asdict(resize),
        "decoder": decoder,
    }


def _frames_or_error(reply: Message, pixels: int, limits: Limits) -> Frames | AdatpError:
    """What the child found.

    Raises
    ------
    _ChildFailedError
        It failed in a way that says nothing about the clip.
    """
    if reply.get("overrun"):
        raise _overrun(limits)
    if "unexpected" in reply:
        what = f"decoding failed unexpectedly ({reply['unexpected']})"
        raise _ChildFailedError("decoder_crashed", what)
    try:
        if "error" in reply:
            return error_of(reply)
        keep_size(pixels)
        return frames_of(reply, pixels)
    except (KeyError, TypeError, ValueError):
        raise _ChildFailedError("decoder_crashed", "the decoder gave no frames") from None


def _overrun(limits: Limits) -> _ChildFailedError:
    size = f"{limits.memory_bytes / 2**30:.1f} GB"
    what = f"decoding ran out of memory (it may take {size})"
    return _ChildFailedError(MemoryLimitError.default_kind, what)


def _not_startable(reason: str) -> ModelError:
    return ModelError(
        f"the process that decodes does not start ({reason})",
        "`adatp doctor` tells what does not work",
    )
