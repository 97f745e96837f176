"""Video-MME without subtitles: 2,700 questions on 900 videos."""

from __future__ import annotations

from pathlib import Path

from adatp_cli.evaluation import scoring
from adatp_cli.evaluation.annotations import read_rows
from adatp_cli.evaluation.clips import FileClip, find_clip
from adatp_cli.evaluation.layouts import common
from adatp_cli.evaluation.questions import Dataset, Item, Scoring

TITLE = "Video-MME"
_COLUMNS = ("videoID", "question_id", "question", "options", "answer", "task_type")
_PLACES = ("videomme/test-*.parquet", "test-*.parquet", "*.parquet", "videomme.json*", "*.csv")
# The harness speaks of subtitles whether there are any or not.
_PREAMBLE = (
    "Select the best answer to the following multiple-choice question based on the video and the "
    "subtitles. Respond with only the letter (A, B, C, or D) of the correct option."
)


def read(folder: Path, annotations: Path | None) -> Dataset:
    """The dataset in a folder with `data/`, `video/` or `videos/` and the annotation file.

    Raises
    ------
    UsageError, ModelError
        The files are not there or do not fit.
    """
    common.check_folder(folder)
    path = common.find_annotations(folder, annotations, _PLACES, TITLE)
    roots = tuple(folder / name for name in ("data", "video", "videos", ""))
    items = []
    for row in read_rows(path, _COLUMNS, TITLE):
        stored = row.texts("options")
        options = tuple(_bare(option) for option in stored)
        question = "\n".join((_PREAMBLE, row.text("question"), *stored))
        items.append(
            Item(
                id=row.text("question_id"),
                clip=FileClip(find_clip(roots, row.text("videoID"), row)),
                prompt=f"{question}\n\n{common.LETTER_CLOSING}",
                answer=row.letter("answer", options),
                options=options,
                kind=row.text("task_type"),
                groups={
                    title: row.maybe(column)
                    for title, column in (
                        ("duration", "duration"),
                        ("domain", "domain"),
                        ("sub-category", "sub_category"),
                    )
                    if row.maybe(column)
                },
            )
        )
    arranged = common.arranged(items, common.place(path))
    return Dataset(
        "videomme",
        TITLE,
        arranged,
        Scoring(scoring.choice, scoring.extract),
        max_new_tokens=16,
        kind_title="task type",
        notes=common.missing_note(arranged),
    )


def _bare(option: str) -> str:
    """An option without the letter that it is stored with: "A. Apples." """
    return option[2:].strip() if option[1:2] == "." else option
