"""What has to be fetched from the hub: announced together, then fetched; each failure one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adatp_cli.errors import ModelError
from adatp_cli.model.hub import Hub, RemoteFile
from adatp_cli.model.transfer import (
    HubNotFoundError,
    HubRefusedError,
    HubStoreError,
    HubUnreachableError,
    readable_bytes,
)
from adatp_cli.text import plural

Progress = Callable[[str], None]
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
