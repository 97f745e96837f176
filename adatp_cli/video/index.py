"""What the packets of a clip say before a single frame is decoded.

Headers are not believed: their counts and durations are too often missing, old or wrong.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from adatp_cli.errors import VideoError
from adatp_cli.video.container import ClipFile, Packets, read_packets
from adatp_cli.video.frames import Progress, unwatched
from adatp_cli.video.sampling import TimeArray
from adatp_cli.video.source import Ending, Source, encrypted, ending_of

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# One step of more than a day that is most of a clip is a clock that was set, no footage.
_ABSURD_STEP_S = 86_400.0
# A stop worth a note: a minute, and far more than frames usually last.
_HOLE_S = 60.0
_HOLE_FRAMES = 100
_FEWEST_IN_A_PART = 3


@dataclass(frozen=True, slots=True)
class Clock:
    """When frames are shown."""

    times: (
        TimeArray  # (n,) from the start of the clip, strictly increasing, in the order of showing
    )
    ticks: npt.NDArray[np.int64]  # (n,) the timestamps that they come from, in the same order
    one: bool  # it is the file's own clock, not counted on over several
    notes: tuple[str, ...] = ()  # what was mended


def read_clock(packets: Packets, base: float, start_s: float) -> Clock | None:
    """The clip's clock; None where timestamps make no sense.

    Zero is where the earliest stream starts, as in a player: transport streams and cut recordings
    start their clocks anywhere.
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


_MADE_UP_TIMES = "it holds no usable timestamps: a constant frame rate is assumed"
# Headers count a decoder's delay as part of the length; more than that is a frame shown long.
_LONGER_S = 0.5
# And a last frame of more than a day is the header's mistake.
_LONGEST_STILL_S = 86_400.0
# A stream with fewer than a fiftieth of another one's frames is its cover or its previews.
_STILL_SHARE = 50


@dataclass(frozen=True, slots=True)
class ClipIndex:
    """All frames of a clip by the packets that hold them."""

    format: str  # FFmpeg's name, as is `codec`
    codec: str
    stream: int  # its number in the file
    video_streams: int  # in the file, cover pictures not counted
    # (n,) presentation timestamps in units of `time_base_s`, in the order of showing. Ascending
    # where `exact`; fewer than n where timestamps make no sense.
    pts: npt.NDArray[np.int64]
    # (m,) of all packets in the order they are stored, with those that an edit list hides: when
    # they are shown, and their bytes. What is read after a seek is held against them.
    stored_pts: npt.NDArray[np.int64]
    stored_sizes: npt.NDArray[np.int64]
    # Places of the key frames in `stored_pts`, ascending in time; and the timestamps by which the
    # container finds them.
    keys: npt.NDArray[np.int64]
    keys_seek: npt.NDArray[np.int64]
    time_base_s: float
    timestamps_s: TimeArray  # (n,) strictly increasing, from the start of the clip
    end_s: float  # when the last frame stops being shown
    fps: float  # the mean where the rate varies
    exact: bool  # every frame has a presentation timestamp of its own that can be trusted
    closed: bool  # decoding may start at every key frame: none is shown before one stored before it
    before_key: int  # frames stored before the first key frame
    # Frames that should follow in a file that is cut short, by its clip's rate where its header
    # tells the length alone.
    missing: int
    notes: tuple[str, ...] = ()  # what was mended
    comment: str = ""  # what the file says of itself, cut to 200 characters

    def __len__(self) -> int:
        return len(self.timestamps_s)

    @property
    def promised_end_s(self) -> float:
        """When the last frame would stop being shown if none were missing."""
        return self.end_s + self.missing / self.fps


