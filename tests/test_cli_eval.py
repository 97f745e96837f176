"""`adatp eval` as its users see it, on small clips and a model of noise."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

from adatp_cli.record import schema_text
from tests.conftest import Run

VALIDATOR = jsonschema.Draft202012Validator(json.loads(schema_text()))
FEW = ("-n", "4", "--max-new-tokens", "3", "--dtype", "float32")
BOTH = ("-p", "vanilla", "-p", "adatp", "-p", "adatp-light")


@pytest.fixture
def mine(clip: Path, tmp_path: Path) -> Path:
    """Three questions about a clip, one of them with options, and one about a clip that is gone."""
    shutil.copy(clip, tmp_path / "a.mp4")
    return write(tmp_path / "mine.jsonl", [
        {"video": "a.mp4", "question": "What?", "answer": "nothing", "kind": "what"},
        {"video": "gone.mp4", "question": "What?", "answer": "nothing", "kind": "what"},
        {"video": "a.mp4", "question": "Which?", "answer": "B", "options": ["x", "y"]},
        {"video": "a.mp4", "question": "Which?", "answer": "y", "options": ["x", "y"]},
    ])  # fmt: skip


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def steady(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what differs from run to run."""
    left_out = ("seconds", "peak_memory_bytes", "batch", "eval")
    return {key: value for key, value in row.items() if key not in left_out}


def test_every_profile_answers_every_question(adatp: Run, checkpoint: Path, mine: Path) -> None:
    run = adatp("eval", mine, "-m", checkpoint, *FEW, *BOTH, "--json")
    assert run.code == 6, run.err
    assert len(run.records) == 12
    for record in run.records:
        VALIDATOR.validate(record)
    asked = [(row["eval"]["item"], row["profile"]["name"]) for row in run.records]
    profiles = ("vanilla", "adatp", "adatp-light")
    # The questions of a clip stand together, and a clip that is gone is a row for each profile.
    assert asked == [(item, name) for item in "1342" for name in profiles]
    failed = [row for row in run.records if not row["ok"]]
    assert {row["error"]["kind"] for row in failed} == {"missing"}
    assert len(failed) == 3
    first = run.records[0]["eval"]
    assert first == {"dataset": "mine", "item": "1", "kind": "what", "groups": None,
                     "truth": "nothing", "choice": first["choice"], "parsed": first["parsed"],
                     "right": first["right"], "counted": True, "harness": None}  # fmt: skip
    assert "missing: 1 of 2 clips, and 1 of 4 questions with them" in run.err


def test_an_answer_is_what_the_profile_says_alone(
    adatp: Run, checkpoint: Path, mine: Path, clip: Path
) -> None:
    run = adatp("eval", mine, "-m", checkpoint, *FEW, *BOTH, "--json")
    for row in run.records[:3]:
        name = row["profile"]["name"]
        alone = adatp("ask", mine.parent / "a.mp4", "What?", "-m", checkpoint, *FEW, "-p", name,
                      "--json").records[0]  # fmt: skip
        assert steady(row) == steady(alone), name
        assert (row["seconds"]["relevance"] > 0) == (name == "adatp")


def test_a_clip_is_decoded_and_encoded_once(adatp: Run, checkpoint: Path, mine: Path) -> None:
    run = adatp("eval", mine, "-m", checkpoint, *FEW, *BOTH, "--json")
    good = [row["seconds"] for row in run.records if row["ok"]]
    assert len({row["decode"] for row in good}) == 1
    assert len({row["vision"] for row in good}) == 1


def test_the_tables_go_to_stdout(adatp: Run, checkpoint: Path, mine: Path) -> None:
    run = adatp("eval", mine, "-m", checkpoint, *FEW, *BOTH, "--quiet")
    assert run.code == 6
    assert run.err == ""
    lines = run.out.splitlines()
    assert lines[0].startswith("| profile | LLM cost |")
    assert "to vanilla | p | changed" in lines[0]
    assert lines[2].startswith("| vanilla | 100.0 % | 100.0 % | 3 |")
    assert "| 1 (1 missing) |" in lines[3]
    assert any(line.startswith("| what | ") for line in lines)


