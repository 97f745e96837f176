"""Datasets that cannot be asked: one clear line each, whatever stands in their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adatp_cli.errors import AdatpError, UsageError
from adatp_cli.evaluation.datasets import BENCHMARKS, open_dataset
from tests.dataset_folders import (
    BUILD,
    LVB,
    MVBENCH,
    VIDEOMME,
    egoschema,
    longvideobench,
    mvbench_whole,
    nextqa,
    put,
    put_json,
    videomme,
)


def one_clear_line(name: str, folder: Path, path: Path | None, said: str) -> None:
    with pytest.raises(AdatpError, match=said) as caught:
        open_dataset(name, folder, path)
    assert isinstance(caught.value, UsageError)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


def test_a_folder_that_is_none_and_annotations_that_are_not_there(tmp_path: Path) -> None:
    for name in BENCHMARKS:
        with pytest.raises(UsageError, match="no such folder"):
            open_dataset(name, tmp_path / "none", None)
        with pytest.raises(UsageError, match="there is no annotation file of"):
            open_dataset(name, tmp_path, None)
        with pytest.raises(UsageError, match="is read from a folder") as caught:
            open_dataset(name, None, None)
        assert "--data" in caught.value.hint
    for name in ("videomme", "nextqa", "longvideobench", "egoschema"):
        with pytest.raises(UsageError, match="no such annotation file"):
            open_dataset(name, tmp_path, tmp_path / "gone.csv")
    with pytest.raises(UsageError, match="no dataset"):
        open_dataset("videome", tmp_path, None)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_no_clip_at_all_is_an_error(name: str, tmp_path: Path) -> None:
    BUILD[name](tmp_path)
    for path in [*tmp_path.rglob("*.mp4"), *tmp_path.rglob("*.jpg")]:
        path.unlink()
        if path.suffix == ".jpg":
            path.parent.rmdir()
    with pytest.raises(UsageError, match=r"no clip of "):
        open_dataset(name, tmp_path, None)


HOSTILE = [
    ("", "not JSON"),
    ("{", "not JSON"),
    ("{}", "expects a list"),
    ("[]", "holds no questions"),
    ("[1]", "expects an object"),
    ('[{"a": 1}]', "there is no column"),
    ("[" * 100_000, "not JSON"),
    (b"\xff\xfd", "UTF-8"),
]


@pytest.mark.parametrize(("text", "said"), HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("name", BENCHMARKS)
def test_hostile_annotation_files(name: str, text: str | bytes, said: str, tmp_path: Path) -> None:
    BUILD[name](tmp_path)
    given = {"mvbench": "action_sequence.json", "mlvu": "2_needle.json"}.get(name, "given.json")
    path = tmp_path / given
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    one_clear_line(name, tmp_path, path, said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answer": "E"}, "'E' is none of A, B, C, D"),
        ({"answer": "AB"}, "none of A, B, C, D"),
        ({"answer": None}, "answer expects text"),
        ({"options": []}, "options expects a list"),
        ({"options": "A. One"}, "options expects a list"),
        ({"options": ["A. One", None]}, "options expects texts"),
        ({"options": ["x"] * 27}, "1 to 26"),
        ({"question": " "}, "question expects text"),
        ({"videoID": "../../etc/passwd"}, "leads out of the folder"),
        ({"videoID": "/etc/passwd"}, "leads out of the folder"),
        ({"videoID": "a\0b"}, "leads out of the folder"),
        ({"question_id": "001-2"}, "two questions have the id '001-2'"),
        ({"question_id": ["x"]}, "question_id expects text"),
    ],
)
def test_hostile_cells(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    videomme(tmp_path)
    path = put_json(tmp_path / "given.json", [VIDEOMME[0] | changes, VIDEOMME[1]])
    one_clear_line("videomme", tmp_path, path, said)


def test_hostile_cells_elsewhere(tmp_path: Path) -> None:
    longvideobench(tmp_path)
    for changes, said in (
        ({"correct_choice": 3}, "3 is none of 0 to 2"),
        ({"correct_choice": -1}, "-1 is none of 0 to 2"),
        ({"correct_choice": True}, "whole number"),
    ):
        path = put_json(tmp_path / "given.json", [LVB[0] | changes])
        one_clear_line("longvideobench", tmp_path, path, said)
    mvbench_whole(tmp_path)
    for changes, said in (
        ({"start": 5.0}, "not behind start"),
        ({"start": "soon"}, "expects seconds"),
        ({"end": float("nan")}, "expects seconds"),
        ({"end": -1}, "expects seconds"),
    ):
        path = put_json(tmp_path / "action_sequence.json", [MVBENCH[0] | changes])
        one_clear_line("mvbench", tmp_path, path, said)
    egoschema(tmp_path)
    for answers, said in (
        ({"u1": 5}, "5 is none of 0 to 4"),
        ({"u1": "x"}, "whole number"),
        ({"u3": 1}, "none of its questions has an answer"),
        ([], "an object of answers"),
    ):
        put_json(tmp_path / "subset_answers.json", answers)
        one_clear_line("egoschema", tmp_path, None, said)
    (tmp_path / "subset_answers.json").unlink()
    one_clear_line("egoschema", tmp_path, None, "subset_answers.json")
    nextqa(tmp_path)
    put(tmp_path / "short.csv", "video,question\n1\n")
    one_clear_line("nextqa", tmp_path, tmp_path / "short.csv", "line 2: has not as many cells")
    put_json(tmp_path / "map_vid_vidorID.json", {"2909445186": "../out"})
    one_clear_line("nextqa", tmp_path, None, "leads out of the folder")
    one_clear_line("nextqa", tmp_path, put(tmp_path / "x.txt"), "no annotation file by its name")


def test_damaged_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = videomme(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    one_clear_line("videomme", tmp_path, None, "is not parquet")


def test_a_file_of_another_benchmark_is_told(tmp_path: Path) -> None:
    videomme(tmp_path)
    with pytest.raises(UsageError, match="there is no column 'videoID', found 'id'") as caught:
        open_dataset("videomme", tmp_path, put_json(tmp_path / "lvb.json", LVB))
    assert "Video-MME" in caught.value.hint
