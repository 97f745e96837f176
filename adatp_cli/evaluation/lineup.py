"""Profiles at several budgets, and which of them are set against each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adatp_cli.errors import UsageError
from adatp_cli.profiles import Profile


@dataclass(frozen=True, slots=True)
class Place:
    """One profile at one budget.

    Parameters
    ----------
    profile
        As it runs; its name tells the budget where it runs at several.
    family
        The name that it has at every budget.
    """

    profile: Profile
    family: str


def line_up(profiles: Sequence[Profile], budgets: Sequence[float]) -> list[Place]:
    """Every profile, those that prune once for each budget.

    Parameters
    ----------
    budgets
        Shares of the unpruned cost; none leaves every profile at its own.

    Raises
    ------
    UsageError
        A budget is none, or stands there twice.
    """
    if len(set(budgets)) < len(budgets):
        raise UsageError("a budget is given twice", "name each once")
    places = []
    for profile in profiles:
        if profile.method == "vanilla" or not budgets:
            places.append(Place(profile, profile.name))
            continue
        for budget in budgets:
            name = f"{profile.name}@{budget:g}"
            at = dataclasses.replace(profile.with_budget(budget), name=name)
            places.append(Place(at, profile.name))
    return places


def opponents(places: Iterable[Place], family: str) -> dict[str, str]:
    """For each place by name, the one of `family` at the same budget, where there is one.

    Without budgets of their own, all are set against the one place of the family.
    """
    listed = list(places)
    theirs = [place.profile for place in listed if place.family == family]
    by_budget = {profile.budget: profile.name for profile in theirs}
    several = len(theirs) > 1
    found = {}
    for place in listed:
        profile = place.profile
        if place.family == family or profile.method == "vanilla":
            continue
        rival = by_budget.get(profile.budget) if several else next(iter(by_budget.values()), None)
        if rival is not None:
            found[profile.name] = rival
    return found