def test_profiles_by_default_by_environment_and_by_file(
    adatp: Run, checkpoint: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("eval", mine, "-m", checkpoint, *FEW)
    assert [line.split()[1] for line in adatp(*given).out.splitlines()[2:4]] == ["vanilla", "adatp"]
    profile = mine.parent / "of mine.yaml"
    profile.write_text("name: own\nmethod: adatp\nbudget: 0.5\n")
    monkeypatch.setenv("ADATP_PROFILE", str(profile))
    run = adatp(*given)
    assert run.out.splitlines()[2].split()[1] == "own"
    assert "to vanilla" not in run.out
    assert "-p vanilla adds one" in run.err


def test_it_is_resumed_and_each_row_comes_once(
    adatp: Run, checkpoint: Path, mine: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    given = ("eval", mine, "-m", checkpoint, *FEW, *BOTH, "-o", out)
    whole = adatp(*given)
    assert whole.code == 6
    before = out.read_bytes()
    assert "--resume" in adatp(*given).error
    lines = before.splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:4]) + lines[4][:50])  # as if killed in the fifth row
    again = adatp(*given, "--resume")
    assert again.code == 6
    keys = [row["batch"]["key"] for row in rows_of(out)]
    assert sorted(keys) == sorted(json.loads(line)["batch"]["key"] for line in lines)
    # The tables count what was there before too; seconds are measured anew.
    assert again.out.splitlines()[:5] == whole.out.splitlines()[:5]
    assert "4 answers were there before" in again.err
    shutil.copy(mine.parent / "a.mp4", mine.parent / "gone.mp4")
    mended = adatp(*given, "--resume", "--retry-failed")
    assert mended.code == 0, mended.err
    # A file that came later is another one than that which was missing: its old rows stay.
    assert [sum(row["ok"] is ok for row in rows_of(out)) for ok in (True, False)] == [12, 3]
    # Another profile is asked, the others are not asked again.
    more = adatp(*given[:-8], "-o", out, "-p", "vanilla", "-p", "adatp-aggressive", "--resume")
    assert more.code == 0, more.err
    assert len(rows_of(out)) == 19


