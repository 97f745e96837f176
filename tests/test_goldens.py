"""The program does what it did when `tests/goldens` was written: every case that is cheap.

A change that is meant is written down with `python -m tests.goldens --write`, and read as a diff.
"""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from adatp_cli.video import isolated
from tests.goldens.book import GROUPS, Book
from tests.goldens.runs import Case, differences, machine, told

CASES = [(group, case) for group, cases in GROUPS.items() for case in cases if case.cheap]


@functools.cache
def book_of(group: str) -> Book:
    return Book(group)


@pytest.mark.parametrize(("group", "case"), CASES, ids=[f"{group}/{c.name}" for group, c in CASES])
def test_a_run_does_what_it_did(
    group: str,
    case: Case,
    decoders: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(isolated, "WORKER", decoders)
    book = book_of(group)
    exact = book.machine in ({}, machine())
    found = list(differences(book.told[case.name], told(case, tmp_path.resolve()), exact))
    assert not found, "\n".join(found[:20])


def test_every_case_has_a_name_of_its_own_and_none_is_left_over() -> None:
    for group, cases in GROUPS.items():
        assert sorted(book_of(group).told) == sorted(case.name for case in cases)


def test_on_another_machine_only_floating_point_numbers_may_differ_and_only_a_little() -> None:
    array = {"dtype": "float32", "shape": [2], "sha256": "a", "numbers": [1.0, 2.5]}
    near = {**array, "sha256": "b", "numbers": [1.0, 2.5001]}
    far = {**array, "sha256": "b", "numbers": [1.0, 2.9]}
    kept = {"dtype": "int64", "shape": [2], "sha256": "a"}
    pairs = [
        (array, near, 0),
        (array, far, 1),
        (kept, {**kept, "sha256": "b"}, 1),
        ("keeps 25.01 % of 3", "keeps 25.02 % of 3", 0),
        ("keeps 25.01 % of 3", "keeps 25.01 % of 4", 1),
        ("a red square", "a red cross", 1),
        ([1, 2], [1, 3], 1),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, 1),
        (1, 1.0, 1),
    ]
    for written, found, many in pairs:
        assert len(list(differences(written, found, exact=False))) == many, (written, found)
        assert len(list(differences(written, found, exact=True))) >= 1
