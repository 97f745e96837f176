"""Profiles at several budgets, and whom each is set against."""

from __future__ import annotations

import pytest

from adatp_cli.errors import UsageError
from adatp_cli.evaluation.questions import line_up
from adatp_cli.evaluation.summary import opponents
from adatp_cli.profiles import load_profile

PROFILES = [load_profile(name) for name in ("vanilla", "adatp", "fastv")]


def test_every_profile_that_prunes_stands_at_every_budget() -> None:
    places = line_up(PROFILES, (0.5, 0.1))
    assert [place.profile.name for place in places] == [
        "vanilla", "adatp@0.5", "adatp@0.1", "fastv@0.5", "fastv@0.1",
    ]  # fmt: skip
    assert [place.profile.budget for place in places] == [None, 0.5, 0.1, 0.5, 0.1]
    assert [place.family for place in places] == ["vanilla", "adatp", "adatp", "fastv", "fastv"]


def test_without_budgets_profiles_are_as_they_were() -> None:
    assert [place.profile for place in line_up(PROFILES, ())] == PROFILES


@pytest.mark.parametrize("budgets", [(0.0,), (0.5, 0.5), (1.5,)])
def test_budgets_that_are_none(budgets: tuple[float, ...]) -> None:
    with pytest.raises(UsageError):
        line_up(PROFILES, budgets)


def test_opponents_have_the_same_budget() -> None:
    places = line_up(PROFILES, (0.5, 0.1))
    assert opponents(places, "adatp") == {"fastv@0.5": "adatp@0.5", "fastv@0.1": "adatp@0.1"}
    # Where one could not be reached, nobody is set against it.
    left = [place for place in places if place.profile.name != "adatp@0.1"]
    assert opponents([*left, *line_up(PROFILES[1:2], (0.3,))], "adatp") == {
        "fastv@0.5": "adatp@0.5"
    }


def test_profiles_at_budgets_of_their_own_all_have_one_opponent() -> None:
    assert opponents(line_up(PROFILES, ()), "adatp") == {"fastv": "adatp"}
