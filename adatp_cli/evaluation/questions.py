"""What an evaluation asks: questions with one right answer, of every profile at every budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING, Any

from adatp_cli.answering.tasks import Ask, ClipSource, ClipTask, ProfileRun
from adatp_cli.batch.row_format import row_data, task_of
from adatp_cli.errors import UsageError
from adatp_cli.profiles import Profile
from adatp_cli.record import AnswerRecord

if TYPE_CHECKING:
    from adatp_cli.answering.run import Row


@dataclass(frozen=True, slots=True)
class Item:
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


def tasks_of(
    dataset: Dataset, runs: Sequence[ProfileRun], settings: Mapping[str, object]
) -> list[ClipTask]:
    """Every clip with its questions, each to one profile after the other.

    `settings` is what decides an answer beside file, question and profile.
    """
    planned = []
    for clip, items in groupby(dataset.items, key=lambda item: item.clip):
        asks = []
        for item in items:
            # With the clip itself: a file asked about in parts has one name, size and time for all.
            names = {"dataset": dataset.name, "item": item.id, "clip": item.clip.key}
            asks += [Ask(item.prompt, run, names=names, about=item) for run in runs]
        planned.append(task_of(clip, asks, settings))
    return planned


def eval_row(row: Row, dataset: Dataset) -> dict[str, Any]:
    """A row of a run with its object `eval`: which question it is, and whether it is right."""
    item: Item = row.ask.about
    answer = row.record.answer if isinstance(row.record, AnswerRecord) else None
    strict = None if answer is None else dataset.strict(answer, item)
    harness = None
    if answer is not None and dataset.harness is not None:
        harness = _told(dataset.harness(answer, item))
    facts = {
        "dataset": dataset.name,
        "item": item.id,
        "kind": item.kind,
        "groups": dict(item.groups) or None,
        "truth": item.answer,
        **_told(strict),
        "harness": harness,
    }
    return {**row_data(row), "eval": facts}


def _told(verdict: Verdict | None) -> dict[str, Any]:
    return {name: getattr(verdict, name, None) for name in ("choice", "parsed", "right", "counted")}


@dataclass(frozen=True, slots=True)
class ProfileSpec:
    """One profile at one budget."""

    profile: Profile  # as it runs; its name tells the budget where it runs at several
    family: str  # the name that it has at every budget


def line_up(profiles: Sequence[Profile], budgets: Sequence[float]) -> list[ProfileSpec]:
    """Every profile, those that prune once for each budget; without budgets each at its own.

    A `UsageError` where a budget is none, or stands there twice.
    """
    if len(set(budgets)) < len(budgets):
        raise UsageError("a budget is given twice", "name each once")
    specs = []
    for profile in profiles:
        if profile.method == "vanilla" or not budgets:
            specs.append(ProfileSpec(profile, profile.name))
            continue
        for budget in budgets:
            at = profile.with_budget(budget).replace(name=f"{profile.name}@{budget:g}")
            specs.append(ProfileSpec(at, profile.name))
    return specs
