"""Opening a clip with PyAV, and what its packets say before a single frame is decoded.

The index comes from the packets themselves and never from a header's word: frame counts and
durations in headers are missing, rounded or wrong too often. Both decoders are held to it.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from adatp_cli.errors import VideoError
from adatp_cli.video.canvas import Progress, no_progress
from adatp_cli.video.source import Source, explain_unopened

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

# Containers that hold video, and the sound-only ones that are worth their own message. Everything
# else stays shut: FFmpeg reads text files as ANSI art and follows playlists to other files.
FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,gif,apng,h264,hevc,"
    "av1,obu,ivf,m4v,mxf,nut,rm,wtv,dv,nsv,yuv4mpegpipe,mjpeg,vvc,dhav,"
    "mp3,wav,w64,flac,aac,ac3,eac3,aiff,caf,amr,au"
)
# Below: pixels of one frame that are still decoded (16384 x 8192).
MAX_FRAME_PIXELS = 1 << 27
MAX_THREADS = 8

# A clip of more than a day at less than a frame in two minutes is a broken timestamp, no clip.
_ABSURD_SPAN_S = 86_400.0
_ABSURD_INTERVAL_S = 120.0
_MADE_UP_TIMES = "it holds no usable timestamps: a constant frame rate is assumed"


@dataclass(frozen=True, slots=True)
class ClipIndex:
    """All frames of a clip by the packets that hold them.

    Parameters
    ----------
    format, codec
        FFmpeg's names.
    video_streams
        Video streams in the file, cover pictures not counted.
    pts
        (n,) int64, ascending: presentation timestamps in units of `time_base_s`. Read only where
        `exact`.
    key_pts
        Of the key frames, ascending.
    timestamps_s
        (n,) float64, strictly increasing, seconds from the start of the clip.
    end_s
        When the last frame stops being shown.
    fps
        Frames a second, the mean where the rate varies.
    exact
        Whether every frame has a presentation timestamp of its own that can be trusted.
    closed
        Whether decoding may start at every key frame with nothing lost: no frame is stored after a
        key frame and shown before it.
    promised_frames, promised_s
        What the header says there should be, where the file holds less; else None.
    missing
        How many frames that is less, by the clip's rate where only the length is promised.
    notes
        What was mended.
    """

    format: str
    codec: str
    video_streams: int
    pts: npt.NDArray[np.int64]
    key_pts: npt.NDArray[np.int64]
    time_base_s: float
    timestamps_s: npt.NDArray[np.float64]
    end_s: float
    fps: float
    exact: bool
    closed: bool
    promised_frames: int | None
    promised_s: float | None
    missing: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.timestamps_s)

    @property
    def promised_end_s(self) -> float:
        """When the last frame would stop being shown if none were missing."""
        return self.end_s + self.missing / self.fps


def quiet_libav() -> None:
    """Keep FFmpeg's own messages off stderr: what matters reaches the user as one line.

    Any level but None is worse than noise: PyAV then takes the interpreter's lock in FFmpeg's
    threads, and closing a decoder whose threads have something to say waits for ever.
    """
    import av.logging

    av.logging.set_level(None)
    av.logging.set_libav_level(av.logging.PANIC)


def decoding_errors() -> tuple[type[Exception], ...]:
    """What PyAV raises over damaged data; the last three where its own bookkeeping stumbles."""
    import av

    return (av.FFmpegError, OSError, ValueError, IndexError, OverflowError)


@contextmanager
def open_clip(
    source: Source, *, share_frames: bool = False
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its video stream, ready to demux and decode.

    Threads decode a frame each (fast), or share one frame with `share_frames`.

    Raises
    ------
    VideoError
        Every reason for which there is no video stream to be had.
    """
    import av

    quiet_libav()
    location = source.location()
    try:
        try:
            container = av.open(location, "r", container_options={"format_whitelist": FORMATS})
        except av.error.EOFError:
            raise VideoError(
                f"{source.name}: holds no frames: it ends after its header",
                "record or export it again",
                kind="no_frames",
            ) from None
        except decoding_errors():
            raise explain_unopened(source) from None
        with container:
            stream = _video_stream(container, source)
            stream.codec_context.thread_type = "SLICE" if share_frames else "AUTO"
            yield container, stream
    finally:
        if not isinstance(location, str):
            location.close()


def _video_stream(container: InputContainer, source: Source) -> VideoStream:
    from av.stream import Disposition

    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]
    if not streams:
        if len(container.streams) == 0:
            raise VideoError(
                f"{source.name}: holds no frames and no sound",
                "record or export it again",
                kind="no_frames",
            )
        sound = "sound only" if container.streams.audio else "no video stream"
        cover = " and a cover picture" if container.streams.video else ""
        raise VideoError(
            f"{source.name}: holds {sound}{cover}, there is nothing to look at",
            "give a file with a video stream",
            kind="no_video_stream",
        )
    stream = max(streams, key=lambda s: (_pixels(s), -s.index))
    if _pixels(stream) == 0:
        raise VideoError(
            f"{source.name}: its video codec is not supported, or its header is damaged",
            "convert it to H.264 first",
        )
    if _pixels(stream) > MAX_FRAME_PIXELS:
        raise VideoError(
            f"{source.name}: frames of {stream.width}x{stream.height} pixels are not decoded",
            "the file is damaged, or must be scaled down first",
        )
    stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    stream.codec_context.thread_count = max(1, min(MAX_THREADS, os.cpu_count() or 1))
    return stream


def _pixels(stream: VideoStream) -> int:
    """0 too for a stream of a codec that FFmpeg does not know: PyAV gives it no codec context."""
    codec = getattr(stream, "codec_context", None)
    return codec.width * codec.height if codec is not None else 0


