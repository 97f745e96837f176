"""Every command on every kind of stream: what belongs on stdout is there, and nothing else is."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.streams import Programs, screen


@pytest.fixture(scope="module")
def programs() -> Iterator[Programs]:
    with Programs() as programs:
        yield programs


@pytest.mark.parametrize("stdout", ["file", "pipe"])
def test_rows_reach_stdout_while_a_bar_moves_on_the_terminal(
    programs: Programs, clip: Path, stdout: str
) -> None:
    asked = ("batch", clip, "-q", "What?", "-q", "Who?", "-m", "tiny")
    run = programs.run(*asked, stdout=stdout, stderr="pty")
    assert run.code == 0
    assert [row["question"] for row in run.records] == ["What?", "Who?"]
    assert "\x1b[?25l" in run.err  # the bar was there
    assert "2 answered, 0 failed" in "".join(screen(run.err))
    table = programs.run(*asked, "--output-format", "csv", stdout=stdout, stderr="pty")
    assert [row["question"] for row in csv.DictReader(io.StringIO(table.out))] == ["What?", "Who?"]
