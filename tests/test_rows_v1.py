"""Rows of version 1, which had only the keys of what was known: runs that go on behind them.

`tests/data/rows_v1` holds the results of three runs over the clips and questions that stand here.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from adatp_cli.batch.row_format import row_key
from adatp_cli.profiles import load_profile
from tests.conftest import Run

DATA = Path(__file__).parent / "data"
CLIPS = {"a.mov": "video_90.mov", "b.mp4": None, "c.mov": "unordered.mov"}
CHANGED_NS = 1_732_505_257_123_456_789  # the first one; each next a nanosecond later
ASKED = ("-m", "model", "-p", "vanilla", "-n", "2", "--max-new-tokens", "2", "--dtype", "float32")
BATCH = ("batch", "clips", "-q", "What?", "-q", "Where?", *ASKED)
EVAL = ("eval", "mine.jsonl", *ASKED, "--quiet")
MINE = """\
{"video": "clips/a.mov", "question": "What?", "answer": "nothing", "kind": "what"}
{"video": "clips/b.mp4", "question": "What?", "answer": "nothing", "kind": "what"}
{"video": "clips/c.mov", "question": "Which?", "answer": "B", "options": ["x", "y"]}
{"video": "clips/c.mov", "question": "What?", "answer": "nothing", "kind": "what"}
"""


@pytest.fixture
def there(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the clips of that day, as they were to the nanosecond."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    (tmp_path / "model").symlink_to(checkpoint)
    (tmp_path / "mine.jsonl").write_text(MINE)
    for number, (name, source) in enumerate(CLIPS.items()):
        clip = tmp_path / "clips" / name
        clip.write_bytes((DATA / source).read_bytes() if source else b"no clip at all")
        os.utime(clip, ns=(CHANGED_NS + number, CHANGED_NS + number))
    return tmp_path


def keys_of(path: Path) -> list[str]:
    return [json.loads(line)["batch"]["key"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("command", "name"), [(BATCH, "batch.jsonl"), (EVAL, "eval.jsonl")])
@pytest.mark.parametrize("cut", [0.2, 0.6])
def test_a_file_half_written_is_resumed_and_each_row_comes_once(
    adatp: Run, there: Path, command: tuple[str, ...], name: str, cut: float
) -> None:
    old, new = DATA / "rows_v1" / name, there / name
    half = old.read_bytes()[: int(cut * old.stat().st_size)]
    new.write_bytes(half)
    run = adatp(*command, "-o", name, "--resume")
    assert run.code == 6, run.err
    assert sorted(keys_of(new)) == sorted(keys_of(old))  # each once
    whole = half[: half.rfind(b"\n") + 1]
    assert new.read_bytes().startswith(whole)
    rows = [json.loads(line) for line in new.read_text().splitlines()]
    assert [row["schema_version"] for row in rows] == sorted(row["schema_version"] for row in rows)
    before = {key: steady(row) for key, row in zip(keys_of(old), lines(old), strict=True)}
    for row in rows:
        assert steady(row) == before[row["batch"]["key"]]


def test_a_whole_file_is_left_as_it_is(adatp: Run, there: Path) -> None:
    for command, name in ((BATCH, "batch.jsonl"), (EVAL, "eval.jsonl")):
        shutil.copy(DATA / "rows_v1" / name, there / name)
        assert adatp(*command, "-o", name, "--resume").code == 6
        assert (there / name).read_bytes() == (DATA / "rows_v1" / name).read_bytes()


def test_failed_rows_of_old_are_asked_again(adatp: Run, there: Path) -> None:
    shutil.copy(DATA / "rows_v1/batch.jsonl", there / "batch.jsonl")
    run = adatp(*BATCH, "-o", "batch.jsonl", "--resume", "--retry-failed")
    assert run.code == 6
    rows = lines(there / "batch.jsonl")
    assert [row["schema_version"] for row in rows] == [1, 1, 1, 1, 2, 2]
    assert sorted(keys_of(there / "batch.jsonl")) == sorted(keys_of(DATA / "rows_v1/batch.jsonl"))


def test_a_csv_file_of_old_keeps_its_columns(adatp: Run, there: Path) -> None:
    old = DATA / "rows_v1/batch.csv"
    (there / "batch.csv").write_bytes(old.read_bytes()[:500])
    run = adatp(*BATCH, "-o", "batch.csv", "--output-format", "csv", "--resume")
    assert run.code == 6, run.err
    with old.open(newline="") as before, (there / "batch.csv").open(newline="") as after:
        rows, expected = (list(csv.DictReader(file, strict=True)) for file in (after, before))
    assert list(rows[-1]) == list(expected[-1])
    assert [row["key"] for row in rows] == [row["key"] for row in expected]
    assert float(rows[-1]["seconds_total"]) > 0


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def steady(row: dict[str, Any]) -> tuple[object, ...]:
    """What the question is, and whether it can be answered."""
    return row["ok"], row["video"], row["question"]


def test_a_profile_gives_the_key_that_it_gave_unless_it_chooses_other_tokens() -> None:
    """`profiles.json` is what all profiles were when these rows were written."""
    before = json.loads((DATA / "rows_v1" / "profiles.json").read_text(encoding="utf-8"))

    def key(profile: dict[str, Any]) -> str:
        return row_key("a.mp4", 1, 2, "What?", {"profile": profile})

    other = [name for name in before if key(load_profile(name).to_dict()) != key(before[name])]
    assert other == ["uniform"]
    mine = before["adatp"] | {"description": "mine"}
    assert key(mine) != key(before["adatp"])
