"""`adatp` as a command of its own for shells and pipes, at the cost of a fork.

One process has imported everything. The command hands it its arguments, folder, environment and
standard streams, waits for the fork that runs the program, and ends with its exit code.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.streams import be_the_program, warm

_COMMAND = """\
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as door:
    door.connect(sys.argv[1])
    asked = {"arguments": sys.argv[2:], "folder": os.getcwd(), "env": dict(os.environ)}
    socket.send_fds(door, [json.dumps(asked).encode()], [0, 1, 2])
    sys.exit(int(door.recv(100) or b"99"))
"""


class Door:
    """Starts the process that waits; `command` is what stands for `adatp`."""

    def __init__(self, folder: Path, decoders: tuple[str, ...]) -> None:
        script, path = folder / "adatp.py", folder / "door"
        script.write_text(_COMMAND)
        self.command = (sys.executable, "-S", "-E", str(script), str(path))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.door", str(path), *decoders],
            cwd=Path(__file__).parent.parent,
            env={name: value for name, value in os.environ.items() if name[:6] != "ADATP_"},
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"open\n"

    def close(self) -> None:
        """End the process that waits."""
        self._process.kill()
        self._process.communicate()


def _wait(path: str) -> None:
    """Fork for everybody who comes, until killed."""
    warm(sys.argv[2:])
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path)
        door.listen()
        sys.stdout.write("open\n")
        sys.stdout.flush()
        while True:
            client, _ = door.accept()
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for what serves a client
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                door.close()
                _run(client)
            client.close()


def _run(client: socket.socket) -> None:
    message, fds, _, _ = socket.recv_fds(client, 1 << 20, 3)
    request = {**json.loads(message), "open": [True] * 3, "terminal": False}
    child = os.fork()
    if child == 0:
        client.close()
        be_the_program(request, fds)
    for fd in fds:
        os.close(fd)
    _, status = os.waitpid(child, 0)
    client.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


if __name__ == "__main__":
    _wait(sys.argv[1])
