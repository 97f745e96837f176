"""Opening a file that only one run may write, and seeing bytes onto the disk.

The lock is on the file itself and is the kernel's: it goes with the process, however that ends, so
no lock file is ever left behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path

from adatp_cli import files
from adatp_cli.errors import AdatpError, UsageError

_NOT_SUPPORTED = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EROFS}
)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
# How often a file may be replaced between opening and locking it before this is called a conflict.
_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Locked:
    """An open file; its lock lasts until `fd` is closed, and `path` is None where there is none."""

    fd: int
    path: Path | None
    created: bool
    notes: tuple[str, ...] = ()


def open_stream(path: str | os.PathLike[str], name: str) -> Locked:
    """Open a pipe or device to write to."""
    try:
        return Locked(files.open_stream(path), None, False)
    except OSError as error:
        raise cannot_write(name, error) from error


def open_locked(path: str | os.PathLike[str], name: str, *, may_exist: bool) -> Locked:
    """Open a regular file to read and write, made if need be, and lock it."""
    try:
        # The rewriting of the file replaces it by name, and must replace no link.
        real = Path(os.path.realpath(path))
        for _ in range(_ATTEMPTS):
            locked = _try_lock(real, name, may_exist=may_exist)
            if locked is not None:
                return locked
    except FileExistsError:
        raise files.exists_already(name, resumable=True) from None
    except BlockingIOError:
        pass
    except (OSError, ValueError) as error:
        raise cannot_write(name, error) from error
    raise UsageError(
        f"{name}: another run is writing this file", "wait for it, or name another file with -o"
    )


def lock(fd: int) -> bool:
    """Lock an open file for this process; False where the file system knows no locks."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NOT_SUPPORTED:
            return False
        raise
    return True


def sync(fd: int) -> None:
    """Wait until what was written is on the disk; pipes and /dev/null have none."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise


def sync_folder(folder: Path) -> None:
    """See a file's name onto the disk, where folders can be synchronised."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def cannot_write(name: str, error: OSError | ValueError) -> AdatpError:
    """What to tell about a result file that takes no rows."""
    number = error.errno if isinstance(error, OSError) else None
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if isinstance(error, BrokenPipeError):
        return AdatpError(f"{name}: its reader has gone", "nothing more can be written there")
    if number in _FULL:
        hint = "make room and run again with --resume"
    elif number in _FORBIDDEN:
        hint = "name a file with -o that you may write to"
    else:
        hint = "check the disk and run again with --resume"
    return AdatpError(f"{name}: the rows cannot be written: {reason}", hint)


def _try_lock(path: Path, name: str, *, may_exist: bool) -> Locked | None:
    """One attempt; None where another run has put a new file in the place of the one opened."""
    created = True
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        if not may_exist:
            raise
        created = False
        try:
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return None
    locked = False
    try:
        locked = lock(fd)
        if not is_at(fd, path):
            os.close(fd)
            return None
        if created:
            sync_folder(path.parent)
    except BaseException:
        if created and locked:  # without the lock it may be another run's by now
            path.unlink(missing_ok=True)
        os.close(fd)
        raise
    note = f"{name}: this file system knows no locks; let no other run write this file"
    return Locked(fd, path, created, () if locked else (note,))


def is_at(fd: int, path: Path) -> bool:
    """Whether the open file is still the one of that name, and not one that was replaced."""
    mine = os.fstat(fd)
    try:
        now = os.stat(path)
    except FileNotFoundError:
        return False
    return (mine.st_dev, mine.st_ino) == (now.st_dev, now.st_ino)
