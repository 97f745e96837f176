"""A control: FastV's schedule with tokens evenly spaced in time and space."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from adatp_cli.profiles import Profile
from adatp_cli.pruning.budget import drop_layer
from adatp_cli.pruning.drop_once import DropOnce
from adatp_cli.pruning.method import Circumstances, LayerStep, VisualLayout


@dataclass(frozen=True, slots=True)
class Uniform(DropOnce):
    """Before layer K, keep as many tokens of each frame, spread over it evenly.

    When the count does not divide by the frames, those that get one more are evenly spaced too. In
    each frame every next position is the one farthest from those already taken, from the middle on.
    """

    @property
    def name(self) -> str:
        return "uniform"

    def choose(self, step: LayerStep, layout: VisualLayout) -> Tensor:
        order = spread_positions(layout.rows, layout.cols)
        frames = torch.arange(layout.frames + 1)
        counts = (frames * step.keep // layout.frames).diff().tolist()
        taken = [
            frame * layout.per_frame + order[:count].sort().values
            for frame, count in enumerate(counts)
        ]
        return torch.cat(taken)


def spread_positions(rows: int, cols: int) -> Tensor:
    """(rows * cols,) int64: positions of a frame in an order whose every beginning is spread out.

    The first is the one nearest to the middle, each next the one farthest from all before it, ties
    to the earlier position.
    """
    row = torch.arange(rows).repeat_interleave(cols)
    col = torch.arange(cols).repeat(rows)

    def distance(to_row: float, to_col: float) -> Tensor:
        return (row - to_row) ** 2 + (col - to_col) ** 2

    order = [int(distance((rows - 1) / 2, (cols - 1) / 2).argmin())]
    nearest = distance(float(row[order[0]]), float(col[order[0]]))
    while len(order) < rows * cols:
        nearest[order[-1]] = -1.0
        chosen = int(nearest.argmax())
        order.append(chosen)
        nearest = torch.minimum(nearest, distance(float(row[chosen]), float(col[chosen])))
    return torch.tensor(order)


def build(profile: Profile) -> Uniform:
    """The method with a profile's knobs."""
    return Uniform(profile.share, profile.uniform.layer, profile.positions_or("original"))


def resolve(profile: Profile, known: Circumstances) -> Profile:
    """The profile with every `auto` replaced."""
    layer = drop_layer(known.layers, profile.uniform.layer, "uniform.layer")
    return dataclasses.replace(
        profile,
        uniform=dataclasses.replace(profile.uniform, layer=layer),
        positions=profile.positions_or("original"),
    )
