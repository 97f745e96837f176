"""From the rows of a run to the numbers of its report."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adatp_cli.batch.results import pieces
from adatp_cli.evaluation.questions import Dataset, Item, Judge, ProfileSpec, Rule, Verdict
from adatp_cli.evaluation.statistics import Paired, Share, mean
from adatp_cli.text import printable

# What an answer cost. Ratios (`paper` and `end_to_end` are the two counts) are to the unpruned run
# of the same answer; seconds run from opening the clip.
COSTS = (
    "paper", "end_to_end", "visual", "kept_final", "kept_mean_ratio", "text", "generated",
    "first_token_s", "seconds",
)  # fmt: skip


def opponents(specs: Sequence[ProfileSpec], family: str | None) -> dict[str, str]:
    """For each profile by name, the one of `family` at the same budget, where there is one.

    Without budgets of their own, all are set against the one profile of the family.
    """
    theirs = {one.profile.budget: one.profile.name for one in specs if one.family == family}
    found = {}
    for spec in specs:
        profile = spec.profile
        budget = profile.budget if len(theirs) != 1 else next(iter(theirs))
        if spec.family != family and profile.method != "vanilla" and budget in theirs:
            found[profile.name] = theirs[budget]
    return found


_NONE = Verdict(None, right=False, counted=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question under one profile: an error's kind, or an answer with all the rest."""

    item: Item
    profile: str
    error: str | None = None
    answer: str = ""
    verdict: Verdict = _NONE
    costs: Mapping[str, float] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """What tells two answers apart: the choice where there is one, else the text."""
        return str(self.verdict.choice) if self.verdict.parsed else self.answer.strip()


def outcome_of(row: Mapping[str, Any], item: Item, profile: str, judge: Judge) -> Outcome:
    """From a row of the results; the answer is judged anew, so any rule may be asked for."""
    if not row["ok"]:
        return Outcome(item, profile, error=str(row["error"]["kind"]))
    answer: str = row["answer"]
    seconds, flops = row["seconds"], row["flops"]
    told = row["tokens"] | {
        "paper": flops["paper"]["ratio"],
        "end_to_end": flops["end_to_end"]["ratio"],
        "first_token_s": seconds["first_token"],
        "seconds": seconds["first_token"] + seconds["generate"],
    }
    costs = {name: told[name] for name in COSTS}
    return Outcome(item, profile, None, answer, judge(answer, item), costs)


def stored_rows(path: str | os.PathLike[str], keys: Collection[str]) -> dict[str, dict[str, Any]]:
    """The rows of a result file that have these keys; of several with one key an answer."""
    found: dict[str, dict[str, Any]] = {}
    wanted = set(keys)
    with Path(path).open("rb") as stream:
        for piece in pieces(stream, "jsonl", printable(os.fspath(path))):
            if piece is None or piece.key not in wanted:
                continue
            if piece.ok or piece.key not in found:
                found[piece.key] = json.loads(piece.raw)
    return found


@dataclass(frozen=True, slots=True)
class Versus:
    """A profile beside another one: the same questions, and how many answers are others."""

    paired: Paired
    changed: Share


@dataclass(frozen=True, slots=True)
class Result:
    name: str
    family: str  # its name at every budget
    share: Share  # right answers among those that count, without questions that failed
    average: float | None  # the mean over the kinds, where the benchmark reports that
    unparsed: int  # answers that name no option, or are empty
    failed: Mapping[str, int]  # by the kind of error: `missing` for a clip that is not there
    unasked: int  # questions that the run did not come to
    kinds: Mapping[str, Share]  # in the order of the dataset
    groups: Mapping[str, Mapping[str, Share]]  # by division, by its parts
    costs: Mapping[str, float]  # means over the answers, by the names of `COSTS`; empty without any
    versus: Versus | None  # beside the unpruned run; None for that itself, or where there is none
    rival: Versus | None  # beside the profile that it is set against, the first of the two


@dataclass(frozen=True, slots=True)
class Summary:
    """All profiles on a dataset, in the order in which they were asked for."""

    dataset: Dataset
    rule: Rule
    baseline: str | None  # the unpruned run's name, where there is one
    results: tuple[Result, ...]
    against: str | None  # the family that the others are set against at equal budgets


def summarise(
    dataset: Dataset,
    specs: Sequence[ProfileSpec],
    outcomes: Iterable[Outcome],
    rule: Rule = Rule.strict,
    against: str | None = None,
) -> Summary:
    """Count outcomes, of which there is at most one for each question and profile.

    With `against`, profiles are set beside those of that family too, each at its budget.
    """
    found: dict[str, dict[str, Outcome]] = {spec.profile.name: {} for spec in specs}
    for outcome in outcomes:
        found[outcome.profile][outcome.item.id] = outcome
    unpruned = [spec.profile.name for spec in specs if spec.profile.method == "vanilla"]
    baseline = unpruned[0] if unpruned else None
    rivals = opponents(specs, against)
    divisions = dict.fromkeys(title for item in dataset.items for title in item.groups)
    results = []
    for spec in specs:
        name = spec.profile.name
        own, first = found[name], found[baseline] if baseline not in (None, name) else None
        answered = [outcome for outcome in own.values() if outcome.error is None]
        failed = Counter(outcome.error for outcome in own.values() if outcome.error is not None)
        kinds = _shares(dataset, answered)
        values = [share.value for share in kinds.values() if share.value is not None]
        means = {cost: mean(one.costs[cost] for one in answered if one.costs) for cost in COSTS}
        results.append(
            Result(
                name=name,
                family=spec.family,
                share=_share(answered),
                average=mean(values) if dataset.average_title else None,
                unparsed=sum(not outcome.verdict.parsed for outcome in answered),
                failed=dict(failed.most_common()),
                unasked=len(dataset.items) - len(own),
                kinds=kinds,
                groups={title: _shares(dataset, answered, title) for title in divisions},
                costs={cost: value for cost, value in means.items() if value is not None},
                versus=_versus(own, first) if first else None,
                rival=_versus(own, found[rivals[name]]) if name in rivals else None,
            )
        )
    return Summary(dataset, rule, baseline, tuple(results), against)


def _shares(
    dataset: Dataset, answered: Sequence[Outcome], division: str | None = None
) -> dict[str, Share]:
    """Shares by kind, or by part of a division; also of a part that has no answers."""

    def part(item: Item) -> str:
        return item.kind if division is None else item.groups.get(division, "")

    parts = dict.fromkeys(name for item in dataset.items if (name := part(item)))
    return {name: _share([one for one in answered if part(one.item) == name]) for name in parts}


def _share(outcomes: Iterable[Outcome]) -> Share:
    return Share.count(one.verdict.right for one in outcomes if one.verdict.counted)


def _versus(found: Mapping[str, Outcome], first: Mapping[str, Outcome]) -> Versus:
    both = [
        (first[key], outcome)
        for key, outcome in found.items()
        if outcome.error is None and key in first and first[key].error is None
    ]
    pairs = [
        (one.verdict.right, other.verdict.right)
        for one, other in both
        if one.verdict.counted and other.verdict.counted
    ]
    changed = Share.count(one.said != other.said for one, other in both)
    return Versus(Paired.count(pairs), changed)
