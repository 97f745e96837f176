"""MVBench: twenty tasks of 200 questions, in the layout of either branch of its repository."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from adatp_cli.answering.tasks import ClipSource, FileClip, file_stamp
from adatp_cli.errors import UsageError, VideoError
from adatp_cli.evaluation.datasets.folder import (
    Folder,
    Row,
    check_name,
    find_clip,
    letter_of,
    lettered,
    place,
)
from adatp_cli.evaluation.questions import Item
from adatp_cli.text import printable
from adatp_cli.video.frames import FrameReader, Frames, PictureList, Resize
from adatp_cli.video.sampling import Sampling, sample_indices

_CLOSING = "Only give the best option.\n"
_TVQA_FPS = 3.0
_PICTURES = (".jpg", ".jpeg", ".png")


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


def mvbench(folder: Folder) -> Iterator[Item]:
    """MVBench in a folder with `json/` and the videos of one branch.

    Annotations may be named by their folder, or by one task's file.
    """
    files = _files(folder)
    cut = _is_cut(folder.path)
    for task, path in files.items():
        for number, row in enumerate(folder.rows(path)):
            clip = _clip(folder.path, TASKS[task], row, cut=cut)
            options = row.texts("candidates")
            # Of equal candidates the first is the right one, as in the harness.
            answer = letter_of(row.text("answer"), options)
            shown = lettered(options, "({}) {}")
            prompt = f"Question:{row.text('question')}\nOption:\n{shown}\n{_CLOSING}"
            yield Item(f"{task}/{number}", clip, prompt, answer, options, task)


def _files(folder: Folder) -> dict[str, Path]:
    """Each task's annotation file, of those that are there."""
    given = folder.given
    first = next(iter(TASKS))
    if given is not None and given.is_file():
        if given.stem not in TASKS:
            raise UsageError(
                f"{place(given)}: is named after none of MVBench's tasks", f"such as {first}.json"
            )
        return {given.stem: given}
    where = given or folder.path / "json"
    found = {task: where / f"{task}.json" for task in TASKS if (where / f"{task}.json").is_file()}
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
    differing = [task for task in TASKS.values() if task.cut != task.whole]
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


def _clip(folder: Path, task: _Task, row: Row, *, cut: bool) -> ClipSource:
    video = row.text("video")
    if cut:
        return FileClip(find_clip(row, video, (folder / task.cut, folder / "data0613" / task.cut)))
    tops = (folder / "video", folder)
    roots = tuple(top / part / task.whole for top in tops for part in ("", "data0613"))
    start, end = (row.seconds("start"), row.seconds("end")) if task.bounds else (None, None)
    if start is not None and end is not None and end <= start:
        raise row.error(f"end {end:g} is not behind start {start:g}")
    if not task.pictures:
        return FileClip(find_clip(row, video, roots), start, end)
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
        pictures = self._pictures()
        # Bounds may lie a little behind the last picture; they are no option of the user's.
        end = len(pictures) / self.fps
        start = min(self.start_s or 0.0, end - 1 / self.fps)
        stop = end if self.end_s is None else min(self.end_s, end)
        wanted = replace(sampling, start_s=start, end_s=max(stop, start + 1e-3))
        chosen = sample_indices((len(pictures), self.fps), wanted, name=printable(self.path))
        paths = [os.fspath(pictures[index]) for index in chosen]
        picked = PictureList(paths, chosen.tolist(), self.fps, len(pictures))
        return reader.read_pictures(picked, resize)

    def _pictures(self) -> list[Path]:
        try:
            names = sorted(os.listdir(self.path))
        except OSError as error:
            raise VideoError(
                f"{printable(self.path)}: cannot be read: {error.strerror}",
                "check the folder",
                kind="missing",
            ) from None
        found = [Path(self.path, name) for name in names if name.lower().endswith(_PICTURES)]
        if not found:
            raise VideoError(
                f"{printable(self.path)}: a folder without pictures",
                "unpack the frames again",
                kind="no_frames",
            )
        return found
