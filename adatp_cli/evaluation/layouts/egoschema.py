"""EgoSchema: the 500 questions of the subset whose answers are public."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from adatp_cli.errors import UsageError
from adatp_cli.evaluation import scoring
from adatp_cli.evaluation.annotations import Row, read_json, read_rows
from adatp_cli.evaluation.clips import FileClip, find_clip
from adatp_cli.evaluation.layouts import common
from adatp_cli.evaluation.questions import Dataset, Item, Scoring
from adatp_cli.text import plural

TITLE = "EgoSchema"
_TABLE_COLUMNS = ("question_idx", "question", "video_idx", "option", "answer")
_OWN_COLUMNS = ("q_uid", "question", *(f"option {number}" for number in range(5)))
_OWN = "questions.json"
_PLACES = (_OWN, "Subset/*.parquet", "*.parquet", "egoschema.json*")
_ANSWERS = "subset_answers.json"
_VIDEOS = ("videos", "good_clips_git", "")


def read(folder: Path, annotations: Path | None) -> Dataset:
    """The dataset in a folder with the videos and `questions.json` or the subset's table.

    Beside `questions.json` stands `subset_answers.json`; what it does not answer is not asked.

    Raises
    ------
    UsageError, ModelError
        The files are not there or do not fit.
    """
    common.check_folder(folder)
    path = common.find_annotations(folder, annotations, _PLACES, TITLE)
    notes: tuple[str, ...] = ()
    if path.name == _OWN:
        rows = read_rows(path, _OWN_COLUMNS, TITLE)
        items = list(_own_items(folder, path, rows))
        if len(items) < len(rows):
            unasked = len(rows) - len(items)
            notes = (f"not asked: {plural(unasked, 'question')} without a public answer",)
    else:
        items = list(_table_items(folder, path))
    if not items:
        raise UsageError(
            f"{common.place(path)}: none of its questions has an answer in {_ANSWERS}",
            "do the two files belong together?",
        )
    arranged = common.arranged(items, common.place(path))
    return Dataset(
        "egoschema",
        TITLE,
        arranged,
        Scoring(scoring.choice, scoring.egoschema),
        max_new_tokens=16,
        notes=(*notes, *common.missing_note(arranged)),
    )


def _own_items(folder: Path, path: Path, rows: Sequence[Row]) -> Iterator[Item]:
    answers = _answers(path.with_name(_ANSWERS))
    for row in rows:
        uid = row.text("q_uid")
        if uid not in answers:
            continue
        options = tuple(row.text(f"option {number}") for number in range(5))
        stored = tuple(f"{letter}. {text}" for letter, text in zip("ABCDE", options, strict=True))
        answer = Row(f"{common.place(path.with_name(_ANSWERS))}, {uid}", answers)
        letter = answer.nth_letter(uid, options)
        yield _item(uid, folder, uid, row, stored, options, letter)


def _answers(path: Path) -> Mapping[str, object]:
    if not path.is_file():
        raise UsageError(
            f"{common.place(path)}: no such file; the answers stand in it",
            "put it beside questions.json",
        )
    value = read_json(path)
    if not isinstance(value, dict):
        raise UsageError(f"{common.place(path)}: expects an object of answers", "get it again")
    return value


def _table_items(folder: Path, path: Path) -> Iterator[Item]:
    for row in read_rows(path, _TABLE_COLUMNS, TITLE):
        stored = row.texts("option")
        options = tuple(_bare(option) for option in stored)
        if row.cells["answer"] in (None, "", "None"):
            raise row.error("there is no answer; those of the full set are not public")
        letter = row.nth_letter("answer", options)
        yield _item(row.text("question_idx"), folder, row.text("video_idx"), row, stored, options,
                    letter)  # fmt: skip


def _item(
    uid: str,
    folder: Path,
    video: str,
    row: Row,
    stored: tuple[str, ...],
    options: tuple[str, ...],
    answer: str,
) -> Item:
    roots = tuple(folder / name for name in _VIDEOS)
    shown = "\n".join((row.text("question"), *stored))
    return Item(
        id=uid,
        clip=FileClip(find_clip(roots, video, row)),
        prompt=f"{shown}\n{common.LETTER_CLOSING}",
        answer=answer,
        options=options,
    )


def _bare(option: str) -> str:
    return option[2:].strip() if option[1:2] == "." else option
