"""Frames through PyAV: a few by seeking, or all in a row where a file cannot be trusted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from adatp_cli.video.container import ClipFile, decoding_errors
from adatp_cli.video.frames import FrameBuffer, Pixels, Progress, unwatched
from adatp_cli.video.index import ClipIndex
from adatp_cli.video.shown import FirstFrame, first_frame, shown

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


# Decoding on over this many frames is cheaper than a seek, which starts at a key frame anyway.
_SEEK_GAP = 4
# Packets whose sizes tell a place in the file, and how far its timestamps may be off.
_TELLING = 4
_OFF_S = 2.0
# Key frames before the wanted one at which decoding starts where that does not lead to the frame.
_FURTHER_BACK = (0, 1, 3, 8)


@dataclass(slots=True)
class Errors:
    """How many packets or frames did not decode."""

    count: int = 0


def decode_in_a_row(
    container: InputContainer,
    stream: VideoStream,
    index: ClipIndex,
    errors: Errors,
    progress: Progress,
) -> Iterator[VideoFrame]:
    """All frames from the first key frame on: what is stored before it cannot be right."""
    packets: Iterator[Packet[VideoStream]] = _stored(container, stream, errors, progress)
    if len(index.keys):
        packets = dropwhile(lambda packet: not packet.is_keyframe, packets)
    return decode_packets(packets, errors)


def decode_packets(
    packets: Iterator[Packet[VideoStream]], errors: Errors, ignore_before: int | None = None
) -> Iterator[VideoFrame]:
    """The frames of packets, over those that do not decode.

    Frames before `ignore_before` may need what a seek left out: their errors do not count.
    """
    for packet in packets:
        try:
            frames = packet.decode()
        except decoding_errors():
            leading = ignore_before is not None and (packet.pts or 0) < ignore_before
            errors.count += 0 if leading else 1
            continue
        for frame in frames:
            if frame.is_corrupt:
                errors.count += 1
            else:
                yield frame


def _stored(
    container: InputContainer, stream: VideoStream, errors: Errors, progress: Progress
) -> Iterator[Packet[VideoStream]]:
    """Packets from where the container stands; the last one is empty and flushes the decoder."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except decoding_errors():
            errors.count += 1
            return
        if packet is None:
            return
        progress()
        yield packet


