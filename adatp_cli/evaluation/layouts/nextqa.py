"""NExT-QA's multiple-choice part: five options, eight types of questions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from adatp_cli.errors import UsageError
from adatp_cli.evaluation import scoring
from adatp_cli.evaluation.annotations import read_json, read_rows
from adatp_cli.evaluation.clips import FileClip, find_clip
from adatp_cli.evaluation.layouts import common
from adatp_cli.evaluation.questions import Dataset, Item, Scoring

TITLE = "NExT-QA"
_COLUMNS = ("video", "question", "answer", "qid", "type", "a0", "a1", "a2", "a3", "a4")
_PLACES = (
    "test.csv", "nextqa/test.csv", "MC/test-*.parquet", "test-*.parquet", "val.csv",
    "nextqa/val.csv", "nextqa.json*",
)  # fmt: skip
_VIDEOS = ("NExTVideo", "videos", "video", "")
_MAP = "map_vid_vidorID.json"
_SORTS = {"C": "causal", "T": "temporal", "D": "descriptive"}


def read(folder: Path, annotations: Path | None) -> Dataset:
    """The dataset in a folder with `NExTVideo/` and `test.csv`, or what lmms-eval reads.

    Videos lie flat or, where `map_vid_vidorID.json` is beside the table or in the folder, in the
    subfolders that it names.

    Raises
    ------
    UsageError, ModelError
        The files are not there or do not fit.
    """
    common.check_folder(folder)
    path = common.find_annotations(folder, annotations, _PLACES, TITLE)
    nested = _nested(path.parent, folder)
    roots = tuple(folder / name for name in _VIDEOS)
    items = []
    for row in read_rows(path, _COLUMNS, TITLE):
        video = row.text("video")
        clip = find_clip(roots, video, row)
        if not Path(clip).exists() and video in nested:
            clip = find_clip(roots, nested[video], row)
        options = tuple(row.text(f"a{number}").strip() for number in range(5))
        sort = row.text("type")
        items.append(
            Item(
                id=f"{video}/{row.text('qid')}",
                clip=FileClip(clip),
                prompt=f"{row.text('question').strip()}\n{common.lettered(options, '{}. {}')}",
                answer=row.nth_letter("answer", options),
                options=options,
                kind="TN" if sort == "TP" else sort,  # as the official script counts
                groups={"sort": _SORTS[sort[0]]} if sort[0] in _SORTS else {},
            )
        )
    arranged = common.arranged(items, common.place(path))
    return Dataset(
        "nextqa",
        TITLE,
        arranged,
        Scoring(scoring.choice, scoring.nextqa),
        kind_title="type",
        notes=common.missing_note(arranged),
    )


def _nested(*folders: Path) -> Mapping[str, str]:
    """Video id -> path below the folder of videos, where there is such a table."""
    path = next((place / _MAP for place in folders if (place / _MAP).is_file()), None)
    if path is None:
        return {}
    value = read_json(path)
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value.values()):
        raise UsageError(f"{common.place(path)}: expects an object of texts", "get it again")
    return value
