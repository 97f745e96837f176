"""What the layouts share: finding the annotation file, and putting a dataset together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from adatp_cli.errors import UsageError
from adatp_cli.evaluation.questions import ClipSource, Item
from adatp_cli.text import plural
from adatp_cli.video.source import printable

LETTER_CLOSING = "Answer with the option's letter from the given choices directly."


def check_folder(folder: Path) -> None:
    """Refuse what is no folder.

    Raises
    ------
    UsageError
        It is not there, or is a file.
    """
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "no such folder"
        raise UsageError(
            f"{printable(os.fspath(folder))}: {what}", "name the benchmark's folder with --data"
        )


def find_annotations(folder: Path, given: Path | None, patterns: Sequence[str], title: str) -> Path:
    """The annotation file that was named, or the first of its usual places where one is.

    Raises
    ------
    UsageError
        There is none.
    """
    if given is not None:
        if not given.exists():
            raise UsageError(
                f"{printable(os.fspath(given))}: no such annotation file", "check --annotations"
            )
        return given
    for pattern in patterns:
        found = sorted(folder.glob(pattern))
        if found:
            return found[0]
    looked = ", ".join(patterns)
    raise UsageError(
        f"{printable(os.fspath(folder))}: there is no annotation file of {title} (looked for "
        f"{looked})",
        "name it with --annotations FILE",
    )


def lettered(options: Iterable[str], form: str) -> str:
    """Options one a line, `form` a pattern such as ``({}) {}``."""
    return "\n".join(
        form.format(letter, option)
        for letter, option in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", options, strict=False)
    )


def arranged(items: Sequence[Item], source: str) -> tuple[Item, ...]:
    """The items with those of a clip one behind the other, clips in the order they first come.

    Raises
    ------
    UsageError
        Two items have one id, or not one of the clips is there.
    """
    seen: set[str] = set()
    clips: dict[ClipSource, list[Item]] = {}
    for item in items:
        if item.id in seen:
            raise UsageError(
                f"{source}: two questions have the id {printable(item.id)!r}",
                "each question stands in the file once",
            )
        seen.add(item.id)
        clips.setdefault(item.clip, []).append(item)
    first = next(iter(clips))
    if not any(clip.exists() for clip in clips):
        raise UsageError(
            f"no clip of {source} is there; the first was expected at {printable(first.name)}",
            "unpack the videos, or name their folder with --data",
        )
    return tuple(item for grouped in clips.values() for item in grouped)


def missing_note(items: Sequence[Item]) -> tuple[str, ...]:
    """A line on the clips that are not there; nothing where all are."""
    clips = {item.clip: item.clip.exists() for item in items}
    missing = [clip for clip, there in clips.items() if not there]
    if not missing:
        return ()
    questions = f"{sum(not clips[one.clip] for one in items)} of {plural(len(items), 'question')}"
    gone = f"missing: {len(missing)} of {plural(len(clips), 'clip')}, and {questions} with them"
    return (f"{gone}; the first is {printable(missing[0].name)}",)


def place(path: Path) -> str:
    """A path for messages."""
    return printable(os.fspath(path))
