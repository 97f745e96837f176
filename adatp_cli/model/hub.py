"""The one door to huggingface_hub: cache look-ups, file lists, downloads, ranged reads.

Cache, token, address and offline mode are huggingface_hub's. What goes out raises a `HubError`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from adatp_cli.errors import ModelError
from adatp_cli.model.layout import is_json
from adatp_cli.model.tensors import ByteSource
from adatp_cli.text import readable_bytes

Progress = Callable[[str], None]
FETCHING_IS_OFF = ", and fetching is off (offline)"
_FIRST_ANSWER_S = 10.0
_LARGE = 2**20  # below it a file is fetched again from its beginning
_OLD_S = 600.0  # an unfinished file to which nothing was added for so long belongs to no process
_REPORT_EVERY_S = 2.0
_ATTEMPTS = 5
_NO_HUB = "what answers is no model hub, perhaps a network's sign-in page"
_NO_STORE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.EFBIG),
)


class HubError(Exception):
    """The hub or the cache failed; `why` says how.

    `unreachable`: no network, a proxy's refusal, a server error. `missing`: no such repository or
    file for this user. `token` (401) and `gated` (403): the hub refuses this user. `store`: the
    cache cannot be written.
    """

    def __init__(self, why: str, told: str | BaseException = "") -> None:
        text = str(told).strip()
        super().__init__(text.splitlines()[0][:200] if text else type(told).__name__)
        self.why = why


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository, its size in bytes, and the SHA-256 of a large one."""

    path: str
    size: int
    sha256: str | None = None


def is_offline() -> bool:
    """Whether the environment forbids going out (HF_HUB_OFFLINE)."""
    from huggingface_hub import is_offline_mode

    return is_offline_mode()


def cache_folder() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def cached(repo: str) -> Path | None:
    """The cached snapshot's folder, whole or not; its name is the commit. None without one."""
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        # A snapshot that lacks files of the repository may have all that is needed here.
        config = try_to_load_from_cache(repo, "config.json")
        return Path(config).parent if isinstance(config, str) else None


def holds(repo: str, file: RemoteFile, *, thorough: bool = False) -> bool:
    """Whether the cache holds this file of the repository, whole; `thorough` reads it."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file.path)
    if not isinstance(found, str) or Path(found).stat().st_size != file.size:
        return False
    if file.path.endswith(".json") and not is_json(Path(found)):
        return False
    return not (thorough and file.sha256) or _sha256(Path(found)) == file.sha256


def list_files(repo: str) -> list[RemoteFile]:
    """The repository's files, as the hub says."""
    from huggingface_hub import HfApi

    with _translated():
        info = HfApi().model_info(repo, files_metadata=True, timeout=_FIRST_ANSWER_S)
    return [
        RemoteFile(item.rfilename, item.size or 0, item.lfs.sha256 if item.lfs else None)
        for item in info.siblings or []
    ]


def download(repo: str, files: Sequence[RemoteFile], progress: Progress) -> Path:
    """Download `files`, replacing what the cache has; return the snapshot's folder."""
    from huggingface_hub import hf_hub_download, utils
    from huggingface_hub.file_download import repo_folder_name

    library: Any = utils  # its names are public, and loaded lazily without annotations
    folder = cache_folder() / repo_folder_name(repo_id=repo, repo_type="model")
    with reporting(repo, sum(file.size for file in files), progress) as report:
        for file in files:
            with _translated():
                _forget(repo, file.path)
                if file.size >= _LARGE:
                    _fetch_large(repo, file, folder, report)
                else:
                    report.add(file.size)
                silent = library.silent_tqdm
                hf_hub_download(repo, file.path, etag_timeout=_FIRST_ANSWER_S, tqdm_class=silent)
    snapshot = cached(repo)
    if snapshot is None:
        raise HubError("missing", f"{repo} has none of the files")
    for old in (folder / "blobs").glob("*.incomplete"):  # of other versions
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > _OLD_S:
                old.unlink()
    return snapshot


