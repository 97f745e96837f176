"""Decoded frames and what is known about the clip they come from."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from adatp_cli.video.sampling import Sampling
from adatp_cli.video.source import Source


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a clip is."""

    decoder: str  # what decoded the pixels: decord or pyav
    codec: str  # FFmpeg's name of it (h264, av1)
    width: int  # in pixels, as shown: square ones, after rotation, before any resizing
    height: int
    fps: float  # the mean where the rate varies
    duration_s: float  # when the last frame stops being shown, from the start of the clip
    frames_total: int  # in the file
    rotation: int  # degrees clockwise that the file asks for, and that the pixels were rotated by
    # Those that were found not to decode, and those missing from a file that is cut short. Parts of
    # the file that no frame was wanted from are taken to be whole.
    frames_lost: int = 0
    comment: str = ""  # what the file says of itself, cut to 200 characters
    sample_aspect_ratio: str = "1:1"  # width to height of a pixel as stored, such as 64:45


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Frames:
    """Frames of one clip, with the moments at which they are shown.

    ValueError for arrays that do not belong together.
    """

    pixels: npt.NDArray[np.uint8]  # (T, H, W, 3), RGB, upright
    timestamps_s: npt.NDArray[np.float64]  # (T,) from the start of the clip, strictly increasing
    indices: npt.NDArray[np.int64]  # (T,) places among the clip's frames in the order of showing
    info: VideoInfo
    notes: tuple[str, ...] = ()  # fallbacks taken, frames lost: a line each

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


def unwatched(*_: object) -> None:
    """For those who do not follow what decoding does."""


def private_memory(shape: tuple[int, int, int, int]) -> Pixels:
    return np.empty(shape, dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class FrameBuffer:
    """How the frames of one clip are kept, and whom decoding tells of them."""

    resize: Resize | None = None  # applied to each frame as it comes
    # Gives room for (frames, height, width, 3) bytes. Room given before is not used any more once
    # more is asked for.
    allocate: Allocate = private_memory
    # Called now and then while decoding gets on: a decoder that hangs is one that stops calling.
    progress: Progress = unwatched
    # Called after each frame with the room and how many frames at its front are there. What was
    # told of one room is void once another one is filled.
    filled: Filled = unwatched
    at: Callable[[str], None] = unwatched  # called with the name of each decoder that begins
    # The file that is this process's standard error, where the process says nothing itself: FFmpeg
    # writes there what it finds damaged.
    ear: int | None = None

    def kept(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what is kept of frames of this size."""
        return (height, width) if self.resize is None else self.resize.kept(height, width)

    def room(self, frames: int, height: int, width: int) -> Pixels:
        """Room for so many frames of this size before resizing."""
        return self.allocate((frames, *self.kept(height, width), 3))

    def fit(self, image: Pixels) -> Pixels:
        """(H, W, 3) as decoded and upright to what is kept of it."""
        return image if self.resize is None else self.resize(image)

    def private(self) -> FrameBuffer:
        """The same in memory of this process, for frames that are only looked at here."""
        return replace(self, allocate=private_memory, filled=unwatched, ear=None)


FILTERS = ("bicubic", "bilinear")


@dataclass(frozen=True, slots=True)
class Resize:
    """The square that the model's preprocessor turns every frame into.

    A frame with more pixels than the square is resized to exactly the square by Pillow, whose
    antialiased filters are what the preprocessor's own are made after: a few bytes in a hundred at
    most come out one level off, and a frame that has the square's size already the preprocessor
    passes through. Smaller frames are left as they are: enlarging them here would only cost memory.
    """

    size: int  # side of the square in pixels
    resample: str  # one of `FILTERS`

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
        source: str | os.PathLike[str] | bytes | Source,
        sampling: Sampling,
        *,
        name: str | None = None,
        resize: Resize | None = None,
        decoder: str = "auto",
        on_frames: Filled = unwatched,
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