# A container seeks to about where it was asked to. In program streams the packets read from there
# even carry other timestamps than when the file is read from its start. So what is read after a
# seek is held against the index until it is clear which packet it is, and decoded from a key frame
# on.
class Cursor:
    """A place in a clip that moves to frames by their timestamps."""

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        index: ClipIndex,
        progress: Progress,
    ) -> None:
        self.errors = Errors()
        self._container, self._stream, self._index = container, stream, index
        self._progress = progress
        self._frames = decode_in_a_row(container, stream, index, self.errors, progress)
        self._position = -1

    def frame_at(self, position: int) -> VideoFrame | None:
        """The frame at `position` of the index, or None where it does not come out."""
        index = self._index
        target = int(index.pts[position])
        key_pts = index.stored_pts[index.keys]
        key = int(np.searchsorted(key_pts, target, side="right")) - 1
        key_position = int(np.searchsorted(index.pts, key_pts[max(key, 0)]))
        if key_position <= self._position + _SEEK_GAP:
            frame = self._forward_to(target)
            if frame is not None:
                self._position = position
                return frame
        # Seeks can land late, and a key frame need not be a clean start: then from further back.
        for start in dict.fromkeys([*(key - back for back in _FURTHER_BACK), 0]):
            if start >= 0:
                self._seek(start, int(key_pts[start]))
                frame = self._forward_to(target)
                if frame is not None:
                    self._position = position
                    return frame
        return None

    def _forward_to(self, target: int) -> VideoFrame | None:
        for frame in self._frames:
            if frame.pts is None or frame.pts > target:
                return None
            if frame.pts == target:
                return frame
        return None

    def _seek(self, key: int, key_pts: int) -> None:
        try:
            place = int(self._index.keys_seek[key])
            self._container.seek(place, stream=self._stream, backward=True)
        except decoding_errors():
            self.errors.count += 1
        packets = _stored(self._container, self._stream, self.errors, self._progress)
        self._frames = decode_packets(self._known(packets), self.errors, key_pts)
        self._position = -1

    def _known(self, packets: Iterator[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
        """The packets from a key frame on, with the index's timestamps.

        They end where they are no longer those that the index lists.
        """
        index = self._index
        read: deque[Packet[VideoStream]] = deque()
        place = None
        while place is None:
            while len(read) < _TELLING and (packet := next(packets, None)) is not None:
                if read or packet.is_keyframe:
                    read.append(packet)
            if not read:
                return
            place = self._place_of(read)
            if place is None:
                read.popleft()
                while read and not read[0].is_keyframe:
                    read.popleft()
        while True:
            packet = read.popleft() if read else next(packets, None)
            if packet is None:
                return
            if packet.size:
                if place >= len(index.stored_sizes) or packet.size != index.stored_sizes[place]:
                    return
                packet.pts = int(index.stored_pts[place])
                place += 1
            yield packet

    def _place_of(self, read: deque[Packet[VideoStream]]) -> int | None:
        """Which packet of the file the first of these is: a key frame, by its and their sizes."""
        index = self._index
        sizes = [packet.size for packet in read if packet.size]
        keys = index.keys[index.keys <= len(index.stored_sizes) - len(sizes)]
        for step, size in enumerate(sizes):
            keys = keys[index.stored_sizes[keys + step] == size]
        stated = read[0].pts
        if stated is None:
            return int(keys[0]) if len(keys) == 1 else None
        off = np.abs(index.stored_pts[keys] - stated) * index.time_base_s
        if len(keys) == 0 or float(off.min()) > _OFF_S:
            return None
        return int(keys[int(np.argmin(off))])


def probe(file: ClipFile, index: ClipIndex) -> FirstFrame | None:
    """Decode one frame; None where not a single one can be decoded."""
    with file.stream(index.stream) as (container, stream):
        frames = decode_in_a_row(container, stream, index, Errors(), unwatched)
        frame = next(frames, None)
        if frame is None:
            return None
        before = index.before_key
        if index.exact and frame.pts is not None:
            before = int(np.searchsorted(index.pts, frame.pts))
        return first_frame(frame, stream.sample_aspect_ratio, before)


def decode_by_pts(
    file: ClipFile,
    index: ClipIndex,
    first: FirstFrame,
    wanted: npt.NDArray[np.int64],
    buffer: FrameBuffer,
) -> Pixels | None:
    """The frames at positions `wanted` of the index, found by their timestamps.

    Seeks to the key frame before each, and decodes on where the next one is near.
    """
    if not index.exact or len(index.keys) == 0:
        return None
    pixels = buffer.room(len(wanted), first.height, first.width)
    with file.stream(index.stream) as (container, stream):
        cursor = Cursor(container, stream, index, buffer.progress)
        for slot, position in enumerate(wanted):
            frame = cursor.frame_at(int(position))
            if frame is None or cursor.errors.count:
                return None
            pixels[slot] = buffer.fit(shown(frame, first, buffer.resize))
            buffer.filled(pixels, slot + 1)
    return pixels


def survey(
    file: ClipFile, index: ClipIndex, until_pts: int | None, progress: Progress, *, careful: bool
) -> tuple[list[int | None], int]:
    """The timestamps of all frames up to `until_pts` in a row (None: has none), and the errors.

    `careful` where data is damaged: threads that decode a frame each lose more frames, and another
    number of them on another machine, than threads that share one frame.
    """
    found: list[int | None] = []
    errors = Errors()
    with file.stream(index.stream, share_frames=careful) as (container, stream):
        for frame in decode_in_a_row(container, stream, index, errors, progress):
            if until_pts is not None and frame.pts is not None and frame.pts > until_pts:
                break
            found.append(frame.pts)
    return found, errors.count


def decode_by_count(
    file: ClipFile,
    index: ClipIndex,
    first: FirstFrame,
    ordinals: npt.NDArray[np.int64],
    buffer: FrameBuffer,
    *,
    careful: bool,
) -> Pixels:
    """The frames that come out of the decoder as number `ordinals` (ascending), upright, resized.

    Fewer than asked for where the decoder gives fewer than it did before.
    """
    pixels = buffer.room(len(ordinals), first.height, first.width)
    slot = 0
    with file.stream(index.stream, share_frames=careful) as (container, stream):
        frames = decode_in_a_row(container, stream, index, Errors(), buffer.progress)
        for ordinal, frame in enumerate(frames):
            if slot == len(ordinals):
                break
            if ordinal == ordinals[slot]:
                pixels[slot] = buffer.fit(shown(frame, first, buffer.resize))
                slot += 1
                buffer.filled(pixels, slot)
    return pixels[:slot]
