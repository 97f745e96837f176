"""`adatp` as a command of its own for shells and pipes, at the cost of a fork.

One process has imported everything. The command hands it its arguments, folder, environment and
standard streams, waits for the fork that runs the program, and ends with its exit code.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

from tests.forked_decoders import ForkServer, end_as, fork_for_each
from tests.streams import be_the_program, warm

_COMMAND = """\
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as door:
    door.connect(sys.argv[1])
    asked = {"arguments": sys.argv[2:], "folder": os.getcwd(), "env": dict(os.environ)}
    socket.send_fds(door, [json.dumps(asked).encode()], [0, 1, 2])
    sys.exit(int(door.recv(100) or b"99"))
"""


class Door(ForkServer):
    """`command` is what stands for `adatp`."""

    def __init__(self, folder: Path, decoders: tuple[str, ...]) -> None:
        env = {name: value for name, value in os.environ.items() if name[:6] != "ADATP_"}
        super().__init__("tests.door", _COMMAND, folder, *decoders, env=env)


def _run(client: socket.socket) -> None:
    message, fds, _, _ = socket.recv_fds(client, 1 << 20, 3)
    request = {**json.loads(message), "open": [True] * 3, "terminal": False}
    child = os.fork()
    if child == 0:
        client.close()
        be_the_program(request, fds)
    end_as(child, fds, client)


if __name__ == "__main__":
    warm(sys.argv[2:])
    fork_for_each(sys.argv[1], _run)
