"""From a model's name to the folder that holds its files.

A name is an alias, a hub id or a local folder. What the Hugging Face cache holds is used as it is;
what it lacks is announced with its size, and only then fetched.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from adatp_cli.errors import ModelError, UsageError
from adatp_cli.model.hub import Hub, HubNotFoundError, HubUnreachableError, RemoteFile
from adatp_cli.model.layout import check_layout, is_complete
from adatp_cli.strict_yaml import nearest

Progress = Callable[[str], None]

ALIASES = {
    "0.5b": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
    "7b": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "72b": "llava-hf/llava-onevision-qwen2-72b-ov-hf",
}
TINY = "tiny"
AUTO = "auto"
# The published dimensions with random weights, which `bench` builds, and whose dimensions they are.
RANDOM = {f"{alias}-random": alias for alias in ALIASES}
TINY_KNOWS = f"{TINY} knows moving coloured shapes and nothing else"
NO_DOWNLOAD_HINT = f"`adatp demo` and `-m {TINY}` need no download ({TINY_KNOWS})"

# What is read of a checkpoint's folder: no *.bin, no Python file, nothing that could run.
NEEDED = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "adatp.json",
    "relevance/*.json",
    "relevance/model.safetensors",
)

# 16-bit weights, for the sentence that tells which choice needs less: parameters x 2 bytes.
_APPROXIMATE_BYTES = {"0.5b": 1.8e9, "7b": 16.1e9, "72b": 146e9}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose files are at hand.

    Parameters
    ----------
    name
        What to call it in records: `tiny`, the hub id, or the folder's path.
    folder
        Where its files stand.
    revision
        The hub's commit, None for a folder.
    """

    name: str
    folder: Path
    revision: str | None


def bundled_folder() -> Path:
    """The folder of the bundled `tiny`.

    Raises
    ------
    ModelError
        This installation does not have it.
    """
    folder = Path(str(resources.files("adatp_cli.tiny") / "bundle"))
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"the bundled model is missing from this installation ({folder})",
            "install adatp again from its wheel or repository",
        )
    return folder


def choose_auto(*, cuda: bool) -> str:
    """The alias that `auto` stands for: 7b on CUDA, 0.5b without it."""
    return "7b" if cuda else "0.5b"


def locate(name: str, *, offline: bool, progress: Progress, hub: Hub) -> Checkpoint:
    """Find a checkpoint's files, fetching them when they are not at hand.

    Parameters
    ----------
    name
        Alias, hub id or folder; not `auto`, which `choose_auto` resolves.
    offline
        Look in the cache alone.
    progress
        Gets what is about to be fetched and how large it is, and then how far it is.
    hub
        The way to cache and hub.

    Raises
    ------
    UsageError
        The name is neither an alias, nor a folder, nor a possible hub id.
    ModelError
        The model is neither cached nor reachable, or its layout is not one that can be loaded.
    """
    check_name(name)
    if name.lower() == TINY:
        return Checkpoint(TINY, check_layout(bundled_folder()), None)
    folder = Path(name).expanduser()
    # A known name is never a folder that happens to be called so; ./7b is the folder.
    if name.lower() not in ALIASES and folder.is_dir():
        return Checkpoint(name, check_layout(folder), None)
    repo = ALIASES.get(name.lower(), name)
    cached = hub.cached(repo)
    if cached is not None and is_complete(cached):
        return Checkpoint(repo, check_layout(cached), cached.name)
    if offline or hub.offline:
        raise _unreachable(repo, "is not in the cache, and fetching is off (offline)")
    fetched = _fetch(repo, progress, hub)
    return Checkpoint(repo, check_layout(fetched), fetched.name)


