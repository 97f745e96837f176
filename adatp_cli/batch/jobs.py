"""What a batch has to do: clips with their questions, and what was passed over on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from adatp_cli.answering.tasks import Ask, ClipSource, ClipTask
from adatp_cli.batch.row_format import row_key


@dataclass(frozen=True, slots=True)
class ClipJob:
    """One file and everything that is asked about it; decoded and encoded once."""

    path: str  # as records name it and as it is opened; no UTF-8 is surrogates, as of `os.fsdecode`
    questions: tuple[str, ...]  # at least one, each once
    relative: str = ""  # the same on every machine that has the clips; empty: `path`


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or folder that was passed over, and why, in a few words."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Collection:
    """All that a source holds."""

    jobs: tuple[ClipJob, ...]
    skipped: tuple[Skipped, ...] = ()
    ignored: int = 0  # files that are no videos by their names
    notes: tuple[str, ...] = ()


def task_of(clip: ClipSource, asks: Iterable[Ask], settings: Mapping[str, object]) -> ClipTask:
    """A clip with its questions and the keys of their rows.

    `settings` is whatever else decides an answer beside clip, question and profile: the model,
    which frames, how answers are decoded.
    """
    size, mtime = clip.stamp()
    keyed = []
    for ask in asks:
        named = {**settings, "profile": ask.run.context.profile, **ask.names}
        keyed.append(replace(ask, key=row_key(clip.name, size, mtime, ask.text, named)))
    return ClipTask(clip, tuple(keyed), size, mtime)


def without(planned: Sequence[ClipTask], done: Mapping[str, bool]) -> list[ClipTask]:
    """What is left of a plan when the rows with the keys of `done` exist."""
    left = []
    for task in planned:
        asks = tuple(ask for ask in task.asks if ask.key not in done)
        if asks:
            left.append(replace(task, asks=asks))
    return left
