"""The file that a batch writes its rows to: locked, appended to row by row, read and resumed.

The lock is on the file itself and is the kernel's: it goes with the process, however that ends, so
no lock file is ever left behind.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from adatp_cli.batch.row_format import (
    COLUMNS,
    FORMATS,
    OLD_COLUMNS,
    Columns,
    csv_header,
    csv_line,
    jsonl_line,
)
from adatp_cli.errors import AdatpError, UsageError
from adatp_cli.files import (
    OutputPath,
    StrPath,
    check_outputs,
    exists_already,
    is_stream,
    open_stream,
)
from adatp_cli.record import READ_VERSIONS
from adatp_cli.text import CSV_MARK, printable

# No row is this long. It keeps a film that was given by mistake out of the memory.
_MAX_ROW_BYTES = 1 << 26
_KEY = re.compile(r"[0-9a-f]{64}")
_ROW_END = re.compile(rb",[0-9a-f]{64}\r?\n")  # the key is a CSV row's last cell
_JSON_START = b'{"schema_version"'
_HEADERS = {
    f"{mark}{csv_header(columns)}".encode(): columns
    for columns in (COLUMNS, OLD_COLUMNS)
    for mark in (CSV_MARK, "")
}
_NAME_ANOTHER = "name another file with -o, or replace this one with --overwrite"

_NOT_SUPPORTED = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EROFS}
)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
# How often a file may be replaced between opening and locking it before this is called a conflict.
_ATTEMPTS = 20


class ResultFile:
    """Rows in a file, each there for good once `write` returns. Made by `ResultFile.open`.

    A regular file is locked until it is closed. Should the process be killed, the lock goes with
    it, and at most the last row is torn, which `resume` drops. A pipe or device only takes rows.
    """

    def __init__(
        self, name: str, form: str, fd: int, path: Path | None = None, *, created: bool = False
    ) -> None:
        self.done: dict[str, bool] = {}  # the keys of the rows in the file; True for an answer's
        self.notes: list[str] = []  # what the user should know about the file, a line each
        self._name = name
        self._form = form
        self._fd = fd
        self._path = path  # None for a pipe or device
        self._created = created
        self._end = 0
        self._fresh = True  # no row and no header of this run is in it
        self._columns = COLUMNS

    @classmethod
    def open(
        cls,
        path: StrPath,
        *,
        format: str = "jsonl",  # noqa: A002 - the option's own name
        resume: bool = False,
        overwrite: bool = False,
    ) -> ResultFile:
        """Open and lock a file for rows.

        With `resume` it goes on behind the rows that are there, a torn last one cut off. With
        `overwrite` old rows stay until the first new one comes, so a run that fails before has lost
        nothing.
        """
        if format not in FORMATS:
            raise ValueError(f"{format!r} is none of the formats {FORMATS}")
        name = printable(os.fspath(path))
        if resume and overwrite:
            raise UsageError(
                "--resume and --overwrite exclude each other",
                "--resume goes on with the file, --overwrite begins it anew",
            )
        output = OutputPath("-o", Path(path), resumable=True)
        check_outputs([output], overwrite=overwrite, resume=resume)
        if is_stream(path):
            if resume:
                raise UsageError(f"{name}: a pipe or device cannot be resumed", "name a file")
            try:
                return cls(name, format, open_stream(path))
            except OSError as error:
                raise _cannot_write(name, error) from error
        # The rewriting of the file replaces it by name, and must replace no link.
        real = Path(os.path.realpath(path))
        fd, created, locked = _open_locked(real, name, may_exist=resume or overwrite)
        file = cls(name, format, fd, real, created=created)
        if not locked:
            known = "this file system knows no locks"
            file.notes.append(f"{name}: {known}; let no other run write this file")
        try:
            if resume:
                file._read()
            else:
                file._end = os.fstat(fd).st_size
        except BaseException:
            if created:
                real.unlink(missing_ok=True)
            os.close(fd)
            raise
        return file

    def _read(self) -> None:
        """Go on behind the rows that are there."""
        torn = False
        try:
            with os.fdopen(os.dup(self._fd), "rb") as stream:
                for piece in pieces(stream, self._form, self._name):
                    if piece is None:
                        torn = True
                        break
                    self._end += len(piece.raw)
                    if piece.key is None:
                        self._columns = piece.columns
                    else:
                        self.done[piece.key] = self.done.get(piece.key, False) or piece.ok
            if torn:
                os.ftruncate(self._fd, self._end)
                self.notes.append(f"{self._name}: the last row was cut short and is dropped")
        except OSError as error:
            raise _cannot_write(self._name, error) from error
        self._fresh = self._end == 0

    @property
    def on_terminal(self) -> bool:
        """Whether the rows are seen as they come."""
        return self._path is None and os.isatty(self._fd)

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """After a failure leave no empty file that would be in the next run's way."""
        if kind is None:
            self.close()
        elif self._fd >= 0:
            if self._fresh and self._created and self._path is not None:
                with contextlib.suppress(OSError):
                    if _is_at(self._fd, self._path):
                        self._path.unlink()
            self._release()

    def close(self) -> None:
        """Let go of the file and its lock; a file that got no row is left as an empty table."""
        if self._fd >= 0:
            try:
                self._start()
            finally:
                self._release()

    def _release(self) -> None:
        os.close(self._fd)
        self._fd = -1

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row, and wait until it is on the disk.

        Where the file takes no more, what was written of the row is cut off again.
        """
        key = row["batch"]["key"]
        line = csv_line(row, self._columns) if self._form == "csv" else jsonl_line(row)
        self._start()
        self._append(line)
        self.done[key] = self.done.get(key, False) or bool(row["ok"])

    def _start(self) -> None:
        """Before the first row: empty the file and write the header, if the format has one."""
        if not self._fresh:
            return
        if self._path is not None and self._end:
            self._check_unchanged(self._path)
            try:
                os.ftruncate(self._fd, 0)
            except OSError as error:
                raise _cannot_write(self._name, error) from error
            self._end = 0
        mark = "" if self._path is None else CSV_MARK
        self._append(mark + csv_header() if self._form == "csv" else "")
        self._fresh = False

    def _append(self, text: str) -> None:
        if self._path is not None:
            self._check_unchanged(self._path)
        data = text.encode("utf-8")
        try:
            _write_all(self._fd, data, None if self._path is None else self._end)
            _sync(self._fd)
        except BaseException as error:
            # An interrupt too may come between two halves of a row.
            if self._path is not None:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, self._end)
            if isinstance(error, OSError):
                raise _cannot_write(self._name, error) from error
            raise
        self._end += len(data)

    def _check_unchanged(self, path: Path) -> None:
        """Refuse to write into a file that someone else has changed in spite of the lock."""
        now = os.fstat(self._fd)
        hint = "run again with --resume"
        if now.st_nlink == 0:
            what = "was removed"
        elif not _is_at(self._fd, path):
            what = "was renamed, or another file put into its place,"
            hint = "give the file that has the rows with -o and --resume"
        elif now.st_size != self._end:
            what = "was changed by another program"
        else:
            return
        raise AdatpError(f"{self._name}: {what} while rows were written to it", hint)

    def forget_failed(self, keys: Collection[str]) -> None:
        """Take the failed rows with these keys out of the file, all or none of them.

        The file is written anew beside the old one and then put into its place.
        """
        wanted = {key for key in keys if self.done.get(key) is False}
        if not wanted or self._path is None:
            return
        beside = self._path.with_name(f".{self._path.name}.rewriting")
        try:
            self._rewrite(self._path, beside, wanted)
        except OSError as error:
            raise _cannot_write(printable(str(beside)), error) from error
        for key in wanted:
            del self.done[key]

    def _rewrite(self, path: Path, beside: Path, without: Collection[str]) -> None:
        old = os.fstat(self._fd)
        beside.unlink(missing_ok=True)  # from a run that was killed here; the lock is ours
        new = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL, stat.S_IMODE(old.st_mode))
        end = 0
        try:
            lock(new)
            with contextlib.suppress(OSError):  # not every file system has these
                os.fchmod(new, stat.S_IMODE(old.st_mode))
                os.fchown(new, old.st_uid, old.st_gid)
            with os.fdopen(os.dup(self._fd), "rb") as stream:
                for piece in pieces(stream, self._form, self._name):
                    if piece is not None and (piece.ok or piece.key not in without):
                        _write_all(new, piece.raw, end)
                        end += len(piece.raw)
            _sync(new)
            os.replace(beside, path)
        except BaseException:
            os.close(new)
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
        _sync_folder(path.parent)
        os.close(self._fd)
        self._fd, self._end = new, end


# Reading a file that a run left behind, however that run ended.


@dataclass(frozen=True, slots=True)
class Piece:
    """One row as it stands in the file, with its line end."""

    raw: bytes
    key: str | None  # None for the header of a CSV table
    ok: bool
    columns: Columns = COLUMNS


def pieces(stream: BufferedReader, form: str, name: str) -> Iterator[Piece | None]:
    """The rows of a result file; None at the end for a last one that is not whole."""
    stream.seek(0)
    columns: Columns | None = None  # None: the header is still to come
    for line, raw, whole in _raw_rows(stream, quotes=form == "csv"):
        piece = None
        if whole:
            piece = _json_piece(raw) if form == "jsonl" else _csv_piece(raw, columns)
        if piece is not None:
            columns = piece.columns
        elif not _is_torn(stream, raw, form, whole=whole, first=line == 1):
            what = f"{name}: is no {form} file of rows of adatp batch"
            damage = f"{name}, line {line}: is no row of adatp batch, or a damaged one"
            raise UsageError(what if line == 1 else damage, _NAME_ANOTHER)
        yield piece


def stored(stream: BufferedReader, name: str) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Places and records of a file of JSON Lines; None at the end for one that is not whole."""
    for line, raw, whole in _raw_rows(stream, quotes=False):
        place, row = f"{name}, line {line}", _record(raw)
        if row is None and not _is_torn(stream, raw, "jsonl", whole=whole, first=line == 1):
            raise UsageError(
                f"{place}: is no record of adatp",
                "give files of JSON Lines, as ask --json, batch and eval write them",
            )
        yield place, row


