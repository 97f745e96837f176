"""Children that go wrong: ``python decoding_workers.py FAULT WHEN FD``, the rest is the real one.

FAULT is a function of this file. WHEN is ``always``, ``auto`` (not for PyAV alone), or text that
the clip's name holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from adatp_cli.video import worker
from adatp_cli.video.decode import read_frames
from adatp_cli.video.frames import FrameBuffer, Frames

leaked: list[Any] = []


def crash(_canvas: FrameBuffer) -> None:
    ctypes.string_at(0)


def hang(_canvas: FrameBuffer) -> None:
    """As in C code that never lets go of the interpreter's lock."""
    ctypes.PyDLL(None).pause()


def crawl(buffer: FrameBuffer) -> None:
    """Always busy, never done."""
    while True:
        buffer.progress()
        time.sleep(0.05)


def allocate(_canvas: FrameBuffer) -> None:
    np.ones(1 << 30, dtype=np.uint8)


def leak(_canvas: FrameBuffer) -> None:
    leaked.append(np.ones(64 << 20, dtype=np.uint8))


def run_out_of_memory(_canvas: FrameBuffer) -> None:
    """As the system has it for a process that takes too much."""
    os.kill(os.getpid(), signal.SIGKILL)


def give_up(_canvas: FrameBuffer) -> None:
    os._exit(7)


def stumble(_canvas: FrameBuffer) -> None:
    raise ZeroDivisionError("a bug\nof two lines")


def talk_nonsense(_canvas: FrameBuffer) -> None:
    os.write(int(sys.argv[-1]), b"\xff\xff\xff\xffdecord")


def break_off(canvas: FrameBuffer) -> None:
    """In the middle of a message."""
    os.write(int(sys.argv[-1]), b"\0\0\0\xff{")
    hang(canvas)


def send_files(_canvas: FrameBuffer) -> None:
    """Open files that nobody asked for, with signs of life."""
    end = socket.socket(fileno=int(sys.argv[-1]))
    body = b'{"progress": true}'
    for _ in range(20):
        socket.send_fds(end, [len(body).to_bytes(4, "big")], [end.fileno()])
        end.sendall(body)
    end.detach()


def reach(_canvas: FrameBuffer) -> None:
    """Whatever code that has taken over a decoder would want."""
    wants = {
        "a file": lambda: Path(__file__).read_bytes(),
        "a folder": lambda: os.listdir("/"),
        "writing": lambda: (Path(__file__).parent / "written").write_bytes(b""),
        "the network": lambda: socket.create_connection(("127.0.0.1", 9), 1),
        "names": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "a program": lambda: subprocess.run([sys.executable, "-c", ""]),
        "a token": lambda: os.environ["HF_TOKEN"],
    }
    reached = []
    for name, take in wants.items():
        with contextlib.suppress(PermissionError, KeyError):
            take()
            reached.append(name)
    raise ZeroDivisionError(f"reached {', '.join(reached) or 'nothing'}")


def chatter(_canvas: FrameBuffer) -> None:
    sys.stdout.write("out")
    sys.stdout.flush()
    os.write(1, b"out")
    os.write(2, b"err")


def main(fault: str, when: str, end: str) -> None:
    def read(source: Any, sampling: Any, **more: Any) -> Frames:
        if (
            when == "always"
            or (when == "auto" and more["decoder"] != "pyav")
            or when in more["name"]
        ):
            if when == "auto":
                more["buffer"].at("decord")
            globals()[fault](more["buffer"])
        return read_frames(source, sampling, **more)

    worker.serve(socket.socket(fileno=int(end)), read)


if __name__ == "__main__":
    main(*sys.argv[1:])
