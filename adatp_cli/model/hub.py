"""The one door to huggingface_hub: cache look-ups, file lists, downloads, ranged reads.

Everything else talks to the `Hub` protocol, so that what happens without a network, with half a
cache or with a strange repository can be tried on any machine.

Large files are fetched here and then put in place by the library: its own download throws away what
it had when it is interrupted, and reads in threads that a Ctrl-C waits for.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol

from adatp_cli.errors import ModelError
from adatp_cli.model.tensors import ByteSource
from adatp_cli.text import plural, readable_bytes

Progress = Callable[[str], None]
_FIRST_ANSWER_S = 10.0
_LARGE = 2**20  # below it a file is fetched again from its beginning
_OLD_S = 600.0  # an unfinished file to which nothing was added for so long is nobody's


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository, its size in bytes, and the SHA-256 of a large one."""

    path: str
    size: int
    sha256: str | None = None


class Hub(Protocol):
    """What this package needs of a model hub and its local cache."""

    @property
    def offline(self) -> bool:
        """Whether the environment forbids going out (HF_HUB_OFFLINE)."""
        ...

    @property
    def cache_folder(self) -> Path:
        """Where fetched repositories are kept."""
        ...

    def cached(self, repo: str) -> Path | None:
        """The cached snapshot's folder, whole or not; its name is the commit. None without one."""
        ...

    def holds(self, repo: str, file: RemoteFile, *, thorough: bool = False) -> bool:
        """Whether the cache holds this file of the repository, whole; `thorough` reads it."""
        ...

    def files(self, repo: str, patterns: Sequence[str]) -> list[RemoteFile]:
        """The repository's files that match one of the patterns.

        Raises one of this module's errors, as everything that goes out does.
        """
        ...

    def fetch(self, repo: str, files: Sequence[RemoteFile], progress: Progress) -> Path:
        """Download `files`, in the place of what the cache has; return the snapshot's folder."""
        ...

    def ranges(self, repo: str, path: str, revision: str) -> ByteSource:
        """Ranged reads of one file, without downloading it."""
        ...

    def derived_folder(self, repo: str, revision: str) -> Path:
        """An existing folder in the cache for what is made from this repository's files."""
        ...


