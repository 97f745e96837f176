"""Frames made smaller while they are decoded, as the model would make them smaller later anyway."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
