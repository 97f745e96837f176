"""The one door to huggingface_hub: cache look-ups, file lists, downloads, ranged reads.

Everything else talks to the `Hub` protocol, so that what happens without a network, with half a
cache or with a strange repository can be tried on any machine.

Large files are fetched here and then put in place by the library: its own download throws away what
it had when it is interrupted, and reads in threads that a Ctrl-C waits for.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol

from adatp_cli.model.tensors import ByteSource
from adatp_cli.model.transfer import (
    NO_HUB,
    HttpRanges,
    HubNotFoundError,
    HubUnreachableError,
    Report,
    download,
    locked,
    sha256,
    translated,
)

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
