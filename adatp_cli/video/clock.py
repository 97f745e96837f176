"""From packets' timestamps to seconds from the start of the clip, however a file counts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from adatp_cli.video.packets import Packets

TimeArray: TypeAlias = npt.NDArray[np.float64]

# One step of more than a day that is most of a clip is a clock that was set, no footage.
_ABSURD_STEP_S = 86_400.0
# A stop worth a note: a minute, and far more than frames usually last.
_HOLE_S = 60.0
_HOLE_FRAMES = 100
_FEWEST_IN_A_PART = 3


@dataclass(frozen=True, slots=True)
class Clock:
    """When frames are shown.

    Parameters
    ----------
    times
        (n,) seconds from the start of the clip, strictly increasing, in the order of showing.
    ticks
        (n,) the timestamps that they come from, in the same order.
    one
        Whether it is the file's own clock: not counted on over several.
    notes
        What was mended.
    """

    times: TimeArray
    ticks: npt.NDArray[np.int64]
    one: bool
    notes: tuple[str, ...] = ()


def read_clock(packets: Packets, base: float, start_s: float) -> Clock | None:
    """The clip's clock; None where timestamps make no sense.

    Zero is where the earliest stream starts, as in a player: transport streams and cut recordings
    start their clocks anywhere.

    Parameters
    ----------
    base
        Seconds that a packet's unit of time takes.
    start_s
        When the earliest stream starts.
    """
    if not packets.timed:
        return None
    ticks = np.asarray(packets.pts, dtype=np.int64)
    parts = [np.unique(part) for part in np.split(ticks, packets.parts[1:])]
    if sum(map(len, parts)) < len(ticks):
        return None
    if len(parts) > 1:
        return _counted_on(parts, base)
    times = parts[0].astype(np.float64) * base
    gaps = np.diff(times)
    if len(gaps) > 1 and gaps.max() > _ABSURD_STEP_S:
        usual = float(np.median(gaps))
        if gaps.max() > _HOLE_FRAMES * usual and gaps.max() > 0.5 * (times[-1] - times[0]):
            return None
    start = max(0.0, start_s)
    if start > times[0] or times[0] - start < 1e-3:
        start = times[0]
    return Clock(times - start, parts[0], one=True)


def _counted_on(parts: list[npt.NDArray[np.int64]], base: float) -> Clock | None:
    """Parts with clocks of their own, each from the end of the one before."""
    if min(map(len, parts)) < _FEWEST_IN_A_PART:
        return None  # stray timestamps rather than parts
    times: list[TimeArray] = []
    end = 0.0
    for part in parts:
        shown = (part - part[0]).astype(np.float64) * base
        times.append(shown + end)
        end += float(shown[-1]) + float(np.median(np.diff(shown)))
    note = f"joined of {len(parts)} parts, each with a clock of its own: times are counted on"
    return Clock(np.concatenate(times), np.concatenate(parts), one=False, notes=(note,))


def holes(times: TimeArray) -> tuple[str, ...]:
    """A note where no frame comes for long in the middle of a clip, as when a clock was set."""
    gaps = np.diff(times)
    places = np.flatnonzero((gaps > _HOLE_S) & (gaps > _HOLE_FRAMES * float(np.median(gaps))))
    if len(places) == 0:
        return ()
    first = int(places[0])
    more = f", and {len(places) - 1} more" if len(places) > 1 else ""
    return (f"no new frame comes for {gaps[first]:.0f} s from {times[first]:.2f} s on{more}",)