def _raw_rows(stream: BufferedReader, *, quotes: bool) -> Iterator[tuple[int, bytes, bool]]:
    """Each row's first line, its bytes, and whether it ends as rows do.

    With `quotes` a row does not end inside them. A quote in a quoted cell is written twice, so a
    row is over where their count is even.
    """
    number, lines, size, inside = 1, list[bytes](), 0, False
    while line := stream.readline(_MAX_ROW_BYTES):
        lines.append(line)
        size += len(line)
        inside ^= quotes and line.count(b'"') % 2 == 1
        whole = line.endswith(b"\n") and not inside
        if whole or size >= _MAX_ROW_BYTES:
            yield number, b"".join(lines), whole
            number += len(lines)
            lines, size, inside = [], 0, False
    if lines:
        yield number, b"".join(lines), False


def _is_torn(stream: BufferedReader, raw: bytes, form: str, *, whole: bool, first: bool) -> bool:
    """Whether these bytes, which are no row of ours, may be what is left of the last one.

    Behind rows of ours stands nobody else's row; the first one is ours only if it begins so.
    """
    if stream.peek(1):
        return False
    if whole:
        if form == "csv":
            return False
        with contextlib.suppress(ValueError, RecursionError):
            json.loads(raw)
            return False
    if form == "csv" and _ROW_END.search(raw):
        return False  # not the rest of a row: whole ones behind a quote that is never closed
    starts = _HEADERS if form == "csv" else [_JSON_START]
    return not first or any(raw[: len(start)] == start[: len(raw)] for start in starts)


