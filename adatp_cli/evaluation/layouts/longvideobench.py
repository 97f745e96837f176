"""LongVideoBench's validation part without subtitles: 1,337 questions on 753 videos."""

from __future__ import annotations

from pathlib import Path

from adatp_cli.evaluation import scoring
from adatp_cli.evaluation.annotations import Row, read_rows
from adatp_cli.evaluation.clips import FileClip, find_clip
from adatp_cli.evaluation.layouts import common
from adatp_cli.evaluation.questions import Dataset, Item, Scoring

TITLE = "LongVideoBench"
_COLUMNS = ("id", "video_path", "question", "correct_choice", "question_category")
_PLACES = ("lvb_val.json*", "validation-*.parquet", "data/validation-*.parquet")
_PADDING = "N/A"  # fills up the columns option0 to option4 of the parquet file


def read(folder: Path, annotations: Path | None) -> Dataset:
    """The dataset in a folder with `videos/` and `lvb_val.json` or the parquet file.

    Raises
    ------
    UsageError, ModelError
        The files are not there or do not fit.
    """
    common.check_folder(folder)
    path = common.find_annotations(folder, annotations, _PLACES, TITLE)
    roots = (folder / "videos", folder)
    items = []
    for row in read_rows(path, _COLUMNS, TITLE):
        options = _options(row)
        shown = common.lettered(options, "{}. {}")
        group = row.maybe("duration_group")
        items.append(
            Item(
                id=row.text("id"),
                clip=FileClip(find_clip(roots, row.text("video_path"), row)),
                prompt=f"{row.text('question')}\n{shown}\n{common.LETTER_CLOSING}\n",
                answer=row.nth_letter("correct_choice", options),
                options=options,
                kind=row.text("question_category"),
                groups={"duration group": group} if group else {},
            )
        )
    arranged = common.arranged(items, common.place(path))
    return Dataset(
        "longvideobench",
        TITLE,
        arranged,
        Scoring(scoring.choice, scoring.longvideobench),
        max_new_tokens=32,
        kind_title="question category",
        notes=common.missing_note(arranged),
    )


def _options(row: Row) -> tuple[str, ...]:
    if "candidates" in row.cells:
        return row.texts("candidates")
    found = tuple(
        row.text(f"option{number}")
        for number in range(5)
        if row.cells.get(f"option{number}") not in (None, _PADDING)
    )
    if not found:
        raise row.error("there are neither candidates nor option0 to option4")
    return found