def _fetch_large(repo: str, file: RemoteFile, folder: Path, report: Report) -> None:
    """Bring a file's bytes to where the library looks for them before it downloads any.

    The library's own download (2.4) deletes the unfinished file when it is interrupted, so it
    always starts again, and its Xet client reads in threads that a Ctrl-C waits for.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    about = get_hf_file_metadata(hf_hub_url(repo, file.path), timeout=_FIRST_ANSWER_S)
    if about.etag is None or about.size is None or about.commit_hash is None:
        raise HubError("unreachable", _NO_HUB)
    blob = folder / "blobs" / about.etag
    blob.parent.mkdir(parents=True, exist_ok=True)
    locks = cache_folder() / ".locks" / folder.name
    locks.mkdir(parents=True, exist_ok=True)
    with locked(locks / f"{about.etag}.lock", lambda: report.waiting(file.path)):
        if blob.is_file() and blob.stat().st_size == about.size:
            report.add(about.size)
            return
        source = ranges(repo, file.path, about.commit_hash)
        unfinished = blob.with_name(f"{blob.name}.incomplete")
        for _ in range(2):  # the unfinished file may be of other bytes
            with unfinished.open("ab") as target:
                if target.tell() > about.size:
                    target.truncate(0)
                have = target.tell()
                report.add(have)
                for piece in source(have, about.size):
                    target.write(piece)
                    report.add(len(piece))
            if len(about.etag) != 64 or _sha256(unfinished) == about.etag:
                unfinished.replace(blob)
                return
            unfinished.unlink()
            report.add(-about.size)
        raise HubError("unreachable", f"{file.path} arrives damaged")


def _forget(repo: str, path: str) -> None:
    """Take a damaged file out of the cache; its blob would be taken for the file."""
    snapshot = cached(repo)
    pointer = None if snapshot is None else snapshot / path
    if pointer is not None and (pointer.is_symlink() or pointer.exists()):
        blob = pointer.resolve()
        pointer.unlink()
        blob.unlink(missing_ok=True)


def ranges(repo: str, path: str, revision: str) -> ByteSource:
    """Ranged reads of one file, without downloading it."""
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(repo, path, revision=revision)
    return partial(read_ranges, url)


def derived_folder(repo: str, revision: str) -> Path:
    """An existing folder in the cache for what is made from this repository's files."""
    from huggingface_hub import cached_assets_path, constants

    return cached_assets_path("adatp", repo, revision, assets_dir=constants.HF_ASSETS_CACHE)


def read_ranges(url: str, start: int, end: int) -> Iterator[bytes]:
    """Yield a remote file's bytes by range requests with huggingface_hub's session and token.

    After a broken connection it continues at the byte where it broke. `HfFileSystem` does not: it
    reads the block again. Where a server or proxy ignores ranges it reads the whole file, and
    returns the file's first bytes in place of the range; here such a server is refused.
    """
    failed = 0
    while start < end:
        try:
            with _translated():
                for piece in _request(url, start, end):
                    start += len(piece)
                    failed = 0
                    yield piece
                if start < end:
                    raise HubError("unreachable", "the connection ended early")
        except HubError as error:
            failed += 1
            if error.why != "unreachable" or failed >= _ATTEMPTS:
                raise
            time.sleep(min(2.0**failed, 30.0) / 4)


def _request(url: str, start: int, end: int) -> Iterator[bytes]:
    from huggingface_hub import constants, utils

    http: Any = utils  # its names are public, and loaded lazily without annotations
    headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    with http.get_session().stream(
        "GET",
        url,
        headers=http.build_hf_headers() | headers,
        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
    ) as response:
        http.hf_raise_for_status(response)
        if response.status_code != 206 and "html" in response.headers.get("Content-Type", ""):
            raise HubError("unreachable", _NO_HUB)
        if response.status_code != 206:
            raise ModelError(
                f"{url} cannot be read in parts: the server ignores byte ranges",
                "download the whole repository with `hf download`, then run again",
            )
        yield from response.iter_raw()


