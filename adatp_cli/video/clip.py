"""A clip that can be decoded, what is wanted of it, and when too little of that is left."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adatp_cli.errors import MemoryLimitError, VideoError
from adatp_cli.text import plural
from adatp_cli.video.frames import FrameBuffer
from adatp_cli.video.index import ClipIndex
from adatp_cli.video.sampling import Sampling, sample_indices
from adatp_cli.video.shown import FirstFrame, Orientation
from adatp_cli.video.source import Source

MAX_PIXEL_BYTES = 6 << 30
# Of the time asked for, what the frames that are left must stand for.
_LEAST_COVERED = 1 / 3
# Frames that a header may promise beyond those in the file, for what would have been chosen.
_MOST_MISSING = 1_000_000

IndexArray = npt.NDArray[np.int64]
TimeArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip that can be decoded, and what is wanted of it."""

    source: Source
    index: ClipIndex
    first: FirstFrame
    sampling: Sampling
    buffer: FrameBuffer

    def chosen(self, times: TimeArray) -> IndexArray:
        """Which frames to use where those at `times` are there.

        A range that ends where only the missing end of a cut file would be ends with the file.
        """
        sampling, end = self.sampling, self.index.end_s
        if self.index.missing and sampling.end_s is not None and sampling.end_s > end:
            sampling = dataclasses.replace(sampling, end_s=end)
        return sample_indices(times, sampling, duration_s=end, name=self.source.name)

    def asked(self) -> tuple[float, float]:
        """The range asked for, in seconds, as far as the whole clip would go."""
        start = max(self.sampling.start_s or 0.0, float(self.index.timestamps_s[0]))
        end = self.index.promised_end_s
        return start, max(
            start, end if self.sampling.end_s is None else min(self.sampling.end_s, end)
        )

    def whole(self) -> TimeArray:
        """When the frames are shown that would be used if nothing were damaged or missing.

        Raises
        ------
        UsageError
            The time range is beyond even that.
        """
        index = self.index
        missing = np.arange(1, min(index.missing, _MOST_MISSING) + 1) / index.fps
        times = np.concatenate([index.timestamps_s, index.timestamps_s[-1] + missing])
        end = index.promised_end_s
        return times[sample_indices(times, self.sampling, duration_s=end, name=self.source.name)]


def check_enough(clip: Clip, used: TimeArray, there: IndexArray) -> None:
    """VideoError where what is left of a damaged clip is not worth having.

    Parameters
    ----------
    used
        When the frames that would be used are shown.
    there
        Positions of all frames that decode, or are not known not to.

    Half of the frames asked for must be there, and they must stand for a third of the time: less
    leaves most moments unseen, and refusing at the first lost frame would throw away long
    recordings for a scratch. Many frames from the first second show the first second.
    """
    whole, index = clip.whole(), clip.index
    seen = len(np.unique(np.searchsorted((whole[1:] + whole[:-1]) / 2, used)))
    start, end = clip.asked()
    shown = np.append(index.timestamps_s, index.end_s).clip(start, end)
    seconds = float(np.diff(shown)[there].sum())
    covered = min(seen / len(whole), seconds / max(end - start, 1e-9)) >= _LEAST_COVERED
    if not covered or 2 * len(used) < len(whole):
        raise too_few(clip, len(used), None if covered else seconds)


def check_promised_range(source: Source, index: ClipIndex, sampling: Sampling) -> None:
    """A range that the header promises and the file no longer holds is no usage error."""
    beyond = sampling.start_s or 0.0
    if index.missing and index.end_s <= beyond < index.promised_end_s:
        raise VideoError(
            f"{source.name}: cut short: its frames end at {index.end_s:.2f} s "
            f"of {index.promised_end_s:.2f} s, before --start {beyond:g} s",
            "get or record the whole file again",
            kind="truncated",
        )


def check_beginning(clip: Clip) -> None:
    """A range before the first frame that decodes shows nothing."""
    before, end = clip.first.before, clip.sampling.end_s
    if before and end is not None and end <= (begins := clip.index.timestamps_s[before]):
        raise VideoError(
            f"{clip.source.name}: nothing before {begins:.2f} s can be decoded: it begins in the "
            "middle of a group of pictures",
            f"ask for a time after --start {begins:.2f}",
            kind="truncated",
        )


def nothing_decodes(source: Source, index: ClipIndex, sampling: Sampling) -> VideoError:
    """Not a single frame of the file can be decoded."""
    if index.missing:
        unseen = FirstFrame(1, 1, Orientation())
        return too_few(Clip(source, index, unseen, sampling, FrameBuffer()), 0)
    return VideoError(
        f"{source.name}: none of its {plural(len(index), 'frame')} can be decoded ({index.codec})",
        "the file is damaged; get or record it again",
    )


def too_few(clip: Clip, used: int, seconds: float | None = None) -> VideoError:
    """Too few of the frames that were asked for, or frames of too little of the time."""
    needed = len(clip.whole())
    start, end = clip.asked()
    what = (
        f"{used} of the {needed} frames asked for can be decoded, at least "
        f"{-(-needed // 2)} are needed"
    )
    hint = f"ask for --frames {used} or fewer, or get" if used else "get"
    if seconds is not None:
        hint = "look at what is left of it with --start and --end, or get"
    if seconds is not None and 2 * used >= needed:
        what = (
            f"frames of {seconds:.2f} of the {end - start:.2f} s asked for can be decoded, at "
            "least a third is needed"
        )
    return VideoError(
        f"{clip.source.name}: cut short or damaged: {what}",
        f"{hint} the whole file again",
        kind="truncated",
    )


def check_memory(clip: Clip, frames: int) -> None:
    height, width = clip.buffer.kept(clip.first.height, clip.first.width)
    each = height * width * 3
    if frames * each > MAX_PIXEL_BYTES:
        raise MemoryLimitError(
            f"{clip.source.name}: {plural(frames, 'frame')} of {width}x{height} would take "
            f"{frames * each / 2**30:.1f} GB",
            f"ask for --frames {max(1, MAX_PIXEL_BYTES // each)} or fewer",
        )
