"""Frames through PyAV: a few by seeking, or all in a row where a file cannot be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from adatp_cli.video.canvas import Canvas, Pixels, Progress, no_progress
from adatp_cli.video.container import open_clip
from adatp_cli.video.cursor import Cursor, Errors, decode_in_a_row
from adatp_cli.video.index import ClipIndex
from adatp_cli.video.source import Source
from adatp_cli.video.tone import is_hdr, tone_map

if TYPE_CHECKING:
    from av.sidedata.sidedata import SideData
    from av.video.frame import VideoFrame

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
    """What only a decoded frame tells.

    Parameters
    ----------
    width, height, orientation
        The size as shown, and how it comes to be.
    transfer
        FFmpeg's number of how light is coded, by which HDR is known.
    before
        How many frames of the index are before it: those of a recording that begins in the middle
        of a group of pictures need what is not there.
    """

    width: int
    height: int
    orientation: Orientation
    transfer: int = 0
    before: int = 0


def probe(source: Source, index: ClipIndex) -> FirstFrame | None:
    """Decode one frame; None where not a single one can be decoded."""
    with open_clip(source, index.stream) as (container, stream):
        frames = decode_in_a_row(container, stream, index, Errors(), no_progress)
        frame = next(frames, None)
        if frame is None:
            return None
        orientation = _orientation(frame)
        width, height = frame.width, frame.height
        if orientation.transpose:
            width, height = height, width
        before = index.before_key
        if index.exact and frame.pts is not None:
            before = int(np.searchsorted(index.pts, frame.pts))
        return FirstFrame(width, height, orientation, int(frame.color_trc), before)


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
    if not index.exact or len(index.keys) == 0:
        return None
    pixels = canvas.room(len(wanted), first.height, first.width)
    with open_clip(source, index.stream) as (container, stream):
        cursor = Cursor(container, stream, index, canvas.progress)
        for slot, position in enumerate(wanted):
            frame = cursor.frame_at(int(position))
            if frame is None or cursor.errors.count:
                return None
            pixels[slot] = canvas.fit(_upright(frame, first, canvas))
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
    errors = Errors()
    with open_clip(source, index.stream, share_frames=careful) as (container, stream):
        for frame in decode_in_a_row(container, stream, index, errors, progress):
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
        frames = decode_in_a_row(container, stream, index, Errors(), canvas.progress)
        for ordinal, frame in enumerate(frames):
            if slot == len(ordinals):
                break
            if ordinal == ordinals[slot]:
                pixels[slot] = canvas.fit(_upright(frame, first, canvas))
                slot += 1
                canvas.filled(pixels, slot)
    return pixels[:slot]


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


def _upright(frame: VideoFrame, first: FirstFrame, canvas: Canvas) -> Pixels:
    """RGB pixels for a screen without HDR, upright, in the size of the first frame throughout."""
    width, height = first.width, first.height
    if first.orientation.transpose:
        width, height = height, width
    transfer = int(frame.color_trc)
    if is_hdr(transfer):
        if canvas.resize is not None and canvas.resize.shrinks(height, width):
            # Mapping every pixel of a 4K frame takes a second; of those left, nothing shows.
            width, height = (min(side, 2 * canvas.resize.size) for side in (width, height))
        deep = frame.reformat(width, height, "rgb48le", interpolation="AREA").to_ndarray()
        return first.orientation.apply(tone_map(np.asarray(deep, dtype=np.uint16), transfer))
    rgb = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
    return first.orientation.apply(np.asarray(rgb, dtype=np.uint8))
