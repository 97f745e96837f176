"""What an evaluation asks: questions with their one right answer, and the clips they are about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from adatp_cli.evaluation.scoring import Scoring
    from adatp_cli.video.frames import Frames, Resize
    from adatp_cli.video.reader import FrameReader
    from adatp_cli.video.sampling import Sampling

# How a benchmark's own number is made: over all questions alike, or as the mean over the kinds.
Average = Literal["questions", "kinds"]


class ClipSource(Protocol):
    """Where a clip's frames come from. Equal sources are one clip, decoded and encoded once."""

    @property
    def name(self) -> str:
        """What records call it: the path of a file."""

    def exists(self) -> bool:
        """Whether it is there."""

    def stamp(self) -> tuple[int, int] | tuple[None, None]:
        """Size in bytes and time of change in nanoseconds; None for both where there are none."""

    def read(self, reader: FrameReader, sampling: Sampling, resize: Resize) -> Frames:
        """The frames that `sampling` asks for.

        Raises
        ------
        AdatpError
            What keeps the clip from having any.
        """


@dataclass(frozen=True, slots=True)
class Item:
    """One question.

    Parameters
    ----------
    id
        Unique within the dataset.
    clip
        What it is about.
    prompt
        The whole text that the model gets, options and instructions included.
    answer
        The right one: a letter where there are options, else the text. Empty: the annotation names
        none that could be chosen, and every answer counts as wrong.
    options
        The texts of the options A, B, ...; empty for a question with a free answer.
    kind
        What sort of question it is.
    groups
        Further parts that the benchmark reports, by the name of the division.
    """

    id: str
    clip: ClipSource
    prompt: str
    answer: str
    options: tuple[str, ...] = ()
    kind: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def letters(self) -> str:
        """The letters of the options: ABCD."""
        return letters(len(self.options))


@dataclass(frozen=True, slots=True)
class Dataset:
    """Questions, and how they are scored.

    Parameters
    ----------
    name, title
        For programs and for people.
    items
        At least one, the questions of a clip one behind the other.
    scoring
        How an answer is judged.
    average
        How the benchmark's own number is made.
    average_title
        What the benchmark calls it; empty where it is the share of all questions.
    max_new_tokens
        The longest answer that the standard harness allows; None: no limit of its own.
    kind_title
        What the benchmark calls the kinds.
    notes
        What the user should know, a line each.
    """

    name: str
    title: str
    items: tuple[Item, ...]
    scoring: Scoring
    average: Average = "questions"
    average_title: str = ""
    max_new_tokens: int | None = None
    kind_title: str = "kind"
    notes: tuple[str, ...] = ()


def letters(count: int) -> str:
    """The first `count` letters of the alphabet, 26 at most."""
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:count]
