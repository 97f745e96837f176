"""Files that appear whole or not at all, and streams that may have no end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from adatp_cli.errors import UsageError
from adatp_cli.video.source import printable

# Of lists, manifests and questions: two million paths fit.
_TEXT_BYTES = 1 << 28


def read_whole(stream: BinaryIO, name: str, hint: str, *, most: int = _TEXT_BYTES) -> bytes:
    """All that a stream gives; `name` says in the error what it is.

    Raises
    ------
    UsageError
        More than `most` bytes come: another file than was meant, or one without an end.
    """
    data = stream.read(most + 1)
    if len(data) > most:
        raise UsageError(f"{name}: more than {most >> 20} MiB, which is too long", hint)
    return data


@contextmanager
def replacing(target: Path, what: str) -> Iterator[Path]:
    """A file beside `target` to write to; at the end of the block it takes the target's place.

    When the block fails nothing is left of it, and what stood at `target` stays.

    Parameters
    ----------
    what
        What is written, for the error: "the trace".

    Raises
    ------
    UsageError
        It cannot be written.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:64]}.", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's own mode shuts others out
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise UsageError(
            f"{what} {printable(os.fspath(target))} cannot be written: {error.strerror or error}",
            "name a file in a folder that exists and that you may write to",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
