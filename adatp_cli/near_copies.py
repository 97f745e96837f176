"""Frames that are near copies of one before, whose tokens can stand for theirs (ours)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]


def largest_change(before: Picture, after: Picture, cells: int) -> float:
    """How much the most changed part of a frame changed, 0 to 1 of the range of a pixel.

    The frame is cut into cells x cells parts, of which each counts by the mean absolute difference
    of its pixels: a small thing that moves shows as much in its own parts as a large one.

    Parameters
    ----------
    before, after
        (H, W, 3) of the same size.
    cells
        Parts along each side; no more than pixels.
    """
    change = np.abs(before.astype(np.int16) - after).sum(-1, dtype=np.int32)
    for axis in (0, 1):
        edges = _edges(change.shape[axis], cells)
        change = np.add.reduceat(change, edges[:-1], axis)
    rows, cols = (np.diff(_edges(side, cells)) for side in before.shape[:2])
    mean = change / (3 * 255 * np.outer(rows, cols))
    return float(mean.max())


def _edges(side: int, cells: int) -> npt.NDArray[np.int64]:
    return np.linspace(0, side, min(cells, side) + 1).astype(np.int64)
