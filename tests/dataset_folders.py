"""Small folders in each benchmark's layout, with an `x` in the place of every clip."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Rows = list[dict[str, Any]]


def put(path: Path, text: str = "x") -> Path:
    """Write a file, and the folders above it."""
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
