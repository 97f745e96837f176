"""Small folders in each benchmark's layout: what is asked, in which words, about which clip."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adatp_cli.errors import AdatpError, UsageError
from adatp_cli.evaluation.clips import FileClip, FrameFolder
from adatp_cli.evaluation.items import Dataset
from adatp_cli.evaluation.layouts import LAYOUTS, mvbench, open_dataset
from adatp_cli.evaluation.layouts.shapes import read as read_shapes
from adatp_cli.tiny.clips import write_clips

Rows = list[dict[str, Any]]


def put(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def put_json(path: Path, value: object) -> Path:
    return put(path, json.dumps(value))


def put_csv(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def put_parquet(path: Path, rows: Rows) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


VIDEOMME: Rows = [
    {
        "video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Law",
        "url": "u", "videoID": name, "question_id": f"001-{number}", "task_type": "OCR Problems",
        "question": "What is it?", "options": ["A. One.", "B. Two.", "C. Three.", "D. Four."],
        "answer": "C",
    }
    for number, name in enumerate(("-abc", "-abc", "gone"), 1)
]  # fmt: skip


def videomme(folder: Path) -> Path:
    put(folder / "data" / "-abc.mp4")
    return put_parquet(folder / "videomme" / "test-00000-of-00001.parquet", VIDEOMME)


MVBENCH: Rows = [
    {"video": "v.mp4", "question": "What next?", "candidates": ["run", "sit"], "answer": "sit",
     "start": 1.5, "end": 4.0},
]  # fmt: skip


def mvbench_whole(folder: Path) -> None:
    put(folder / "video" / "star" / "Charades_v1_480" / "v.mp4")
    put_json(folder / "json" / "action_sequence.json", MVBENCH)
    put(folder / "video" / "tvqa" / "frames_fps3_hq" / "house_s01" / "00001.jpg")
    put_json(folder / "json" / "episodic_reasoning.json", [MVBENCH[0] | {"video": "house_s01"}])
    put(folder / "video" / "data0613" / "clevrer" / "video_validation" / "c.mp4")
    put_json(folder / "json" / "moving_count.json", [
        {"video": "c.mp4", "question": "How many?", "candidates": ["2", "2"], "answer": "2"},
        {"video": "c.mp4", "question": "How few?", "candidates": ["2"], "answer": "3"},
    ])  # fmt: skip


LVB: Rows = [
    {"id": "x_0", "video_id": "x", "video_path": "@x.mp4", "question": "Who?", "level": "L1",
     "question_category": "S2A", "topic_category": "t", "duration": 20.0, "duration_group": 60,
     "candidates": ["he", "she", "they"], "correct_choice": 1, "view_count": 3},
]  # fmt: skip


def longvideobench(folder: Path) -> Path:
    put(folder / "videos" / "@x.mp4")
    return put_json(folder / "lvb_val.json", LVB)


MLVU: Rows = [
    {"video": "n.mp4", "duration": 9, "question": "Which?", "candidates": ["a", "b", "c", "d"],
     "answer": "d", "question_type": "findNeedle"},
    {"video": "n.mp4", "duration": 9, "question": "Why?", "candidates": ["a", "b", "c", "d"],
     "answer": "e", "question_type": "findNeedle"},
]  # fmt: skip


def mlvu(folder: Path) -> None:
    put(folder / "MLVU" / "video" / "2_needle" / "n.mp4")
    put_json(folder / "MLVU" / "json" / "2_needle.json", MLVU)
    put_json(folder / "MLVU" / "json" / "8_sub_scene.json", [{"free": "text"}])


QUESTIONS: Rows = [
    {"q_uid": uid, "google_drive_id": "g", "question": "What does c do?",
     **{f"option {number}": f"thing {number}" for number in range(5)}}
    for uid in ("u1", "u2")
]  # fmt: skip


def egoschema(folder: Path) -> None:
    put(folder / "good_clips_git" / "u1.mp4")
    put_json(folder / "questions.json", QUESTIONS)
    put_json(folder / "subset_answers.json", {"u1": 4})


NEXTQA: Rows = [
    {"video": 2909445186, "frame_count": 9, "width": 6, "height": 4, "question": "why run ",
     "answer": 2, "qid": qid, "type": sort, **{f"a{number}": f"r{number} " for number in range(5)}}
    for qid, sort in ((3, "CW"), (4, "TP"))
]  # fmt: skip


def nextqa(folder: Path) -> Path:
    put(folder / "NExTVideo" / "0101" / "2909445186.mp4")
    put_json(folder / "map_vid_vidorID.json", {"2909445186": "0101/2909445186"})
    return put_csv(folder / "test.csv", NEXTQA)


BUILD: dict[str, Callable[[Path], object]] = {
    "videomme": videomme,
    "mvbench": mvbench_whole,
    "longvideobench": longvideobench,
    "mlvu": mlvu,
    "egoschema": egoschema,
    "nextqa": nextqa,
}


def opened(name: str, folder: Path) -> Dataset:
    BUILD[name](folder)
    return open_dataset(name, folder, None)


def path_of(dataset: Dataset, index: int = 0) -> str:
    return dataset.items[index].clip.name


def test_videomme(tmp_path: Path) -> None:
    dataset = opened("videomme", tmp_path)
    first = dataset.items[0]
    assert first.prompt == (
        "Select the best answer to the following multiple-choice question based on the video and "
        "the subtitles. Respond with only the letter (A, B, C, or D) of the correct option.\n"
        "What is it?\nA. One.\nB. Two.\nC. Three.\nD. Four.\n\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert (first.id, first.answer, first.kind) == ("001-1", "C", "OCR Problems")
    assert first.options == ("One.", "Two.", "Three.", "Four.")
    assert first.groups == {"duration": "short", "domain": "Knowledge", "sub-category": "Law"}
    assert path_of(dataset) == str(tmp_path / "data" / "-abc.mp4")
    assert path_of(dataset, 2) == str(tmp_path / "data" / "gone.mp4")
    assert dataset.notes[0].startswith("1 of 2 clips are missing, 1 of 3 questions with them")
    assert (dataset.max_new_tokens, dataset.average) == (16, "questions")


def test_mvbench_of_branch_main(tmp_path: Path) -> None:
    dataset = opened("mvbench", tmp_path)
    by_id = {item.id: item for item in dataset.items}
    first = by_id["action_sequence/0"]
    assert first.prompt == (
        "Question:What next?\nOption:\n(A) run\n(B) sit\nOnly give the best option.\n"
    )
    assert (first.answer, first.kind, first.letters) == ("B", "action_sequence", "AB")
    path = tmp_path / "video" / "star" / "Charades_v1_480" / "v.mp4"
    assert first.clip == FileClip(str(path), 1.5, 4.0)
    frames = tmp_path / "video" / "tvqa" / "frames_fps3_hq" / "house_s01"
    assert by_id["episodic_reasoning/0"].clip == FrameFolder(str(frames), 3.0, 1.5, 4.0)
    counted = by_id["moving_count/0"]
    assert "data0613" in counted.clip.name
    assert counted.answer == "A"  # of equal candidates the first
    assert by_id["moving_count/1"].answer == ""
    assert "3 of the 20 tasks are there; absent: action_prediction" in " ".join(dataset.notes)
    assert "1 questions have an answer that is none of their candidates" in " ".join(dataset.notes)
    assert (dataset.average, dataset.average_title) == ("kinds", "mean of the tasks")


def test_mvbench_of_branch_video_is_cut_already(tmp_path: Path) -> None:
    put(tmp_path / "star" / "Charades_segment" / "v.mp4")
    put_json(tmp_path / "json" / "action_sequence.json", MVBENCH)
    dataset = open_dataset("mvbench", tmp_path, None)
    path = tmp_path / "star" / "Charades_segment" / "v.mp4"
    assert dataset.items[0].clip == FileClip(str(path))
    put(tmp_path / "video" / "star" / "Charades_v1_480" / "v.mp4")
    with pytest.raises(UsageError, match="both branches"):
        open_dataset("mvbench", tmp_path, None)


def test_mvbench_has_twenty_tasks() -> None:
    assert len(mvbench.TASKS) == 20
    assert sum(task.bounds for task in mvbench.TASKS.values()) == 5


def test_longvideobench(tmp_path: Path) -> None:
    dataset = opened("longvideobench", tmp_path)
    (item,) = dataset.items
    assert item.prompt == (
        "Who?\nA. he\nB. she\nC. they\n"
        "Answer with the option's letter from the given choices directly.\n"
    )
    assert (item.answer, item.kind, item.groups) == ("B", "S2A", {"duration group": "60"})
    assert item.clip.exists()
    assert dataset.max_new_tokens == 32


def test_longvideobench_parquet_pads_its_options(tmp_path: Path) -> None:
    put(tmp_path / "videos" / "@x.mp4")
    row = {key: value for key, value in LVB[0].items() if key != "candidates"}
    padded = dict(zip((f"option{n}" for n in range(5)), ("he", "she", "they", "N/A", "N/A"),
                      strict=True))  # fmt: skip
    put_parquet(tmp_path / "validation-00000-of-00001.parquet", [row | padded])
    from_table = open_dataset("longvideobench", tmp_path, None)
    (tmp_path / "validation-00000-of-00001.parquet").unlink()
    longvideobench(tmp_path)
    assert from_table.items == open_dataset("longvideobench", tmp_path, None).items


def test_mlvu(tmp_path: Path) -> None:
    dataset = opened("mlvu", tmp_path)
    first, second = dataset.items
    assert first.prompt == (
        "Which?\n(A) a\n(B) b\n(C) c\n(D) d\nOnly give the best option.\nBest option: ("
    )
    assert (first.id, first.answer, first.kind) == ("2_needle/0", "D", "needle")
    assert first.clip.exists()
    assert second.answer == ""
    notes = " ".join(dataset.notes)
    assert "1 questions have an answer that is none of their candidates" in notes
    assert "absent: plotQA, ego, count, order, anomaly_reco, topic_reasoning" in notes
    assert dataset.average == "kinds"


def test_mlvu_as_a_table(tmp_path: Path) -> None:
    put(tmp_path / "ego_1.mp4")
    put_parquet(tmp_path / "mlvu_dev.parquet", [
        {"video_name": "ego_1.mp4", "duration": 1, "question": "Q?\n(A) a\n(B) b",
         "candidates": ["a", "b"], "answer": "B", "task_type": "ego"},
    ])  # fmt: skip
    (item,) = open_dataset("mlvu", tmp_path, None).items
    assert item.prompt == "Q?\n(A) a\n(B) b\nOnly give the best option.\nBest option: ("
    assert (item.answer, item.kind) == ("B", "ego")


def test_egoschema(tmp_path: Path) -> None:
    dataset = opened("egoschema", tmp_path)
    (item,) = dataset.items
    assert item.prompt == (
        "What does c do?\nA. thing 0\nB. thing 1\nC. thing 2\nD. thing 3\nE. thing 4\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert (item.id, item.answer) == ("u1", "E")
    assert dataset.notes == ("1 questions without a public answer are not asked",)


def test_egoschema_as_a_table(tmp_path: Path) -> None:
    put(tmp_path / "videos" / "u1.mp4")
    row = {"question_idx": "1", "question": "What does c do?", "video_idx": "u1",
           "option": [f"{letter}. thing {n}" for n, letter in enumerate("ABCDE")]}  # fmt: skip
    put_parquet(tmp_path / "Subset" / "test-00000-of-00001.parquet", [row | {"answer": "4"}])
    (item,) = open_dataset("egoschema", tmp_path, None).items
    own = tmp_path / "own"
    assert item.prompt == opened("egoschema", own).items[0].prompt
    assert (item.answer, item.options[4]) == ("E", "thing 4")
    put_parquet(tmp_path / "Subset" / "test-00000-of-00001.parquet", [row | {"answer": None}])
    with pytest.raises(UsageError, match="not public"):
        open_dataset("egoschema", tmp_path, None)


def test_nextqa(tmp_path: Path) -> None:
    dataset = opened("nextqa", tmp_path)
    first, second = dataset.items
    assert first.prompt == "why run\nA. r0\nB. r1\nC. r2\nD. r3\nE. r4"
    assert (first.id, first.answer, first.kind) == ("2909445186/3", "C", "CW")
    assert first.clip.name.endswith("0101/2909445186.mp4")
    assert (second.kind, second.groups) == ("TN", {"sort": "temporal"})
    assert dataset.max_new_tokens is None
    flat = tmp_path / "flat"
    nextqa(flat)
    (flat / "map_vid_vidorID.json").unlink()
    put(flat / "NExTVideo" / "2909445186.mp4")
    assert open_dataset("nextqa", flat, None).items[0].clip.exists()


def test_own_questions(tmp_path: Path) -> None:
    put(tmp_path / "clips" / "a.mp4")
    lines = [
        {"video": "clips/a.mp4", "question": "What?", "answer": "a cat", "kind": "what"},
        {"video": "clips/a.mp4", "question": "Which?", "answer": "two", "options": ["one", "two"]},
        {"video": "clips/a.mp4", "question": "Which?", "answer": "A", "options": ["one", "two"]},
    ]
    path = put(tmp_path / "mine.jsonl", "\n".join(json.dumps(line) for line in lines))
    dataset = open_dataset(str(path), None, None)
    free, second, third = dataset.items
    assert (free.prompt, free.answer, free.kind) == ("What?", "a cat", "what")
    assert second.prompt.startswith("Which?\nA. one\nB. two\nAnswer with")
    assert (second.answer, third.answer) == ("B", "A")
    judge = dataset.scoring.strict
    assert judge("A cat.", free).right
    assert judge("(B)", second).right
    assert not judge("two cats", second).parsed


def test_questions_of_a_clip_stand_together(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        put(tmp_path / name)
    lines = [{"video": v, "question": str(n), "answer": "x"}
             for n, v in enumerate(("a.mp4", "b.mp4", "a.mp4"))]  # fmt: skip
    path = put(tmp_path / "mine.jsonl", "\n".join(json.dumps(line) for line in lines))
    assert [item.prompt for item in open_dataset(str(path), None, None).items] == ["0", "2", "1"]


def test_shapes_are_those_that_are_written_out(tmp_path: Path) -> None:
    index = write_clips(tmp_path, 2, seed=5, questions=2)
    written = [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines()]
    drawn = read_shapes(2, 5).items
    told = [(row["question"], row["answer"], row["kind"]) for row in written]
    assert [(item.prompt, item.answer, item.kind) for item in drawn] == told
    assert read_shapes(3, 5).items[:4] == drawn
    assert read_shapes(2, 6).items != drawn


def test_a_folder_that_is_none_and_annotations_that_are_not_there(tmp_path: Path) -> None:
    for name in LAYOUTS:
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


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_clip_at_all_is_an_error(name: str, tmp_path: Path) -> None:
    BUILD[name](tmp_path)
    for path in [*tmp_path.rglob("*.mp4"), *tmp_path.rglob("*.jpg")]:
        path.unlink()
        if path.suffix == ".jpg":
            path.parent.rmdir()
    with pytest.raises(UsageError, match=r"none of the .* clips"):
        open_dataset(name, tmp_path, None)


HOSTILE = [
    ("", "not JSON"),
    ("{", "not JSON"),
    ("{}", "expects a list"),
    ("[]", "holds no questions"),
    ("[1]", "expects an object"),
    ('[{"a": 1}]', "there is no column"),
    ("[" * 100_000, "not JSON"),
    ("\xff\xfe".encode("latin-1"), "UTF-8"),
]


@pytest.mark.parametrize(("text", "said"), HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("name", LAYOUTS)
def test_hostile_annotation_files(name: str, text: str | bytes, said: str, tmp_path: Path) -> None:
    BUILD[name](tmp_path)
    given = {"mvbench": "action_sequence.json", "mlvu": "2_needle.json"}.get(name, "given.json")
    path = tmp_path / given
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    one_clear_line(name, tmp_path, path, said)


def one_clear_line(name: str, folder: Path, path: Path | None, said: str) -> None:
    with pytest.raises(AdatpError, match=said) as caught:
        open_dataset(name, folder, path)
    assert isinstance(caught.value, UsageError)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


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
