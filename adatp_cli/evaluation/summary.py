"""From outcomes to the numbers of the report."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from adatp_cli.evaluation.outcomes import Costs, Outcome
from adatp_cli.evaluation.questions import Dataset, Item, Rule
from adatp_cli.evaluation.statistics import Paired, Share, mean
from adatp_cli.evaluation.tasks import ProfileSpec, opponents


@dataclass(frozen=True, slots=True)
class Versus:
    """A profile beside the unpruned run: the same questions, and how many answers are others."""

    paired: Paired
    changed: Share


@dataclass(frozen=True, slots=True)
class Result:
    """One profile on a dataset.

    Parameters
    ----------
    name
        The profile's.
    share
        Right answers among those that count; a question that failed is not among them.
    average
        The mean over the kinds, where the benchmark reports that; None elsewhere.
    unparsed
        Answers that name no option, or are empty.
    failed
        Questions that got no answer, by the kind of error: `missing` for a clip that is not there.
    unasked
        Questions that the run did not come to.
    kinds
        Shares by kind, in the order of the dataset.
    groups
        Shares by the parts of each further division.
    costs
        Means over the answers; None without any. Token counts are means too.
    versus
        Beside the unpruned run; None for that itself, or where there is none.
    family
        The profile's name at every budget; `name` itself where it has only one.
    rival
        Beside the profile that it is set against, which is the first of the two; None without one.
    """

    name: str
    share: Share
    average: float | None
    unparsed: int
    failed: Mapping[str, int]
    unasked: int
    kinds: Mapping[str, Share]
    groups: Mapping[str, Mapping[str, Share]]
    costs: Mapping[str, float]
    versus: Versus | None
    family: str = ""
    rival: Versus | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """All profiles on a dataset, in the order in which they were asked for.

    Parameters
    ----------
    baseline
        The unpruned run's name, where there is one.
    against
        The family that the others are set against at equal budgets, where one is.
    """

    dataset: Dataset
    rule: Rule
    baseline: str | None
    results: tuple[Result, ...]
    against: str | None = None


def summarise(
    dataset: Dataset,
    profiles: Sequence[str],
    outcomes: Iterable[Outcome],
    *,
    baseline: str | None,
    rule: Rule = Rule.strict,
    places: Sequence[ProfileSpec] = (),
    against: str | None = None,
) -> Summary:
    """Count what came out.

    Parameters
    ----------
    profiles
        Names, in the order of the report.
    outcomes
        At most one for each question and profile.
    baseline
        The profile that the others are set against; None: they are not.
    places
        At which budgets the profiles run; nothing where each has one.
    against
        A family that the others are set against as well, each at its budget.
    """
    by_profile: dict[str, dict[str, Outcome]] = {name: {} for name in profiles}
    for outcome in outcomes:
        by_profile[outcome.profile][outcome.item.id] = outcome
    reference = by_profile.get(baseline or "", {})
    results = tuple(
        _result(dataset, name, found, None if name == baseline else reference)
        for name, found in by_profile.items()
    )
    families = {place.profile.name: place.family for place in places}
    rivals = opponents(places, against) if against is not None else {}
    placed = tuple(
        dataclasses.replace(
            result,
            family=families.get(result.name, result.name),
            rival=_versus(by_profile[result.name], by_profile[rivals[result.name]])
            if result.name in rivals
            else None,
        )
        for result in results
    )
    return Summary(dataset, rule, baseline, placed, against)


def _result(
    dataset: Dataset,
    name: str,
    found: Mapping[str, Outcome],
    reference: Mapping[str, Outcome] | None,
) -> Result:
    answered = [outcome for outcome in found.values() if outcome.error is None]
    kinds = _shares(dataset, answered, lambda item: item.kind)
    divisions = dict.fromkeys(title for item in dataset.items for title in item.groups)
    values = [share.value for share in kinds.values() if share.value is not None]
    return Result(
        name=name,
        share=Share.count(_verdicts(answered)),
        average=mean(values) if dataset.average_title else None,
        unparsed=sum(not (o.verdict is not None and o.verdict.parsed) for o in answered),
        failed=dict(Counter(o.error for o in found.values() if o.error is not None).most_common()),
        unasked=len(dataset.items) - len(found),
        kinds=kinds,
        groups={title: _shares(dataset, answered, _member(title)) for title in divisions},
        costs=_means(answered),
        versus=_versus(found, reference) if reference else None,
    )


def _member(title: str) -> Callable[[Item], str]:
    return lambda item: item.groups.get(title, "")


def _shares(
    dataset: Dataset, answered: Sequence[Outcome], part: Callable[[Item], str]
) -> dict[str, Share]:
    """Shares by part; every part that the dataset has, also one without answers."""
    parts: dict[str, list[Outcome]] = defaultdict(list)
    for name in dict.fromkeys(part(item) for item in dataset.items):
        if name:
            parts[name] = []
    for outcome in answered:
        if part(outcome.item):
            parts[part(outcome.item)].append(outcome)
    return {name: Share.count(_verdicts(found)) for name, found in parts.items()}


def _verdicts(outcomes: Iterable[Outcome]) -> list[bool]:
    return [o.verdict.right for o in outcomes if o.verdict is not None and o.verdict.counted]


def _means(answered: Sequence[Outcome]) -> dict[str, float]:
    listed = [outcome.costs for outcome in answered if outcome.costs is not None]
    means = {
        field.name: mean(getattr(costs, field.name) for costs in listed)
        for field in dataclasses.fields(Costs)
    }
    return {name: value for name, value in means.items() if value is not None}


def _versus(found: Mapping[str, Outcome], reference: Mapping[str, Outcome]) -> Versus:
    both = [
        (reference[key], outcome)
        for key, outcome in found.items()
        if outcome.error is None and key in reference and reference[key].error is None
    ]
    pairs = [
        (first.verdict.right, second.verdict.right)
        for first, second in both
        if first.verdict is not None
        and second.verdict is not None
        and first.verdict.counted
        and second.verdict.counted
    ]
    changed = Share.count(first.said != second.said for first, second in both)
    return Versus(Paired.count(pairs), changed)
