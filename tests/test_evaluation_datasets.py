"""Small folders in each benchmark's layout: what is asked, in which words, about which clip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adatp_cli.answering.tasks import FileClip
from adatp_cli.errors import UsageError
from adatp_cli.evaluation.datasets import open_dataset
from adatp_cli.evaluation.datasets import shapes as read_shapes
from adatp_cli.evaluation.datasets.benchmarks import MVBENCH_TASKS, FrameFolder
from adatp_cli.evaluation.questions import Dataset
from tests.dataset_folders import (
    BUILD,
    LVB,
    MVBENCH,
    longvideobench,
    nextqa,
    put,
    put_json,
    put_parquet,
)
from tests.tiny_case import write_clips


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
    assert dataset.notes[0].startswith("missing: 1 of 2 clips, and 1 of 3 questions with them; ")
    assert (dataset.max_new_tokens, dataset.average_title) == (16, "")


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
    assert "1 question has an answer that is none of the candidates" in " ".join(dataset.notes)
    assert dataset.average_title == "mean of the tasks"


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
    assert len(MVBENCH_TASKS) == 20
    assert sum(task.bounds for task in MVBENCH_TASKS.values()) == 5


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
    assert "1 question has an answer that is none of the candidates" in notes
    absent = "plotQA, ego, count, order, anomaly_reco, topic_reasoning"
    assert f"1 of the 7 tasks are there; absent: {absent}" in notes
    assert dataset.average_title == "M-Avg"


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
    assert dataset.notes == ("not asked: 1 question without a public answer",)


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


def test_a_table_is_read_as_a_spreadsheet_saves_it(tmp_path: Path) -> None:
    path = nextqa(tmp_path)
    items = open_dataset("nextqa", tmp_path, None).items
    text = path.read_text(encoding="utf-8").replace(",", ";")
    path.write_text(f"sep=;\n{text};;;\n", encoding="utf-16")
    assert open_dataset("nextqa", tmp_path, None).items == items


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
    judge = dataset.strict
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


def test_a_row_key_holds_of_a_clip_what_it_always_held() -> None:
    assert FileClip("b'\n.mp4").key == 'FileClip(path="b\'\\n.mp4", start_s=None, end_s=None)'
    assert FileClip("a", 1.5, 4.0).key == "FileClip(path='a', start_s=1.5, end_s=4.0)"
    pictures = FrameFolder("a", 3.0, 0.1, 1e-7)
    assert pictures.key == "FrameFolder(path='a', fps=3.0, start_s=0.1, end_s=1e-07)"
    assert read_shapes(1, 5).items[0].clip.key == "ShapesClip(seed=5, number=0)"


def test_shapes_are_those_that_are_written_out(tmp_path: Path) -> None:
    index = write_clips(tmp_path, 2, seed=5, questions=2)
    written = [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines()]
    drawn = read_shapes(2, 5).items
    told = [(row["question"], row["answer"], row["kind"]) for row in written]
    assert [(item.prompt, item.answer, item.kind) for item in drawn] == told
    assert read_shapes(3, 5).items[:4] == drawn
    assert read_shapes(2, 6).items != drawn
