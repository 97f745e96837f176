"""What a decoding process and its parent say to each other.

Messages are JSON, so that a child gone wrong can send nothing that acts in the parent. Open files
travel with them, in memory and without a name: nothing is left of them when either side dies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import mmap
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from adatp_cli.errors import AdatpError, MemoryLimitError, ModelError, UsageError, VideoError
from adatp_cli.video.frames import Frames, Pixels, VideoInfo

Message = dict[str, Any]

_HEADER_BYTES = 4
_MOST_FILES = 2
# Timestamps of some million frames; more is no message.
_MOST_BYTES = 1 << 28
_ERRORS: dict[str, type[AdatpError]] = {
    kind.__name__: kind
    for kind in (AdatpError, MemoryLimitError, ModelError, UsageError, VideoError)
}


class ChannelClosedError(Exception):
    """The other side is gone, or sends what is no message."""


# `multiprocessing.connection.Connection` knows no time limit once a message has begun: a child that
# stops in the middle of one would hold up its parent for good.
class Channel:
    """One end of a connection between two processes, over a Unix socket that it closes."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def send(self, message: Message, files: Sequence[int] = ()) -> None:
        """Send a message, and copies of open files with it."""
        body = json.dumps(message).encode()
        header = len(body).to_bytes(_HEADER_BYTES, "big")
        try:
            self._socket.settimeout(None)
            # The files go with the header, which is too short to be sent in parts.
            socket.send_fds(self._socket, [header], list(files))
            self._socket.sendall(body)
        except OSError:
            raise ChannelClosedError from None

    def receive(self, deadline: float | None = None) -> tuple[Message, list[int]]:
        """The next message, and the files that came with it, which the caller closes.

        `deadline` is by `time.monotonic`; a TimeoutError where none has come until then.
        """
        try:
            self._wait_until(deadline)
            header, files, _, _ = socket.recv_fds(self._socket, _HEADER_BYTES, _MOST_FILES)
            header += self._bytes(_HEADER_BYTES - len(header), deadline)
            size = int.from_bytes(header, "big")
            if size > _MOST_BYTES:
                raise ChannelClosedError
            message = json.loads(self._bytes(size, deadline))
        except TimeoutError:
            raise
        except (OSError, ValueError):
            raise ChannelClosedError from None
        if not isinstance(message, dict):
            raise ChannelClosedError
        return message, files

    def close(self) -> None:
        """Let the other side know that nothing will come any more."""
        self._socket.close()

    def _bytes(self, size: int, deadline: float | None) -> bytes:
        found = bytearray()
        while len(found) < size:
            self._wait_until(deadline)
            part = self._socket.recv(min(size - len(found), 1 << 20))
            if not part:
                raise ChannelClosedError
            found += part
        return bytes(found)

    def _wait_until(self, deadline: float | None) -> None:
        # Zero would mean not to wait at all, which is another error when nothing is there.
        left = None if deadline is None else max(1e-3, deadline - time.monotonic())
        self._socket.settimeout(left)


@contextmanager
def shared_file(content: bytes = b"") -> Iterator[int]:
    """A file in memory without a name, for as long as anybody has it open."""
    try:
        file = os.memfd_create("adatp", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (AttributeError, OSError):  # not Linux, or not allowed there
        with tempfile.TemporaryFile() as unnamed:
            file = os.dup(unnamed.fileno())
    try:
        append(file, content)
        yield file
    finally:
        os.close(file)


def append(file: int, content: bytes) -> int:
    """Write all of `content` where the file stands; how much that is."""
    rest = memoryview(content)
    while rest:
        try:
            rest = rest[os.write(file, rest) :]
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise file_limit_error(len(content)) from None
            raise
    return len(content)


def file_limit_error(size: int) -> ModelError:
    """That the limit on the size of files, which counts for shared memory too, is in the way."""
    return ModelError(
        f"decoding shares {size / 1e6:.1f} MB, and the limit on file sizes (ulimit -f) is lower",
        "raise it with `ulimit -f unlimited`, or use fewer --frames",
    )


def map_pixels(file: int, shape: tuple[int, ...]) -> Pixels:
    """The first bytes of a shared file as an array that everybody who maps it sees."""
    size = int(np.prod(shape, dtype=np.int64)) if min(shape, default=0) > 0 else 0
    if size == 0 or size > os.fstat(file).st_size:
        raise ValueError(f"no room for {shape}")
    return np.frombuffer(mmap.mmap(file, size), dtype=np.uint8).reshape(shape)


def keep_size(file: int, *, growth: bool = True) -> None:
    """Keep a shared file from shrinking, where possible: reading what is gone would be fatal.

    Without `growth` it keeps its size for good.
    """
    import fcntl

    with contextlib.suppress(AttributeError, OSError):
        seals = fcntl.F_SEAL_SHRINK | (0 if growth else fcntl.F_SEAL_GROW)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)


def frames_message(frames: Frames) -> Message:
    """Everything about frames but their pixels."""
    return {
        "shape": list(frames.pixels.shape),
        "timestamps_s": frames.timestamps_s.tolist(),
        "indices": frames.indices.tolist(),
        "info": dataclasses.asdict(frames.info),
        "notes": list(frames.notes),
    }


def frames_of(message: Message, pixels: Pixels) -> Frames:
    """The frames that a message and their pixels make up."""
    return Frames(
        pixels=pixels,
        timestamps_s=np.asarray(message["timestamps_s"], dtype=np.float64),
        indices=np.asarray(message["indices"], dtype=np.int64),
        info=VideoInfo(**message["info"]),
        notes=tuple(message["notes"]),
    )


def error_message(error: AdatpError) -> Message:
    """An error of the family; `overrun` where an allocation failed."""
    name = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS)
    return {
        "error": name,
        "message": error.message,
        "hint": error.hint,
        "kind": error.kind,
        "overrun": isinstance(error.__cause__, MemoryError),
    }


def error_of(message: Message) -> AdatpError:
    """The error that a message tells of; KeyError where it tells of none."""
    return _ERRORS[message["error"]](message["message"], message["hint"], kind=message["kind"])
