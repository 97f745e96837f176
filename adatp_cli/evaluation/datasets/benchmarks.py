"""What five benchmarks ask, a function each from a folder to its questions; MVBench has a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from adatp_cli.answering.tasks import FileClip
from adatp_cli.errors import UsageError
from adatp_cli.evaluation.datasets.folder import (
    LETTER_CLOSING,
    Folder,
    Row,
    bare,
    find_clip,
    letter_of,
    lettered,
    place,
    read_object,
)
from adatp_cli.evaluation.questions import Item
from adatp_cli.text import plural

# The harness speaks of subtitles whether there are any or not.
_VIDEOMME_PREAMBLE = (
    "Select the best answer to the following multiple-choice question based on the video and the "
    "subtitles. Respond with only the letter (A, B, C, or D) of the correct option."
)
_VIDEOMME_GROUPS = {"duration": "duration", "domain": "domain", "sub-category": "sub_category"}
_LVB_PADDING = "N/A"  # fills up the columns option0 to option4 of the parquet file
_EGOSCHEMA_OWN = "questions.json"
_EGOSCHEMA_ANSWERS = "subset_answers.json"
_NEXTQA_MAP = "map_vid_vidorID.json"
_NEXTQA_SORTS = {"C": "causal", "T": "temporal", "D": "descriptive"}
MLVU_TASKS = ("plotQA", "needle", "ego", "count", "order", "anomaly_reco", "topic_reasoning")
_MLVU_OWN = "[1-7]_*.json"  # files 8 and 9 ask for free text
_MLVU_CLOSING = "\nOnly give the best option.\nBest option: ("


def videomme(folder: Folder) -> Iterator[Item]:
    """Video-MME without subtitles: 2,700 questions on 900 videos."""
    for row in folder.table(
        "videomme/test-*.parquet", "test-*.parquet", "*.parquet", "videomme.json*", "*.csv"
    ):
        clip = folder.clip(row, "videoID", "data", "video", "videos", "")
        stored = row.texts("options")
        options = tuple(map(bare, stored))
        question = "\n".join((_VIDEOMME_PREAMBLE, row.text("question"), *stored))
        yield Item(
            id=row.text("question_id"),
            clip=clip,
            prompt=f"{question}\n\n{LETTER_CLOSING}",
            answer=row.letter("answer", options),
            options=options,
            kind=row.text("task_type"),
            groups=row.groups(_VIDEOMME_GROUPS),
        )


def longvideobench(folder: Folder) -> Iterator[Item]:
    """LongVideoBench's validation part without subtitles: 1,337 questions on 753 videos."""
    for row in folder.table("lvb_val.json*", "validation-*.parquet", "data/validation-*.parquet"):
        clip = folder.clip(row, "video_path", "videos", "")
        options = _lvb_options(row)
        shown = lettered(options, "{}. {}")
        yield Item(
            id=row.text("id"),
            clip=clip,
            prompt=f"{row.text('question')}\n{shown}\n{LETTER_CLOSING}\n",
            answer=row.nth_letter("correct_choice", options),
            options=options,
            kind=row.text("question_category"),
            groups=row.groups({"duration group": "duration_group"}),
        )


def _lvb_options(row: Row) -> tuple[str, ...]:
    if "candidates" in row.cells:
        return row.texts("candidates")
    columns = [f"option{number}" for number in range(5)]
    there = [column for column in columns if row.cells.get(column) not in (None, _LVB_PADDING)]
    if not there:
        raise row.error("there are neither candidates nor option0 to option4")
    return tuple(map(row.text, there))


def egoschema(folder: Folder) -> Iterator[Item]:
    """EgoSchema: the 500 questions of the subset whose answers are public.

    They are the subset's table, or `questions.json` with `subset_answers.json` beside it; what that
    does not answer is not asked.
    """
    rows = list(folder.table(_EGOSCHEMA_OWN, "Subset/*.parquet", "*.parquet", "egoschema.json*"))
    own = folder.source.name == _EGOSCHEMA_OWN
    beside = folder.source.with_name(_EGOSCHEMA_ANSWERS)
    answers = _egoschema_answers(beside) if own else {}
    asked = [row for row in rows if not own or row.text("q_uid") in answers]
    if not asked:
        raise UsageError(
            f"{place(folder.source)}: none of its questions has an answer in {_EGOSCHEMA_ANSWERS}",
            "do the two files belong together?",
        )
    if len(asked) < len(rows):
        unasked = plural(len(rows) - len(asked), "question")
        folder.notes.append(f"not asked: {unasked} without a public answer")
    roots = [folder.path / name for name in ("videos", "good_clips_git", "")]
    for row in asked:
        video = row.text("q_uid" if own else "video_idx")
        if own:
            options = tuple(row.text(f"option {number}") for number in range(5))
            stored = lettered(options, "{}. {}")
            answer = Row(f"{place(beside)}, {video}", answers).nth_letter(video, options)
        else:
            options = tuple(map(bare, row.texts("option")))
            stored = "\n".join(row.texts("option"))
            if row.cell("answer") in (None, "", "None"):
                raise row.error("there is no answer; those of the full set are not public")
            answer = row.nth_letter("answer", options)
        yield Item(
            id=video if own else row.text("question_idx"),
            clip=FileClip(find_clip(row, video, roots)),
            prompt=f"{row.text('question')}\n{stored}\n{LETTER_CLOSING}",
            answer=answer,
            options=options,
        )


