"""Opening a clip with PyAV: its container, and the streams in it that hold moving pictures."""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

from adatp_cli.errors import VideoError
from adatp_cli.video.frames import Progress
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
# No protocol either: what a file names is not opened, whatever its container makes of it.
_SHUT = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
# Below: pixels of one frame that are still decoded (16384 x 8192).
MAX_FRAME_PIXELS = 1 << 27
MAX_THREADS = 8
# Where threads keep damage to themselves: of VP8 they give the frame before for one that does not
# decode, of MPEG-2 they lose the flag that frames were made up.
_THREADS: dict[str, Literal["SLICE", "NONE"]] = {
    "vp8": "SLICE", "mpeg1video": "NONE", "mpeg2video": "NONE",
}  # fmt: skip
# Containers whose demuxers find their way back to the first packet by an index of them all.
_REWIND = ("mov", "matroska")
_BEFORE_ALL = -(1 << 62)


def decoding_errors() -> tuple[type[Exception], ...]:
    """What PyAV raises over damaged data; the last three where its own bookkeeping stumbles."""
    import av

    return (av.FFmpegError, OSError, ValueError, IndexError, OverflowError)


class ClipFile:
    """A clip whose container may stay open between uses: reading its header may take minutes."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._keeps = True
        self._kept: InputContainer | None = None
        self._closing = contextlib.ExitStack()

    @contextmanager
    def container(
        self, *, fresh: bool = False
    ) -> Iterator[tuple[InputContainer, list[VideoStream]]]:
        """The container at its first packet, and its streams, that likeliest to be the clip first.

        `fresh` is a container that nobody used before.
        """
        if not fresh and self._kept is not None and self._rewind(self._kept):
            yield self._kept, _video_streams(self._kept, self.source)
            return
        with contextlib.ExitStack() as stack:
            content = stack.enter_context(self.source.open())
            container = stack.enter_context(_opened(content, self.source))
            yield container, _video_streams(container, self.source)
            if self._keeps and not fresh and container.format.name.startswith(_REWIND):
                self._kept, self._closing = container, stack.pop_all()

    @contextmanager
    def stream(
        self, number: int, *, share_frames: bool = False
    ) -> Iterator[tuple[InputContainer, VideoStream]]:
        """The container and its stream of this number, ready to demux and decode.

        Threads decode a frame each (fast), or share one frame with `share_frames`.
        """
        # An open decoder keeps its threads.
        with self.container(fresh=share_frames) as (container, streams):
            chosen = next((one for one in streams if one.index == number), streams[0])
            if _pixels(chosen) > MAX_FRAME_PIXELS:
                size = f"{chosen.width}x{chosen.height}"
                raise VideoError(
                    f"{self.source.name}: frames of {size} pixels are not decoded",
                    "the file is damaged, or must be scaled down first",
                )
            codec = chosen.codec_context
            if not codec.is_open:
                codec.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
                codec.thread_count = max(1, min(MAX_THREADS, os.cpu_count() or 1))
                codec.thread_type = _THREADS.get(codec.name, "SLICE" if share_frames else "AUTO")
            yield container, chosen

    def keep_nothing(self) -> None:
        """Open the container anew for each use."""
        self._keeps = False
        self.close()

    def close(self) -> None:
        """Let go of the container that is kept."""
        self._kept = None
        self._closing.close()

    def _rewind(self, container: InputContainer) -> bool:
        try:
            container.seek(_BEFORE_ALL)
        except decoding_errors():
            self.close()
            return False
        return True


def _opened(content: BinaryIO, source: Source) -> InputContainer:
    import av.logging

    # FFmpeg's own messages stay off stderr: what matters reaches the user as one line. Any level
    # but None is worse than noise: PyAV then takes the interpreter's lock in FFmpeg's threads, and
    # closing a decoder whose threads have something to say waits for ever.
    av.logging.set_level(None)
    av.logging.set_libav_level(av.logging.PANIC)
    try:
        return av.open(content, "r", container_options=_SHUT)
    except av.error.EOFError:
        raise VideoError(
            f"{source.name}: holds no frames: it ends after its header",
            "record or export it again",
            kind="no_frames",
        ) from None
    except decoding_errors():
        raise explain_unopened(source) from None


def _video_streams(container: InputContainer, source: Source) -> list[VideoStream]:
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
    known = [stream for stream in streams if _pixels(stream) > 0]
    if not known:
        raise VideoError(
            f"{source.name}: its video codec is not supported, or its header is damaged",
            "convert it to H.264 first",
        )
    # FFmpeg's choice: what is marked as the default, what moves, what takes most bits a second.
    best = container.streams.best("video")
    return sorted(known, key=lambda stream: (stream is not best, -_pixels(stream), stream.index))


def _pixels(stream: VideoStream) -> int:
    """0 too for a stream of a codec that FFmpeg does not know: PyAV gives it no codec context."""
    codec = getattr(stream, "codec_context", None)
    return codec.width * codec.height if codec is not None else 0


# A step back in time: between frames as they are stored, and where only the order of showing is
# known, in which frames are out of order themselves.
_STEP_BACK_S = 0.5
_STEP_BACK_SHOWN_S = 5.0


@dataclass(slots=True)
class Packets:
    """The packets of one stream, in the order they are stored."""

    # When each is shown, in units of the stream's time base (made up where `exact` is false), and
    # its bytes; with those that an edit list hides, which are decoded for the sake of others.
    stored: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    # Places of the key frames, and when they are to be decoded.
    keys: array[int] = field(default_factory=lambda: array("q"))
    keys_dts: array[int] = field(default_factory=lambda: array("q"))
    pts: array[int] = field(default_factory=lambda: array("q"))  # of those that are shown
    # Where the clock steps back: clips joined to one file, each with a clock of its own. Places in
    # `pts`, the first one 0.
    parts: array[int] = field(default_factory=lambda: array("q", [0]))
    timed: bool = False  # there is any timestamp at all
    exact: bool = True  # each packet says when it is shown
    closed: bool = True  # no packet is stored after a key frame and shown before it
    encrypted: bool = False
    last_duration: int = 0  # of the packet shown last, 0 where it is not known
    _newest: int = 0
    _decoded: int | None = None

    def add(self, packet: Packet[VideoStream], base: float) -> None:
        """The next packet; `base` is the time base in seconds."""
        moment = self._moment(packet)
        self.encrypted |= packet.has_sidedata("encryption_info")
        if packet.is_keyframe:
            self.keys.append(len(self.stored))
            self.keys_dts.append(moment if packet.dts is None else packet.dts)
        elif not self.keys or moment < self.stored[self.keys[-1]]:
            self.closed = False
        self.stored.append(moment)
        self.sizes.append(packet.size)
        if packet.is_discard:
            return
        if self.pts and self._steps_back(packet, moment, base):
            self.parts.append(len(self.pts))
            self._newest = moment
        if packet.dts is not None:
            self._decoded = packet.dts
        if not self.pts or moment >= self._newest:
            self._newest = moment
            self.last_duration = packet.duration or 0
        self.pts.append(moment)

    def _steps_back(self, packet: Packet[VideoStream], moment: int, base: float) -> bool:
        if self._decoded is not None and packet.dts is not None:
            return packet.dts < self._decoded - _STEP_BACK_S / base
        return moment < self._newest - _STEP_BACK_SHOWN_S / base

    def _moment(self, packet: Packet[VideoStream]) -> int:
        self.timed |= packet.pts is not None or packet.dts is not None
        if packet.pts is not None:
            return packet.pts
        self.exact = False
        if packet.dts is not None:
            return packet.dts
        return self.stored[-1] + 1 if self.stored else 0


def read_packets(
    container: InputContainer, streams: list[VideoStream], progress: Progress
) -> dict[int, Packets]:
    """The packets of each of the streams, by its number."""
    found = {stream.index: Packets() for stream in streams}
    bases = {stream.index: float(stream.time_base or 1) for stream in streams}
    try:
        for packet in container.demux(streams):
            progress()
            if packet.size == 0:
                continue
            number = packet.stream_index
            found[number].add(cast("Packet[VideoStream]", packet), bases[number])
    except decoding_errors():
        pass  # What came before counts; the file's ending says whether more was to come.
    return found
