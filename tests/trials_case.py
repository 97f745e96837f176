"""The clips of `tests/data/trials`, whose frames carry their own numbers."""

from __future__ import annotations

import numpy as np

from adatp_cli.video.frames import Frames
from tests.decode_case import DATA

TRIALS = DATA / "trials"
COLUMNS = 12


def shown_number(image: np.ndarray) -> int:
    """The number of a frame: white columns are the bits that are set, in its upper half."""
    upper = image[: image.shape[0] // 2]
    wide = upper.shape[1] / COLUMNS
    middles = [int((column + 0.5) * wide) for column in range(COLUMNS)]
    row = upper[len(upper) // 4 : -len(upper) // 4]
    return sum(1 << bit for bit, x in enumerate(middles) if row[:, x - 1 : x + 2].mean() > 128)


def shown_numbers(frames: Frames) -> list[int]:
    """The numbers that frames show, in their order."""
    return [shown_number(image) for image in frames.pixels]
