"""What people type: slips and shortcuts are taken or told, in adatp's own words."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.conftest import Run

# Phrases of the libraries that read the command line and check its values.
FOREIGN = re.compile(
    r"Input should|Value error|Invalid value|unable to parse|Missing (argument|option|command)"
    r"|No such|unexpected extra|requires an argument|does not take"
)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", None),
        ("profiles", None),
        ("ask", "VIDEO is missing; `adatp ask --help` tells what is possible"),
        ("ask a.mp4", "QUESTION is missing"),
        ("batch", "SOURCE is missing"),
        ("show a.mp4 what", "--output is missing; `adatp show --help`"),
        ("profiles show", "NAME is missing; `adatp profiles show --help`"),
        ("bach", "there is no command 'bach' (did you mean 'batch'?); one of: ask, batch"),
        ("profiles shwo", "there is no command 'shwo' (did you mean 'show'?); one of: list"),
        ("xyzzy", "there is no command 'xyzzy'; one of: ask"),
        ("ask a.mp4 what --modle tiny", "there is no option --modle (did you mean --model?)"),
        ("ask a.mp4 what --frob", "there is no option --frob; `adatp ask --help`"),
        ("ask a.mp4 what --no-quiet", "there is no option --no-quiet (did you mean --quiet?)"),
        ("ask a.mp4 -what", "there is no option -w"),
        ("ask a.mp4 -what", "put -- before a file or question that starts with a dash"),
        ("--frob", "there is no option --frob; `adatp --help`"),
        ("ask a.mp4 what -n", "-n needs a value; as in -n N|auto"),
        ("ask a.mp4 what --quantize", "--quantize needs a value; one of: auto, none, int8"),
        ("ask a.mp4 what --json=1", "--json takes no value; leave out what stands behind it"),
        ("ask a.mp4 what --seed x", "--seed 'x' is not a whole number"),
        ("ask a.mp4 what --max-new-tokens 1.5", "'1.5' is not a whole number; as in --max-new"),
        ("ask a.mp4 what --fps fast", "--fps 'fast' is not a number"),
        ("ask a.mp4 what --temperature hot", "--temperature 'hot' is not a number"),
        ("ask a.mp4 what -Q int3", "--quantize 'int3' is not known (did you mean 'int8'?); one of"),
        ("batch a.mp4 -q what --decoders 99", "--decoders '99' is above 64"),
        ("batch a.mp4 -q what --decoders -1", "--decoders '-1' is below 0"),
        ("show a.mp4 what is this -o a.png", "nothing more is taken here: is this; put quotes"),
        ("schema now", "nothing more is taken here: now"),
        ("ask a.mp4 what --quiet --verbose", "--quiet and --verbose exclude each other"),
    ],
)
def test_a_slip_is_told_in_our_own_words(adatp: Run, typed: str, said: str | None) -> None:
    run = adatp(*typed.split())
    assert run.code == 2
    assert not FOREIGN.search(run.err)
    if said is None:
        assert run.err == ""
    else:
        assert said in run.error


def test_a_flag_shows_no_value_in_any_help(adatp: Run) -> None:
    for command in ("", "ask", "batch", "bench", "bias", "demo", "doctor", "eval", "profiles"):
        run = adatp(*command.split(), "--help")
        assert "--help" in run.out
        assert "<bool>" not in run.out


def test_a_deleted_current_folder_is_one_line(
    adatp: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for command in (
        "ask /clip.mp4 what",
        "demo",
        "doctor",
        "batch /clips -q what",
        "profiles list",
    ):
        run = adatp(*command.split())
        assert run.code == 2
        assert "the current folder has been deleted; cd to one that exists" in run.error
    assert adatp("--help").code == 0
    os.chdir(tmp_path)
