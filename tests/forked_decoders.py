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
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NoReturn

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


class ForkServer:
    """Starts a module of tests as a process that waits to be forked, and ends it when closed.

    `command` runs `script`, which asks for a fork at the path in its first argument.
    """

    def __init__(
        self, module: str, script: str, folder: Path, *arguments: str, env: Mapping[str, str]
    ) -> None:
        written, path = folder / "program.py", folder / "door"
        written.write_text(script)
        self.command = (sys.executable, "-S", "-E", str(written), str(path))
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(path), *arguments],
            cwd=Path(__file__).parent.parent,
            env=env,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"open\n"

    def close(self) -> None:
        """End the process that waits."""
        self._process.kill()
        self._process.communicate()


def fork_for_each(path: str, run: Callable[[socket.socket], None]) -> NoReturn:
    """Fork for everybody who comes, until killed; `run` serves a client and ends the fork."""
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
                run(client)
            client.close()


def end_as(child: int, fds: Iterable[int], client: socket.socket) -> NoReturn:
    """Wait for the child that has the descriptors, and tell the client how it ended."""
    for fd in fds:
        os.close(fd)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):  # killed meanwhile
        client.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


class ForkedDecoders(ForkServer):
    """What `isolated.WORKER` is, without its imports."""

    def __init__(self, folder: Path) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        super().__init__("tests.forked_decoders", _COMMAND, folder, env=env)


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
    end_as(child, fds, client)


def _main() -> None:
    from adatp_cli.video import decord_decoder, worker

    for name in worker._LIBRARIES:
        importlib.import_module(name)
    decord_decoder.installed()
    fork_for_each(sys.argv[1], _decode)


if __name__ == "__main__":
    _main()
