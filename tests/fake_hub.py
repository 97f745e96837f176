"""A model hub without a network: one repository at most, and a cache that is a plain folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path

from adatp_cli.model.checkpoints import Checkpoint, locate
from adatp_cli.model.hub import HubNotFoundError, RemoteFile
from adatp_cli.model.tensors import ByteSource
from tests.local_hub import COMMIT


class FakeHub:
    """A hub with at most one repository, `remote`, and a cache folder."""

    def __init__(self, cache: Path, remote: Path | None = None, *, offline: bool = False) -> None:
        self.cache_folder, self.remote, self.offline = cache, remote, offline
        self.failure: Exception | None = None
        self.fetched: list[str] = []

    def cached(self, repo: str) -> Path | None:
        snapshot = self.cache_folder / repo.replace("/", "--") / COMMIT
        return snapshot if snapshot.is_dir() else None

    def holds(self, repo: str, file: RemoteFile, *, thorough: bool = False) -> bool:  # noqa: ARG002
        path = self.cache_folder / repo.replace("/", "--") / COMMIT / file.path
        return path.is_file() and path.stat().st_size == file.size

    def files(self, repo: str, patterns: Sequence[str]) -> list[RemoteFile]:
        if self.failure:
            raise self.failure
        if self.remote is None:
            raise HubNotFoundError(repo)
        found = [path for path in self.remote.rglob("*") if path.is_file()]
        named = [(str(path.relative_to(self.remote)), path.stat().st_size) for path in found]
        return [
            RemoteFile(name, size)
            for name, size in named
            if any(fnmatch(name, pattern) for pattern in patterns)
        ]

    def fetch(
        self, repo: str, files: Sequence[RemoteFile], progress: Callable[[str], None]
    ) -> Path:
        assert self.remote is not None
        progress(f"fetching {repo}")
        snapshot = self.cache_folder / repo.replace("/", "--") / COMMIT
        for file in files:
            self.fetched.append(file.path)
            (snapshot / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.remote / file.path, snapshot / file.path)
        return snapshot

    def ranges(self, repo: str, path: str, revision: str) -> ByteSource:
        raise NotImplementedError

    def derived_folder(self, repo: str, revision: str) -> Path:
        return self.cache_folder / "derived" / repo / revision


def locate_in(name: str, hub: FakeHub, *, offline: bool = False) -> tuple[Checkpoint, list[str]]:
    """What `locate` finds, and what it says meanwhile."""
    said: list[str] = []
    return locate(name, offline=offline, progress=said.append, hub=hub), said
