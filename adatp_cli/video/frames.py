"""Decoded frames and what is known about the clip they come from."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from adatp_cli.video.sampling import Sampling


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a clip is.

    Parameters
    ----------
    decoder
        What decoded the pixels: ``decord`` or ``pyav``.
    codec
        FFmpeg's name of the codec (``h264``, ``av1``).
    width, height
        Pixels, as shown: square ones, after rotation, and before any resizing.
    fps
        Frames a second; the mean where the rate varies.
    duration_s
        When the last frame stops being shown, in seconds from the start of the clip.
    frames_total
        Frames in the file.
    rotation
        Degrees clockwise that the file asks to be rotated by, and that the pixels were.
    frames_lost
        Frames that should be there and are not: those that were found not to decode, and those
        missing from a file that is cut short. Parts of the file that no frame was wanted from are
        taken to be whole.
    comment
        What the file says of itself, cut to 200 characters.
    sample_aspect_ratio
        Width to height of a pixel as stored, such as ``64:45``.
    """

    decoder: str
    codec: str
    width: int
    height: int
    fps: float
    duration_s: float
    frames_total: int
    rotation: int
    frames_lost: int = 0
    comment: str = ""
    sample_aspect_ratio: str = "1:1"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Frames:
    """Frames of one clip, with the moments at which they are shown.

    Parameters
    ----------
    pixels
        (T, H, W, 3) uint8, RGB, upright.
    timestamps_s
        (T,) float64, seconds from the start of the clip, strictly increasing.
    indices
        (T,) int64, positions among the clip's frames in the order they are shown.
    info
        The clip.
    notes
        What the reader should know: fallbacks taken, frames lost. One line each.

    Raises
    ------
    ValueError
        Arrays that do not belong together.
    """

    pixels: npt.NDArray[np.uint8]
    timestamps_s: npt.NDArray[np.float64]
    indices: npt.NDArray[np.int64]
    info: VideoInfo
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.shape[-1] != 3 or self.pixels.dtype != np.uint8:
            raise ValueError(
                f"pixels must be (T, H, W, 3) uint8, not {self.pixels.shape} {self.pixels.dtype}"
            )
        count = len(self.pixels)
        if self.timestamps_s.shape != (count,) or self.indices.shape != (count,):
            raise ValueError(
                f"{count} frames need as many timestamps and indices, not "
                f"{self.timestamps_s.shape} and {self.indices.shape}"
            )
        if count > 1 and not (np.diff(self.timestamps_s) > 0).all():
            raise ValueError("timestamps must increase strictly")

    def __len__(self) -> int:
        return len(self.pixels)

    def __repr__(self) -> str:
        span = f"{self.timestamps_s[0]:.3f}..{self.timestamps_s[-1]:.3f} s" if len(self) else "none"
        return f"Frames(pixels={self.pixels.shape}, timestamps_s={span}, info={self.info})"


Pixels = npt.NDArray[np.uint8]
Allocate = Callable[[tuple[int, int, int, int]], Pixels]
Progress = Callable[[], None]
Filled = Callable[[Pixels, int], None]


def no_progress() -> None:
    """For those who do not watch."""


def not_watched(_room: Pixels, _done: int) -> None:
    """For those who wait for all frames."""


def not_asked(_decoder: str) -> None:
    """For those to whom all decoders are the same."""


def private_memory(shape: tuple[int, int, int, int]) -> Pixels:
    """Memory of this process alone."""
    return np.empty(shape, dtype=np.uint8)


