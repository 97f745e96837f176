"""Where decoded frames go: resized one by one, into memory of the caller's choice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from adatp_cli.video.resize import Resize

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


class Canvas:
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

    def private(self) -> Canvas:
        """The same in memory of this process, for frames that are only looked at here."""
        return Canvas(self.resize, progress=self.progress, at=self.at)
