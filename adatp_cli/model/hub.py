"""The one door to huggingface_hub: cache look-ups, file lists, downloads, ranged reads.

Everything else talks to the `Hub` protocol, so that what happens without a network, with half a
cache or with a strange repository can be tried on any machine.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol

from adatp_cli.errors import ModelError
from adatp_cli.model.tensors import ByteSource

Progress = Callable[[str], None]
_REPORT_EVERY_S = 5.0
_ATTEMPTS = 5


class HubUnreachableError(Exception):
    """No answer from the hub: no network, a proxy's refusal, a server error."""


class HubNotFoundError(Exception):
    """The hub answers, and has no such repository or file for this user."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository and its size in bytes."""

    path: str
    size: int


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

    def has_file(self, repo: str, path: str) -> bool:
        """Whether the cache holds this file of the repository."""
        ...

    def files(self, repo: str, patterns: Sequence[str]) -> list[RemoteFile]:
        """The repository's files that match one of the patterns.

        Raises `HubNotFoundError` or `HubUnreachableError`, as everything that goes out does.
        """
        ...

    def fetch(self, repo: str, patterns: Sequence[str], progress: Progress) -> Path:
        """Download what matches and return the snapshot's folder."""
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

    def has_file(self, repo: str, path: str) -> bool:
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(repo, path), str)

    def files(self, repo: str, patterns: Sequence[str]) -> list[RemoteFile]:
        from huggingface_hub import HfApi

        with _translated():
            info = HfApi(endpoint=self._endpoint).model_info(repo, files_metadata=True)
        return [
            RemoteFile(sibling.rfilename, sibling.size or 0)
            for sibling in info.siblings or []
            if any(fnmatch(sibling.rfilename, pattern) for pattern in patterns)
        ]

    def fetch(self, repo: str, patterns: Sequence[str], progress: Progress) -> Path:
        from huggingface_hub import snapshot_download

        with _translated():
            folder = snapshot_download(
                repo,
                allow_patterns=list(patterns),
                endpoint=self._endpoint,
                tqdm_class=_reporting_bar(progress, repo),
            )
        return Path(folder)

    def ranges(self, repo: str, path: str, revision: str) -> ByteSource:
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(repo, path, revision=revision, endpoint=self._endpoint)
        return HttpRanges(url)

    def derived_folder(self, repo: str, revision: str) -> Path:
        from huggingface_hub import cached_assets_path

        return Path(cached_assets_path("adatp", namespace=repo, subfolder=revision))


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
                with _translated():
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
            if response.status_code != 206:
                raise ModelError(
                    f"{self._url} cannot be read in parts: the server ignores byte ranges",
                    "download the whole repository with `hf download`, then run again",
                )
            yield from response.iter_raw()


@contextmanager
def _translated() -> Iterator[None]:
    """Turn huggingface_hub's and the network's exceptions into this module's two."""
    from huggingface_hub import errors

    # The base of the HTTP client's exceptions; which client that is has changed between releases.
    http_error: type[Exception] = getattr(errors, "HTTPError", OSError)
    try:
        yield
    except (
        errors.RepositoryNotFoundError,
        errors.GatedRepoError,
        errors.RevisionNotFoundError,
        errors.RemoteEntryNotFoundError,
        errors.HFValidationError,
    ) as error:
        raise HubNotFoundError(_first_line(error)) from error
    except (OSError, http_error) as error:
        raise HubUnreachableError(_first_line(error)) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _reporting_bar(progress: Progress, repo: str) -> type[Any]:
    """A tqdm class that reports bytes through `progress` and draws nothing."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    last = [time.monotonic()]

    class ReportingBar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **(kwargs | {"file": io.StringIO(), "disable": False}))

        def display(self, *_: Any, **__: Any) -> bool:
            now = time.monotonic()
            if self.unit == "B" and self.total and now - last[0] >= _REPORT_EVERY_S:
                last[0] = now
                share = 100 * self.n / self.total
                progress(f"fetching {repo}: {share:.0f} % of {self.total / 1e9:.1f} GB")
            return True

    return ReportingBar
