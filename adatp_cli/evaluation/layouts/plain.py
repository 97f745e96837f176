"""Anyone's own questions: JSON Lines of video, question and answer.

A row may also have `options`, a list, of which `answer` is a letter or a text; `kind`; and `id`.
Paths are relative to the file's folder, or to --data.
"""

from __future__ import annotations

import os
from pathlib import Path

from adatp_cli.errors import UsageError
from adatp_cli.evaluation.annotations import Row, read_rows
from adatp_cli.evaluation.clips import FileClip
from adatp_cli.evaluation.layouts import common
from adatp_cli.evaluation.questions import Dataset, Item, Scoring, Verdict, letters
from adatp_cli.evaluation.scoring import choice, exact
from adatp_cli.video.source import local_path

EXTENSION = ".jsonl"
_COLUMNS = ("video", "question", "answer")


def read(path: Path, folder: Path | None) -> Dataset:
    """The questions in a file.

    Raises
    ------
    UsageError
        The file cannot be read or a row does not fit.
    """
    if not path.is_file():
        raise UsageError(f"{common.place(path)}: no such file", "name a .jsonl file or a benchmark")
    root = path.parent if folder is None else folder
    if folder is not None:
        common.check_folder(folder)
    rows = read_rows(path, _COLUMNS, "your own")
    items = [_item(number, row, root) for number, row in enumerate(rows, 1)]
    arranged = common.arranged(items, common.place(path))
    notes = common.missing_note(arranged)
    return Dataset(path.stem, path.name, arranged, Scoring(_judge), notes=notes)


def _judge(answer: str, item: Item) -> Verdict:
    return (choice if item.options else exact)(answer, item)


def _item(number: int, row: Row, root: Path) -> Item:
    options = row.texts("options") if row.cells.get("options") is not None else ()
    question = row.text("question")
    answer = row.text("answer").strip()
    if options:
        shown = common.lettered(options, "{}. {}")
        question = f"{question}\n{shown}\n{common.LETTER_CLOSING}"
        answer = (
            letters(26)[options.index(answer)]
            if answer in options
            else row.letter("answer", options)
        )
    # The user's own file may name any path, as a manifest of `adatp batch` may.
    video = local_path(row.text("video"), os.fspath(root))
    return Item(
        id=row.maybe("id") or str(number),
        clip=FileClip(video),
        prompt=question,
        answer=answer,
        options=options,
        kind=row.maybe("kind"),
    )
