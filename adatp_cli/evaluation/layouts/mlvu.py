"""MLVU's multiple-choice part (dev): seven tasks, in its own layout or as lmms-eval's table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from adatp_cli.evaluation import scoring
from adatp_cli.evaluation.annotations import Row, read_rows
from adatp_cli.evaluation.clips import FileClip, find_clip
from adatp_cli.evaluation.layouts import common
from adatp_cli.evaluation.questions import Dataset, Item, Scoring, letters
from adatp_cli.text import plural

TITLE = "MLVU"
_OWN_COLUMNS = ("video", "question", "candidates", "answer", "question_type")
_TABLE_COLUMNS = ("video_name", "question", "candidates", "answer", "task_type")
# Files 8 and 9 ask for free text.
_OWN_FILES = "[1-7]_*.json"
_TABLES = ("mlvu_dev*.parquet", "data/*.parquet", "*.parquet", "mlvu_dev.json*")
_RENAMED = {"findNeedle": "needle"}
_CLOSING = "\nOnly give the best option.\nBest option: ("
TASKS = ("plotQA", "needle", "ego", "count", "order", "anomaly_reco", "topic_reasoning")


def read(folder: Path, annotations: Path | None) -> Dataset:
    """The dataset in a folder with `json/` and `video/`, or with a table and the videos in it.

    Parameters
    ----------
    annotations
        The folder or one of the files of MLVU's own layout, or lmms-eval's table.

    Raises
    ------
    UsageError, ModelError
        The files are not there or do not fit.
    """
    common.check_folder(folder)
    own = _own_files(folder, annotations)
    if own:
        items = [item for path in own for item in _own_items(folder, path)]
        source = common.place(own[0].parent)
    else:
        path = common.find_annotations(folder, annotations, ("json/" + _OWN_FILES, *_TABLES), TITLE)
        items = list(_table_items(folder, path))
        source = common.place(path)
    arranged = common.arranged(items, source)
    notes = list(common.missing_note(arranged))
    unanswerable = sum(not item.answer for item in arranged)
    if unanswerable:
        notes.append(
            f"{plural(unanswerable, 'question has', 'questions have')} an answer that is none of "
            "the candidates: wrong, whatever is answered"
        )
    there = {item.kind for item in arranged}
    if not there >= set(TASKS):
        absent = ", ".join(task for task in TASKS if task not in there)
        notes.append(f"not all seven tasks are there; absent: {absent}")
    return Dataset(
        "mlvu",
        TITLE,
        arranged,
        Scoring(scoring.choice, scoring.extract),
        average="kinds",
        average_title="M-Avg",
        max_new_tokens=16,
        kind_title="task",
        notes=tuple(notes),
    )


def _own_files(folder: Path, given: Path | None) -> list[Path]:
    if given is not None and given.is_file():
        return [given] if given.match(_OWN_FILES) else []
    places = (given,) if given is not None else (folder / "json", folder / "MLVU" / "json")
    return next((found for place in places if (found := sorted(place.glob(_OWN_FILES)))), [])


def _own_items(folder: Path, path: Path) -> Iterator[Item]:
    roots = tuple(
        top / "video" / part
        for top in (folder, folder / "MLVU", path.parent.parent)
        for part in (path.stem, "")
    )
    for number, row in enumerate(read_rows(path, _OWN_COLUMNS, TITLE)):
        options = row.texts("candidates")
        answer = row.text("answer")
        shown = common.lettered(options, "({}) {}")
        yield Item(
            id=f"{path.stem}/{number}",
            clip=FileClip(find_clip((*roots, folder), row.text("video"), row)),
            prompt=f"{row.text('question')}\n{shown}{_CLOSING}",
            answer=letters(26)[options.index(answer)] if answer in options else "",
            options=options,
            kind=_kind(row, "question_type"),
        )


def _table_items(folder: Path, path: Path) -> Iterator[Item]:
    roots = (folder, folder / "video", folder / "videos")
    for number, row in enumerate(read_rows(path, _TABLE_COLUMNS, TITLE)):
        options = row.texts("candidates")
        yield Item(
            id=f"{_kind(row, 'task_type')}/{number}",
            clip=FileClip(find_clip(roots, row.text("video_name"), row)),
            prompt=f"{row.text('question')}{_CLOSING}",  # the options stand in the question
            answer=row.letter("answer", options),
            options=options,
            kind=_kind(row, "task_type"),
        )


def _kind(row: Row, column: str) -> str:
    kind = row.text(column)
    return _RENAMED.get(kind, kind)