@contextmanager
def _translated() -> Iterator[None]:
    """Turn huggingface_hub's and the network's exceptions into `HubError`."""
    from huggingface_hub import errors, get_token

    # The base of the HTTP client's exceptions; which client that is has changed between releases.
    http_error: type[Exception] = getattr(errors, "HTTPError", OSError)
    try:
        yield
    except (
        errors.RevisionNotFoundError,
        errors.RemoteEntryNotFoundError,
        errors.HFValidationError,
    ) as error:
        raise HubError("missing", error) from error
    except (http_error, errors.LocalEntryNotFoundError) as error:
        status = _status(error)
        missing = isinstance(error, errors.RepositoryNotFoundError)
        if isinstance(error, errors.GatedRepoError) or status == 403:
            why = "gated"
        elif status == 401 and (not missing or get_token()):
            why = "token"
        else:
            why = "missing" if missing else "unreachable"
        raise HubError(why, error) from error
    except (errors.FileMetadataError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise HubError("unreachable", _NO_HUB) from error
    except (errors.XetDownloadError, OSError) as error:
        if isinstance(error, OSError) and error.errno in _NO_STORE:
            raise HubError("store", error.strerror or error) from error
        raise HubError("unreachable", error) from error


def _status(error: BaseException | None) -> int | None:
    """The hub's answer that an exception is about, its own or its cause's."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


class Report:
    """Says every two seconds how much of a repository's `total` bytes is here."""

    def __init__(self, repo: str, total: int, progress: Progress) -> None:
        self._repo, self.total, self._progress = repo, max(1, total), progress
        self.done, self._told = 0, time.monotonic()

    def add(self, count: int) -> None:
        """Count bytes that are here."""
        self.done += count
        if time.monotonic() - self._told >= _REPORT_EVERY_S:
            self._told = time.monotonic()
            self._progress(
                f"fetching {self._repo}: {100 * self.done / self.total:.0f} % of "
                f"{readable_bytes(self.total)}"
            )

    def waiting(self, path: str) -> None:
        self._progress(f"fetching {self._repo}: another process fetches {path}; waiting for it")


@contextmanager
def reporting(repo: str, total: int, progress: Progress) -> Iterator[Report]:
    """A `Report`; after Ctrl-C it says how far the download came."""
    report = Report(repo, total, progress)
    try:
        yield report
    except KeyboardInterrupt:
        progress(
            f"{repo}: stopped at {readable_bytes(report.done)} of {readable_bytes(report.total)}; "
            "the next run goes on from there"
        )
        raise


@dataclass(frozen=True, slots=True)
class Wanted:
    """What has to be fetched of a hub repository."""

    repo: str
    why: str  # as `is not in the cache`
    otherwise: str  # what needs less, or nothing
    what: str  # as `3 files, 1.8 GB`
    size: int  # in bytes
    bring: Callable[[Progress], object]


def fetch(missing: Iterable[Wanted | None], progress: Progress) -> None:
    """Announce downloads together, with their sizes and cheaper choices, and fetch them."""
    wanted = [item for item in missing if item is not None]
    if not wanted:
        return
    size, cache = sum(item.size for item in wanted), cache_folder()
    existing = next((path for path in (cache, *cache.parents) if path.exists()), None)
    free = shutil.disk_usage(existing).free if existing is not None else size
    if free < size:
        raise ModelError(
            f"{' and '.join(item.repo for item in wanted)} needs {readable_bytes(size)} of disk, "
            f"and {cache} has {readable_bytes(free)} left",
            f"point HF_HOME at a larger disk, or take a smaller model; {wanted[0].otherwise}",
        )
    progress(announcement(wanted))
    for item in wanted:
        why = "is not whole in the cache"
        with failures(item.repo, item.repo, why, item.otherwise):
            item.bring(progress)


def announcement(wanted: Sequence[Wanted]) -> str:
    """What will be fetched, how large it is and what would need less, in one line."""
    told = [f"{item.repo} {item.why}: fetching {item.what}" for item in wanted]
    if len(wanted) > 1:
        told.append(f"{readable_bytes(sum(item.size for item in wanted))} in all")
    cheaper = [item.otherwise for item in reversed(wanted)]
    return "; ".join([f"{'; '.join(told)}, to {cache_folder()}", *cheaper])


@contextmanager
def failures(repo: str, called: str, why: str, otherwise: str) -> Iterator[None]:
    """One line for each reason why a repository, `called` as in `model x/y`, cannot be read."""
    try:
        yield
    except (HubError, OSError) as error:
        page = f"https://huggingface.co/{repo}"
        failure = getattr(error, "why", "store")
        if failure == "unreachable":
            told = f"{why}, and the hub cannot be reached ({error})"
            raise unreachable(repo, told, otherwise) from error
        log_in = "`hf auth login` or HF_TOKEN"
        message, hint, kind = {
            "missing": (
                f"the hub has no {called} that you may read ({error})",
                "check the name; for a private or gated model set HF_TOKEN",
                "model_not_found",
            ),
            "token": (
                f"the hub refuses your token for {repo} (401)",
                f"renew it with {log_in}, and see {page} for what it wants",
                "model_refused",
            ),
            "gated": (
                f"the hub does not give you {repo} (403): it is gated, and wants its conditions "
                "accepted",
                f"accept them at {page} and log in with {log_in}",
                "model_refused",
            ),
            "store": (
                f"the cache {cache_folder()} cannot be written: "
                f"{getattr(error, 'strerror', None) or error}",
                "make room or mend its permissions, or point HF_HOME at another disk",
                None,
            ),
        }[failure]
        raise ModelError(message, hint, kind=kind) from error


def unreachable(repo: str, why: str, otherwise: str) -> ModelError:
    """The error for a repository that is not in the cache while no hub answers."""
    return ModelError(
        f"{repo} {why}",
        f"where there is a network: `hf download {repo}`; {otherwise}",
        kind="model_unreachable",
    )
