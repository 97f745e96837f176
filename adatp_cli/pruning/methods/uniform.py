"""A control: FastV's schedule with tokens evenly spaced in time and space."""

from __future__ import annotations

import torch
from torch import Tensor

from adatp_cli.pruning.families import SingleLayer
from adatp_cli.pruning.method import LayerStep, ScoreRequest, VisualLayout

# The golden ratio: no step of 1 leaves the frames taken so far more even.
_TIME = (5**0.5 - 1) / 2
# The same in the plane: 1 / g and 1 / g^2 for g^3 = g + 1 (the sequence R2).
_PLACE = (0.7548776662466927, 0.5698402909980532)
# From frame to frame, in no whole proportion to the steps within one.
_SHIFT = (2**0.5 - 1, 3**0.5 - 1)


class Uniform(SingleLayer):
    """Before layer K, keep the first tokens of an order that is even in time and space.

    What a smaller budget keeps, a larger one keeps too.
    """

    request = ScoreRequest(last=0)

    def choose(self, step: LayerStep, layout: VisualLayout) -> Tensor:
        return spread_tokens(layout.frames, layout.rows, layout.cols)[: step.keep].sort().values


def spread_tokens(frames: int, rows: int, cols: int) -> Tensor:
    """(frames * rows * cols,) int64: a clip's tokens, every beginning spread over the clip.

    Frames take turns, from the middle one on. Each goes through its positions in the order of
    `spread_positions`, moved around the grid's edges by another low-discrepancy step for each
    frame, so that no two neighbours keep the same places.
    """
    rank = _fractions(frames, _TIME).argsort().argsort()
    turn = (rank - rank[0] + frames // 2) % frames
    order = spread_positions(rows, cols)
    row, col = order // cols, order % cols
    since = torch.arange(frames, dtype=torch.float64) - frames // 2
    down, right = (
        ((0.5 + since * step) % 1 * size).long() - size // 2
        for step, size in zip(_SHIFT, (rows, cols), strict=True)
    )
    row = (row[:, None] + down[turn]) % rows
    col = (col[:, None] + right[turn]) % cols
    return (turn * (rows * cols) + row * cols + col).flatten()


def spread_positions(rows: int, cols: int) -> Tensor:
    """(rows * cols,) int64: positions of a frame, every beginning spread over it, from the middle.

    The cells that a low-discrepancy sequence of the plane falls into, each at its first time.
    """
    points = 4 * rows * cols
    while True:
        row, col = (
            (_fractions(points, step) * size).long()
            for step, size in zip(_PLACE, (rows, cols), strict=True)
        )
        order = list(dict.fromkeys((row * cols + col).tolist()))
        if len(order) == rows * cols:
            return torch.tensor(order)
        points *= 2


def _fractions(count: int, step: float) -> Tensor:
    """(count,) float64 from 0 to 1: a half, and on by `step`, without the whole part."""
    return (0.5 + torch.arange(count, dtype=torch.float64) * step) % 1