def index_clip(file: ClipFile, progress: Progress = unwatched) -> ClipIndex:
    """Read all packets of the clip, decoding none."""
    with file.container() as (container, streams):
        found = read_packets(container, streams, progress)
        # The likeliest stream of those that move: covers and previews can be larger and come first.
        most = max(len(packets.pts) for packets in found.values())
        fewest = min(most - 1, max(1, most / _STILL_SHARE))
        stream = next(one for one in streams if len(found[one.index].pts) > fewest)
        packets = found[stream.index]
        # Matroska's encryption shows as the name of a key.
        if packets.encrypted or "enc_key_id" in stream.metadata:
            raise encrypted(file.source)
        return _build_index(file.source, container, stream, packets)


def _build_index(
    source: Source, container: InputContainer, stream: VideoStream, packets: Packets
) -> ClipIndex:
    kind = container.format.name
    ending = ending_of(source, kind)
    absent = _frames_beyond_the_end(source, container, stream, len(packets.pts))
    if not packets.pts:
        if absent or ending is Ending.CUT:
            counted = f"0 of its {absent} frames are" if absent else "none of its frames are"
            raise VideoError(
                f"{source.name}: cut short: {counted} in the file",
                "get or record the whole file again",
                kind="truncated",
            )
        raise VideoError(
            f"{source.name}: the video stream holds no frames",
            "record or export it again",
            kind="no_frames",
        )
    base = float(stream.time_base or 1)
    count = len(packets.pts)
    rates = [float(one) for one in (stream.average_rate, stream.guessed_rate) if one]
    rate = next((one for one in rates if 1e-3 <= one <= 1000), None)
    interval = 1.0 / (rate or 25.0)
    # AVI's clock starts with the file; what is read of its start is the decoder's delay.
    start_s = np.inf if kind == "avi" else float(container.start_time or 0) / 1e6
    clock = read_clock(packets, base, start_s)
    notes: list[str] = []
    if clock is None:
        notes.append(_MADE_UP_TIMES)
        times = np.arange(count, dtype=np.float64) * interval
    else:
        notes.extend(clock.notes)
        times = clock.times
    gaps = np.diff(times)
    if count > 1:
        interval = float(np.median(gaps))
        notes.extend(holes(times))
    floor = float(times[-1]) + interval
    end = (
        float(times[-1]) + packets.last_duration * base
        if clock and packets.last_duration
        else floor
    )
    stated = _stated_end(container, stream, float(times[0]), floor)
    if ending is Ending.WHOLE and stated is not None and clock is not None and clock.one:
        longer = stated > end + max(_LONGER_S, 4 * interval) and not kind.startswith("mov")
        end = stated if longer else min(end, max(stated, floor))
    fps = _rate(gaps, rate, interval)
    missing = absent
    if ending is Ending.CUT and stated is not None and stated > floor + max(1.0, 0.05 * stated):
        missing = max(absent, 1, round((stated - floor) * fps))
    # AVI stores no presentation times: what is read for reordered frames is the storage order.
    codec = stream.codec_context.codec.canonical_name
    reordered = kind == "avi" and codec in ("h264", "hevc")
    stored = np.asarray(packets.stored, dtype=np.int64)
    keys = np.asarray(packets.keys, dtype=np.int64)
    in_time = np.argsort(stored[keys], stable=True)
    # MPEG's streams are searched by when packets are to be decoded, the others' indexes by key.
    by_dts = kind.startswith("mpeg")
    found_by = np.asarray(packets.keys_dts, dtype=np.int64) if by_dts else stored[keys]
    return ClipIndex(
        format=kind,
        codec=codec,
        stream=stream.index,
        video_streams=len(container.streams.video),
        pts=np.unique(np.asarray(packets.pts, dtype=np.int64)) if clock is None else clock.ticks,
        stored_pts=stored,
        stored_sizes=np.asarray(packets.sizes, dtype=np.int64),
        keys=keys[in_time],
        keys_seek=found_by[in_time],
        time_base_s=base,
        timestamps_s=times,
        end_s=round(floor if missing else end, 9),
        fps=fps,
        exact=packets.exact and clock is not None and clock.one and not reordered,
        closed=packets.closed,
        before_key=packets.keys[0] if packets.keys else 0,
        missing=missing,
        notes=tuple(notes),
        comment=container.metadata.get("comment", "")[:200],
    )


