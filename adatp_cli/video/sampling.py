"""Which frames of a clip are looked at: index arithmetic on timestamps, apart from any decoder."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from adatp_cli.errors import UsageError

IndexArray: TypeAlias = npt.NDArray[np.int64]
TimeArray: TypeAlias = npt.NDArray[np.float64]

MAX_FPS = 1000.0
# Matroska rounds timestamps to milliseconds; a frame that starts within this much after the wanted
# moment counts as shown, so that a clip gives the same frames in every container.
TIMESTAMP_SLACK_S = 1e-3
# `--end 10.4` for a clip that a player calls "10 s" is no mistake; `--end 12` is one.
END_SLACK_S = 0.5

_CLOCK = re.compile(r"(?:(?:(\d{1,4}):)?(\d{1,4}):)?(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sampling:
    """What the user asked for: which part of the clip, and how many frames of it.

    UsageError for a value that can mean nothing, named by its command-line option.
    """

    # So many frames, at the middles of as many equal spans of the time range.
    frames: int | None = None
    # So many frames a second, each at the middle of its span of 1 / fps seconds. With `frames` as
    # well: this rate, thinned evenly to at most `frames`. With neither: every frame.
    fps: float | None = None
    start_s: float | None = None  # from the start of the clip
    end_s: float | None = None

    def __post_init__(self) -> None:
        if self.frames is not None:
            if isinstance(self.frames, bool) or not isinstance(self.frames, int):
                raise UsageError(f"--frames must be a whole number (got {self.frames!r})")
            if self.frames < 1:
                raise UsageError(f"--frames must be at least 1 (got {self.frames})")
        if self.fps is not None and not 0 < self.fps <= MAX_FPS:
            raise UsageError(f"--fps must be above 0 and at most {MAX_FPS:g} (got {self.fps})")
        if self.start_s is not None and not (math.isfinite(self.start_s) and self.start_s >= 0):
            raise UsageError(f"--start must be a time of 0 s or later (got {self.start_s})")
        if self.end_s is not None and not (math.isfinite(self.end_s) and self.end_s > 0):
            raise UsageError(f"--end must be a time after 0 s (got {self.end_s})")
        if self.end_s is not None and self.end_s <= (self.start_s or 0.0):
            raise UsageError(
                f"--end ({self.end_s:g} s) must be later than --start ({self.start_s:g} s)"
            )

    def with_default_frames(self, frames: int) -> Sampling:
        """This sampling, with `frames` filled in where neither a count nor a rate was asked for."""
        if self.frames is None and self.fps is None:
            return replace(self, frames=frames)
        return self


def parse_time(text: str) -> float:
    """Seconds from ``12.5``, ``mm:ss`` or ``hh:mm:ss``, each with an optional fraction."""
    match = _CLOCK.fullmatch(text.strip())
    if match is not None:
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        behind_minutes, behind_hours = match.group(2) is not None, match.group(1) is not None
        if not (behind_minutes and seconds >= 60) and not (behind_hours and minutes >= 60):
            return hours * 3600 + minutes * 60 + seconds
    raise UsageError(f"{text!r} is not a time", "write seconds (12.5), mm:ss or hh:mm:ss")


def sample_indices(
    frames: npt.ArrayLike | tuple[int, float],
    sampling: Sampling,
    *,
    duration_s: float | None = None,
    name: str = "the clip",
) -> IndexArray:
    """Which frames to use: as many as asked for, or every one of a range that holds fewer.

    `frames` is when each frame is shown, strictly increasing seconds from the start of the clip, or
    ``(frames_total, fps)`` at a constant rate. `duration_s` is when the last one stops being shown;
    by default it lasts as long as the median frame. The result is strictly increasing. UsageError
    for a range that starts or ends beyond the clip.
    """
    if isinstance(frames, tuple) and len(frames) == 2 and isinstance(frames[0], int):
        total, rate = frames
        times: TimeArray = np.arange(total, dtype=np.float64) / rate
        interval, slack = 1.0 / rate, 1e-6 / rate
    else:
        times = np.asarray(frames, dtype=np.float64)
        interval = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
        slack = min(TIMESTAMP_SLACK_S, 0.1 * interval)
    if len(times) == 0:
        return np.zeros(0, dtype=np.int64)
    clip_end = float(times[-1]) + interval if duration_s is None else float(duration_s)
    start, end = _time_range(sampling, float(times[0]), clip_end, name)
    first, stop = _frames_between(times, start, end, slack)
    if sampling.fps is None:
        return _at_middles(times, sampling.frames, (first, stop), (start, end), slack)
    chosen = _at_rate(times[first:stop], sampling.fps, (start, end), slack) + first
    if sampling.frames is not None and len(chosen) > sampling.frames:
        chosen = chosen[_middles(len(chosen), sampling.frames)]
    return chosen


def _time_range(
    sampling: Sampling, first_s: float, clip_end: float, name: str
) -> tuple[float, float]:
    """The range asked for, within the clip; UsageError where they do not meet."""
    start = first_s if sampling.start_s is None else sampling.start_s
    end = clip_end if sampling.end_s is None else sampling.end_s
    length = f"{name} is {clip_end:.2f} s long"
    if sampling.start_s is not None and start >= clip_end:
        raise UsageError(f"--start {start:g} s is beyond the end: {length}")
    if sampling.end_s is not None and end > clip_end + END_SLACK_S:
        raise UsageError(f"--end {end:g} s is beyond the end: {length}")
    return start, min(end, max(clip_end, start))


def _frames_between(times: TimeArray, start: float, end: float, slack: float) -> tuple[int, int]:
    """First and one-past-last frame that start in [start, end); the one shown where none does."""
    first = int(np.searchsorted(times, start - slack, side="left"))
    stop = int(np.searchsorted(times, end - slack, side="left"))
    if first >= stop:
        first = max(first - 1, 0)
        stop = first + 1
    return first, stop


def _middles(available: int, wanted: int) -> IndexArray:
    """Positions of the middles of `wanted` equal spans of ``range(available)``."""
    # In whole numbers: (k + 1/2) * available / wanted, rounded down.
    return (2 * np.arange(wanted, dtype=np.int64) + 1) * available // (2 * wanted)


def _at_middles(
    times: TimeArray,
    wanted: int | None,
    frames: tuple[int, int],
    time_range: tuple[float, float],
    slack: float,
) -> IndexArray:
    """The frames shown at the middles of `wanted` equal spans of time, never one twice."""
    first, stop = frames
    if wanted is None or wanted >= stop - first:
        return np.arange(first, stop, dtype=np.int64)
    start, end = time_range
    steps = np.arange(wanted, dtype=np.int64)
    moments = start + (steps + 0.5) * ((end - start) / wanted)
    shown = np.searchsorted(times, moments + slack, side="right").astype(np.int64) - 1
    shown = np.maximum(shown, first)
    if bool((np.diff(shown) <= 0).any()):
        shown = first + _spread(np.append(start, times[first + 1 : stop]), end, wanted)
    # What rounding still gives twice moves on to the next frame, and back where the range ends.
    shown = np.maximum.accumulate(shown - steps) + steps
    return np.minimum(shown, stop - wanted + steps)


def _spread(starts: TimeArray, end: float, wanted: int) -> IndexArray:
    """The frames at middles of spans where a frame that is shown long counts as one span.

    As a slide does, or the last frame before a hole in the timestamps: the other frames asked for
    are spread over everything else instead of crowding around it.
    """
    lasts = np.maximum(np.diff(np.append(starts, end)), 0.0)
    ordered = np.sort(lasts)
    # With the k shortest in full and the rest cut to one span: the span that gives `wanted` spans.
    k = np.arange(len(lasts) - wanted + 1, len(lasts) + 1)
    spans = np.cumsum(ordered)[k - 1] / (k - len(lasts) + wanted)
    cut = np.append(ordered, np.inf)[k] >= spans
    span = float(spans[int(np.argmax(cut))])
    begins = np.append(0.0, np.cumsum(np.minimum(lasts, span))[:-1])
    middles = (np.arange(wanted) + 0.5) * span
    return np.searchsorted(begins, middles, side="right").astype(np.int64) - 1


def _at_rate(
    times: TimeArray, fps: float, time_range: tuple[float, float], slack: float
) -> IndexArray:
    """The frames shown at the middles of spans of 1 / fps seconds, each once.

    Counts, for every frame, the middles before it: work grows with the frames, not with the rate.
    """
    start, end = time_range
    bounds = np.append(times - slack, end)
    before = np.maximum(np.ceil((bounds - start) * fps - 0.5), 0)
    before[0] = 0
    used = np.flatnonzero(np.diff(before) > 0).astype(np.int64)
    if len(used) == 0:
        middle = np.searchsorted(times, (start + end) / 2 + slack, side="right") - 1
        return np.array([max(int(middle), 0)], dtype=np.int64)
    return used