def index_clip(source: Source, progress: Progress = no_progress) -> ClipIndex:
    """Read all packets of the clip, decoding none.

    Raises
    ------
    VideoError
        No video to read, or a video stream without a single frame.
    """
    with open_clip(source) as (container, stream):
        packets = _read_packets(container, stream, progress)
        return _build_index(source, container, stream, packets)


@dataclass(slots=True)
class _Packets:
    pts: array[int]
    keys: array[int]
    total: int = 0
    timed: bool = False
    jumps: bool = False
    exact: bool = True
    closed: bool = True
    last_duration: int = 0


def _read_packets(container: InputContainer, stream: VideoStream, progress: Progress) -> _Packets:
    packets = _Packets(array("q"), array("q"))
    jump = int(5.0 / float(stream.time_base or 1))
    newest = 0
    try:
        for packet in container.demux(stream):
            progress()
            if packet.size == 0:
                continue
            packets.total += 1
            if packet.is_discard:
                continue
            moment = _packet_pts(packet, packets)
            # A step far back in time: clips strung together, each with a clock of its own.
            packets.jumps |= bool(packets.pts) and moment < newest - jump
            if not packets.pts or moment >= newest:
                newest = moment
                packets.last_duration = packet.duration or 0
            if packet.is_keyframe:
                packets.keys.append(moment)
            elif not packets.keys or moment < packets.keys[-1]:
                packets.closed = False
            packets.pts.append(moment)
    except decoding_errors():
        pass  # What came before counts; `promised_*` says that more was to come.
    return packets


def _packet_pts(packet: Packet[VideoStream], packets: _Packets) -> int:
    packets.timed |= packet.pts is not None or packet.dts is not None
    if packet.pts is not None:
        return packet.pts
    packets.exact = False
    if packet.dts is not None:
        return packet.dts
    return packets.pts[-1] + 1 if packets.pts else 0


def _build_index(
    source: Source, container: InputContainer, stream: VideoStream, packets: _Packets
) -> ClipIndex:
    promised = stream.frames if container.format.name.startswith("mov") else 0
    if not packets.pts:
        if promised > 0:
            raise VideoError(
                f"{source.name}: cut short: 0 of its {promised} frames are in the file",
                "get or record the whole file again",
                kind="truncated",
            )
        raise VideoError(
            f"{source.name}: the video stream holds no frames",
            "record or export it again",
            kind="no_frames",
        )
    base = float(stream.time_base or 1)
    pts = np.unique(np.asarray(packets.pts, dtype=np.int64))
    count = len(packets.pts)
    codec = stream.codec_context.codec.canonical_name
    # AVI stores no presentation times: what is read for reordered frames is the storage order.
    is_avi = container.format.name == "avi"
    reordered = is_avi and codec in ("h264", "hevc")
    clock = packets.timed and not packets.jumps and len(pts) == count
    exact = packets.exact and clock and not reordered
    rate = _plausible_rate(stream)
    start_s = float(container.start_time or 0) / 1e6
    times = None
    if clock:
        times = _clip_times(pts.astype(np.float64) * base, np.inf if is_avi else start_s)
    notes = () if times is not None else (_MADE_UP_TIMES,)
    if times is None:
        times = np.arange(count, dtype=np.float64) / (rate or 25.0)
    interval = float(np.median(np.diff(times))) if count > 1 else 1.0 / (rate or 25.0)
    shown = packets.last_duration * base if not notes else 0.0
    end = float(times[-1]) + (shown if 0 < shown <= 10 * interval else interval)
    mean = count / (end - float(times[0]))
    promised_s = _promised_seconds(container, stream)
    cut = promised_s is not None and promised_s > end + max(1.0, 0.05 * promised_s)
    fps = rate if rate is not None and abs(rate - mean) < 0.01 * mean else mean
    missing = max(0, promised - packets.total)
    if missing == 0 and cut and promised_s is not None:
        missing = max(1, round((promised_s - end) * fps))
    return ClipIndex(
        format=container.format.name,
        codec=codec,
        video_streams=len(container.streams.video),
        pts=pts,
        key_pts=np.unique(np.asarray(packets.keys, dtype=np.int64)),
        time_base_s=base,
        timestamps_s=times,
        end_s=end,
        fps=fps,
        exact=exact,
        closed=packets.closed,
        promised_frames=promised if promised > packets.total else None,
        promised_s=promised_s if cut else None,
        missing=missing,
        notes=notes,
    )


def _plausible_rate(stream: VideoStream) -> float | None:
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate is not None and rate > 0 and 1e-3 <= float(rate) <= 1000:
            return float(rate)
    return None


def _clip_times(times: npt.NDArray[np.float64], start_s: float) -> npt.NDArray[np.float64] | None:
    """Seconds from the start of the clip; None for times that make no sense.

    Zero is where the earliest stream starts, as in a player: transport streams and cut recordings
    start their clocks anywhere.
    """
    first = float(times[0])
    span = float(times[-1]) - first
    if span > _ABSURD_SPAN_S and span > _ABSURD_INTERVAL_S * len(times):
        return None
    start = max(0.0, start_s)
    if start > first or first - start < 1e-3:
        start = first
    return times - start


def _promised_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    """How long the header says that the video is; None where it only guesses."""
    kind = container.format.name
    if kind.startswith("mov") and stream.duration:
        return float(stream.duration * (stream.time_base or 1))
    if kind.startswith("matroska"):
        hours, _, rest = stream.metadata.get("DURATION", "").partition(":")
        minutes, _, seconds = rest.partition(":")
        try:
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        except ValueError:
            pass
    alone = len(container.streams) == 1
    if alone and kind.startswith(("matroska", "flv")) and container.duration:
        return container.duration / 1e6
    return None