class HuggingFaceHub:
    """`Hub` by huggingface_hub, with its cache, token, endpoint and offline settings.

    Parameters
    ----------
    endpoint
        Address of the hub; huggingface_hub's own default (HF_ENDPOINT) when omitted.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint
        self._listings: dict[str, list[RemoteFile]] = {}

    @property
    def offline(self) -> bool:
        from huggingface_hub import is_offline_mode

        return is_offline_mode()

    @property
    def cache_folder(self) -> Path:
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE)

    def cached(self, repo: str) -> Path | None:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(repo, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            return self._partial_snapshot(repo)

    def _partial_snapshot(self, repo: str) -> Path | None:
        """A snapshot that lacks files of the repository may still have all that is needed here."""
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(repo, "config.json")
        return Path(config).parent if isinstance(config, str) else None

    def holds(self, repo: str, file: RemoteFile, *, thorough: bool = False) -> bool:
        path = self._in_cache(repo, file.path)
        if path is None or path.stat().st_size != file.size:
            return False
        if file.path.endswith(".json"):
            try:
                json.loads(path.read_bytes())
            except (ValueError, RecursionError):
                return False
        return not (thorough and file.sha256) or sha256(path) == file.sha256

    def _in_cache(self, repo: str, path: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(repo, path)
        return Path(found) if isinstance(found, str) else None

    def files(self, repo: str, patterns: Sequence[str]) -> list[RemoteFile]:
        if repo not in self._listings:
            self._listings[repo] = self._list(repo)
        return [
            file
            for file in self._listings[repo]
            if any(fnmatch(file.path, pattern) for pattern in patterns)
        ]

    def _list(self, repo: str) -> list[RemoteFile]:
        from huggingface_hub import HfApi

        with translated():
            info = HfApi(endpoint=self._endpoint).model_info(
                repo, files_metadata=True, timeout=_FIRST_ANSWER_S
            )
        return [
            RemoteFile(
                sibling.rfilename,
                sibling.size or 0,
                None if sibling.lfs is None else sibling.lfs.sha256,
            )
            for sibling in info.siblings or []
        ]

    def fetch(self, repo: str, files: Sequence[RemoteFile], progress: Progress) -> Path:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.file_download import repo_folder_name

        folder = self.cache_folder / repo_folder_name(repo_id=repo, repo_type="model")
        report = Report(repo, sum(file.size for file in files), progress)
        snapshot = self.cached(repo)
        try:
            for file in files:
                with translated():
                    self._forget(repo, file.path)
                    if file.size >= _LARGE:
                        self._fetch_large(repo, file, folder, report)
                    else:
                        report.add(file.size)
                    path = hf_hub_download(
                        repo,
                        file.path,
                        endpoint=self._endpoint,
                        etag_timeout=_FIRST_ANSWER_S,
                        tqdm_class=_no_bar(),
                    )
                snapshot = Path(path).parents[file.path.count("/")]
        except KeyboardInterrupt:
            report.stopped()
            raise
        if snapshot is None:
            raise HubNotFoundError(f"{repo} has none of the files")
        _drop_old_partials(folder / "blobs")
        return snapshot

    def _fetch_large(self, repo: str, file: RemoteFile, folder: Path, report: Report) -> None:
        """Bring a file's bytes to where the library looks for them before it downloads any."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        about = get_hf_file_metadata(
            hf_hub_url(repo, file.path, endpoint=self._endpoint), timeout=_FIRST_ANSWER_S
        )
        if about.etag is None or about.size is None or about.commit_hash is None:
            raise HubUnreachableError(NO_HUB)
        blob = folder / "blobs" / about.etag
        blob.parent.mkdir(parents=True, exist_ok=True)
        locks = self.cache_folder / ".locks" / folder.name
        locks.mkdir(parents=True, exist_ok=True)
        with locked(locks / f"{about.etag}.lock", lambda: report.waiting(file.path)):
            if blob.is_file() and blob.stat().st_size == about.size:
                report.add(about.size)
                return
            source = self.ranges(repo, file.path, about.commit_hash)
            partial = blob.with_name(f"{blob.name}.incomplete")
            for _ in range(2):  # what was here may be of another file
                download(source, about.size, partial, report)
                if len(about.etag) != 64 or sha256(partial) == about.etag:
                    partial.replace(blob)
                    return
                partial.unlink()
                report.add(-about.size)
            raise HubUnreachableError(f"{file.path} arrives damaged")

    def _forget(self, repo: str, path: str) -> None:
        """Take a damaged file out of the cache; its blob would be taken for the file."""
        snapshot = self.cached(repo)
        pointer = None if snapshot is None else snapshot / path
        if pointer is not None and (pointer.is_symlink() or pointer.exists()):
            blob = pointer.resolve()
            pointer.unlink()
            blob.unlink(missing_ok=True)

    def ranges(self, repo: str, path: str, revision: str) -> ByteSource:
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(repo, path, revision=revision, endpoint=self._endpoint)
        return HttpRanges(url)

    def derived_folder(self, repo: str, revision: str) -> Path:
        from huggingface_hub import cached_assets_path, constants

        return cached_assets_path("adatp", repo, revision, assets_dir=constants.HF_ASSETS_CACHE)


