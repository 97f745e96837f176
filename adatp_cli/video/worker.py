"""The child that decodes for `adatp_cli.video.isolated`: ``python -m adatp_cli.video.worker FD``.

FD is its socket, over which requests come and replies go; it says nothing anywhere else. When its
stdin closes, its parent is gone, and so is it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import importlib
import mmap
import os
import platform
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from adatp_cli.errors import AdatpError
from adatp_cli.text import printable
from adatp_cli.video import decord_decoder
from adatp_cli.video.channel import (
    Channel,
    ChannelClosedError,
    Message,
    error_message,
    file_limit_error,
    frames_message,
    keep_size,
    map_pixels,
    shared_file,
)
from adatp_cli.video.decode import check_clip, read_frames, read_pictures
from adatp_cli.video.frames import FrameBuffer, Frames, PictureList, Pixels, Resize
from adatp_cli.video.sampling import Sampling
from adatp_cli.video.source import Source

# Between two signs of life.
_PROGRESS_S = 0.5
# What is imported in the middle of decoding, some of it by these libraries themselves.
_LIBRARIES = (
    "av", "av.subtitles.stream", "av.sidedata.sidedata", "av.logging", "av.stream", "numpy.ma",
    "PIL.Image", "PIL.JpegImagePlugin", "PIL.PngImagePlugin", "PIL.MpoImagePlugin",
)  # fmt: skip
# Of what FFmpeg says: that it says something is enough, and it can say gigabytes.
_HEARD_BYTES = 1 << 12


def serve(end: socket.socket, read: Callable[..., Frames] = read_frames) -> None:
    """Answer requests until the parent has no more."""
    _end_with_the_parent()
    channel = Channel(end)
    with contextlib.suppress(ChannelClosedError), shared_file(bytes(_HEARD_BYTES)) as ear:
        keep_size(ear, growth=False)
        os.dup2(ear, 2)
        settings, _ = channel.receive()
        _limit_memory(settings["memory_bytes"])
        for name in _LIBRARIES:  # nothing can be opened later
            importlib.import_module(name)
        importlib.import_module("PIL.Image").preinit()
        channel.send({"ready": True, "memory_bytes": private_bytes()})
        if settings["decord"]:
            # Only now: where loading it is fatal, that is to count as its own failure.
            decord_decoder.installed()
        confine()
        while True:
            request, files = channel.receive()
            reply = _reply(request, files, channel, read, ear)
            # Measured when the clip is gone: what is left over is what leaks.
            channel.send({**reply, "memory_bytes": private_bytes()})


@functools.cache
def _statm() -> int:
    return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)


def private_bytes() -> int:
    """Memory of this process alone; elsewhere than on Linux the most that it ever took."""
    try:
        _, resident, shared, *_ = map(int, os.pread(_statm(), 200, 0).split())
        return (resident - shared) * mmap.PAGESIZE
    except (OSError, ValueError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class _Room:
    """Memory for pixels in a file that the parent sees too."""

    def __init__(self, file: int, channel: Channel) -> None:
        self._file = file
        self._channel = channel
        self.number = 0  # frames that were told of under another one are void

    def allocate(self, shape: tuple[int, int, int, int]) -> Pixels:
        """Room at the start of the file; MemoryError where there is none."""
        try:
            # Never less than before: the parent may be looking at what was there.
            needed = max(1, os.fstat(self._file).st_size, int(np.prod(shape, dtype=np.int64)))
            os.ftruncate(self._file, needed)
            self.number += 1
            return map_pixels(self._file, shape)
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise file_limit_error(needed) from None
            if error.errno in (errno.ENOMEM, errno.ENOSPC):
                raise MemoryError from error
            raise

    def filled(self, pixels: Pixels, done: int) -> None:
        """Tell the parent how many frames are there."""
        told = {"shape": list(pixels.shape), "room": self.number, "done": done}
        self._channel.send({"progress": True, **told})


def _reply(
    request: Message,
    files: Sequence[int],
    channel: Channel,
    read: Callable[..., Frames],
    ear: int,
) -> Message:
    """The answer to a request, once everything that it held is free again."""
    told = time.monotonic()

    def progress() -> None:
        nonlocal told
        if time.monotonic() - told > _PROGRESS_S:
            told = time.monotonic()
            channel.send({"progress": True})

    def at(decoder: str) -> None:
        channel.send({"progress": True, "decoder": decoder})

    try:
        at("pyav")
        room = _Room(files[0], channel)
        resize = Resize(**request["resize"]) if request["resize"] else None
        buffer = FrameBuffer(resize, room.allocate, progress, room.filled, at, ear)
        if "pictures" in request:
            begins = np.cumsum([0, *request["sizes"]]).tolist()
            places = zip(request["sizes"], begins, strict=False)
            contents = [os.pread(files[1], size, begin) for size, begin in places]
            frames = read_pictures(contents, PictureList(**request["pictures"]), buffer)
            return {**frames_message(frames), "room": room.number}
        name, decoder = request["name"], request["decoder"]
        clip = Source(name, None, None, request["size"], files[1], request["ending"])
        sampling = Sampling(**request["sampling"])
        if request.get("check"):
            check_clip(clip, sampling, buffer)
            return {"checked": True}
        frames = read(clip, sampling, decoder=decoder, name=name, buffer=buffer)
        return {**frames_message(frames), "room": room.number}
    except AdatpError as error:
        return error_message(error)
    except ChannelClosedError:
        raise
    except MemoryError:
        return {"overrun": True}
    except Exception as error:
        return {"unexpected": printable(" ".join(f"{type(error).__name__}: {error}".split()))}
    finally:
        for file in files:
            os.close(file)


def _end_with_the_parent() -> None:
    """Be gone when the parent is, however it went, and leave interrupts to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        import fcntl

        # Killed when stdin closes, which neither a hanging decoder can hold up, as it could a
        # thread, nor a process that is stopped.
        fcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    with contextlib.suppress(OSError):
        os.read(0, 1)
    os._exit(0)


