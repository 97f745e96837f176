"""Questions with their one right answer, the clips they are about, and what judges an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from adatp_cli.answering.tasks import ClipSource


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


class Rule(StrEnum):
    """Which verdict counts."""

    strict = "strict"
    harness = "harness"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule says of an answer.

    Parameters
    ----------
    choice
        The letter, or the free answer as it was compared; None where the rule found none.
    right
        Whether that is the right one.
    guessed
        The harness found nothing and drew a letter.
    counted
        Whether the answer is among those that the accuracy is a share of.
    """

    choice: str | None
    right: bool
    guessed: bool = False
    counted: bool = True

    @property
    def parsed(self) -> bool:
        """Whether the answer itself says what was chosen."""
        return self.choice is not None and not self.guessed


Judge = Callable[[str, Item], Verdict]


@dataclass(frozen=True, slots=True)
class Scoring:
    """The judges of a dataset: by our own rule, and by the standard harness's where it has one."""

    strict: Judge
    harness: Judge | None = None

    def judge(self, rule: Rule) -> Judge:
        """The judge that a rule names; where the harness has none, the strict one."""
        return self.harness or self.strict if rule is Rule.harness else self.strict


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
    average_title
        What the benchmark calls its own number, which is the mean over the kinds; empty where it is
        the share of all questions.
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
    average_title: str = ""
    max_new_tokens: int | None = None
    kind_title: str = "kind"
    notes: tuple[str, ...] = ()


def letters(count: int) -> str:
    """The first `count` letters of the alphabet, 26 at most."""
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:count]
