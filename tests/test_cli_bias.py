"""`adatp bias` as its users see it."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from adatp_cli.evaluation.bias import Look, looks_of
from tests.conftest import Run

PANCAKE = Path(__file__).parent / "data" / "flipping_a_pancake.mkv"
TINY = ("-m", "tiny", "--offline", "-n", "8")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Two questions about a real clip, and one about a clip that is gone."""
    shutil.copy(PANCAKE, tmp_path / "a.mkv")
    rows = [
        {"video": "a.mkv", "question": "what happens?", "answer": "x"},
        {"video": "gone.mkv", "question": "what happens?", "answer": "x"},
        {"video": "a.mkv", "question": "what colour is it?", "answer": "x"},
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def by_view(data: dict[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    return {(view["profile"], view["what"]): view["layers"] for view in data["views"]}


def test_the_tables_go_to_stdout(adatp: Run) -> None:
    run = adatp("bias", "shapes", *TINY, "--clips", "1")
    assert run.code == 0, run.err
    head = "| layer | top 10 % by attention | adatp-progressive keeps | adatp keeps |"
    assert run.out.count(head) == 2
    assert "Hottest place of the frame to the mean over places (even: 1)" in run.out
    lines = run.out.splitlines()
    begin = lines.index(head)
    assert len([line for line in lines[begin : begin + 18] if line.startswith("| ")]) == 18
    # Nothing is pruned before layer 0: what is there is even.
    assert lines[begin + 2].endswith("| 12.5 % | 12.5 % |")
    # What the small model shows must not be taken for more than it is.
    assert "tiny is a small model that was trained on clips of moving shapes" in lines[-1]
    assert "tiny is a small model" not in run.err
    assert adatp("bias", "shapes", *TINY, "--clips", "1", "--quiet").err == ""


def test_every_number_as_json(adatp: Run, mine: Path) -> None:
    run = adatp("bias", mine, *TINY, "--json", "-p", "adatp", "-p", "vidcom2", "-p", "unicomp")
    assert run.code == 6, run.err  # a clip is missing
    (data,) = run.records
    assert data["questions"] == dict.fromkeys(("vanilla", "adatp", "vidcom2", "unicomp"), 2)
    assert data["failed"] == {"missing": 4}
    views = by_view(data)
    assert next(iter(views)) == ("vanilla", "attention")
    assert ("vanilla", "kept") not in views
    for name in ("adatp", "vidcom2", "unicomp"):
        asked = adatp("ask", mine.parent / "a.mkv", "what happens?", "what colour is it?", *TINY,
                      "--max-new-tokens", "1", "-p", name, "--json").records  # fmt: skip
        counts = [
            [kept - (len(row["segments"]) if name == "unicomp" else 0)
             for kept in row["tokens"]["kept_per_layer"]]
            for row in asked
        ]  # fmt: skip
        measured = [layer["tokens"] for layer in views[name, "kept"]]
        assert measured == [sum(pair) / 2 for pair in zip(*counts, strict=True)]
    for layers in views.values():
        assert len(layers) == 16
        for layer in layers:
            assert sum(layer["parts"]) == pytest.approx(1)
            assert sum(layer["top_parts"]) == pytest.approx(1)
            assert sum(map(sum, layer["places"])) == pytest.approx(1)
            assert layer["last_eighth"] == pytest.approx(sum(layer["top_parts"][-4:]))
            assert layer["hottest"] >= 1


def test_the_unpruned_attention_is_the_same_whatever_stands_beside_it(
    adatp: Run, mine: Path
) -> None:
    first = by_view(adatp("bias", mine, *TINY, "--json", "-p", "fastv").records[0])
    other = by_view(adatp("bias", mine, *TINY, "--json", "-p", "vanilla").records[0])
    assert list(other) == [("vanilla", "attention")]
    assert first["vanilla", "attention"] == other["vanilla", "attention"]


def test_a_question_that_cannot_be_measured_is_one_that_failed(
    adatp: Run, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first profile: its trace has no such layer, or its attention to the clip is zero."""
    taken = []

    def looks(arrays: Any, rows: Any) -> list[Look]:
        taken.append(rows)
        if len(taken) == 1:
            raise KeyError("kept_2")
        return looks_of(arrays, rows if len(taken) != 3 else [row * 0 for row in rows])

    monkeypatch.setattr("adatp_cli.evaluation.bias.looks_of", looks)
    row = {"video": "a.mkv", "question": "where is it?", "answer": "x"}
    with mine.open("a") as file:
        file.write(f"{json.dumps(row)}\n")
    run = adatp("bias", mine, *TINY, "--json", "-p", "fastv")
    assert run.code == 6, run.err
    (data,) = run.records
    assert data["questions"] == {"vanilla": 1, "fastv": 3}
    assert data["failed"] == {"missing": 2, "unexpected": 2}
    for view in data["views"]:
        assert sum(view["layers"][0]["parts"]) == pytest.approx(1)
    assert "4 prefills in" in run.err
    assert "2 failed: unexpected" in run.err


def test_a_report(adatp: Run, mine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    given = ("bias", mine, *TINY, "--report", folder)
    run = adatp(*given)
    assert run.code == 6, run.err
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert run.out.split("\ntiny is")[0] in text
    assert "tiny is a small model" in text
    assert "not measured, over all profiles: 3 missing" in text
    with (folder / "layers.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16 * 5
    assert {row["what"] for row in rows} == {"attention", "kept"}
    assert {"frames.csv", "places.csv"} <= {path.name for path in folder.iterdir()}
    assert "report.md: exists already" in adatp(*given).error
    assert adatp(*given, "--overwrite").code == 6


def test_a_report_without_matplotlib(
    adatp: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run = adatp("bias", "shapes", *TINY, "--clips", "1", "--report", tmp_path / "r")
    assert run.code == 0
    assert "no plots: they need matplotlib (pip install matplotlib)" in run.err
    assert not list((tmp_path / "r").glob("*.png"))
    assert (tmp_path / "r" / "report.md").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("nothing",), "there is no dataset 'nothing'"),
        (("shapes", "--clips", "0"), "at least 1"),
        (("shapes", "--data", "."), "generated"),
        (("shapes", "--trace", "x.npz"), "adatp ask"),
        (("shapes", "--start", "1"), "--start"),
        (("shapes", "--temperature", "1"), "no answer is generated"),
        (("shapes", "--overwrite"), "nothing to replace"),
        (("shapes", "-p", "adatp", "-p", "adatp"), "two of the profiles"),
        (("shapes", "-p", "nothing"), "nothing"),
    ],
)
def test_what_cannot_be_measured(adatp: Run, given: Sequence[str], said: str) -> None:
    run = adatp("bias", *given, *TINY)
    assert run.code == 2
    assert said in run.error
    assert run.out == ""


def test_when_not_one_clip_can_be_read(adatp: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    row = {"video": "broken.mp4", "question": "what?", "answer": "x"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row))
    run = adatp("bias", tmp_path / "mine.jsonl", *TINY)
    assert run.code == 3
    assert "broken.mp4" in run.error
    assert run.out == ""
