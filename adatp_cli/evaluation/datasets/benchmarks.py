"""What the benchmarks ask, a function each from a folder to its questions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from adatp_cli.answering.tasks import ClipSource, file_stamp
from adatp_cli.errors import UsageError, VideoError
from adatp_cli.evaluation.datasets.folder import (
    LETTER_CLOSING,
    Folder,
    Row,
    bare,
    check_name,
    find_clip,
    letter_of,
    lettered,
    place,
    read_object,
)
from adatp_cli.evaluation.questions import Item
from adatp_cli.text import plural, printable
from adatp_cli.video.frames import FrameReader, Frames, PictureList, Resize
from adatp_cli.video.sampling import Sampling, sample_indices

# The harness speaks of subtitles whether there are any or not.
_VIDEOMME_PREAMBLE = (
    "Select the best answer to the following multiple-choice question based on the video and the "
    "subtitles. Respond with only the letter (A, B, C, or D) of the correct option."
)
_VIDEOMME_GROUPS = {"duration": "duration", "domain": "domain", "sub-category": "sub_category"}
_LVB_EMPTY = (None, "N/A")  # what fills up the columns option0 to option4 of the parquet file
_EGOSCHEMA_OWN = "questions.json"
_EGOSCHEMA_ANSWERS = "subset_answers.json"
_NEXTQA_MAP = "map_vid_vidorID.json"
_NEXTQA_SORTS = {"C": "causal", "T": "temporal", "D": "descriptive"}
MLVU_TASKS = ("plotQA", "needle", "ego", "count", "order", "anomaly_reco", "topic_reasoning")
_MVBENCH_CLOSING = "Only give the best option.\n"
_TVQA_FPS = 3.0
_PICTURES = (".jpg", ".jpeg", ".png")
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
        if "candidates" in row.cells:
            options = row.texts("candidates")
        else:
            columns = [f"option{number}" for number in range(5)]
            options = tuple(
                row.text(one) for one in columns if row.cells.get(one) not in _LVB_EMPTY
            )
        if not options:
            raise row.error("there are neither candidates nor option0 to option4")
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


def egoschema(folder: Folder) -> Iterator[Item]:
    """EgoSchema: the 500 questions of the subset whose answers are public.

    They are the subset's table, or `questions.json` with `subset_answers.json` beside it; what that
    does not answer is not asked.
    """
    rows = list(folder.table(_EGOSCHEMA_OWN, "Subset/*.parquet", "*.parquet", "egoschema.json*"))
    own = folder.source.name == _EGOSCHEMA_OWN
    beside = folder.source.with_name(_EGOSCHEMA_ANSWERS)
    if own and not beside.is_file():
        raise UsageError(
            f"{place(beside)}: no such file; the answers stand in it",
            "put it beside questions.json",
        )
    answers = read_object(beside, "answers") if own else {}
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
            clip=find_clip(row, video, roots),
            prompt=f"{row.text('question')}\n{stored}\n{LETTER_CLOSING}",
            answer=answer,
            options=options,
        )


def nextqa(folder: Folder) -> Iterator[Item]:
    """NExT-QA's multiple-choice part: five options, eight types of questions.

    Videos lie flat or, where `map_vid_vidorID.json` is beside the table or in the folder, in the
    subfolders that it names.
    """
    rows = folder.table(
        "test.csv", "nextqa/test.csv", "MC/test-*.parquet", "test-*.parquet", "val.csv",
        "nextqa/val.csv", "nextqa.json*",
    )  # fmt: skip
    tables = [one / _NEXTQA_MAP for one in (folder.source.parent, folder.path)]
    table = next((path for path in tables if path.is_file()), None)
    nested = read_object(table, "texts", str) if table is not None else {}
    roots = [folder.path / name for name in ("NExTVideo", "videos", "video", "")]
    for row in rows:
        video = row.text("video")
        clip = find_clip(row, video, roots)
        if not clip.exists() and video in nested:
            clip = find_clip(row, nested[video], roots)
        options = tuple(row.text(f"a{number}").strip() for number in range(5))
        sort = row.text("type")
        yield Item(
            id=f"{video}/{row.text('qid')}",
            clip=clip,
            prompt=f"{row.text('question').strip()}\n{lettered(options, '{}. {}')}",
            answer=row.nth_letter("answer", options),
            options=options,
            kind="TN" if sort == "TP" else sort,  # as the official script counts
            groups={"sort": _NEXTQA_SORTS[sort[0]]} if sort[0] in _NEXTQA_SORTS else {},
        )


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
        clip = find_clip(row, row.text("video"), [*roots, folder.path])
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
MVBENCH_TASKS = {
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


def mvbench(folder: Folder) -> Iterator[Item]:
    """MVBench in a folder with `json/` and the videos of one branch.

    Annotations may be named by their folder, or by one task's file.
    """
    files, cut = _mvbench_files(folder), _is_cut(folder.path)
    for task, path in files.items():
        for number, row in enumerate(folder.rows(path)):
            clip = _mvbench_clip(folder.path, MVBENCH_TASKS[task], row, cut=cut)
            options = row.texts("candidates")
            # Of equal candidates the first is the right one, as in the harness.
            answer = letter_of(row.text("answer"), options)
            shown = lettered(options, "({}) {}")
            prompt = f"Question:{row.text('question')}\nOption:\n{shown}\n{_MVBENCH_CLOSING}"
            yield Item(f"{task}/{number}", clip, prompt, answer, options, task)


def _mvbench_files(folder: Folder) -> dict[str, Path]:
    """Each task's annotation file, of those that are there."""
    given = folder.given
    first = next(iter(MVBENCH_TASKS))
    if given is not None and given.is_file():
        if given.stem not in MVBENCH_TASKS:
            raise UsageError(
                f"{place(given)}: is named after none of MVBench's tasks", f"such as {first}.json"
            )
        return {given.stem: given}
    where = given or folder.path / "json"
    found = {
        task: where / f"{task}.json" for task in MVBENCH_TASKS if (where / f"{task}.json").is_file()
    }
    if not found:
        raise UsageError(
            f"{place(where)}: there is no annotation file of {folder.title} (looked for "
            f"{first}.json and so on)",
            "name their folder with --annotations",
        )
    return found