def _drop_old_partials(blobs: Path) -> None:
    """Take away what interrupted downloads of other versions left."""
    for path in blobs.glob("*.incomplete"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _OLD_S:
                path.unlink()


def _no_bar() -> type[Any]:
    """A tqdm class that draws nothing."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class NoBar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **(settings | {"disable": True}))

    return NoBar


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


FETCHING_IS_OFF = ", and fetching is off (offline)"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a hub repository has to be fetched: looked up and judged, and not yet here.

    Parameters
    ----------
    repo, why
        Its hub id, and what is not here of it.
    folder
        Its snapshot in the cache, which has its configuration by now.
    files
        What is fetched whole.
    otherwise
        What needs less, or nothing.
    part, part_size, part_of
        Brings the needed part of a file that is not fetched whole, that part's bytes, and in words
        what it is.
    """

    repo: str
    why: str
    folder: Path
    files: tuple[RemoteFile, ...]
    otherwise: str
    part: Callable[[Progress], None] | None = None
    part_size: int = 0
    part_of: str = ""

    @property
    def size(self) -> int:
        """Bytes that will be fetched."""
        return sum(file.size for file in self.files) + self.part_size


def fetch(wanted: Sequence[Wanted], progress: Progress, hub: Hub) -> None:
    """Announce downloads together, with their sizes and cheaper choices, and fetch them.

    Raises
    ------
    ModelError
        They do not fit the disk, or cannot be fetched or stored.
    """
    size = sum(item.size for item in wanted)
    names = " and ".join(item.repo for item in wanted)
    _check_disk(names, size, hub.cache_folder, wanted[0].otherwise)
    progress(announcement(wanted, hub))
    for item in wanted:
        missing = f"the hub has no {item.repo} that you may read"
        with hub_failures(item.repo, missing, "is not whole in the cache", hub, item.otherwise):
            if item.files:
                hub.fetch(item.repo, item.files, progress)
            if item.part is not None:
                item.part(progress)


def announcement(wanted: Sequence[Wanted], hub: Hub) -> str:
    """What will be fetched, how large it is and what would need less, in one line."""
    told = [f"{item.repo} {item.why}: fetching {_what(item)}" for item in wanted]
    if len(wanted) > 1:
        told.append(f"{readable_bytes(sum(item.size for item in wanted))} in all")
    cheaper = [item.otherwise for item in reversed(wanted)]
    return "; ".join([f"{'; '.join(told)}, to {hub.cache_folder}", *cheaper])


def _what(item: Wanted) -> str:
    files = f"{plural(len(item.files), 'file')}, {readable_bytes(item.size - item.part_size)}"
    return " and ".join(([files] if item.files else []) + ([item.part_of] if item.part else []))


@contextmanager
def hub_failures(repo: str, missing: str, why: str, hub: Hub, otherwise: str) -> Iterator[None]:
    """One line for each way in which a repository cannot be had."""
    try:
        yield
    except HubRefusedError as error:
        page = f"https://huggingface.co/{repo}"
        if error.status == 401:
            raise ModelError(
                f"the hub refuses your token for {repo} (401)",
                f"renew it with `hf auth login` or HF_TOKEN, and see {page} for what it wants",
                kind="model_refused",
            ) from error
        raise ModelError(
            f"the hub does not give you {repo} (403): it is gated, and wants its conditions "
            "accepted",
            f"accept them at {page} and log in with `hf auth login` or HF_TOKEN",
            kind="model_refused",
        ) from error
    except HubNotFoundError as error:
        raise ModelError(
            f"{missing} ({error})",
            "check the name; for a private or gated model set HF_TOKEN",
            kind="model_not_found",
        ) from error
    except HubUnreachableError as error:
        told = f"{why}, and the hub cannot be reached ({error})"
        raise unreachable(repo, told, otherwise) from error
    except (HubStoreError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(
            f"the cache {hub.cache_folder} cannot be written: {reason}",
            "make room or mend its permissions, or point HF_HOME at another disk",
        ) from error


def _check_disk(repo: str, size: int, cache: Path, otherwise: str) -> None:
    existing = next((path for path in (cache, *cache.parents) if path.exists()), None)
    free = shutil.disk_usage(existing).free if existing is not None else size
    if free < size:
        raise ModelError(
            f"{repo} needs {readable_bytes(size)} of disk, and {cache} has "
            f"{readable_bytes(free)} left",
            f"point HF_HOME at a larger disk, or take a smaller model; {otherwise}",
        )


def unreachable(repo: str, why: str, otherwise: str) -> ModelError:
    """The error of a repository that is neither here nor to be had."""
    return ModelError(
        f"{repo} {why}",
        f"where there is a network: `hf download {repo}`; {otherwise}",
        kind="model_unreachable",
    )