def _frames_beyond_the_end(
    source: Source, container: InputContainer, stream: VideoStream, found: int
) -> int:
    """How many more frames the index of an MP4 file lists, where it lists some beyond its end."""
    if not container.format.name.startswith("mov"):
        return 0
    listed, beyond = 0, False
    for entry in stream.index_entries:
        if not entry.is_discard:
            listed += 1
            beyond |= entry.pos + entry.size > source.size
    return max(0, listed - found) if beyond else 0


def _rate(gaps: TimeArray, stated: float | None, interval: float) -> float:
    """Frames a second: what the header says where it holds, else the usual one, else the mean."""
    if len(gaps) == 0:
        return 1.0 / interval
    mean = 1.0 / float(gaps.mean())
    steady = float((np.abs(gaps - interval) < 0.1 * interval).mean()) > 0.9
    typical = 1.0 / interval if steady else mean
    for rate in (mean, typical):
        if stated is not None and abs(stated - rate) < 0.01 * rate:
            return stated
    return float(f"{typical:.6g}")


def _stated_end(
    container: InputContainer, stream: VideoStream, first_s: float, floor: float
) -> float | None:
    """When the video ends by the header, on the clip's clock; None where it only guesses."""
    kind = container.format.name
    if kind.startswith(("mov", "avi")):
        lasts = float((stream.duration or 0) * (stream.time_base or 1))
        return first_s + lasts if lasts > 0 else None
    if not kind.startswith(("matroska", "flv")):
        return None
    known = _tagged_seconds(stream.metadata.get("DURATION", ""))
    if container.duration and (known or len(container.streams) == 1):
        known = min(known or np.inf, container.duration / 1e6)
    if known is None:
        return None
    # Some writers count from zero and some from where their clock starts.
    late = float(container.start_time or 0) / 1e6
    known = known - late if known - late > floor - 1.0 else known
    return known if known < floor + _LONGEST_STILL_S else None


def _tagged_seconds(text: str) -> float | None:
    hours, _, rest = text.partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        known = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except (ValueError, OverflowError):
        return None
    return known if math.isfinite(known) else None


def times_of(
    index: ClipIndex, pts: list[int | None], before: int, *, partial: bool
) -> tuple[TimeArray, npt.NDArray[np.int64]]:
    """When each frame that came out of decoding in a row is shown, and which of the clip it is."""
    count = len(pts)
    ordinals = np.arange(count, dtype=np.int64)
    known = [moment for moment in pts if moment is not None]
    rising = np.asarray(known, dtype=np.int64)
    if index.exact and len(known) == count and bool((np.diff(rising) > 0).all()):
        positions = np.minimum(np.searchsorted(index.pts, rising), len(index) - 1)
        if bool((index.pts[positions] == rising).all()):
            return index.timestamps_s[positions], positions.astype(np.int64)
    if count == len(index) - before or (partial and count < len(index) - before):
        return index.timestamps_s[before : before + count], ordinals + before
    found = _in_order(index, known) if len(known) == count else None
    if found is not None:
        return index.timestamps_s[found], found
    return float(index.timestamps_s[0]) + ordinals / index.fps, ordinals


def _in_order(index: ClipIndex, pts: list[int]) -> npt.NDArray[np.int64] | None:
    """The places of frames with these timestamps, each behind the one before; None without them.

    Of joined clips a timestamp may stand at several places.
    """
    places: dict[int, list[int]] = {}
    for place, moment in enumerate(index.pts.tolist()):
        places.setdefault(moment, []).append(place)
    found: list[int] = []
    for moment in pts:
        here = places.get(moment, [])
        later = bisect.bisect(here, found[-1] if found else -1)
        if later == len(here):
            return None
        found.append(here[later])
    return np.array(found, dtype=np.int64) if len(index.pts) == len(index) else None
