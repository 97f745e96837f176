"""`adatp export`: rows of many files as one table, to be opened elsewhere."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from adatp_cli.batch.table import columns
from tests.batch_rows import fill, row
from tests.conftest import Run
from tests.records import answer_record

OLD = Path(__file__).parent / "data/rows_v1"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Rows of today, of old, and of `ask --json`; 6, 6, 4 and 1."""
    today, asked = tmp_path / "today.jsonl", tmp_path / "asked.jsonl"
    fill(today, "jsonl", [row(number, ok=number != 2) for number in range(6)])
    asked.write_text(answer_record(video="\udcff.mp4").to_json())  # no line end, as an editor may
    return [today, OLD / "batch.jsonl", OLD / "eval.jsonl", asked]


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, strict=True))
    found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return found


def test_rows_of_all_versions_are_one_table(adatp: Run, files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "all.parquet"
    run = adatp("export", *files, out)
    assert (run.code, run.out) == (0, ""), run.err
    assert f"17 rows in {out}" in run.err
    rows = read(out)
    assert [row["file"] for row in rows] == [str(f) for f in files for _ in range(count(f))]
    assert [row["schema_version"] for row in rows] == [2] * 6 + [1] * 10 + [2]
    first, failed, old, shared = rows[0], rows[2], rows[6], rows[7]
    assert first["seconds_answer"] == 0.8
    assert first["batch_mtime_ns"] == str(10**18)
    assert json.loads(first["segments"])[1]["relevance"] is None
    assert json.loads(first["tokens_kept_per_layer"]) == [72, 72, 40, 20]
    assert (failed["ok"], failed["error_kind"], failed["tokens_visual"]) == (False, "missing", None)
    assert old["batch_mtime_ns"] == "1732505257123456789"
    assert (old["tokens_shared"], old["video_info_frames_copied"]) == (0, 0)
    assert shared["tokens_shared"] > 0
    assert (rows[12]["eval_item"], rows[12]["eval_right"]) == ("1", False)
    assert rows[16]["video"] == "\\udcff.mp4"
    assert rows[16]["batch_key"] is None


def count(path: Path) -> int:
    return len(path.read_bytes().splitlines())


def test_columns_and_their_types_are_the_same_whatever_the_rows(
    adatp: Run, files: list[Path], tmp_path: Path
) -> None:
    failures = tmp_path / "failures.jsonl"
    fill(failures, "jsonl", [row(0, ok=False)])
    adatp("export", failures, tmp_path / "failures.parquet")
    adatp("export", *files, tmp_path / "all.parquet")
    schema = parquet.read_schema(tmp_path / "all.parquet")
    assert schema == parquet.read_schema(tmp_path / "failures.parquet")
    assert schema.names == [column.name for column in columns()]
    types = {field.name: str(field.type) for field in schema}
    assert (types["ok"], types["tokens_visual"], types["profile_budget"]) == (
        "bool", "int64", "double"
    )  # fmt: skip


def test_csv_holds_the_same_and_no_formula(adatp: Run, files: list[Path], tmp_path: Path) -> None:
    for name in ("all.parquet", "all.csv"):
        assert adatp("export", *files, tmp_path / name).code == 0
    table, text = read(tmp_path / "all.parquet"), read(tmp_path / "all.csv")
    assert [row["seconds_answer"] for row in text] == [
        "" if row["seconds_answer"] is None else repr(row["seconds_answer"]) for row in table
    ]
    assert text[3]["question"] == "'=1+1"
    assert table[3]["question"] == "=1+1"
    assert text[1]["ok"] == "true"


def test_a_torn_last_row_is_left_out_and_told(adatp: Run, tmp_path: Path) -> None:
    torn, out = tmp_path / "torn.jsonl", tmp_path / "out.csv"
    fill(torn, "jsonl", [row(0), row(3)])
    torn.write_bytes(torn.read_bytes()[:-20])
    run = adatp("export", torn, out)
    assert run.code == 0
    assert f"{torn}: the last row was cut short and is left out" in run.err
    assert len(read(out)) == 1


def test_what_is_not_a_row_is_named_with_its_line_and_nothing_is_written(
    adatp: Run, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    fill(bad, "jsonl", [row(0), row(3)])
    good = bad.read_text()
    for content, what in (
        ("hello\n" + good, "bad.jsonl, line 1: is no record of adatp"),
        (good.replace('"visual": 72', '"visual": "many"', 1), "line 1: tokens.visual is 'many'"),
        (good.replace('"schema_version": 2', '"schema_version": 9'), "line 1: is no record"),
        ("ok,video\ntrue,a\n", "line 1: is no record"),
    ):
        bad.write_text(content)
        run = adatp("export", bad, tmp_path / "out.csv")
        assert run.code == 2
        assert what in run.error
        assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


def test_nothing_of_the_users_is_written_over(
    adatp: Run, files: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    out.write_text("mine")
    run = adatp("export", *files, out)
    assert run.code == 2
    assert "exists already" in run.error
    assert "--overwrite" in run.error
    assert out.read_text() == "mine"
    assert adatp("export", *files, out, "--overwrite").code == 0
    for last in (files[0], tmp_path / "out.xlsx"):
        run = adatp("export", *files, last, "--overwrite")
        assert run.code == 2
        assert "a table is a .parquet or .csv file" in run.error
    csv_rows = tmp_path / "rows.csv"
    fill(csv_rows, "csv", [row(0)])
    run = adatp("export", csv_rows, csv_rows, "--overwrite")
    assert run.code == 2
    assert len(read(csv_rows)) == 1
    assert adatp("export", tmp_path / "gone.jsonl", tmp_path / "new.csv").code == 2
    assert not (tmp_path / "new.csv").exists()


def test_parquet_without_pyarrow_says_how_to_get_it(
    adatp: Run, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    run = adatp("export", *files, tmp_path / "out.parquet")
    assert run.code == 4
    assert "pip install pyarrow" in run.error
    assert not (tmp_path / "out.parquet").exists()
    assert adatp("export", *files, tmp_path / "out.csv", "--quiet").err == ""
