"""The process that decodes: started, watched, limited and ended by its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adatp_cli.errors import AdatpError, MemoryLimitError, ModelError, VideoError
from adatp_cli.video.channel import Channel, ChannelClosedError, Message

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
    """What the child may take.

    Parameters
    ----------
    stall_s
        Seconds between two signs of life: the longest that decoding one frame may take.
    clip_s
        Seconds for one clip, over all attempts.
    memory_bytes
        Of the child alone; the pixels that it hands over have a limit of their own. Held to on
        Linux.
    clips, growth_bytes
        The child is replaced after so many clips, or when this much more memory than at its start
        is left behind after one.
    """

    stall_s: float = 120.0
    clip_s: float = CLIP_S
    memory_bytes: int = 4 << 30
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
        """The error of the clip."""
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
                    env={**_environment(), "PYTHONPATH": paths},
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
            self._channel.send({"memory_bytes": memory_bytes, "decord": decord})

    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def used_up(self, limits: Limits) -> bool:
        """Whether another one should take over."""
        grown = self._left_bytes - self._first_bytes
        return self._clips >= limits.clips or grown > limits.growth_bytes

    def ask(
        self,
        request: Message,
        files: Sequence[int],
        limits: Limits,
        deadline: Deadline,
        heard: Callable[[Message], None],
    ) -> Message:
        """The child's reply to a request; `heard` gets the signs of life that come before it.

        The time that `heard` takes is not the child's.

        Raises
        ------
        ChildFailedError
            It died over it, or it was not heard of for too long.
        """
        self._clips += 1
        # Until it is heard of, the first clip waits for decord to load, which may be fatal.
        self.decoder = "decord" if self.decord and self._clips == 1 else ""
        kept = 0.0  # for PyAV, of the time that is left
        try:
            self._channel.send(request, files)
            while True:
                now = time.monotonic()
                reply, _ = self._channel.receive(min(now + limits.stall_s, deadline.at - kept))
                if "progress" not in reply:
                    self._left_bytes = int(reply.get("memory_bytes", 0))
                    return reply
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

    def await_ready(self) -> None:
        """Wait until it takes requests; NotStartedError where it will not."""
        if self._ready:
            return
        try:
            hello, _ = self._channel.receive(time.monotonic() + _STARTING_S)
        except TimeoutError:
            raise _not_started("it does not answer") from None
        except ChannelClosedError:
            raise _not_started(self._ending()) from None
        self._first_bytes = int(hello.get("memory_bytes", 0))
        self._ready = True

    def _death(self, limits: Limits) -> ChildFailedError:
        ending = self._ending()
        if ending == "SIGKILL":
            # Nobody here sent it: the system does when its memory runs out.
            return overrun(limits)
        return ChildFailedError("decoder_crashed", f"the decoder crashed ({ending})")

    def _ending(self) -> str:
        """How the process ended: a signal's name or an exit code."""
        try:
            code = self._process.wait(_DYING_S)
        except subprocess.TimeoutExpired:
            return "it does not answer"
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
        return f"exit code {code}"


def _environment() -> dict[str, str]:
    """Of this process's environment what an interpreter needs: no tokens, no keys, no proxies."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return {**kept, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def overrun(limits: Limits) -> ChildFailedError:
    size = f"{limits.memory_bytes / 2**30:.1f} GB"
    what = f"decoding ran out of memory (it may take {size})"
    return ChildFailedError(MemoryLimitError.default_kind, what)


def _not_started(reason: str) -> NotStartedError:
    return NotStartedError(
        f"the process that decodes does not start ({reason})",
        "`adatp doctor` tells what does not work",
    )
