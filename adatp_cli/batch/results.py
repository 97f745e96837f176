"""The file that a batch writes its rows to: locked, appended to row by row, and resumed."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from adatp_cli.batch.locking import (
    Locked,
    cannot_write,
    is_at,
    lock,
    open_locked,
    open_stream,
    sync,
    sync_folder,
)
from adatp_cli.batch.row_format import (
    FORMATS,
    csv_header,
    csv_line,
    jsonl_line,
    row_key,
)
from adatp_cli.batch.scan import Scan, pieces, scan
from adatp_cli.errors import AdatpError, UsageError
from adatp_cli.files import OutputPath, check_outputs, is_stream
from adatp_cli.text import CSV_MARK, printable

__all__ = ["ResultFile", "csv_header", "csv_line", "jsonl_line", "row_key"]


class ResultFile:
    """Rows in a file, each there for good once `write` returns. Made by `ResultFile.open`.

    A regular file is locked until it is closed. Should the process be killed, the lock goes with
    it, and at most the last row is torn, which `resume` drops. A pipe or device only takes rows.

    Attributes
    ----------
    done
        The keys of the rows that the file holds; True where a row of that key is an answer.
    notes
        What the user should know about the file, a line each.
    """

    def __init__(self, name: str, form: str, opened: Locked, found: Scan, *, fresh: bool) -> None:
        self.done = found.done
        self.notes: tuple[str, ...] = opened.notes
        self._name = name
        self._form = form
        self._fd = opened.fd
        self._path = opened.path
        self._created = opened.created
        self._end = found.end
        self._fresh = fresh
        self._columns = found.columns

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
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
            return cls(name, format, open_stream(path, name), Scan(), fresh=True)
        opened = open_locked(path, name, may_exist=resume or overwrite)
        try:
            return cls._begin(name, format, opened, resume=resume)
        except BaseException:
            if opened.created and opened.path is not None:
                opened.path.unlink(missing_ok=True)
            os.close(opened.fd)
            raise

    @classmethod
    def _begin(cls, name: str, form: str, opened: Locked, *, resume: bool) -> ResultFile:
        if not resume:
            return cls(name, form, opened, Scan(end=_size(opened.fd)), fresh=True)
        try:
            with os.fdopen(os.dup(opened.fd), "rb") as stream:
                found = scan(stream, form, name)
            if found.torn:
                os.ftruncate(opened.fd, found.end)
        except OSError as error:
            raise cannot_write(name, error) from error
        file = cls(name, form, opened, found, fresh=found.end == 0)
        if found.torn:
            file.notes += (f"{name}: the last row was cut short and is dropped",)
        return file

    @property
    def on_terminal(self) -> bool:
        """Whether the rows are seen as they come."""
        return self._path is None and os.isatty(self._fd)

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._abandon()

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row, and wait until it is on the disk.

        Where the file takes no more, what was written of the row is cut off again.
        """
        key = row["batch"]["key"]
        line = csv_line(row, self._columns) if self._form == "csv" else jsonl_line(row)
        self._start()
        self._append(line)
        self.done[key] = self.done.get(key, False) or bool(row["ok"])

    def forget_failed(self, keys: Collection[str]) -> None:
        """Take the failed rows with these keys out of the file, all or none of them.

        The file is written anew beside the old one and then put into its place.
        """
        wanted = {key for key in keys if self.done.get(key) is False}
        if not wanted or self._path is None:
            return
        beside = self._path.with_name(f".{self._path.name}.rewriting")
        try:
            self._rewrite(beside, wanted)
        except OSError as error:
            raise cannot_write(printable(str(beside)), error) from error
        for key in wanted:
            del self.done[key]

    def close(self) -> None:
        """Let go of the file and its lock; a file that got no row is left as an empty table."""
        if self._fd < 0:
            return
        try:
            self._start()
        finally:
            self._release()

    def _abandon(self) -> None:
        """Let go after a failure, and leave no empty file that would be in the next run's way."""
        if self._fd < 0:
            return
        if self._fresh and self._created and self._path is not None:
            with contextlib.suppress(OSError):
                if is_at(self._fd, self._path):
                    self._path.unlink()
        self._release()

    def _release(self) -> None:
        os.close(self._fd)
        self._fd = -1

    def _start(self) -> None:
        """Before the first row: empty the file and write the header, if the format has one."""
        if not self._fresh:
            return
        if self._path is not None and self._end:
            self._check_unchanged()
            try:
                os.ftruncate(self._fd, 0)
            except OSError as error:
                raise cannot_write(self._name, error) from error
            self._end = 0
        mark = "" if self._path is None else CSV_MARK
        self._append(mark + csv_header() if self._form == "csv" else "")
        self._fresh = False

    def _append(self, text: str) -> None:
        if self._path is not None:
            self._check_unchanged()
        data = text.encode("utf-8")
        try:
            _write_all(self._fd, data, None if self._path is None else self._end)
            sync(self._fd)
        except BaseException as error:
            # An interrupt too may come between two halves of a row.
            if self._path is not None:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, self._end)
            if isinstance(error, OSError):
                raise cannot_write(self._name, error) from error
            raise
        self._end += len(data)

    def _check_unchanged(self) -> None:
        """Refuse to write into a file that someone else has changed in spite of the lock."""
        now = os.fstat(self._fd)
        hint = "run again with --resume"
        if now.st_nlink == 0:
            what = "was removed"
        elif self._path is not None and not is_at(self._fd, self._path):
            what = "was renamed, or another file put into its place,"
            hint = "give the file that has the rows with -o and --resume"
        elif now.st_size != self._end:
            what = "was changed by another program"
        else:
            return
        raise AdatpError(f"{self._name}: {what} while rows were written to it", hint)

    def _rewrite(self, beside: Path, wanted: Collection[str]) -> None:
        if self._path is None:
            return
        old = os.fstat(self._fd)
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()  # from a run that was killed here; the lock is ours
        new = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL, stat.S_IMODE(old.st_mode))
        end = 0
        try:
            lock(new)
            with contextlib.suppress(OSError):  # not every file system has these
                os.fchmod(new, stat.S_IMODE(old.st_mode))
                os.fchown(new, old.st_uid, old.st_gid)
            with os.fdopen(os.dup(self._fd), "rb") as stream:
                for piece in pieces(stream, self._form, self._name):
                    if piece is not None and (piece.ok or piece.key not in wanted):
                        end += _write_all(new, piece.raw, end)
            sync(new)
            os.replace(beside, self._path)
        except BaseException:
            os.close(new)
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
        sync_folder(self._path.parent)
        os.close(self._fd)
        self._fd, self._end = new, end


def _size(fd: int) -> int:
    return os.fstat(fd).st_size


def _write_all(fd: int, data: bytes, offset: int | None) -> int:
    """Write all of `data`, at an offset or where a stream stands; how many bytes that were."""
    written = 0
    while written < len(data):
        rest = memoryview(data)[written:]
        if offset is None:
            written += os.write(fd, rest)
        else:
            written += os.pwrite(fd, rest, offset + written)
    return written
