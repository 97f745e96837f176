"""What an evaluation runs: every question of a dataset under every profile, at every budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from adatp_cli.answering.tasks import Ask, ClipTask, ProfileRun
from adatp_cli.batch.jobs import task_of
from adatp_cli.batch.row_format import row_data
from adatp_cli.errors import UsageError
from adatp_cli.evaluation.questions import Dataset, Item, Verdict
from adatp_cli.profiles import Profile
from adatp_cli.record import AnswerRecord

if TYPE_CHECKING:
    from adatp_cli.answering.run import Row


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
    places = []
    for profile in profiles:
        if profile.method == "vanilla" or not budgets:
            places.append(ProfileSpec(profile, profile.name))
            continue
        for budget in budgets:
            name = f"{profile.name}@{budget:g}"
            at = dataclasses.replace(profile.with_budget(budget), name=name)
            places.append(ProfileSpec(at, profile.name))
    return places
