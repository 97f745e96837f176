"""What a batch has to do: clips with their questions, and what was passed over on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from adatp_cli.answering.tasks import Ask, ClipSource, ClipTask
from adatp_cli.batch.row_format import row_key


@dataclass(frozen=True, slots=True)
class ClipJob:
    """One file and everything that is asked about it; decoded and encoded once.

    Parameters
    ----------
    path
        As records name it and as it is opened: a folder's name joined with the path below it, a
        list's entry as it was given. Bytes that are no UTF-8 are surrogates, as `os.fsdecode`
        makes them.
    questions
        At least one, each once.
    relative
        The path below the source folder, or as the list or the manifest gives it: what is the same
        on every machine that has the same clips. Empty: `path`.
    """

    path: str
    questions: tuple[str, ...]
    relative: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or folder that was passed over, and why, in a few words."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Collection:
    """All that a source holds.

    Parameters
    ----------
    jobs
        In the order in which they are to be done; at least one.
    skipped
        What looked like a clip or a folder of clips and is not taken.
    ignored
        How many files were seen that are no videos by their names.
    notes
        What else the user should know, a line each.
    """

    jobs: tuple[ClipJob, ...]
    skipped: tuple[Skipped, ...] = ()
    ignored: int = 0
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
