"""Clips of a dataset: a file, a part of one, or a folder with a picture for each frame."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from adatp_cli.answering.tasks import FileClip, file_stamp
from adatp_cli.errors import VideoError
from adatp_cli.video.frames import Frames, Resize
from adatp_cli.video.picture_list import PictureList
from adatp_cli.video.reader import FrameReader
from adatp_cli.video.sampling import Sampling, sample_indices
from adatp_cli.video.source import printable

__all__ = ["FileClip", "FrameFolder"]

_PICTURES = (".jpg", ".jpeg", ".png")


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
