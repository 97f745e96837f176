"""Decoded frames and what is known about the clip they come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


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
