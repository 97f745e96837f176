"""Questions with their one right answer, and what judges an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from adatp_cli.answering.tasks import ClipSource


@dataclass(frozen=True, slots=True)
class Item:
    """One question."""

    id: str  # unique within the dataset
    clip: ClipSource
    prompt: str  # the whole text that the model gets, options and instructions included
    # A letter where there are options, else the text. Empty: the annotation names none that could
    # be chosen, and every answer counts as wrong.
    answer: str
    options: tuple[str, ...] = ()  # none for a question with a free answer
    kind: str = ""
    # Further parts that the benchmark reports, by the name of the division.
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def letters(self) -> str:
        """The letters of the options: ABCD."""
        return letters(len(self.options))


class Rule(StrEnum):
    """Which verdict counts."""

    strict = "strict"
    harness = "harness"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule says of an answer."""

    choice: str | None  # the letter or the free answer as it was compared; None: the rule has none
    right: bool
    guessed: bool = False  # the harness found nothing and drew a letter
    counted: bool = True  # among those that the accuracy is a share of

    @property
    def parsed(self) -> bool:
        """Whether the answer itself says what was chosen."""
        return self.choice is not None and not self.guessed


Judge = Callable[[str, Item], Verdict]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Questions, at least one and those of a clip one behind the other, and how they are scored."""

    name: str
    title: str
    items: tuple[Item, ...]
    strict: Judge
    harness: Judge | None = None  # that of the standard harness
    # What the benchmark calls its own number, the mean over the kinds; empty: it is the share of
    # all questions.
    average_title: str = ""
    max_new_tokens: int | None = None  # the longest answer that the standard harness allows
    kind_title: str = "kind"
    notes: tuple[str, ...] = ()  # what the user should know, a line each

    def judge(self, rule: Rule) -> Judge:
        """The judge that a rule names; where the harness has none, the strict one."""
        return self.harness or self.strict if rule is Rule.harness else self.strict


def letters(count: int) -> str:
    """The first `count` letters of the alphabet, 26 at most."""
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:count]
