"""`adatp batch` as its users see it: rows, exit codes, resuming, interrupts."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.json
import pytest

from adatp_cli.record import schema_text
from adatp_cli.video.isolated import IsolatedReader
from tests.conftest import Run

VALIDATOR = jsonschema.Draft202012Validator(json.loads(schema_text()))
FEW = ("-n", "4", "--max-new-tokens", "3", "--dtype", "float32")


@pytest.fixture
def folder(clip: Path, tmp_path: Path) -> Path:
    """Three good clips, two that are none, and what is no clip at all."""
    clips = tmp_path / "clips"
    (clips / "deeper down").mkdir(parents=True)
    for name in ("a.mp4", "deeper down/b c.mp4", "-dash.mp4"):
        shutil.copy(clip, clips / name)
    (clips / "cut.mp4").write_bytes(clip.read_bytes()[:700])
    (clips / "empty.mkv").write_bytes(b"")
    (clips / "notes.txt").write_text("no clip")
    (clips / ".hidden.mp4").write_bytes(clip.read_bytes())
    (clips / "loading.mp4.part").write_bytes(b"x")
    return clips


GOOD = {"a.mp4", "deeper down/b c.mp4", "-dash.mp4"}


def names(rows: list[dict[str, Any]], folder: Path, *, ok: bool) -> set[str]:
    return {str(Path(row["video"]).relative_to(folder)) for row in rows if row["ok"] is ok}


def rows_of(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_odd_clips_are_answered_and_what_they_lost_is_told(adatp: Run, checkpoint: Path) -> None:
    known = {
        "av1_video.mkv": ("av1", 125, 0),
        "corrupted.mp4": ("h264", 50, 1),
        "flipping_a_pancake.mkv": ("h264", 310, 0),
        "h264_10bits.mp4": ("h264", 30, 0),
        "h265_video.mp4": ("hevc", 10, 0),
        "unordered.mov": ("h264", 4, 0),
        "video_90.mov": ("h264", 3, 0),
    }
    data = Path(__file__).parent / "data"
    listed = "".join(f"{data / name}\n" for name in known).encode()
    run = adatp("batch", "-", "-q", "What?", "-m", checkpoint, *FEW, stdin=listed)
    assert run.code == 0, run.err
    facts = {
        Path(record["video"]).name: (
            record["video_info"]["codec"],
            record["video_info"]["frames_total"],
            record["video_info"]["frames_lost"],
        )
        for record in run.records
    }
    assert f"{data / 'corrupted.mp4'}: " in run.err
    assert "1 of 50 frames could not be decoded" in run.err
    assert "1 clip is damaged" in run.err
    assert "answers were cut; --max-new-tokens raises the limit" in run.err
    assert facts == known


def test_a_folder_gives_a_row_for_every_clip_and_question(
    adatp: Run, checkpoint: Path, folder: Path
) -> None:
    run = adatp("batch", folder, "-q", "What?", "-q", "Where?", "-m", checkpoint, *FEW)
    assert run.code == 6, run.err
    assert len(run.records) == 10
    for record in run.records:
        VALIDATOR.validate(record)
    assert names(run.records, folder, ok=True) == GOOD
    assert names(run.records, folder, ok=False) == {"cut.mp4", "empty.mkv"}
    kinds = {Path(r["video"]).name: r["error"]["kind"] for r in run.records if not r["ok"]}
    assert kinds == {"cut.mp4": "truncated", "empty.mkv": "empty"}
    failed = next(record for record in run.records if not record["ok"])
    assert failed["model"]["name"] == str(checkpoint)
    assert failed["profile"]["name"] == "adatp"
    assert "10 questions about 5 clips: 6 answered, 4 failed" in run.err
    for name, why in (("cut.mp4", "cut short"), ("empty.mkv", "empty")):
        assert re.search(f"^ *{re.escape(str(folder / name))}: .*{why}", run.err, re.MULTILINE)
    assert "with -o FILE, --resume --retry-failed asks the 4 that failed again" in run.err
    assert "2 truncated" in run.err
    assert ".hidden.mp4" in run.err
    assert "loading.mp4.part" in run.err
    assert "Traceback" not in run.err


def test_a_row_is_what_ask_says(adatp: Run, checkpoint: Path, clip: Path) -> None:
    (asked,) = adatp("ask", clip, "What?", "-m", checkpoint, *FEW, "--json").records
    (row,) = adatp("batch", clip, "-q", "What?", "-m", checkpoint, *FEW).records
    for changing in ("seconds", "peak_memory_bytes", "batch"):
        asked.pop(changing, None)
        row.pop(changing)
    assert row == asked


def test_several_questions_decode_and_encode_a_clip_once(
    adatp: Run, checkpoint: Path, clip: Path
) -> None:
    run = adatp("batch", clip, "-q", "What?", "-q", "Where?", "-m", checkpoint, *FEW)
    first, second = (record["seconds"] for record in run.records)
    assert (first["decode"], first["vision"]) == (second["decode"], second["vision"])


def test_quiet_and_exit_0_when_all_are_answered(adatp: Run, checkpoint: Path, clip: Path) -> None:
    run = adatp("batch", clip, "-q", "What?", "-m", checkpoint, *FEW, "--quiet")
    assert (run.code, run.err) == (0, "")
    assert len(run.records) == 1


def test_a_list_on_stdin_by_lines_and_by_nul(
    adatp: Run, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "new\nline 'quoted' \"döner\".mp4"
    shutil.copy(clip, odd)
    given = ("-q", "What?", "-m", checkpoint, *FEW)
    lines = adatp("batch", "-", *given, stdin=f"{clip}\n\nnone.mp4\n".encode())
    assert [record["ok"] for record in lines.records] == [True, False]
    assert lines.records[1]["error"]["kind"] == "missing"
    nul = adatp("batch", "-", "-0", *given, stdin=f"{odd}\0{clip}\0".encode())
    assert nul.code == 0, nul.err
    assert [record["video"] for record in nul.records] == [str(odd), str(clip)]


def test_a_manifest_has_questions_of_its_own(
    adatp: Run, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    shutil.copy(clip, tmp_path / "x.mp4")
    manifest = tmp_path / "list.jsonl"
    manifest.write_text(
        '{"video": "x.mp4", "question": "What?"}\n{"video": "x.mp4", "question": "Where?"}\n'
    )
    run = adatp("batch", manifest, "-m", checkpoint, *FEW)
    assert run.code == 0, run.err
    assert [record["question"] for record in run.records] == ["What?", "Where?"]
    manifest.write_text('{"video": "x.mp4"\n')
    assert adatp("batch", manifest, "-m", checkpoint, *FEW).code == 2


def test_questions_from_a_file(adatp: Run, checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("# a comment\nWhat?\n\nWhere?\n")
    run = adatp("batch", clip, "--questions", tmp_path / "q.txt", "-m", checkpoint, *FEW)
    assert [record["question"] for record in run.records] == ["What?", "Where?"]


def test_a_question_that_is_too_long_fails_alone(adatp: Run, checkpoint: Path, clip: Path) -> None:
    endless = "word " * 40_000
    run = adatp("batch", clip, "-q", endless, "-q", "What?", "-m", checkpoint, *FEW)
    assert run.code == 6
    assert [record["ok"] for record in run.records] == [False, True]
    assert run.records[0]["error"]["kind"] == "usage"


def test_an_output_file_is_resumed_or_replaced_but_never_lost(
    adatp: Run, checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    given = ("batch", folder, "-q", "What?", "-m", checkpoint, *FEW, "-o", out)
    assert adatp(*given).code == 6
    before = out.read_bytes()
    refused = adatp(*given)
    assert refused.code == 2
    assert "--resume" in refused.error
    assert out.read_bytes() == before
    again = adatp(*given, "--resume")
    assert again.code == 6  # two rows of the file are failures
    assert "5 had rows before, 2 of them failed" in again.err
    assert f"the rows are in {out}; --resume --retry-failed asks the 2 that" in again.err
    assert out.read_bytes() == before
    lines = before.splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:2]) + lines[2][:40])  # as if killed in the third row
    assert adatp(*given, "--resume").code == 6
    assert sorted(row["batch"]["key"] for row in rows_of(out)) == sorted(
        json.loads(line)["batch"]["key"] for line in lines
    )
    assert adatp(*given, "--overwrite").code == 6
    assert len(rows_of(out)) == 5


def test_failed_rows_are_asked_again_on_request(
    adatp: Run, checkpoint: Path, folder: Path, tmp_path: Path, clip: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    given = ("batch", folder, "-q", "What?", "-m", checkpoint, *FEW, "-o", out)
    adatp(*given)
    shutil.copy(clip, folder / "cut.mp4")
    shutil.copy(clip, folder / "empty.mkv")
    run = adatp(*given, "--resume", "--retry-failed")
    mended = names(rows_of(out), folder, ok=True)
    assert mended >= {"cut.mp4", "empty.mkv"}
    assert run.code == 0, run.err


def test_another_profile_or_question_is_not_done(
    adatp: Run, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    given = ("batch", clip, "-m", checkpoint, *FEW, "-o", out)
    adatp(*given, "-q", "What?")
    adatp(*given, "-q", "What?", "--resume")
    assert len(rows_of(out)) == 1
    adatp(*given, "-q", "What?", "--resume", "-p", "vanilla")
    adatp(*given, "-q", "Where?", "--resume")
    adatp(*given, "-q", "What?", "--resume", "-n", "3")
    assert len(rows_of(out)) == 4


def test_shards_cover_everything_once(adatp: Run, checkpoint: Path, folder: Path) -> None:
    seen: list[str] = []
    for part in ("1/3", "2/3", "3/3"):
        run = adatp("batch", folder, "-q", "What?", "-m", checkpoint, *FEW, "--shard", part)
        assert run.code in (0, 6), run.err
        seen += [record["video"] for record in run.records]
    assert len(seen) == len(set(seen)) == 5


def test_csv_for_spreadsheets(adatp: Run, checkpoint: Path, folder: Path) -> None:
    run = adatp("batch", folder, "-q", 'Say "x", y', "-m", checkpoint, *FEW,
                "--output-format", "csv")  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(run.out)))
    assert len(rows) == 5
    assert {row["question"] for row in rows} == {'Say "x", y'}
    assert {row["error_kind"] for row in rows} == {"", "truncated", "empty"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--resume",), "-o FILE"),
        (("-o", "x.jsonl", "--retry-failed"), "--resume"),
        (("--trace", "x.npz"), "adatp ask"),
        (("--shard", "4/3"), "shard"),
        (("--shard", "x"), "shard"),
        (("-q", " "), "blank"),
        (("-o", "nowhere/x.jsonl"), "nowhere"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_model_loads(
    adatp: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    run = adatp("batch", clip, "-q", "What?", "-m", "no/model", *arguments)
    assert run.code == 2
    assert said in run.error


def test_the_rows_never_replace_the_manifest(adatp: Run, tmp_path: Path) -> None:
    manifest = tmp_path / "list.jsonl"
    manifest.write_text('{"video": "x.mp4", "question": "What?"}\n')
    run = adatp("batch", manifest, "-m", "tiny", "-o", manifest, "--overwrite")
    assert run.code == 2
    assert "is read by this run" in run.error
    assert manifest.read_text().startswith('{"video"')


def test_no_question_and_no_clip(adatp: Run, clip: Path, tmp_path: Path) -> None:
    assert adatp("batch", clip, "-m", "tiny").code == 2
    empty = adatp("batch", tmp_path, "-q", "What?", "-m", "tiny")
    assert empty.code == 2
    assert str(tmp_path) in empty.error


def test_ctrl_c_finishes_the_row_and_the_rest_is_resumed(
    adatp: Run, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    clips = tmp_path / "many"
    clips.mkdir()
    for number in range(30):
        shutil.copy(clip, clips / f"{number:02}.mp4")
    out = tmp_path / "rows.jsonl"
    command = [
        sys.executable, "-m", "adatp_cli", "batch", str(clips), "-q", "What?", "-o", str(out),
        "-m", str(checkpoint), *FEW,
    ]  # fmt: skip
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (out.exists() and out.stat().st_size):
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate()
    assert child.returncode == 130, err
    done = len(rows_of(out))
    assert 0 < done < 30
    assert "finishing this row" in err
    assert f"--resume asks the {30 - done} questions that are left" in err
    assert "Traceback" not in err
    finished = adatp(*command[3:], "--resume")
    assert finished.code == 0, finished.err
    assert len({row["batch"]["key"] for row in rows_of(out)}) == len(rows_of(out)) == 30


def test_a_reader_that_leaves_ends_it_quietly(
    checkpoint: Path, folder: Path, program: tuple[str, ...]
) -> None:
    command = [*program, "batch", str(folder), "-q", "What?", "-m", str(checkpoint), *FEW]
    read, write = os.pipe()
    child = subprocess.Popen(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    os.close(read)
    _, err = child.communicate()
    assert child.returncode == 0, err
    assert "Traceback" not in err
    assert "Broken pipe" not in err


def test_where_nothing_decodes_the_batch_ends_at_once(
    adatp: Run, checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = (None, (sys.executable, "-c", "raise SystemExit(3)"))
    monkeypatch.setattr(IsolatedReader.__init__, "__defaults__", dead)
    run = adatp("batch", folder, "-q", "what?", "-m", checkpoint)
    assert (run.code, run.out) == (4, "")
    assert "the process that decodes does not start (exit code 3)" in run.error


def test_a_clip_that_takes_too_long_is_a_row(
    adatp: Run, checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Path(__file__).parent / "decoding_workers.py"
    slow = (None, (sys.executable, "-P", str(worker), "crawl", "always"))
    monkeypatch.setattr(IsolatedReader.__init__, "__defaults__", slow)
    run = adatp("batch", folder, "-q", "what?", "-m", checkpoint, "--clip-timeout", "0.5")
    assert run.code == 6
    assert {row["error"]["kind"] for row in run.records} == {"timeout", "empty"}
    assert "took longer than 0.5 s" in run.records[0]["error"]["message"]
    assert "--clip-timeout" in run.records[0]["error"]["hint"]
    assert adatp("batch", folder, "-q", "?", "--clip-timeout", "-1").code == 2


def test_every_row_has_every_key_whatever_command_wrote_it(
    adatp: Run, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.mp4").write_text("no clip")
    listed = f"{clip}\n{tmp_path / 'bad.mp4'}\n".encode()
    given = ("-m", checkpoint, *FEW)
    (tmp_path / "mine.jsonl").write_text(
        "".join(
            json.dumps({"video": str(path), "question": "What?", "answer": "x"}) + "\n"
            for path in (clip, tmp_path / "bad.mp4")
        )
    )
    rows = [
        *adatp("batch", "-", "-q", "What?", "-q", "Who?", *given, stdin=listed).records,
        *adatp("ask", clip, "What?", *given, "-p", "vanilla", "--json").records,
        *adatp("ask", tmp_path / "bad.mp4", "What?", *given, "--json").records,
        *adatp("eval", tmp_path / "mine.jsonl", *given, "--json").records,
    ]
    assert [row["ok"] for row in rows] == [*[True] * 2, *[False] * 2, True, False, *[True] * 2,
                                           *[False] * 2]  # fmt: skip
    for row in rows:
        VALIDATOR.validate(row)
    for part in ("", "error", "model", "profile", "video_info", "tokens", "batch", "eval"):
        objects = [row[part] for row in rows if row[part] is not None] if part else rows
        assert len({tuple(item) for item in objects}) == 1, part
    lines = "".join(json.dumps(row) + "\n" for row in rows[:4])
    table = pyarrow.json.read_json(io.BytesIO(lines.encode()))
    assert table.column_names == list(rows[0])
    assert table.column("error").to_pylist()[3] == rows[3]["error"]


def test_text_that_is_no_unicode_gives_rows_that_other_readers_take(
    adatp: Run, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "list.jsonl"
    manifest.write_text(
        '{"video": "\\ud800.mp4", "question": "q"}\n'
        f'{{"video": {json.dumps(str(clip))}, "question": "\\ud800 q"}}\n'
    )
    run = adatp("batch", manifest, "-m", checkpoint, *FEW)
    assert len(run.records) == 2, run.err
    assert run.records[1]["question"] == "\\ud800 q"
    table = pyarrow.json.read_json(io.BytesIO(run.out.encode()))
    assert table.column("question").to_pylist() == ["q", "\\ud800 q"]
