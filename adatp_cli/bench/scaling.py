"""How prefill time and peak memory grow with the frames: a curve through the medians.

Time is a + b n + c n^2 in the frames n: a constant, what every token takes by itself, and what
every pair of tokens takes in attention. Memory is a + b n.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adatp_cli.bench.summary import Row

# Below this any curve fits.
LEAST_POINTS = 3
_TIME_TERMS, _MEMORY_TERMS = 3, 2

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """A polynomial in the number of frames.

    Parameters
    ----------
    coefficients
        In ascending powers of the frames; none is negative.
    worst_residual
        The largest distance of a point from the curve, as a share of the point. None where the
        curve has a term for every point: it then goes through all of them, which shows nothing.
    """

    coefficients: tuple[float, ...]
    worst_residual: float | None

    def at(self, frames: float) -> float:
        """The curve's value at so many frames."""
        return sum(value * frames**power for power, value in enumerate(self.coefficients))


@dataclass(frozen=True, slots=True)
class Growth:
    """How one contender grows with the frames.

    Parameters
    ----------
    contender
        Who.
    frames
        The numbers of frames that it was measured at.
    prefill_s
        Seconds of prefill.
    peak_bytes
        Peak memory above what was held before; None where it was not measured.
    """

    contender: str
    frames: tuple[int, ...]
    prefill_s: Curve
    peak_bytes: Curve | None


def growth(rows: Sequence[Row]) -> list[Growth]:
    """The growth of every contender that was measured at three numbers of frames or more."""
    found = []
    for name in dict.fromkeys(row.contender for row in rows):
        own = [row for row in rows if row.contender == name and "prefill" in row.seconds]
        frames = [row.frames for row in own]
        seconds = fit(frames, [row.seconds["prefill"].median for row in own], _TIME_TERMS)
        if seconds is None:
            continue
        held = [row.peak_bytes.median for row in own if row.peak_bytes is not None]
        memory = fit(frames, held, _MEMORY_TERMS) if len(held) == len(own) else None
        found.append(Growth(name, tuple(frames), seconds, memory))
    return found


def fit(frames: Sequence[int], values: Sequence[float], terms: int) -> Curve | None:
    """The polynomial without a negative coefficient that is nearest to points.

    Nearest is the least sum of squares of distances, each as a share of its point: a clock's error
    grows with what it measures, and the few frames count as much as the many.

    Parameters
    ----------
    frames, values
        The points; no number of frames twice.
    terms
        Coefficients, the constant among them.

    Returns
    -------
    None where there are fewer than three points, or one that is not positive.
    """
    measured = np.asarray(values, dtype=np.float64)
    if len(measured) < LEAST_POINTS or not (measured > 0).all():
        return None
    most = max(frames)  # in shares of it, so that no column dwarfs another
    powers = np.vander(np.asarray(frames, dtype=np.float64) / most, terms, increasing=True)
    best = _least_squares(powers / measured[:, None])
    distances = np.abs(powers @ best / measured - 1)
    scaled = best / float(most) ** np.arange(terms)
    free = len(measured) > np.count_nonzero(best)
    return Curve(tuple(scaled.tolist()), float(distances.max()) if free else None)


def _least_squares(columns: Floats) -> Floats:
    """The non-negative weights of columns, whose weighted sum is nearest to ones.

    The best weights are the plain least squares of those columns that get any, and with so few
    columns every choice of them can be tried.
    """
    count = columns.shape[1]
    best, least = np.zeros(count), np.inf
    for size in range(1, count + 1):
        for chosen in itertools.combinations(range(count), size):
            found = np.linalg.lstsq(columns[:, chosen], np.ones(len(columns)), rcond=None)[0]
            distance = float(((columns[:, chosen] @ found - 1) ** 2).sum())
            if (found >= 0).all() and distance < least:
                best, least = np.zeros(count), distance
                best[list(chosen)] = found
    return best
