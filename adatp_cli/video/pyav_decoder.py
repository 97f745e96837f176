"""Frames through PyAV: a few by seeking, or all in a row where a file cannot be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from adatp_cli.video.canvas import Canvas, Pixels, Progress, no_progress
from adatp_cli.video.container import decoding_errors, open_clip
from adatp_cli.video.index import ClipIndex
from adatp_cli.video.source import Source

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.sidedata.sidedata import SideData
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Decoding on over this many frames is cheaper than a seek, which starts at a key frame anyway.
_SEEK_GAP = 4
# FFmpeg's kinds of side data, and some that it may yet get.
_SIDE_DATA_KINDS = 64


@dataclass(frozen=True, slots=True)
class Orientation:
    """How stored pixels become upright ones: transposed first, then mirrored.

    Parameters
    ----------
    transpose, mirror_x, mirror_y
        The steps, in this order.
    clockwise
        Degrees, 0, 90, 180 or 270, where the steps come to a pure rotation; without the mirroring
        where they do not.
    plain
        Whether they come to a pure rotation.
    odd
        Whether the file asks for an angle that is no multiple of 90, which is not applied.
    """

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False
    clockwise: int = 0
    plain: bool = True
    odd: bool = False

    def apply(self, image: Pixels) -> Pixels:
        """(H, W, 3) as stored to (H', W', 3) upright; a view."""
        if self.transpose:
            image = image.transpose(1, 0, 2)
        if self.mirror_x:
            image = image[:, ::-1]
        if self.mirror_y:
            image = image[::-1]
        return image


def orientation_of(matrix: Sequence[int]) -> Orientation:
    """From a display matrix (nine numbers, row by row: x' = a x + c y, y' = b x + d y)."""
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    if b == 0 and c == 0 and a != 0 and d != 0:
        plain = (a < 0) == (d < 0)
        return Orientation(False, a < 0, d < 0, 180 if a < 0 and d < 0 else 0, plain)
    if a == 0 and d == 0 and b != 0 and c != 0:
        plain = (b < 0) != (c < 0)
        return Orientation(True, c < 0, b < 0, 90 if c < 0 else 270, plain)
    return Orientation(odd=True)


@dataclass(frozen=True, slots=True)
class FirstFrame:
    """What only a decoded frame tells: the size as shown, and the orientation."""

    width: int
    height: int
    orientation: Orientation


def probe(source: Source, index: ClipIndex) -> FirstFrame | None:
    """Decode one frame; None where not a single one can be decoded."""
    with open_clip(source, index.stream) as (container, stream):
        frame = next(_decoded(container, stream, _Errors(), no_progress), None)
        if frame is None:
            return None
        orientation = _orientation(frame)
        width, height = frame.width, frame.height
        if orientation.transpose:
            width, height = height, width
        return FirstFrame(width, height, orientation)


def decode_by_pts(
    source: Source,
    index: ClipIndex,
    first: FirstFrame,
    wanted: npt.NDArray[np.int64],
    canvas: Canvas,
) -> Pixels | None:
    """The frames at positions `wanted` of the index, found by their timestamps.

    Seeks to the key frame before each, and decodes on where the next one is near.

    Returns
    -------
    (T, H, W, 3) uint8, upright, resized; None where a frame is missing or a packet does not
    decode, so that nothing but a pass over all frames can tell what is there.
    """
    if not index.exact or len(index.key_pts) == 0:
        return None
    pixels = canvas.room(len(wanted), first.height, first.width)
    with open_clip(source, index.stream) as (container, stream):
        cursor = _Cursor(container, stream, index, canvas.progress)
        for slot, position in enumerate(wanted):
            frame = cursor.frame_at(int(position))
            if frame is None or cursor.errors.count:
                return None
            pixels[slot] = canvas.fit(_upright(frame, first))
            canvas.filled(pixels, slot + 1)
    return pixels


@dataclass(slots=True)
class Survey:
    """What a pass over all frames found: the timestamps of those that decode (None: has none)."""

    pts: list[int | None]
    errors: int


def survey(
    source: Source, index: ClipIndex, until_pts: int | None, *, careful: bool, progress: Progress
) -> Survey:
    """Decode all frames up to `until_pts` in a row, keeping no pixels.

    `careful` where data is damaged: threads that decode a frame each lose more frames, and another
    number of them on another machine, than threads that share one frame.
    """
    found: list[int | None] = []
    errors = _Errors()
    with open_clip(source, index.stream, share_frames=careful) as (container, stream):
        for frame in _decoded(container, stream, errors, progress):
            if until_pts is not None and frame.pts is not None and frame.pts > until_pts:
                break
            found.append(frame.pts)
    return Survey(found, errors.count)


def decode_by_count(
    source: Source,
    index: ClipIndex,
    first: FirstFrame,
    ordinals: npt.NDArray[np.int64],
    canvas: Canvas,
    *,
    careful: bool,
) -> Pixels:
    """The frames that come out of the decoder as number `ordinals` (ascending), upright, resized.

    Fewer than asked for where the decoder gives fewer than it did before.
    """
    pixels = canvas.room(len(ordinals), first.height, first.width)
    slot = 0
    with open_clip(source, index.stream, share_frames=careful) as (container, stream):
        frames = _decoded(container, stream, _Errors(), canvas.progress)
        for ordinal, frame in enumerate(frames):
            if slot == len(ordinals):
                break
            if ordinal == ordinals[slot]:
                pixels[slot] = canvas.fit(_upright(frame, first))
                slot += 1
                canvas.filled(pixels, slot)
    return pixels[:slot]


@dataclass(slots=True)
class _Errors:
    count: int = 0


def _decoded(
    container: InputContainer,
    stream: VideoStream,
    errors: _Errors,
    progress: Progress,
    ignore_before: int | None = None,
) -> Iterator[VideoFrame]:
    """Frames from where the container stands, over packets that do not decode.

    Frames before `ignore_before` may need what a seek left out: their errors do not count.
    """
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


class _Cursor:
    """A place in a clip that moves to frames by their timestamps."""

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        index: ClipIndex,
        progress: Progress,
    ) -> None:
        self.errors = _Errors()
        self._container, self._stream, self._index = container, stream, index
        self._progress = progress
        self._frames = _decoded(container, stream, self.errors, progress)
        self._position = -1

    def frame_at(self, position: int) -> VideoFrame | None:
        """The frame at `position` of the index, or None where it does not come out."""
        index = self._index
        target = int(index.pts[position])
        key = int(np.searchsorted(index.key_pts, target, side="right")) - 1
        key_position = int(np.searchsorted(index.pts, index.key_pts[max(key, 0)]))
        if key_position <= self._position + _SEEK_GAP:
            frame = self._forward_to(target)
            if frame is not None:
                self._position = position
                return frame
        # Seeks can land late, and a key frame need not be a clean start: then from further back.
        for start in dict.fromkeys((key, key - 1, 0)):
            if start >= 0:
                self._seek(int(index.key_pts[start]))
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

    def _seek(self, key_pts: int) -> None:
        try:
            self._container.seek(key_pts, stream=self._stream, backward=True)
        except decoding_errors():
            self.errors.count += 1
        self._frames = _decoded(self._container, self._stream, self.errors, self._progress, key_pts)
        self._position = -1


def _orientation(frame: VideoFrame) -> Orientation:
    from av.sidedata.sidedata import Type

    try:
        sides = frame.side_data
    except ValueError:  # one of a kind that PyAV has no name for keeps it from reading the others
        sides = _without_unknown_side_data(frame).side_data
    for side in cast("Iterable[SideData]", sides):
        if side.type == Type.DISPLAYMATRIX and side.buffer_size >= 36:
            return orientation_of(np.frombuffer(bytes(side)[:36], dtype=np.int32).tolist())
    return Orientation()


def _without_unknown_side_data(frame: VideoFrame) -> VideoFrame:
    from av.filter import Graph
    from av.sidedata.sidedata import Type

    graph = Graph()
    steps = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)
        )
    ]
    known = [cast("int", kind.value) for kind in Type]
    unknown = [kind for kind in range(_SIDE_DATA_KINDS) if kind not in known]
    steps += [graph.add("sidedata", f"mode=delete:type={kind}") for kind in unknown]
    graph.link_nodes(*steps, graph.add("buffersink")).configure()
    graph.push(frame)
    return cast("VideoFrame", graph.pull())


def _upright(frame: VideoFrame, first: FirstFrame) -> Pixels:
    """RGB pixels, upright, in the size of the first frame where the size changes on the way."""
    width, height = first.width, first.height
    if first.orientation.transpose:
        width, height = height, width
    rgb = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
    return first.orientation.apply(np.asarray(rgb, dtype=np.uint8))
