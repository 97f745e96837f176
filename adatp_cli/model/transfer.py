"""Bytes over the network: ranged reads, downloads that go on where they were, what goes wrong."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adatp_cli.errors import ModelError
from adatp_cli.model.tensors import ByteSource

Progress = Callable[[str], None]
_REPORT_EVERY_S = 2.0
_ATTEMPTS = 5
NO_HUB = "what answers is no model hub, perhaps a network's sign-in page"
_NO_STORE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.EFBIG),
)


class HubUnreachableError(Exception):
    """No answer from the hub: no network, a proxy's refusal, a server error."""


class HubRefusedError(Exception):
    """The hub answers that this user may not: a refused token (401), a gated repository (403)."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status}")
        self.status = status


class HubStoreError(Exception):
    """The cache cannot be written."""


class HubNotFoundError(Exception):
    """The hub answers, and has no such repository or file for this user."""


class HttpRanges:
    """A remote file as a `ByteSource`, by range requests with huggingface_hub's session and token.

    A connection that breaks is taken up again at the byte where it broke.

    Parameters
    ----------
    url
        The file's address; redirects to a store are followed.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from `start` up to `end`.

        Raises
        ------
        HubNotFoundError, HubUnreachableError
            As the hub answers, or does not.
        ModelError
            The server ignores ranges, so that reading a part would fetch the whole file.
        """
        failures = 0
        while start < end:
            try:
                with translated():
                    for piece in self._request(start, end):
                        start += len(piece)
                        failures = 0
                        yield piece
                    if start < end:
                        raise HubUnreachableError("the connection ended early")
            except HubUnreachableError:
                failures += 1
                if failures >= _ATTEMPTS:
                    raise
                time.sleep(min(2.0**failures, 30.0) / 4)

    def _request(self, start: int, end: int) -> Iterator[bytes]:
        from huggingface_hub import constants, utils

        http: Any = utils  # its names are public, and loaded lazily without annotations
        headers = http.build_hf_headers() | {
            "Range": f"bytes={start}-{end - 1}",
            "Accept-Encoding": "identity",
        }
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with http.get_session().stream(
            "GET", self._url, headers=headers, timeout=timeout
        ) as response:
            http.hf_raise_for_status(response)
            if response.status_code != 206 and "html" in response.headers.get("Content-Type", ""):
                raise HubUnreachableError(NO_HUB)
            if response.status_code != 206:
                raise ModelError(
                    f"{self._url} cannot be read in parts: the server ignores byte ranges",
                    "download the whole repository with `hf download`, then run again",
                )
            yield from response.iter_raw()


@contextmanager
def translated() -> Iterator[None]:
    """Turn huggingface_hub's and the network's exceptions into this module's four."""
    from huggingface_hub import errors, get_token

    # The base of the HTTP client's exceptions; which client that is has changed between releases.
    http_error: type[Exception] = getattr(errors, "HTTPError", OSError)
    try:
        yield
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise HubNotFoundError(_first_line(error)) from error
    except errors.HFValidationError as error:
        raise HubNotFoundError(_first_line(error)) from error
    except (http_error, errors.LocalEntryNotFoundError) as error:
        status = _status(error)
        missing = isinstance(error, errors.RepositoryNotFoundError)
        gated = isinstance(error, errors.GatedRepoError)
        if gated or status == 403 or (status == 401 and (not missing or get_token())):
            raise HubRefusedError(403 if gated else status or 403) from error
        if missing:
            raise HubNotFoundError(_first_line(error)) from error
        raise HubUnreachableError(_first_line(error)) from error
    except (errors.FileMetadataError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise HubUnreachableError(NO_HUB) from error
    except errors.XetDownloadError as error:
        raise HubUnreachableError(_first_line(error)) from error
    except OSError as error:
        if error.errno in _NO_STORE:
            raise HubStoreError(error.strerror or str(error)) from error
        raise HubUnreachableError(_first_line(error)) from error


def _status(error: BaseException | None) -> int | None:
    """The hub's answer that an exception is about, its own or its cause's."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__
    return None


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a lock file; `waiting` is called once where another process holds it."""
    from filelock import Timeout
    from huggingface_hub import utils

    lock: Any = utils
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock.WeakFileLock(path, timeout=0.2))
        except Timeout:
            waiting()
            stack.enter_context(lock.WeakFileLock(path))
        yield


def download(source: ByteSource, size: int, partial: Path, report: Report) -> None:
    """Bring `partial` to its size, from where an earlier download was interrupted."""
    with partial.open("ab") as file:
        if file.tell() > size:
            file.truncate(0)
        have = file.tell()
        report.add(have)
        for piece in source.read(have, size):
            file.write(piece)
            report.add(len(piece))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


class Report:
    """How far the download of a repository is, told now and then."""

    def __init__(self, repo: str, total: int, progress: Progress) -> None:
        self._repo, self._total, self._progress = repo, max(1, total), progress
        self._done, self._told = 0, time.monotonic()

    def add(self, count: int) -> None:
        """Count bytes that are here."""
        self._done += count
        if time.monotonic() - self._told >= _REPORT_EVERY_S:
            self._told = time.monotonic()
            self._progress(
                f"fetching {self._repo}: {100 * self._done / self._total:.0f} % of "
                f"{readable_bytes(self._total)}"
            )

    def waiting(self, path: str) -> None:
        """Another process is at it."""
        self._progress(f"fetching {self._repo}: another process fetches {path}; waiting for it")

    def stopped(self) -> None:
        """The user has had enough of it."""
        self._progress(
            f"{self._repo}: stopped at {readable_bytes(self._done)} of "
            f"{readable_bytes(self._total)}; the next run goes on from there"
        )


def readable_bytes(count: float) -> str:
    """Decimal units, as the hub's pages show sizes: 1_800_000_000 -> '1.8 GB'."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit != "MB" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
