"""From outcomes to numbers, tables, files and pictures."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from adatp_cli.answering.tasks import FileClip
from adatp_cli.errors import AdatpError
from adatp_cli.evaluation import report
from adatp_cli.evaluation.questions import Dataset, Item, ProfileSpec, Rule, Verdict
from adatp_cli.evaluation.scoring import choice
from adatp_cli.evaluation.summary import (
    COSTS,
    Outcome,
    Summary,
    outcome_of,
    stored_rows,
    summarise,
)
from adatp_cli.profiles import load_profile
from tests.records import answer_record

KINDS = ("count", "count", "count", "order | time", "order | time")
LETTERS = {"vanilla": "AABAB", "adatp": "ABBA?", "light": "A-B--"}


def dataset(average: str = "") -> Dataset:
    items = tuple(
        Item(str(n), FileClip(f"{n}.mp4"), "?", "A", ("x", "y"), kind, {"half": "ab"[n % 2]})
        for n, kind in enumerate(KINDS)
    )
    return Dataset("d", "A set", items, choice, average_title=average)


def outcomes(asked: Dataset) -> list[Outcome]:
    """Per profile a letter for each question; `?` for an unparsed answer, `-` for a failure."""
    found = []
    for profile, letters in LETTERS.items():
        share = 1.0 if profile == "vanilla" else 0.3
        costs = costing(share, (1 + share) / 2, 100, int(100 * share), share, 20, 2, 0.5, 0.75)
        for item, letter in zip(asked.items, letters, strict=True):
            if letter == "-":
                found.append(Outcome(item, profile, error="missing"))
            else:
                found.append(Outcome(item, profile, None, letter, choice(letter, item), costs))
    return found


def costing(*numbers: float) -> dict[str, float]:
    return dict(zip(COSTS, numbers, strict=True))


def specs(*names: str) -> list[ProfileSpec]:
    """Profiles that prune, but for the one called vanilla."""
    found = []
    for name in names:
        profile = load_profile("vanilla" if name == "vanilla" else "adatp")
        found.append(ProfileSpec(profile.replace(name=name), name))
    return found


def written(folder: Path, found: Summary, *facts: str) -> list[str]:
    return report.write_report(folder, found, outcomes(found.dataset), facts)


def summary(average: str = "") -> Summary:
    asked = dataset(average)
    return summarise(asked, specs(*LETTERS), outcomes(asked))


def test_numbers_by_hand() -> None:
    vanilla, adatp, light = summary().results
    assert (vanilla.share.right, vanilla.share.of, vanilla.versus) == (3, 5, None)
    assert (adatp.share.right, adatp.share.of, adatp.unparsed) == (2, 5, 1)
    assert adatp.versus is not None
    assert (adatp.versus.paired.gained, adatp.versus.paired.lost) == (0, 1)
    assert adatp.versus.paired.difference == pytest.approx(-0.2)
    assert (adatp.versus.changed.right, adatp.versus.changed.of) == (2, 5)
    assert (adatp.kinds["count"].right, adatp.kinds["count"].of) == (1, 3)
    assert (adatp.groups["half"]["b"].right, adatp.groups["half"]["b"].of) == (1, 2)
    assert adatp.costs["paper"] == pytest.approx(0.3)
    assert adatp.average is None
    # What failed is in no share, and no pair.
    assert (light.share.right, light.share.of, light.failed) == (1, 2, {"missing": 3})
    assert light.versus is not None
    assert light.versus.paired.questions == 2
    assert (light.versus.changed.right, light.versus.changed.of) == (0, 2)
    assert light.kinds["order | time"].value is None


def test_a_benchmarks_mean_of_its_kinds() -> None:
    vanilla, _, light = summary("M-Avg").results
    assert vanilla.average == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert vanilla.average != vanilla.share.value
    assert light.average == pytest.approx(1 / 2)  # of the kinds that have answers


def test_without_an_unpruned_run_there_are_no_differences() -> None:
    asked = dataset()
    pruned = [outcome for outcome in outcomes(asked) if outcome.profile != "vanilla"]
    found = summarise(asked, specs("adatp", "light"), pruned)
    assert all(result.versus is None for result in found.results)
    assert "to vanilla" not in report.tables(found)


def test_what_the_harness_leaves_out_is_in_no_share() -> None:
    asked = dataset()
    left = Verdict(None, False, counted=False)
    kept = Verdict("A", True)
    found = [Outcome(asked.items[n], "p", None, "", left if n else kept) for n in range(3)]
    (result,) = summarise(asked, specs("p"), found, Rule.harness).results
    assert (result.share.right, result.share.of, result.unasked) == (1, 1, 2)
    assert result.unparsed == 2


def test_the_tables() -> None:
    text = report.tables(summary("M-Avg"))
    lines = text.splitlines()
    assert lines[0].startswith("| profile | LLM cost | end to end | answered | right | 95 % int")
    assert "| M-Avg | to vanilla | p | changed | unparsed | failed |" in lines[0]
    (adatp,) = [line for line in lines if line.startswith("| adatp | 30.0 %")]
    assert "| 5 | 40.0 % | 11.8 to 76.9 % |" in adatp
    assert "| -20.0 | 1.000 | 40.0 % | 1 | 0 |" in adatp
    assert "| 3 (missing) |" not in text
    assert "| 3 (3 missing) |" in text
    assert r"| order \| time | 50.0 % of 2 | 50.0 % of 2 | - of 0 |" in text
    assert "not asked" not in text
    widths = {line.replace(r"\|", "").count("|") for line in lines[:5]}
    assert len(widths) == 1


def test_small_p_values() -> None:
    assert report.p_text(0.0004) == "< 0.001"
    assert report.p_text(0.0005) == "0.001"
    assert report.p_text(0.25) == "0.250"


def test_csv_has_the_same_numbers() -> None:
    found = summary("M-Avg")
    rows = list(csv.DictReader(io.StringIO(report.summary_csv(found), newline="")))
    assert [row["profile"] for row in rows] == list(LETTERS)
    assert float(rows[1]["accuracy"]) == pytest.approx(0.4)
    assert float(rows[1]["mcnemar_p"]) == 1.0
    assert (rows[0]["mcnemar_p"], rows[2]["missing"]) == ("", "3")
    assert float(rows[0]["benchmark_average"]) == pytest.approx(7 / 12)
    parts = list(csv.DictReader(io.StringIO(report.parts_csv(found), newline="")))
    chosen = [row for row in parts if row["profile"] == "adatp"]
    assert [row["division"] for row in chosen] == ["all", "kind", "kind", "half", "half"]
    assert chosen[2]["part"] == "order | time"
    assert sum(int(row["questions"]) for row in chosen[1:3]) == 5


def test_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "report"
    found = summary()
    notes = written(folder, found, "5 questions")
    assert notes[-1] == f"the report is {folder / 'report.md'}"
    drawn = [name for name in report.pictures(found) if len(notes) == 1]
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# A set\n\n- 5 questions\n")
    for name in drawn:
        assert f"![{name}]({name})" in text
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert (folder / "summary.csv").read_bytes().startswith(b"\xef\xbb\xbfprofile,")
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert len(rows) == 15
    assert rows[9] == {
        "item": "4", "video": "4.mp4", "kind": "order | time", "groups": {"half": "a"},
        "profile": "adatp", "truth": "A", "error": None, "answer": "?", "choice": None,
        "parsed": False, "right": False,
    }  # fmt: skip
    (tmp_path / "file").write_text("x")
    with pytest.raises(AdatpError, match="cannot be made"):
        written(tmp_path / "file" / "x", found)


def test_pictures_of_odd_names_and_of_nothing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    asked = dataset()
    names = ["_hidden", "$math$ \\alpha", "日本"]
    found = [Outcome(asked.items[0], name, None, "A", choice("A", asked.items[0]),
                     costing(0.1, 0.2, 1, 1, 1.0, 1, 1, 1.0, 1.0)) for name in names]  # fmt: skip
    told = summarise(asked, specs(*names), found)
    assert list(report.pictures(told)) == ["accuracy-cost.png", "kinds.png"]
    written(tmp_path, told)
    assert (tmp_path / "kinds.png").exists()
    failed = [Outcome(asked.items[0], "p", error="missing")]
    nothing = summarise(asked, specs("p"), failed)
    assert "accuracy-cost.png" not in report.pictures(nothing)
    assert "| p | - | - | 0 | - | - |" in report.tables(nothing)


def test_many_profiles_are_a_chart_that_fits_a_screen(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    asked = dataset()
    costs = costing(0.1, 0.2, 1, 1, 1.0, 1, 1, 1.0, 1.0)
    for count, most in ((8, 2400), (40, 1600)):
        names = [f"profile-{number}" for number in range(count)]
        found = [
            Outcome(item, name, None, "A", choice("A", item), costs)
            for item in asked.items
            for name in names
        ]
        written(tmp_path, summarise(asked, specs(*names), found))
        with Image.open(tmp_path / "kinds.png") as picture:
            assert picture.height < most


def test_rows_are_read_back_and_judged_anew(tmp_path: Path) -> None:
    item = dataset().items[0]
    stamp = {"size_bytes": 1, "mtime_ns": 1}
    good = answer_record(answer="(A)").to_dict() | {"batch": {"key": "a" * 64, **stamp}}
    bad = {"schema_version": 1, "ok": False, "video": "v", "question": "q",
           "error": {"kind": "missing", "message": "m", "hint": ""},
           "batch": {"key": "a" * 64, **stamp}}  # fmt: skip
    other = good | {"batch": {"key": "b" * 64, **stamp}}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in (good, bad, other)))
    rows = stored_rows(path, ["a" * 64])
    assert list(rows) == ["a" * 64]
    read = outcome_of(rows["a" * 64], item, "adatp", choice)
    assert read.verdict == Verdict("A", True)
    assert read.costs["seconds"] == pytest.approx(0.7 + 0.1)
    assert (read.costs["visual"], read.costs["kept_final"]) == (72, 20)
    assert outcome_of(bad, item, "adatp", choice).error == "missing"
