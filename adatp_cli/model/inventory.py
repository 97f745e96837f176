"""Which models and encoders are on this machine, how large, and what is missing of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adatp_cli.errors import AdatpError, ModelError
from adatp_cli.model.checkpoints import (
    ALIASES,
    APPROXIMATE_BYTES,
    TINY,
    Checkpoint,
    check_name,
    find,
)
from adatp_cli.model.downloads import FETCHING_IS_OFF
from adatp_cli.model.encoder_files import (
    APPROXIMATE_ENCODER_BYTES,
    DEFAULT_ENCODER,
    RelevanceFiles,
    find_relevance,
)
from adatp_cli.model.hub import Hub
from adatp_cli.model.layout import read_json


@dataclass(frozen=True, slots=True)
class Kept:
    """A model or an encoder by the name to give.

    Parameters
    ----------
    name, repository
        As `-m` takes it; the hub id, None for what comes with adatp or is a folder.
    kind
        `model` or `encoder`.
    state
        `bundled`, `folder`, `cached`, `incomplete` or `absent`.
    bytes_here, bytes_whole
        What stands on the disk, and about what all of it takes, where that is known.
    folder
        Where its files are.
    missing
        Why it cannot be used as it is, in words; empty where it can.
    """

    name: str
    repository: str | None
    kind: str
    state: str
    bytes_here: int
    bytes_whole: int | None
    folder: str | None
    missing: str

    @property
    def ready(self) -> bool:
        return not self.missing


def kept(hub: Hub) -> Iterator[Kept]:
    """The bundled model, the known ones, their encoder, and what else of theirs is in the cache."""
    for name in (TINY, *ALIASES):
        yield look(name, hub)
    yield look(DEFAULT_ENCODER, hub)
    known = {*ALIASES.values(), DEFAULT_ENCODER}
    for folder in sorted(hub.cache_folder.glob("models--*--*")):
        repo = folder.name.removeprefix("models--").replace("--", "/", 1)
        if repo not in known and kind_in_cache(repo, hub) is not None:
            yield look(repo, hub)


def look(name: str, hub: Hub) -> Kept:
    """One model or encoder, by alias, hub id or folder; nothing is asked of the hub.

    Raises
    ------
    UsageError
        It is no possible name.
    """
    check_name(name)
    repo = ALIASES.get(name.lower(), name)
    encoder = name == DEFAULT_ENCODER or kind_in_cache(repo, hub) == "encoder"
    try:
        found = (
            find_relevance(name, offline=True, hub=hub)
            if encoder
            else find(name, offline=True, hub=hub)
        )
        missing = ""
    except ModelError as error:
        found, missing = None, error.message.removesuffix(FETCHING_IS_OFF)
    if isinstance(found, Checkpoint) and found.revision is None:
        state = "bundled" if found.name == TINY else "folder"
        size = _size(found.folder)
        return Kept(name, None, "model", state, size, size, str(found.folder), "")
    whole = APPROXIMATE_ENCODER_BYTES if encoder else APPROXIMATE_BYTES.get(name.lower())
    if found is None and Path(name).expanduser().is_dir():
        return Kept(name, None, "model", "folder", 0, None, name, missing)
    here = _in_cache(repo, hub)
    if isinstance(found, RelevanceFiles):
        here = whole = sum(path.stat().st_size for path in found.weights)
    state = "cached" if found is not None else "incomplete" if here else "absent"
    folder = None if found is None or not hasattr(found, "folder") else str(found.folder)
    kind = "encoder" if encoder else "model"
    return Kept(name, repo, kind, state, here, here if found else whole, folder, missing)


def kind_in_cache(repo: str, hub: Hub) -> str | None:
    """`model` or `encoder`, as the cached configuration says; None for neither."""
    if "/" not in repo or (cached := hub.cached(repo)) is None:
        return None
    try:
        kind = read_json(cached / "config.json").get("model_type")
    except AdatpError:
        return None
    return {"llava_onevision": "model", "siglip": "encoder"}.get(str(kind))


def _in_cache(repo: str, hub: Hub) -> int:
    """Bytes of a repository's files in the cache, unfinished ones among them."""
    return _size(hub.cache_folder / f"models--{repo.replace('/', '--')}" / "blobs")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