def check_name(name: str, also: Sequence[str] = ()) -> None:
    """Refuse what can be no model, before anything heavy is imported.

    Parameters
    ----------
    also
        Names that mean a model beside those that mean one everywhere.

    Raises
    ------
    UsageError
        The name is none that is known, nor a folder, nor a possible hub id.
    """
    known = [AUTO, TINY, *ALIASES, *also]
    if name.lower() in RANDOM and not also:
        raise UsageError(f"--model {name}: only `adatp bench` builds it", "its answers are noise")
    is_folder = bool(name) and Path(name).expanduser().is_dir()
    if name.lower() not in known and not is_folder and not is_hub_id(name):
        raise UsageError(
            f"--model {name!r} is neither a known name{nearest(name.lower(), known)}, nor a "
            "folder, nor a hub id (owner/name)",
            f"known names: {', '.join(known)}",
        )


def is_hub_id(name: str) -> bool:
    """Whether the name has the form `owner/name`, and is no path."""
    parts = name.split("/")
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
    return len(parts) == 2 and all(
        part and set(part) <= allowed and part[0] not in "-." and ".." not in part for part in parts
    )


def readable_bytes(count: float) -> str:
    """Decimal units, as the hub's pages show sizes: 1_800_000_000 -> '1.8 GB'."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit != "MB" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _fetch(repo: str, progress: Progress, hub: Hub) -> Path:
    try:
        files = hub.files(repo, NEEDED)
        _check_remote(repo, files)
        missing = [file for file in files if not hub.has_file(repo, file.path)]
        size = sum(file.size for file in missing)
        _check_disk(repo, size, hub.cache_folder)
        progress(
            f"{repo} is not in the cache: fetching {len(missing)} files, {readable_bytes(size)}, "
            f"to {hub.cache_folder}; {_needs_less(repo)}"
        )
        return hub.fetch(repo, NEEDED, progress)
    except HubNotFoundError as error:
        raise ModelError(
            f"the hub has no model {repo} that you may read ({error})",
            "check the name; for a private or gated model set HF_TOKEN",
            kind="model_not_found",
        ) from error
    except HubUnreachableError as error:
        raise _unreachable(
            repo, f"is not in the cache, and the hub cannot be reached ({error})"
        ) from error


def _check_remote(repo: str, files: Sequence[RemoteFile]) -> None:
    """Refuse before the download what could not be loaded after it."""
    names = {file.path for file in files}
    if "config.json" not in names:
        raise ModelError(
            f"{repo} is no model in Hugging Face layout: it has no config.json",
            "name a LLaVA-OneVision checkpoint such as 0.5b or 7b",
        )
    if not any(name.endswith(".safetensors") and "/" not in name for name in names):
        raise ModelError(
            f"{repo} has no safetensors weights, and other formats can run code when they are read",
            "name a checkpoint with safetensors weights, or convert this one",
        )


def _check_disk(repo: str, size: int, cache: Path) -> None:
    existing = next((path for path in (cache, *cache.parents) if path.exists()), None)
    free = shutil.disk_usage(existing).free if existing is not None else size
    if free < size:
        raise ModelError(
            f"{repo} needs {readable_bytes(size)} of disk, and {cache} has "
            f"{readable_bytes(free)} left",
            f"point HF_HOME at a larger disk, or take a smaller model; {NO_DOWNLOAD_HINT}",
        )


def _needs_less(repo: str) -> str:
    """The sentence about cheaper choices than `repo`."""
    alias = next((key for key, value in ALIASES.items() if value == repo), None)
    sizes = list(_APPROXIMATE_BYTES.items())
    smaller = sizes[: list(ALIASES).index(alias)] if alias else sizes[:1]
    cheaper = [f"-m {name} needs about {readable_bytes(size)}" for name, size in smaller]
    return "; ".join([*cheaper, f"-m {TINY} needs none ({TINY_KNOWS})"])


def _unreachable(repo: str, why: str) -> ModelError:
    return ModelError(
        f"{repo} {why}",
        f"where there is a network: `hf download {repo}`; {NO_DOWNLOAD_HINT}",
        kind="model_unreachable",
    )
