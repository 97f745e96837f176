"""The file that a batch writes to: what its rows hold, and what becomes of a file that exists."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adatp_cli import record
from adatp_cli.answering.tasks import file_stamp
from adatp_cli.batch.results import ResultFile
from adatp_cli.batch.row_format import csv_header, csv_line, row_key
from adatp_cli.errors import AdatpError, UsageError
from tests.batch_rows import NASTY, fill, key, keys_in, row
from tests.records import answer_record

FORMATS = pytest.mark.parametrize("form", ["jsonl", "csv"])


# Rows


@FORMATS
def test_each_row_is_there_when_write_returns(tmp_path: Path, form: str) -> None:
    path = tmp_path / "rows"
    rows = [row(number, ok=number != 2) for number in range(len(NASTY))]
    with ResultFile.open(path, format=form) as file:
        for count, item in enumerate(rows, 1):
            file.write(item)
            assert keys_in(path, form) == [key(item) for item in rows[:count]]
        written = dict(file.done)
    assert written == {key(item): item["ok"] for item in rows}
    with ResultFile.open(path, format=form, resume=True) as file:
        assert file.done == written
        assert not file.notes


def test_json_rows_fit_the_schema_and_come_back(tmp_path: Path) -> None:
    rows = [row(0), row(1, ok=False)]
    rows[1]["batch"].update(size_bytes=None, mtime_ns=None)
    fill(tmp_path / "rows", "jsonl", rows)
    validator = jsonschema.Draft202012Validator(json.loads(record.schema_text()))
    lines = (tmp_path / "rows").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    for item in rows:
        validator.validate(item)
        assert not validator.is_valid({**item, "batch": {"key": "x"}})


def test_csv_cells() -> None:
    table = io.StringIO(csv_header() + csv_line(row(3)) + csv_line(row(1, ok=False)), newline="")
    answered, failed = csv.DictReader(table, strict=True)
    expected = {
        "ok": "true", "video": "clip 3.mp4", "question": "'=1+1", "answer": "'=1+1",
        "error_kind": "", "error_message": "", "frames_used": "2", "duration_s": "4.0",
        "frames_lost": "0",
        "visual_tokens": "72", "kept_mean_ratio": "0.7083", "flops_ratio": "0.3876",
        "seconds": "0.8", "seconds_load": "1.2", "key": key(row(3)),
    }  # fmt: skip
    assert answered == expected
    assert list(answered) == list(expected)
    assert failed["ok"] == "false"
    assert (failed["error_kind"], failed["answer"]) == ("missing", "")
    assert csv_line(row(0)).endswith("\r\n")
    assert csv_line(row(0, text="-5")).startswith("true,clip 0.mp4,-5,-5,")  # a number runs nothing


@given(st.text(st.sampled_from("'=+-@＝1.a\t\r\n\",") | st.characters(), max_size=6))  # noqa: RUF001
def test_no_cell_is_a_formula_and_each_can_be_had_back(text: str) -> None:
    line = csv_line(row(1, text=text))
    assert line.encode("utf-8").endswith(b"\r\n")
    cell = next(csv.DictReader(io.StringIO(csv_header() + line, newline="")))["answer"]
    if cell[:1] in tuple("=+-@＝\t\r\n"):  # noqa: RUF001
        float(cell.replace(",", "."))
    guarded = cell.lstrip("'")[:1] in tuple("=+-@＝＋－＠\t\r\n") and cell.startswith("'")  # noqa: RUF001
    back = cell[1:] if guarded else cell
    assert back == text.encode("utf-8", "backslashreplace").decode()


# Keys


def test_a_key_follows_from_all_that_decides_an_answer() -> None:
    settings = {"model": "tiny", "profile": {"budget": 0.2, "name": "adatp"}}
    first = row_key("clips/a.mp4", 1, 2, "What?", settings)
    assert len(first) == 64
    others = [
        row_key("clips/b.mp4", 1, 2, "What?", settings),
        row_key("clips/a.mp4", 2, 2, "What?", settings),
        row_key("clips/a.mp4", 1, 3, "What?", settings),
        row_key("clips/a.mp4", None, None, "What?", settings),
        row_key("clips/a.mp4", 1, 2, "What? ", settings),
        row_key("clips/a.mp4", 1, 2, "What?", {**settings, "model": "7b"}),
        row_key("\udcff", 1, 2, "What?", settings),
    ]
    assert len({first, *others}) == len(others) + 1
    again = {"profile": {"name": "adatp", "budget": 0.2}, "model": "tiny"}
    assert row_key("./clips//a.mp4", 1, 2, "What?", again) == first


def test_the_stamp_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    assert file_stamp(str(path)) == (5, 1_234_567_890_123_456_789)
    for missing in ("nowhere", "\0", "\ud800", str(path / "below")):
        assert file_stamp(missing) == (None, None)


# A file that exists


@FORMATS
def test_an_existing_file_is_refused_unless_told_what_to_do(tmp_path: Path, form: str) -> None:
    path = tmp_path / "rows"
    fill(path, form, [row(0)])
    before = path.read_bytes()
    with pytest.raises(UsageError, match="exists already") as caught:
        ResultFile.open(path, format=form)
    assert "--resume" in caught.value.hint
    assert "--overwrite" in caught.value.hint
    with pytest.raises(UsageError, match="exclude each other"):
        ResultFile.open(path, format=form, resume=True, overwrite=True)
    assert path.read_bytes() == before
    fill(path, form, [row(1)], overwrite=True)
    assert keys_in(path, form) == [key(row(1))]


@FORMATS
def test_a_run_that_fails_before_its_first_row_has_changed_nothing(
    tmp_path: Path, form: str
) -> None:
    def fail(path: Path, **how: bool) -> None:
        with pytest.raises(KeyboardInterrupt), ResultFile.open(path, format=form, **how):
            raise KeyboardInterrupt

    fail(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    fill(tmp_path / "rows", form, [row(0)])
    fail(tmp_path / "rows", overwrite=True)
    fail(tmp_path / "rows", resume=True)
    assert keys_in(tmp_path / "rows", form) == [key(row(0))]
    fill(tmp_path / "rows", form, [], overwrite=True)  # one that ends well with no rows has none
    assert keys_in(tmp_path / "rows", form) == []


FOREIGN = [
    b"hello",
    b"hello\n",
    b"\n",
    b"[1]\n",
    b"\0" * 100,
    b'{"video": "a.mp4", "question": "?"}\n',
    record.json_line(answer_record().to_dict()).encode() + b"\n",
    record.json_line({**row(0), "schema_version": 3}).encode() + b"\n",
    b"video,question\r\na.mp4,?\r\n",
]


@FORMATS
@pytest.mark.parametrize("content", FOREIGN, ids=range(len(FOREIGN)))
def test_a_file_of_something_else_is_refused_and_kept(
    tmp_path: Path, form: str, content: bytes
) -> None:
    path = tmp_path / "rows"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"rows: is no (jsonl|csv) file of rows"):
        ResultFile.open(path, format=form, resume=True)
    assert path.read_bytes() == content


@FORMATS
def test_the_other_format_and_a_damaged_midst_are_refused(tmp_path: Path, form: str) -> None:
    path, other = tmp_path / "rows", "csv" if form == "jsonl" else "jsonl"
    fill(path, other, [row(0), row(1)])
    with pytest.raises(UsageError, match="is no"):
        ResultFile.open(path, format=form, resume=True)
    path.unlink()
    fill(path, form, [row(0), row(3), row(4)])
    whole = path.read_bytes()
    line = 2 if form == "jsonl" else 3
    for good, bad in ((key(row(3)).encode(), b"x"), (b"clip 3.mp4", b'"')):
        content = whole.replace(good, bad)
        path.write_bytes(content)
        with pytest.raises(UsageError, match=f"line {line}: is no row"):
            ResultFile.open(path, format=form, resume=True)
        assert path.read_bytes() == content


def test_places_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such folder"):
        ResultFile.open(tmp_path / "nowhere/rows")
    with pytest.raises(UsageError, match="is a folder"):
        ResultFile.open(tmp_path)
    with pytest.raises(AdatpError, match="cannot be written"):
        ResultFile.open("/proc/rows")


# Failed rows


@FORMATS
def test_failed_rows_are_taken_out_on_demand(tmp_path: Path, form: str) -> None:
    path, link = tmp_path / "rows", tmp_path / "link"
    fill(path, form, [row(number, ok=number % 2 == 0) for number in range(6)])
    path.chmod(0o640)
    link.symlink_to(path)
    (tmp_path / ".rows.rewriting").write_text("left by a killed run")
    with ResultFile.open(link, format=form, resume=True) as file:
        file.forget_failed([key(row(0)), key(row(1)), key(row(5)), "unknown"])
        kept = [key(row(number)) for number in (0, 2, 3, 4)]
        assert keys_in(path, form) == kept
        assert list(file.done) == kept
        file.write(row(5))
    assert keys_in(path, form) == [*kept, key(row(5))]
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(item.name for item in tmp_path.iterdir()) == ["link", "rows"]


# Merging


@FORMATS
def test_shards_are_merged_by_the_documented_command(tmp_path: Path, form: str) -> None:
    fill(tmp_path / "part-1", form, [row(2), row(1)])
    fill(tmp_path / "part-2", form, [row(5), row(0)])
    command = "awk 'NR == 1 || FNR > 1' part-*" if form == "csv" else "cat part-*"
    subprocess.run(f"{command} > all", shell=True, cwd=tmp_path, check=True)  # noqa: S602
    rows = [row(number) for number in (2, 1, 5, 0)]
    assert keys_in(tmp_path / "all", form) == [key(item) for item in rows]
    fill(tmp_path / "all", form, [*rows, row(3)], resume=True)
    assert keys_in(tmp_path / "all", form) == [key(item) for item in [*rows, row(3)]]


def test_a_csv_file_begins_with_the_mark_that_spreadsheets_need_and_is_resumed_without_one_too(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rows.csv"
    fill(path, "csv", [row(0)])
    assert path.read_bytes().startswith(b"\xef\xbb\xbfok,video,")
    path.write_bytes(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))  # as it was once written
    fill(path, "csv", [row(1)], resume=True)
    assert keys_in(path, "csv") == [key(row(0)), key(row(1))]
    assert path.read_bytes().startswith(b"ok,video,")
