"""MVBench: twenty tasks of 200 questions, in the layout of either branch of its repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adatp_cli.errors import UsageError
from adatp_cli.evaluation import scoring
from adatp_cli.evaluation.annotations import Row, read_rows
from adatp_cli.evaluation.clips import FileClip, FrameFolder, find_clip, find_pictures
from adatp_cli.evaluation.layouts import common
from adatp_cli.evaluation.questions import ClipSource, Dataset, Item, Scoring, letters
from adatp_cli.text import plural

TITLE = "MVBench"
_COLUMNS = ("video", "question", "candidates", "answer")
_CLOSING = "Only give the best option.\n"
_TVQA_FPS = 3.0


@dataclass(frozen=True, slots=True)
class _Task:
    """Where a task's clips are: whole videos (branch main), and cut ones (branch video)."""

    whole: str
    cut: str
    bounds: bool = False
    pictures: bool = False


_STAR = _Task("star/Charades_v1_480", "star/Charades_segment", bounds=True)
_CLEVRER = _Task("clevrer/video_validation", "clevrer/video_validation")
_PERCEPTION = _Task("perception/videos", "perception/videos")
TASKS = {
    "action_sequence": _STAR,
    "action_prediction": _STAR,
    "action_antonym": _Task("ssv2_video", "ssv2_video_mp4"),
    "fine_grained_action": _Task("Moments_in_Time_Raw/videos", "Moments_in_Time_Raw/videos"),
    "unexpected_action": _Task("FunQA_test/test", "FunQA_test/test"),
    "object_existence": _CLEVRER,
    "object_interaction": _STAR,
    "object_shuffle": _PERCEPTION,
    "moving_direction": _CLEVRER,
    "action_localization": _Task("sta/sta_video", "sta/sta_video_segment", bounds=True),
    "scene_transition": _Task("scene_qa/video", "scene_qa/video"),
    "action_count": _PERCEPTION,
    "moving_count": _CLEVRER,
    "moving_attribute": _CLEVRER,
    "state_change": _PERCEPTION,
    "fine_grained_pose": _Task("nturgbd", "nturgbd_convert"),
    "character_order": _PERCEPTION,
    "egocentric_navigation": _Task("vlnqa", "vlnqa"),
    "episodic_reasoning": _Task(
        "tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment", bounds=True, pictures=True
    ),
    "counterfactual_inference": _CLEVRER,
}


def read(folder: Path, annotations: Path | None) -> Dataset:
    """The dataset in a folder with `json/` and the videos.

    Parameters
    ----------
    annotations
        The folder of the tasks' files, or the file of one task, in place of `json/`.

    Raises
    ------
    UsageError
        The files are not there or do not fit, or both branches' videos are in the folder.
    """
    common.check_folder(folder)
    files = _files(folder, annotations)
    cut = _is_cut(folder)
    items: list[Item] = []
    unanswerable = 0
    for task, path in files.items():
        for number, row in enumerate(read_rows(path, _COLUMNS, TITLE)):
            item = _item(folder, task, number, row, cut=cut)
            unanswerable += not item.answer
            items.append(item)
    arranged = common.arranged(items, common.place(folder))
    notes = list(common.missing_note(arranged))
    if len(files) < len(TASKS):
        absent = ", ".join(task for task in TASKS if task not in files)
        notes.append(f"{len(files)} of the {len(TASKS)} tasks are there; absent: {absent}")
    if unanswerable:
        notes.append(
            f"{plural(unanswerable, 'question has', 'questions have')} an answer that is none of "
            "the candidates: wrong, whatever is answered"
        )
    return Dataset(
        "mvbench",
        TITLE,
        arranged,
        Scoring(scoring.choice, scoring.mvbench),
        average="kinds",
        average_title="mean of the tasks",
        max_new_tokens=16,
        kind_title="task",
        notes=tuple(notes),
    )


def _files(folder: Path, given: Path | None) -> dict[str, Path]:
    place = given if given is not None else folder / "json"
    if given is not None and given.is_file():
        if given.stem not in TASKS:
            raise UsageError(
                f"{common.place(given)}: is named after none of MVBench's tasks",
                f"such as {next(iter(TASKS))}.json",
            )
        return {given.stem: given}
    found = {task: place / f"{task}.json" for task in TASKS if (place / f"{task}.json").is_file()}
    if not found:
        raise UsageError(
            f"{common.place(place)}: there is no annotation file of {TITLE} (looked for "
            f"{next(iter(TASKS))}.json and so on)",
            "name their folder with --annotations",
        )
    return found


def _is_cut(folder: Path) -> bool:
    """Whether the videos are those of branch `video`, cut beforehand.

    The branches' files name other videos, so a folder that holds both is refused.
    """
    differing = [task for task in TASKS.values() if task.cut != task.whole]
    cut = [task.cut for task in differing if (folder / task.cut).is_dir()]
    whole = [
        task.whole
        for task in differing
        if any((root / task.whole).is_dir() for root in (folder / "video", folder))
    ]
    if cut and whole:
        raise UsageError(
            f"{common.place(folder)}: holds the videos of both branches of MVBench ({cut[0]} and "
            f"{whole[0]})",
            "keep one branch's",
        )
    return bool(cut) or (not whole and not (folder / "video").is_dir())


def _item(folder: Path, task: str, number: int, row: Row, *, cut: bool) -> Item:
    options = row.texts("candidates")
    answer = row.text("answer")
    shown = common.lettered(options, "({}) {}")
    return Item(
        id=f"{task}/{number}",
        clip=_clip(folder, TASKS[task], row, cut=cut),
        prompt=f"Question:{row.text('question')}\nOption:\n{shown}\n{_CLOSING}",
        # Of equal candidates the first is the right one, as in the harness.
        answer=letters(26)[options.index(answer)] if answer in options else "",
        options=options,
        kind=task,
    )


def _clip(folder: Path, task: _Task, row: Row, *, cut: bool) -> ClipSource:
    if cut:
        roots: tuple[Path, ...] = (folder / task.cut, folder / "data0613" / task.cut)
        return FileClip(find_clip(roots, row.text("video"), row))
    tops = (folder / "video", folder)
    roots = tuple(top / part / task.whole for top in tops for part in ("", "data0613"))
    start, end = (row.seconds("start"), row.seconds("end")) if task.bounds else (None, None)
    if start is not None and end is not None and end <= start:
        raise row.error(f"end {end:g} is not behind start {start:g}")
    video = row.text("video")
    if task.pictures:
        return FrameFolder(find_pictures(roots, video, row), _TVQA_FPS, start, end)
    return FileClip(find_clip(roots, video, row), start, end)
