"""Where a relevance encoder's files are, and of a hub repository the part that is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adatp_cli.errors import ModelError
from adatp_cli.model.checkpoints import NO_ENCODER_HINT, is_hub_id
from adatp_cli.model.downloads import (
    FETCHING_IS_OFF,
    Wanted,
    fetch,
    hub_failures,
    unreachable,
)
from adatp_cli.model.hub import Hub
from adatp_cli.model.layout import read_json, weight_files
from adatp_cli.model.tensors import check_file, copy_tensors, read_header
from adatp_cli.model.transfer import locked, readable_bytes

if TYPE_CHECKING:
    from transformers import SiglipConfig

Progress = Callable[[str], None]

DEFAULT_ENCODER = "google/siglip-so400m-patch14-384"
APPROXIMATE_ENCODER_BYTES = 1_860_000_000  # of its text tower and pooling head, as published
TEXT, HEAD, NORM = "text_model.", "vision_model.head.", "vision_model.post_layernorm."
_SMALL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
_WEIGHTS = "model.safetensors"
_PART = "text-tower-and-head.safetensors"


@dataclass(frozen=True, slots=True)
class RelevanceFiles:
    """Where an encoder's files are: the folder of configuration and tokenizer, and the weights."""

    folder: Path
    weights: tuple[Path, ...]


def locate_relevance(name: str, *, offline: bool, progress: Progress, hub: Hub) -> RelevanceFiles:
    """Find an encoder's files; of a hub repository only the tensors that are needed are fetched.

    Raises
    ------
    ModelError
        As `load_relevance`.
    """
    found = find_relevance(name, offline=offline, hub=hub)
    if isinstance(found, RelevanceFiles):
        return found
    fetch([found], progress, hub)
    return relevance_at_hand(found, hub)


def find_relevance(
    name: str, *, offline: bool, hub: Hub, named_by: Path | None = None
) -> RelevanceFiles | Wanted:
    """Find an encoder's files, or what has to be fetched; nothing large is fetched here.

    Parameters
    ----------
    named_by
        The local folder that names the encoder, where the user did not: nothing is asked of the
        hub because a file says so.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return RelevanceFiles(folder, tuple(folder / file for file in weight_files(folder)))
    if not is_hub_id(name):
        raise ModelError(
            f"the relevance encoder {name!r} is neither a folder nor a hub id", NO_ENCODER_HINT
        )
    cached, why = hub.cached(name), "is not in the cache"
    if cached is not None:
        found = _weights_in(cached, name, hub)
        needed = [file for file in _SMALL_FILES if not _is_whole(cached / file)]
        if found is not None and not needed:
            return found
        if found is not None:
            why = f"is in the cache without its {', '.join(needed)}"
    if named_by is not None:
        raise ModelError(
            f"{named_by} names a relevance encoder on the hub, {name}, which is not fetched "
            "unasked",
            f"ask for it (relevance.encoder: {name} in a profile), or {NO_ENCODER_HINT}",
        )
    called = f"the relevance encoder {name}"
    if offline or hub.offline:
        raise unreachable(called, f"{why}{FETCHING_IS_OFF}", NO_ENCODER_HINT)
    missing = f"the hub has no relevance encoder {name} that you may read"
    with hub_failures(name, missing, why, hub, NO_ENCODER_HINT):
        return _survey(name, why, hub)


def relevance_at_hand(fetched: Wanted, hub: Hub) -> RelevanceFiles:
    """The encoder that has just been fetched."""
    found = _weights_in(fetched.folder, fetched.repo, hub)
    if found is None:
        raise ModelError(f"the relevance encoder {fetched.repo} has no weights", NO_ENCODER_HINT)
    return found


def _weights_in(cached: Path, name: str, hub: Hub) -> RelevanceFiles | None:
    """What of the weights a snapshot has: the whole file, or the part that was copied from it."""
    for path in (cached / _WEIGHTS, hub.derived_folder(name, cached.name) / _PART):
        if path.is_file():
            try:
                check_file(path)
            except ModelError:
                continue  # damaged: the part is fetched anew
            return RelevanceFiles(cached, (path,))
    return None


def _is_whole(path: Path) -> bool:
    try:
        return path.is_file() and bool(read_json(path))
    except ModelError:
        return False


def _survey(name: str, why: str, hub: Hub) -> Wanted:
    """Fetch the small files, and see how large the part is that is needed of the large one."""
    small = [file for file in hub.files(name, _SMALL_FILES) if not hub.holds(name, file)]
    folder = hub.fetch(name, small, lambda _text: None)
    encoder_config(folder)
    if _weights_in(folder, name, hub) is not None:
        return Wanted(name, why, folder, (), NO_ENCODER_HINT)
    source = hub.ranges(name, _WEIGHTS, folder.name)
    header = read_header(source, f"{name}/{_WEIGHTS}")
    size = sum(entry.nbytes for entry in header.tensors.values() if _is_wanted(entry.name))

    def copy(progress: Progress) -> None:
        told = [0]

        def report(done: int, total: int) -> None:
            tenths = 10 * done // max(1, total)
            if tenths > told[0]:
                told[0] = tenths
                progress(f"fetching {name}: {10 * tenths} % of {readable_bytes(total)}")

        part = hub.derived_folder(name, folder.name) / _PART
        with locked(
            part.with_name(f"{_PART}.lock"),
            lambda: progress(f"fetching {name}: another process does; waiting for it"),
        ):
            if part.is_file():
                part.unlink()  # damaged, or the survey would have found it
            for old in part.parent.glob(f"{_PART}.*.partial"):  # of an earlier version
                old.unlink()
            try:
                copy_tensors(source, f"{name}/{_WEIGHTS}", _is_wanted, part, report)
            except KeyboardInterrupt:
                progress(f"{name}: stopped; the next run goes on from there")
                raise

    what = "its text tower and pooling head"
    described = f"{what}, {readable_bytes(size)} of its {readable_bytes(header.file_size)}"
    return Wanted(name, why, folder, (), NO_ENCODER_HINT, copy, size, described)


def _is_wanted(name: str) -> bool:
    return name.startswith((TEXT, HEAD, NORM))


def encoder_config(folder: Path) -> SiglipConfig:
    from transformers import SiglipConfig

    if not (folder / "config.json").is_file():
        raise ModelError(f"the relevance encoder {folder} has no config.json", NO_ENCODER_HINT)
    content = read_json(folder / "config.json")
    if content.get("model_type") != "siglip" or "auto_map" in content:
        raise ModelError(
            f"the relevance encoder {folder} is a {content.get('model_type')!r} model, "
            "not 'siglip'",
            NO_ENCODER_HINT,
        )
    try:
        return SiglipConfig(**{key: content[key] for key in ("text_config", "vision_config")})
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{folder / 'config.json'} cannot be used: {error}", "copy it again"
        ) from error