class FrameBuffer:
    """How the frames of one clip are kept.

    Parameters
    ----------
    resize
        Applied to each frame as it comes; None keeps frames as they are.
    allocate
        Gives room for (frames, height, width, 3) bytes. Room given before is not used any more
        once more is asked for.
    progress
        Called now and then while decoding gets on: a decoder that hangs is one that stops calling.
    filled
        Called after each frame with the room and how many frames at its front are there. What was
        told of one room is void once another one is filled.
    at
        Called with the name of each decoder that begins.
    ear
        The file that is this process's standard error, where the process says nothing itself:
        FFmpeg writes there what it finds damaged.
    """

    def __init__(
        self,
        resize: Resize | None = None,
        allocate: Allocate = private_memory,
        progress: Progress = no_progress,
        filled: Filled = not_watched,
        at: Callable[[str], None] = not_asked,
        ear: int | None = None,
    ) -> None:
        self.resize = resize
        self.progress = progress
        self.filled = filled
        self.at = at
        self.ear = ear
        self._allocate = allocate

    def kept(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what is kept of frames of this size."""
        return (height, width) if self.resize is None else self.resize.kept(height, width)

    def room(self, frames: int, height: int, width: int) -> Pixels:
        """Room for so many frames of this size before resizing."""
        return self._allocate((frames, *self.kept(height, width), 3))

    def fit(self, image: Pixels) -> Pixels:
        """(H, W, 3) as decoded and upright to what is kept of it."""
        return image if self.resize is None else self.resize(image)

    def private(self) -> FrameBuffer:
        """The same in memory of this process, for frames that are only looked at here."""
        return FrameBuffer(self.resize, progress=self.progress, at=self.at)


FILTERS = ("bicubic", "bilinear")


@dataclass(frozen=True, slots=True)
class Resize:
    """The square that the model's preprocessor turns every frame into.

    A frame with more pixels than the square is resized to exactly the square by Pillow, whose
    antialiased filters are what the preprocessor's own are made after: a few bytes in a hundred at
    most come out one level off, and a frame that has the square's size already the preprocessor
    passes through. Smaller frames are left as they are: enlarging them here would only cost memory.

    Parameters
    ----------
    size
        Side of the square in pixels, at least 1.
    resample
        ``bicubic`` or ``bilinear``.

    Raises
    ------
    ValueError
        Anything else.
    """

    size: int
    resample: str

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, not {self.size}")
        if self.resample not in FILTERS:
            raise ValueError(f"resample must be one of {FILTERS}, not {self.resample!r}")

    def shrinks(self, height: int, width: int) -> bool:
        """Whether frames of this size, in pixels, are resized."""
        return height * width > self.size * self.size

    def kept(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what is kept of such frames."""
        return (self.size, self.size) if self.shrinks(height, width) else (height, width)

    def __call__(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 to the square, or unchanged where it is no larger."""
        if not self.shrinks(*image.shape[:2]):
            return image
        from PIL import Image

        chosen = Image.Resampling[self.resample.upper()]
        # Width first, as the preprocessor does it: both round in between, so that the other order,
        # which Pillow takes for some tall frames, is off by up to 30 levels at sharp edges.
        narrow = Image.fromarray(image).resize((self.size, image.shape[0]), chosen)
        return np.asarray(narrow.resize((self.size, self.size), chosen), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class PictureList:
    """Some of a clip's frames, each a file."""

    paths: Sequence[str]  # of the pictures that are wanted
    indices: Sequence[int]  # which of the clip's frames these are, ascending
    fps: float
    total: int  # frames of the clip


class FrameReader(Protocol):
    """Anything that reads clips as `adatp_cli.video.decode.read_frames` does."""

    def read(
        self,
        source: str | os.PathLike[str] | bytes,
        sampling: Sampling,
        *,
        name: str | None = None,
        resize: Resize | None = None,
        decoder: str = "auto",
        on_frames: Filled = not_watched,
    ) -> Frames:
        """The frames of a clip; the other parameters and the errors are those of `read_frames`.

        `on_frames` is called while decoding goes on, or not at all, with an array of all frames'
        size and how many of its first ones are there. They are the clip's only where the result's
        `pixels` are that very array: a decoder that gives up leaves frames behind that do not
        count. What it raises ends the reading and goes on to the caller.
        """
        ...

    def read_pictures(self, pictures: PictureList, resize: Resize | None = None) -> Frames:
        """Frames that are files; errors are those of `adatp_cli.video.decode.read_pictures`."""
        ...
