"""Where a run may write, asked before it begins; files that appear whole; streams without an end.

Every path that the user names for output goes through `check_outputs`. A pipe, a terminal,
/dev/null and the name of an open descriptor, such as /dev/fd/3, hold nothing that can be lost.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from adatp_cli.errors import UsageError
from adatp_cli.text import printable

StrPath = str | os.PathLike[str]

_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d{1,9})")
# Of lists, manifests and questions: two million paths fit.
_TEXT_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class OutputPath:
    """A file that a run is to write."""

    option: str  # where it was named, for messages: `-o`, `--trace`
    path: Path  # as it was given
    suffixes: tuple[str, ...] = ()  # what its name may end in; empty: anything
    what: str = "the output"  # with an article: "a trace"
    makes_folder: bool = False  # the folders above it are made where they are missing
    resumable: bool = False  # written row by row, in place, and may be gone on with
    may_be_stdout: bool = False  # nothing else goes to stdout

    @property
    def shown(self) -> str:
        """The option and the path, printable."""
        return f"{self.option} {printable(os.fspath(self.path))}"


def check_outputs(
    outputs: Sequence[OutputPath],
    inputs: Iterable[StrPath] = (),
    *,
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """Refuse, before any work is done, what could not or must not be written in the end.

    Refused with a UsageError is a file that is one of the inputs, also by another name; where
    stdin, stdout or stderr lead; two that are the same; one that exists and may not be replaced; a
    folder, one without a folder to be in, a wrong suffix, what cannot be written; and `overwrite`
    with nothing to replace. What is no path of a file among the inputs is passed over.
    """
    if overwrite and not outputs:
        raise UsageError("--overwrite has nothing to replace", "name a file or folder to write to")
    in_use = _files(inputs)
    named: dict[str, OutputPath] = {}
    for output in outputs:
        if is_stream(output.path):
            _check_stream(output)
            continue
        _check_suffix(output)
        real = os.path.realpath(output.path)
        if real in named:
            raise UsageError(
                f"{output.shown}: is the file of {named[real].option} too", "name another file"
            )
        named[real] = output
        try:
            _check_file(output, Path(real), in_use, may_exist=overwrite or resume)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            hint = "name a file in a folder that you may write to"
            raise UsageError(f"{output.shown}: cannot be written: {reason}", hint) from None


def exists_already(shown: str, *, resumable: bool) -> UsageError:
    """What to tell about a file that is there and may be lost."""
    go_on = "go on with it with --resume, or " if resumable else ""
    return UsageError(f"{shown}: exists already", f"{go_on}replace it with --overwrite")


def is_stdout(path: StrPath) -> bool:
    """Whether this is a name of standard output."""
    return _descriptor(path) == 1


def is_stream(path: StrPath) -> bool:
    """Whether what is written there replaces nothing: a pipe, a terminal, a descriptor."""
    if _descriptor(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def open_stream(path: StrPath) -> int:
    """A descriptor of its own to write to a stream; a named pipe waits for its reader."""
    descriptor = _descriptor(path)
    return os.open(path, os.O_WRONLY) if descriptor is None else os.dup(descriptor)


def read_whole(stream: BinaryIO, name: str, hint: str, *, most: int = _TEXT_BYTES) -> bytes:
    """All that a stream gives; `name` says in the error what it is.

    More than `most` bytes are another file than was meant, or one without an end.
    """
    data = stream.read(most + 1)
    if len(data) > most:
        raise UsageError(f"{name}: more than {most >> 20} MiB, which is too long", hint)
    return data


@contextmanager
def replacing(target: Path, what: str) -> Iterator[Path]:
    """A file beside `target` to write to; at the end of the block it takes the target's place.

    When the block fails nothing is left of it, and what stood at `target` stays. A link stays a
    link. A stream gets the file's bytes. `what` is written, for the error: "the trace".
    """
    temporary: Path | None = None
    stream = is_stream(target)
    real = Path(os.path.realpath(target))
    try:
        folder = None if stream else real.parent
        handle, name = tempfile.mkstemp(real.suffix[:64], f".{real.name[:64]}.", folder)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        if stream:
            with temporary.open("rb") as source, open(open_stream(target), "wb") as out:
                shutil.copyfileobj(source, out)
            return
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's own mode shuts others out
        os.replace(temporary, real)
        temporary = None
    except OSError as error:
        raise UsageError(
            f"{what} {printable(os.fspath(target))} cannot be written: {error.strerror or error}",
            "name a file in a folder that exists and that you may write to",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _descriptor(path: StrPath) -> int | None:
    name = os.fspath(path)
    found = _DESCRIPTOR.fullmatch(name)
    return int(found[1]) if found else _STANDARD.get(name)


def _files(inputs: Iterable[StrPath]) -> dict[tuple[int, int], str]:
    """What must not be written to, by device and number, and why."""
    found: dict[tuple[int, int], str] = {}
    named = [(one, "is read by this run") for one in inputs]
    streams = ["is what stdin reads", "is where stdout goes", "is where stderr goes"]
    for which, why in [*named, *enumerate(streams)]:
        with suppress(OSError, ValueError):  # not there, closed, or no path
            about = os.stat(which)
            if stat.S_ISREG(about.st_mode):
                found.setdefault((about.st_dev, about.st_ino), why)
    return found


def _check_suffix(output: OutputPath) -> None:
    if output.suffixes and output.path.suffix.lower() not in output.suffixes:
        *others, last = output.suffixes
        kinds = f"{', '.join(others)} or {last}" if others else last
        ends = "one of these" if others else last
        raise UsageError(
            f"{output.shown}: {output.what} is a {kinds} file", f"end its name in {ends}"
        )


def _check_stream(output: OutputPath) -> None:
    descriptor = _descriptor(output.path)
    if descriptor == 1 and not output.may_be_stdout:
        raise UsageError(f"{output.shown}: something else goes to stdout", "name a file")
    try:
        if descriptor is not None:
            os.write(descriptor, b"")  # fails where it is closed, or open to be read alone
        else:
            _need_rights(output.path)
    except OSError as error:
        raise UsageError(
            f"{output.shown}: cannot be written: {error.strerror}", "name a file"
        ) from None


def _check_file(
    output: OutputPath, real: Path, in_use: dict[tuple[int, int], str], *, may_exist: bool
) -> None:
    try:
        about = real.stat()
    except (FileNotFoundError, NotADirectoryError):
        _try_folder(output, real.parent)
        return
    if stat.S_ISDIR(about.st_mode):
        raise UsageError(f"{output.shown}: is a folder", "name a file in it")
    if not stat.S_ISREG(about.st_mode):
        raise UsageError(f"{output.shown}: is no file that can be replaced", "name another one")
    why = in_use.get((about.st_dev, about.st_ino))
    if why is not None:
        raise UsageError(f"{output.shown}: {why}", "write to another file")
    if not may_exist:
        raise exists_already(output.shown, resumable=output.resumable)
    _need_rights(real)
    if not output.resumable:
        _try_folder(output, real.parent)


def _need_rights(path: Path) -> None:
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _try_folder(output: OutputPath, folder: Path) -> None:
    """Whether a file can be made there; rights alone do not tell."""
    if output.makes_folder:
        folder = next(one for one in (folder, *folder.parents) if os.path.lexists(one))
    if not folder.is_dir():
        there = os.path.lexists(folder)
        what = f"{printable(str(folder))} is no folder" if there else "there is no such folder"
        raise UsageError(f"{output.shown}: {what}", "make it first, or name another")
    with tempfile.TemporaryFile(dir=folder):
        pass
