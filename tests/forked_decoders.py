"""The processes that decode, at the cost of a fork: what they import is imported once.

`command` stands for `isolated.WORKER`. A small process starts in its place, has one that is ready
forked, to which it passes on its stdin and its socket, and ends as that one ends.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

_COMMAND = """\
import os, signal, socket, sys
with socket.socket(socket.AF_UNIX) as door:
    door.connect(sys.argv[1])
    socket.send_fds(door, [b"one"], [0, int(sys.argv[2])])
    os.closerange(0, 3)
    os.close(int(sys.argv[2]))
    code = int(door.recv(100) or b"99")
if code < 0:
    os.kill(os.getpid(), -code)
os._exit(code)
"""


class ForkedDecoders:
    """Starts the process that waits, and ends it when closed."""

    def __init__(self, folder: Path) -> None:
        script, path = folder / "decoder.py", folder / "door"
        script.write_text(_COMMAND)
        self.command = (sys.executable, "-S", "-E", str(script), str(path))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked_decoders", str(path)],
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"open\n"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def _wait(path: str) -> None:
    """Fork for everybody who comes, until killed."""
    from adatp_cli.video import decord_decoder, worker

    for name in worker._LIBRARIES:
        importlib.import_module(name)
    decord_decoder.installed()
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path)
        door.listen(100)
        sys.stdout.write("open\n")
        sys.stdout.flush()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for what serves a client
        while True:
            client, _ = door.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                door.close()
                _decode(client)
            client.close()


def _decode(client: socket.socket) -> None:
    _, fds, _, _ = socket.recv_fds(client, 10, 2)
    child = os.fork()
    if child == 0:
        from adatp_cli.video import worker

        client.close()
        os.setsid()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for fd, number in ((fds[0], 0), (nowhere, 1), (nowhere, 2)):
            os.dup2(fd, number)
        os.close(fds[0])
        os.close(nowhere)
        try:
            worker.serve(socket.socket(fileno=fds[1]))
        finally:
            os._exit(1)
    for fd in fds:
        os.close(fd)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):  # killed meanwhile
        client.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


if __name__ == "__main__":
    _wait(sys.argv[1])