def _limit_memory(limit: int) -> None:
    """Let allocations fail beyond `limit` bytes; what is shared with the parent does not count."""
    import resource

    kinds = ((resource.RLIMIT_DATA, limit), (resource.RLIMIT_CORE, 0))
    for kind, most in kinds:
        _, hard = resource.getrlimit(kind)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most if hard < 0 else min(most, hard), hard))


# Once its libraries are loaded the process gives up files and the network for good: Landlock shuts
# every file and TCP port, and seccomp refuses the calls with which files, connections and programs
# are opened. Linux may have either or both. What is open stays.
_NO_NEW_PRIVILEGES = 38
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_VERSION = 1
# How many kinds of access to files each version of Landlock's interface knows.
_FILE_KINDS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}

# Calls by number, and the architecture as seccomp names it: what opens files, sockets and rings,
# runs programs, or looks into other processes.
_REFUSED = {
    "x86_64": (
        (2, 41, 42, 49, 59, 85, 101, 133, 257, 259, 304, 310, 311, 322, 425, 437),
        0xC000003E,
    ),
    "aarch64": ((33, 56, 117, 198, 200, 203, 221, 265, 270, 271, 281, 425, 437), 0xC00000B7),
}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_FILTER, _ALL_THREADS = 1, 1
_ALLOW, _REFUSE, _EPERM = 0x7FFF0000, 0x00050000, 1
_X32 = 0x40000000


def confine() -> None:
    """Give up what this system has a way to give up; there is no way back."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return
    _shut_files(libc)
    _refuse_calls(libc)


def _shut_files(libc: ctypes.CDLL) -> None:
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if version < 1:
        return
    files = (1 << _FILE_KINDS[min(version, max(_FILE_KINDS))]) - 1
    # Also TCP ports from version 4 on, and sockets without a path and signals from 6 on. Rules
    # would make exceptions; there are none.
    rules = struct.pack("=QQQ", files, 3, 3)[: 8 * (1 + (version >= 4) + (version >= 6))]
    ruleset = libc.syscall(_CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), 0)
    if ruleset >= 0:
        libc.syscall(_RESTRICT_SELF, ruleset, 0)
        libc.close(ruleset)


def _refuse_calls(libc: ctypes.CDLL) -> None:
    machine = platform.machine()
    if machine not in _REFUSED or sys.maxsize < 1 << 32:
        return
    calls, architecture = _REFUSED[machine]
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    count = len(calls)
    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), (answer, 0, 0, _REFUSE | _EPERM)]
    program += [(load, 0, 0, 0), (at_least, count + 1, 0, _X32)]
    program += [(equal, count - place, 0, call) for place, call in enumerate(calls)]
    program += [(answer, 0, 0, _ALLOW), (answer, 0, 0, _REFUSE | _EPERM)]
    packed = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    whole = struct.pack("@HxxxxxxP", len(program), ctypes.addressof(packed))
    libc.syscall(_SECCOMP[machine], _SET_FILTER, _ALL_THREADS, whole)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