def _egoschema_answers(path: Path) -> Mapping[str, object]:
    if not path.is_file():
        raise UsageError(
            f"{place(path)}: no such file; the answers stand in it", "put it beside questions.json"
        )
    return read_object(path, "answers")


def nextqa(folder: Folder) -> Iterator[Item]:
    """NExT-QA's multiple-choice part: five options, eight types of questions.

    Videos lie flat or, where `map_vid_vidorID.json` is beside the table or in the folder, in the
    subfolders that it names.
    """
    rows = folder.table(
        "test.csv", "nextqa/test.csv", "MC/test-*.parquet", "test-*.parquet", "val.csv",
        "nextqa/val.csv", "nextqa.json*",
    )  # fmt: skip
    nested = _nextqa_map(folder.source.parent, folder.path)
    roots = [folder.path / name for name in ("NExTVideo", "videos", "video", "")]
    for row in rows:
        video = row.text("video")
        clip = find_clip(row, video, roots)
        if not Path(clip).exists() and video in nested:
            clip = find_clip(row, nested[video], roots)
        options = tuple(row.text(f"a{number}").strip() for number in range(5))
        sort = row.text("type")
        yield Item(
            id=f"{video}/{row.text('qid')}",
            clip=FileClip(clip),
            prompt=f"{row.text('question').strip()}\n{lettered(options, '{}. {}')}",
            answer=row.nth_letter("answer", options),
            options=options,
            kind="TN" if sort == "TP" else sort,  # as the official script counts
            groups={"sort": _NEXTQA_SORTS[sort[0]]} if sort[0] in _NEXTQA_SORTS else {},
        )


def _nextqa_map(*folders: Path) -> Mapping[str, str]:
    """Video id -> path below the folder of videos, where there is such a table."""
    path = next((one / _NEXTQA_MAP for one in folders if (one / _NEXTQA_MAP).is_file()), None)
    if path is None:
        return {}
    return read_object(path, "texts", str)


def mlvu(folder: Folder) -> Iterator[Item]:
    """MLVU's multiple-choice part (dev), in its own layout or as lmms-eval's table.

    Annotations may be named by the folder or one of the files of its own layout, or by the table.
    """
    own = _mlvu_files(folder)
    if own:
        folder.source = own[0].parent
        for path in own:
            yield from _mlvu_own(folder, path)
        return
    tables = ("mlvu_dev*.parquet", "data/*.parquet", "*.parquet", "mlvu_dev.json*")
    for number, row in enumerate(folder.table(f"json/{_MLVU_OWN}", *tables)):
        clip = folder.clip(row, "video_name", "", "video", "videos")
        options = row.texts("candidates")
        kind = _mlvu_kind(row, "task_type")
        yield Item(
            id=f"{kind}/{number}",
            clip=clip,
            prompt=f"{row.text('question')}{_MLVU_CLOSING}",  # the options stand in the question
            answer=row.letter("answer", options),
            options=options,
            kind=kind,
        )


def _mlvu_files(folder: Folder) -> list[Path]:
    given = folder.given
    if given is not None and given.is_file():
        return [given] if given.match(_MLVU_OWN) else []
    top = folder.path
    places = (given,) if given is not None else (top / "json", top / "MLVU" / "json")
    return next((found for place in places if (found := sorted(place.glob(_MLVU_OWN)))), [])


def _mlvu_own(folder: Folder, path: Path) -> Iterator[Item]:
    tops = (folder.path, folder.path / "MLVU", path.parent.parent)
    roots = [top / "video" / part for top in tops for part in (path.stem, "")]
    for number, row in enumerate(folder.rows(path)):
        clip = FileClip(find_clip(row, row.text("video"), [*roots, folder.path]))
        options = row.texts("candidates")
        shown = lettered(options, "({}) {}")
        yield Item(
            id=f"{path.stem}/{number}",
            clip=clip,
            prompt=f"{row.text('question')}\n{shown}{_MLVU_CLOSING}",
            answer=letter_of(row.text("answer"), options),
            options=options,
            kind=_mlvu_kind(row, "question_type"),
        )


def _mlvu_kind(row: Row, column: str) -> str:
    kind = row.text(column)
    return "needle" if kind == "findNeedle" else kind