def test_a_report(adatp: Run, checkpoint: Path, mine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    given = ("eval", mine, "-m", checkpoint, *FEW, *BOTH, "--report", folder)
    run = adatp(*given)
    assert run.code == 6, run.err
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert run.out in text
    assert "4 questions about 2 clips, 4 frames a clip" in text
    assert len(rows_of(folder / "answers.jsonl")) == 12
    with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
        assert [row["missing"] for row in csv.DictReader(file)] == ["1", "1", "1"]
    if (folder / "accuracy-cost.png").exists():
        assert "![accuracy-cost.png](accuracy-cost.png)" in text
    assert "report.md: exists already" in adatp(*given).error
    assert adatp(*given, "--overwrite").code == 6


def test_a_report_without_matplotlib(
    adatp: Run, checkpoint: Path, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run = adatp("eval", mine, "-m", checkpoint, *FEW, "--report", tmp_path / "r")
    assert "no plots: they need matplotlib (pip install matplotlib)" in run.err
    assert (tmp_path / "r" / "report.md").exists()
    assert not (tmp_path / "r" / "accuracy-cost.png").exists()


def test_shapes(adatp: Run, checkpoint: Path) -> None:
    given = ("eval", "shapes", "-m", checkpoint, *FEW, "-p", "vanilla", "--json", "--clips")
    run = adatp(*given, "2")
    assert run.code == 0, run.err
    assert [row["eval"]["item"] for row in run.records] == ["0-0-0", "0-0-1", "0-1-0", "0-1-1"]
    assert {row["video"] for row in run.records} == {"shapes-0-00000.mp4", "shapes-0-00001.mp4"}
    assert all(row["eval"]["kind"] and row["eval"]["truth"] for row in run.records)
    other = adatp(*given, "1", "--clips-seed", "7").records
    assert other[0]["video"] == "shapes-7-00000.mp4"
    assert other[0]["eval"]["truth"] != run.records[0]["eval"]["truth"]


def test_parts_of_clips_and_folders_of_pictures(
    adatp: Run, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    """MVBench as downloaded: bounds within whole videos, and pictures in place of a video."""
    star = tmp_path / "video" / "star" / "Charades_v1_480"
    star.mkdir(parents=True)
    shutil.copy(clip, star / "v.mp4")
    frames = tmp_path / "video" / "tvqa" / "frames_fps3_hq" / "house"
    frames.mkdir(parents=True)
    for number in range(9, 0, -1):
        picture = np.full((40, 60, 3), 20 * number, dtype=np.uint8)
        Image.fromarray(picture).save(frames / f"{number:05}.jpg")
    (tmp_path / "json").mkdir()
    base = {"question": "What?", "candidates": ["a", "b"], "answer": "a"}
    tasks = {
        "action_sequence": [base | {"video": "v.mp4", "start": 1.0, "end": 2.0},
                            base | {"video": "v.mp4", "start": 2.0, "end": 4.0}],
        "episodic_reasoning": [base | {"video": "house", "start": 1.0, "end": 2.0}],
    }  # fmt: skip
    for task, rows in tasks.items():
        (tmp_path / "json" / f"{task}.json").write_text(json.dumps(rows))
    run = adatp("eval", "mvbench", "--data", tmp_path, "-m", checkpoint, "-n", "2",
                "--max-new-tokens", "2", "-p", "vanilla", "--json")  # fmt: skip
    assert run.code == 0, run.err
    first, second, pictures = run.records
    assert all(1.0 <= moment < 2.0 for moment in first["video_info"]["timestamps_s"])
    assert all(2.0 <= moment < 4.0 for moment in second["video_info"]["timestamps_s"])
    assert len({row["batch"]["key"] for row in run.records}) == 3
    assert pictures["video_info"]["timestamps_s"] == [1.0, pytest.approx(5 / 3)]
    assert pictures["video_info"]["frames_total"] == 9
    assert pictures["video_info"]["codec"] == "pictures"
    assert first["eval"]["harness"].keys() == {"choice", "parsed", "right", "counted"}
    table = adatp("eval", "mvbench", "--data", tmp_path, "-m", checkpoint, "-n", "2",
                  "--max-new-tokens", "2", "-p", "vanilla", "--rule", "harness")  # fmt: skip
    assert "mean of the tasks" in table.out
    assert "| action_sequence | " in table.out


def test_what_the_model_is_asked_is_the_harness_prompt(
    adatp: Run, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "videos").mkdir()
    shutil.copy(clip, tmp_path / "videos" / "x.mp4")
    row = {"id": "x_0", "video_path": "x.mp4", "question": "Who?", "question_category": "S2A",
           "candidates": ["he", "she"], "correct_choice": 1, "duration_group": 15}  # fmt: skip
    (tmp_path / "lvb_val.json").write_text(json.dumps([row]))
    run = adatp("eval", "longvideobench", "--data", tmp_path, "-m", checkpoint, "-n", "2",
                "-p", "vanilla", "--json")  # fmt: skip
    assert run.records[0]["question"] == (
        "Who?\nA. he\nB. she\nAnswer with the option's letter from the given choices directly.\n"
    )
    assert run.records[0]["tokens"]["generated"] <= 32  # what the harness allows


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing",), "there is no dataset 'nothing'"),
        (("videomme",), "--data"),
        (("videomme", "--data", "nowhere"), "no such folder"),
        (("gone.jsonl",), "no such file"),
        (("shapes", "--data", "."), "generated"),
        (("shapes", "--clips", "0"), "at least 1"),
        (("shapes", "--clips-seed", "-1"), "--clips-seed"),
        (("shapes", "--resume"), "-o FILE"),
        (("shapes", "--overwrite"), "nothing to replace"),
        (("shapes", "-o", "x.jsonl", "--retry-failed"), "--resume"),
        (("shapes", "--trace", "x.npz"), "adatp ask"),
        (("shapes", "--start", "1"), "--start"),
        (("shapes", "-p", "adatp", "-p", "adatp"), "two of the profiles"),
        (("shapes", "-p", "adpt"), "no profile named"),
        (("shapes", "-p", "vanilla", "--budget", "0.2"), "no effect"),
        (("shapes", "--budget", "2"), "not a share"),
        (("shapes", "--budgets", "0.2,2"), "not a share"),
        (("shapes", "--budgets", "0.2;0.1"), "the budget '0.2;0.1' is no number"),
        (("shapes", "--budgets", "0.2,0.2"), "twice"),
        (("shapes", "--budgets", "0.2", "--budget", "0.2"), "exclude each other"),
        (("shapes", "--against", "fastv"), "one of: vanilla, adatp"),
        (("shapes", "-n", "0"), "--frames"),
        (("shapes", "-o", "nowhere/x.jsonl"), "nowhere"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_model_loads(
    adatp: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    run = adatp("eval", *arguments, "-m", "no/model")
    assert run.code == 2
    assert said in run.error


def test_profiles_that_cannot_be_compared_in_one_run(adatp: Run, tmp_path: Path) -> None:
    paths = []
    for name, changes in (("one", "frames: 4"), ("two", "frames: 8"),
                          ("three", "relevance:\n  encoder: a/b"),
                          ("four", "relevance:\n  encoder: c/d")):  # fmt: skip
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"name: {name}\nmethod: adatp\nbudget: 0.5\n{changes}\n")
        paths.append(path)
    given = ("eval", "shapes", "-m", "tiny")
    assert "--frames" in adatp(*given, "-p", paths[0], "-p", paths[1]).error
    assert "encoders: a/b, c/d" in adatp(*given, "-p", paths[2], "-p", paths[3]).error


def test_the_budget_is_for_the_profiles_that_prune(
    adatp: Run, checkpoint: Path, mine: Path
) -> None:
    run = adatp("eval", mine, "-m", checkpoint, *FEW, "--budget", "0.5", "--json")
    budgets = {row["profile"]["name"]: row["profile"]["budget"] for row in run.records}
    assert budgets == {"vanilla": None, "adatp": 0.5}


def test_profiles_run_at_several_budgets_and_against_one_of_them(
    adatp: Run, checkpoint: Path, mine: Path, tmp_path: Path
) -> None:
    run = adatp(
        "eval", mine, "-m", checkpoint, *FEW, "-p", "vanilla", "-p", "adatp-plus", "-p", "fastv",
        "--budgets", "0.5,0.05", "--against", "adatp-plus", "--report", tmp_path / "report",
    )  # fmt: skip
    assert run.code == 6, run.err
    assert "fastv@0.05 is left out: the smallest reachable budget here is" in run.err
    with (tmp_path / "report" / "summary.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = {row["profile"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["vanilla", "adatp-plus@0.5", "adatp-plus@0.05", "fastv@0.5"]
    assert 0.49 < float(rows["fastv@0.5"]["paper"]) <= 0.5
    assert 0.04 < float(rows["adatp-plus@0.05"]["paper"]) <= 0.05
    assert float(rows["fastv@0.5"]["rival_mcnemar_p"]) == 1.0
    assert rows["adatp-plus@0.5"]["rival_mcnemar_p"] == rows["vanilla"]["rival_mcnemar_p"] == ""
    assert "| to adatp-plus | p |" in run.out
    assert (tmp_path / "report" / "accuracy-cost.png").stat().st_size > 10_000


def test_the_clips_of_shapes_are_videos(tmp_path: Path) -> None:
    """What is decoded is a real file of the generated clip, which is then gone."""
    from adatp_cli.evaluation.datasets import ShapesClip
    from adatp_cli.video.decode import InProcessReader
    from adatp_cli.video.frames import Resize
    from adatp_cli.video.sampling import Sampling

    frames = ShapesClip(0, 0).read(InProcessReader(), Sampling(frames=3), Resize(96, "bicubic"))
    assert (len(frames), frames.info.codec) == (3, "h264")
    assert 4.0 <= frames.info.duration_s <= 8.1