def _is_cut(folder: Path) -> bool:
    """Whether the videos are those of branch `video`, cut beforehand.

    The branches' files name other videos, so a folder that holds both is refused.
    """
    differing = [task for task in MVBENCH_TASKS.values() if task.cut != task.whole]
    cut = [task.cut for task in differing if (folder / task.cut).is_dir()]
    whole = [
        task.whole
        for task in differing
        if any((root / task.whole).is_dir() for root in (folder / "video", folder))
    ]
    if cut and whole:
        raise UsageError(
            f"{place(folder)}: holds the videos of both branches of MVBench ({cut[0]} and "
            f"{whole[0]})",
            "keep one branch's",
        )
    return bool(cut) or (not whole and not (folder / "video").is_dir())


def _mvbench_clip(folder: Path, task: _Task, row: Row, *, cut: bool) -> ClipSource:
    video = row.text("video")
    if cut:
        return find_clip(row, video, (folder / task.cut, folder / "data0613" / task.cut))
    tops = (folder / "video", folder)
    roots = tuple(top / part / task.whole for top in tops for part in ("", "data0613"))
    start, end = (row.seconds("start"), row.seconds("end")) if task.bounds else (None, None)
    if start is not None and end is not None and end <= start:
        raise row.error(f"end {end:g} is not behind start {start:g}")
    if not task.pictures:
        return find_clip(row, video, roots, start, end)
    check_name(video, row)
    there = next((root / video for root in roots if (root / video).is_dir()), roots[0] / video)
    return FrameFolder(str(there), _TVQA_FPS, start, end)


@dataclass(frozen=True, slots=True)
class FrameFolder:
    """A folder of pictures in the order of their names, `fps` of them a second."""

    path: str
    fps: float
    start_s: float | None = None
    end_s: float | None = None

    @property
    def name(self) -> str:
        return self.path

    @property
    def key(self) -> str:
        bounds = f"start_s={self.start_s}, end_s={self.end_s}"
        return f"FrameFolder(path={self.path!r}, fps={self.fps}, {bounds})"

    def exists(self) -> bool:
        return os.path.isdir(self.path)

    def stamp(self) -> tuple[int, int] | tuple[None, None]:
        return file_stamp(self.path)

    def read(self, reader: FrameReader, sampling: Sampling, resize: Resize) -> Frames:
        try:
            names = sorted(os.listdir(self.path))
        except OSError as error:
            raise VideoError(
                f"{printable(self.path)}: cannot be read: {error.strerror}",
                "check the folder",
                kind="missing",
            ) from None
        pictures = [name for name in names if name.lower().endswith(_PICTURES)]
        if not pictures:
            raise VideoError(
                f"{printable(self.path)}: a folder without pictures",
                "unpack the frames again",
                kind="no_frames",
            )
        # Bounds may lie a little behind the last picture; they are no option of the user's.
        end = len(pictures) / self.fps
        start = min(self.start_s or 0.0, end - 1 / self.fps)
        stop = end if self.end_s is None else min(self.end_s, end)
        wanted = replace(sampling, start_s=start, end_s=max(stop, start + 1e-3))
        chosen = sample_indices((len(pictures), self.fps), wanted, name=printable(self.path))
        paths = [os.path.join(self.path, pictures[index]) for index in chosen]
        picked = PictureList(paths, chosen.tolist(), self.fps, len(pictures))
        return reader.read_pictures(picked, resize)