def _record(raw: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or row.get("schema_version") not in READ_VERSIONS:
        return None
    return row if isinstance(row.get("ok"), bool) else None


def _json_piece(raw: bytes) -> Piece | None:
    row = _record(raw) or {}
    batch = row.get("batch")
    key = batch.get("key") if isinstance(batch, dict) else None
    return Piece(raw, key, row["ok"]) if isinstance(key, str) and _KEY.fullmatch(key) else None


def _csv_piece(raw: bytes, columns: Columns | None) -> Piece | None:
    """A row, or the header where no columns are known."""
    if columns is None:
        columns = _HEADERS.get(raw.rstrip(b"\r\n") + b"\r\n")
        return None if columns is None else Piece(raw, None, False, columns)
    try:
        cells = next(csv.reader([raw.decode("utf-8")], strict=True), [])
    except (UnicodeDecodeError, csv.Error):
        return None
    if len(cells) != len(columns):
        return None
    row = dict(zip((name for name, _ in columns), cells, strict=True))
    if row["ok"] not in ("true", "false") or not _KEY.fullmatch(row["key"]):
        return None
    return Piece(raw, row["key"], row["ok"] == "true", columns)


# Opening a file that only one run may write, and seeing bytes onto the disk.


def _open_locked(path: Path, name: str, *, may_exist: bool) -> tuple[int, bool, bool]:
    """Open a file to read and write, made if need be; whether it was made, and is locked."""
    try:
        for _ in range(_ATTEMPTS):
            opened = _try_lock(path, may_exist=may_exist)
            if opened is not None:
                return opened
    except FileExistsError:
        raise exists_already(name, resumable=True) from None
    except BlockingIOError:
        pass
    except (OSError, ValueError) as error:
        raise _cannot_write(name, error) from error
    raise UsageError(
        f"{name}: another run is writing this file", "wait for it, or name another file with -o"
    )


def _try_lock(path: Path, *, may_exist: bool) -> tuple[int, bool, bool] | None:
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
        if not _is_at(fd, path):
            os.close(fd)
            return None
        if created:
            _sync_folder(path.parent)
    except BaseException:
        if created and locked:  # without the lock it may be another run's by now
            path.unlink(missing_ok=True)
        os.close(fd)
        raise
    return fd, created, locked


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


def _is_at(fd: int, path: Path) -> bool:
    """Whether the open file is still the one of that name, and not one that was replaced."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _write_all(fd: int, data: bytes, offset: int | None) -> None:
    """Write all of `data`, at an offset or where a stream stands."""
    rest = memoryview(data)
    while rest:
        written = os.write(fd, rest) if offset is None else os.pwrite(fd, rest, offset)
        rest = rest[written:]
        offset = None if offset is None else offset + written


def _sync(fd: int) -> None:
    """Wait until what was written is on the disk; pipes and /dev/null have none."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise


def _sync_folder(folder: Path) -> None:
    """See a file's name onto the disk, where folders can be synchronised."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _cannot_write(name: str, error: OSError | ValueError) -> AdatpError:
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
