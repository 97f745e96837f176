"""The program does what it did when `tests/goldens` was written: every case that is cheap.

A change that is meant is written down with `python -m tests.goldens --write`, and read as a diff.
"""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from tests.goldens.book import GROUPS, Book
from tests.goldens.runs import Case, differences, machine, told

CASES = [(group, case) for group, cases in GROUPS.items() for case in cases if case.cheap]


@functools.cache
def book_of(group: str) -> Book:
    return Book(group)


@pytest.mark.parametrize(("group", "case"), CASES, ids=[f"{group}/{c.name}" for group, c in CASES])
def test_a_run_does_what_it_did(group: str, case: Case, tmp_path: Path) -> None:
    book = book_of(group)
    exact = book.machine in ({}, machine())
    found = list(differences(book.told[case.name], told(case, tmp_path.resolve()), exact))
    assert not found, "\n".join(found[:20])


def test_every_case_has_a_name_of_its_own_and_none_is_left_over() -> None:
    for group, cases in GROUPS.items():
        assert sorted(book_of(group).told) == sorted(case.name for case in cases)
