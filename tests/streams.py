"""The program as a process of its own, on the streams that a test chooses, at the cost of a fork.

One process has imported everything and forks a child for each run; the child gets its descriptors,
makes `sys.stdin`, `sys.stdout` and `sys.stderr` of them as Python does at its start, and ends as a
program ends.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import pty
import select
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time
import traceback
import tty
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import adatp_cli
from adatp_cli.cli.app import main
from adatp_cli.video import isolated
from tests.conftest import Finished

Kind = Literal["file", "pipe", "pty", "closed", "full", "unread"]
SAME = "stdout"  # as stderr: the very terminal, file or pipe that stdout is

_LONGEST_S = 120.0
_COLUMNS, _ROWS = 80, 24


class Programs:
    """Runs the program, each time in a fork of one warm process; a context manager."""

    def __init__(self, decoders: tuple[str, ...]) -> None:
        self._decoders = decoders

    def __enter__(self) -> Programs:
        self._control, theirs = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if name[:6] != "ADATP_"}
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.streams", str(theirs.fileno()), *self._decoders],
                cwd=Path(__file__).parent.parent,
                env={**environment, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"},
                pass_fds=[theirs.fileno()],
            )
        assert self._control.recv(100) == b"ready", "the warm process did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._server.wait()

    def run(
        self,
        *arguments: str | Path,
        stdin: Kind = "file",
        stdout: Kind = "pipe",
        stderr: Kind | Literal["stdout"] = "pipe",
        given: bytes = b"",
        folder: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Finished:
        """Run the program to its end; what a stream that is no terminal, file or pipe got is ''."""
        with contextlib.ExitStack() as stack:
            into = _Input(stdin, given, stack)
            out = _Output(stdout, stack)
            err = out if stderr == SAME else _Output(stderr, stack)
            request = {
                "arguments": [str(argument) for argument in arguments],
                "folder": os.fspath(folder or Path.cwd()),
                "env": dict(env or {}),
                "open": [stream.theirs is not None for stream in (into, out, err)],
                "terminal": "pty" in (stdin, stdout, stderr),
            }
            given_fds = [one.theirs for one in (into, out, err) if one.theirs is not None]
            socket.send_fds(self._control, [json.dumps(request).encode()], given_fds)
            child = json.loads(self._control.recv(100))["child"]
            for stream in (into, out, err):
                stream.begun()
            code = self._wait(child, into, [out, err])
            return Finished(code, out.text(), "" if stderr == SAME else err.text())

    def _wait(self, child: int, into: _Input, outputs: list[_Output]) -> int:
        """Feed and drain the streams until the child has ended; its exit code."""
        latest = time.monotonic() + _LONGEST_S
        while True:
            reading = [one.ours for one in outputs if one.ours is not None]
            writing = [into.ours] if into.ours is not None else []
            ready, writable, _ = select.select([self._control, *reading], writing, [], 1.0)
            if writable:
                into.feed()
            for one in outputs:
                if one.ours in ready:
                    one.drain()
            if self._control in ready and not any(one.ours in ready for one in outputs):
                return int(json.loads(self._control.recv(100))["code"])
            if time.monotonic() > latest:
                os.kill(child, signal.SIGKILL)
                latest = float("inf")


class _Input:
    """A stdin."""

    def __init__(self, kind: Kind, given: bytes, stack: contextlib.ExitStack) -> None:
        self.ours: int | None = None
        self.theirs: int | None = None
        self._left = given
        if kind == "file":
            file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
            file.write(given)
            file.seek(0)
            self.theirs = os.dup(file.fileno())
        elif kind == "pipe":
            self.theirs, self.ours = os.pipe()
        elif kind == "pty":
            self.ours, self.theirs = _terminal()
            self._left += b"\x04"  # the end, as Ctrl-D types it

    def begun(self) -> None:
        self.theirs = _closed(self.theirs)

    def feed(self) -> None:
        assert self.ours is not None
        try:
            self._left = self._left[os.write(self.ours, self._left[:4096]) :]
        except OSError:  # nobody reads
            self._left = b""
        if not self._left and not os.isatty(self.ours):
            self.ours = _closed(self.ours)


class _Output:
    """A stdout or stderr."""

    def __init__(self, kind: str, stack: contextlib.ExitStack) -> None:
        self.ours: int | None = None
        self.theirs: int | None = None
        self._got = b""
        self._file: Any = None
        if kind == "file":
            self._file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  # noqa: SIM115
            self.theirs = os.dup(self._file.fileno())
        elif kind == "pipe":
            self.ours, self.theirs = os.pipe()
        elif kind == "pty":
            self.ours, self.theirs = _terminal()
        elif kind == "full":
            self.theirs = os.open("/dev/full", os.O_WRONLY)
        elif kind == "unread":
            reader, self.theirs = os.pipe()
            os.close(reader)
        if self.ours is not None:
            stack.callback(lambda: _closed(self.ours))

    def begun(self) -> None:
        self.theirs = _closed(self.theirs)

    def drain(self) -> None:
        assert self.ours is not None
        try:
            got = os.read(self.ours, 65536)
        except OSError:  # a terminal without a program
            got = b""
        self._got += got
        if not got:
            self.ours = _closed(self.ours)

    def text(self) -> str:
        if self._file is not None:
            self._file.seek(0)
            self._got = self._file.read()
        return self._got.decode()


def _terminal() -> tuple[int, int]:
    """Both ends of a terminal of 80 columns that passes on what it gets as it is."""
    ours, theirs = pty.openpty()
    modes = termios.tcgetattr(theirs)
    modes[tty.OFLAG] &= ~termios.OPOST  # no \r\n for \n
    modes[tty.LFLAG] &= ~termios.ECHO
    termios.tcsetattr(theirs, termios.TCSANOW, modes)
    termios.tcsetwinsize(theirs, (_ROWS, _COLUMNS))
    return ours, theirs


def _closed(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)


def screen(text: str) -> list[str]:
    """The lines that a terminal shows once it has got `text`; it knows what rich writes."""
    lines, row, column = [""], 0, 0
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == "\r":
            column = 0
        elif character == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif character == "\x1b":
            end = position + 1
            while not text[end].isalpha():
                end += 1
            number, command = text[position + 1 : end], text[end]
            position = end + 1
            if command == "A":
                row -= int(number or 1)
            elif command == "K":
                assert number == "2", "only whole lines are cleared"
                lines[row] = ""
        else:
            lines[row] = lines[row].ljust(column)[:column] + character + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def warm(decoders: Sequence[str]) -> None:
    """Import all that the program may need, so that a fork of this process begins at once."""
    isolated.WORKER = tuple(decoders)
    for module in pkgutil.walk_packages(adatp_cli.__path__, "adatp_cli."):
        if not module.name.endswith(("__main__", "lmms_adapter", "lmms_entry")):
            importlib.import_module(module.name)
    with tempfile.TemporaryFile("w") as nowhere, contextlib.redirect_stdout(nowhere):
        main(["demo", "--quiet"])  # what is imported in functions
    gc.freeze()  # the children share the memory


def _serve(control: socket.socket) -> int:
    """Fork a child for every request, until nobody asks any more."""
    warm(sys.argv[2:])
    control.send(b"ready")
    while True:
        message, fds, _, _ = socket.recv_fds(control, 1 << 20, 3)
        if not message:
            return 0
        request = json.loads(message)
        child = os.fork()
        if child == 0:
            control.close()
            be_the_program(request, fds)
        for fd in fds:
            os.close(fd)
        control.send(json.dumps({"child": child}).encode())
        _, status = os.waitpid(child, 0)
        control.send(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode())


def be_the_program(request: Mapping[str, Any], fds: list[int]) -> NoReturn:
    """Be the program, from its first line to its end."""
    os.setsid()
    for number, opened in enumerate(request["open"]):
        if opened:
            fd = fds.pop(0)
            os.dup2(fd, number)
            os.close(fd)
        else:
            os.close(number)
    if request["terminal"]:
        import fcntl

        terminal = next(fd for fd in (0, 1, 2) if os.isatty(fd))
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    os.chdir(request["folder"])
    os.environ.update(request["env"])
    sys.stdin, sys.stdout, sys.stderr = (_stream(fd, "rww"[fd]) for fd in (0, 1, 2))
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    try:
        code = main(request["arguments"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    # As Python ends, but for taking every module apart, which takes a second.
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:
            code = 120
    os._exit(code)


def _stream(fd: int, mode: str) -> Any:
    """As Python opens a standard stream at its start; None for one that is closed."""
    try:
        os.fstat(fd)
    except OSError:
        return None
    by_line = fd == 2 or os.isatty(fd)
    return io.TextIOWrapper(
        open(fd, f"{mode}b", closefd=False),
        encoding="utf-8",
        errors="backslashreplace" if fd == 2 else "strict",
        line_buffering=by_line,
    )


if __name__ == "__main__":
    sys.exit(_serve(socket.socket(fileno=int(sys.argv[1]))))
