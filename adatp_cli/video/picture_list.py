"""Frames that come as a picture each, in named formats: whatever else a file is stays shut."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adatp_cli.errors import MemoryLimitError, VideoError
from adatp_cli.text import printable
from adatp_cli.video.container import MAX_FRAME_PIXELS
from adatp_cli.video.frames import FrameBuffer, Frames, VideoInfo
from adatp_cli.video.source import unreadable

FORMATS = ("PNG", "JPEG")
_MOST_BYTES = 64 << 20
_HINT = "unpack the frames again"


@dataclass(frozen=True, slots=True)
class PictureList:
    """Some of a clip's frames, each a file.

    Parameters
    ----------
    paths
        Of the pictures that are wanted.
    indices
        Which of the clip's frames these are, ascending.
    fps, total
        Frames a second, and how many the clip has.
    """

    paths: Sequence[str]
    indices: Sequence[int]
    fps: float
    total: int


def picture_bytes(path: str) -> bytes:
    """A picture's file.

    Raises
    ------
    VideoError
        It cannot be read, is no file, or is too large for a picture.
    """
    try:
        # A pipe must not be waited for.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise VideoError(f"{printable(path)}: is no file", _HINT, kind="unreadable")
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise unreadable(printable(path), error) from None
    if len(content) > _MOST_BYTES:
        raise VideoError(f"{printable(path)}: is too large for a picture", _HINT)
    return content


def read_pictures(contents: Sequence[bytes], pictures: PictureList, buffer: FrameBuffer) -> Frames:
    """The frames in these files, resized as `buffer` has it.

    Raises
    ------
    VideoError
        One is not what it should be, or not as large as the first.
    MemoryLimitError
        They do not fit the memory.
    """
    size: tuple[int, int] | None = None
    try:
        for slot, (path, content) in enumerate(zip(pictures.paths, contents, strict=True)):
            image = _picture(printable(path), content)
            height, width, _ = image.shape
            if size is None:
                size = (width, height)
                pixels = buffer.room(len(contents), height, width)
            if (width, height) != size:
                raise VideoError(f"{printable(path)}: is not as large as the first one", _HINT)
            pixels[slot] = buffer.fit(image)
            buffer.progress()
    except MemoryError as error:
        raise MemoryLimitError("no memory for these pictures", "use fewer --frames") from error
    if size is None:
        raise VideoError("no pictures", _HINT, kind="no_frames")
    chosen = np.asarray(pictures.indices, dtype=np.int64)
    info = VideoInfo(
        decoder="pillow",
        codec="pictures",
        width=size[0],
        height=size[1],
        fps=pictures.fps,
        duration_s=pictures.total / pictures.fps,
        frames_total=pictures.total,
        rotation=0,
    )
    return Frames(pixels, chosen / pictures.fps, chosen, info)


def _picture(shown: str, content: bytes) -> npt.NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_FRAME_PIXELS:
                raise VideoError(f"{shown}: {width}x{height} pixels are not decoded", _HINT)
            return np.asarray(picture.convert("RGB"), dtype=np.uint8)
    except UnidentifiedImageError:
        kinds = " nor ".join(FORMATS)
        raise VideoError(f"{shown}: is neither {kinds}", _HINT, kind="not_a_video") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise VideoError(f"{shown}: the picture is damaged or cut short", _HINT) from None
