"""Frames through PyAV: a few by seeking, or all in a row where a file cannot be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adatp_cli.video.container import open_clip
from adatp_cli.video.cursor import Cursor, Errors, decode_in_a_row
from adatp_cli.video.frames import FrameBuffer, Pixels, Progress, no_progress
from adatp_cli.video.index import ClipIndex
from adatp_cli.video.shown import FirstFrame, first_frame, shown
from adatp_cli.video.source import Source


def probe(source: Source, index: ClipIndex) -> FirstFrame | None:
    """Decode one frame; None where not a single one can be decoded."""
    with open_clip(source, index.stream) as (container, stream):
        frames = decode_in_a_row(container, stream, index, Errors(), no_progress)
        frame = next(frames, None)
        if frame is None:
            return None
        before = index.before_key
        if index.exact and frame.pts is not None:
            before = int(np.searchsorted(index.pts, frame.pts))
        return first_frame(frame, stream.sample_aspect_ratio, before)


def decode_by_pts(
    source: Source,
    index: ClipIndex,
    first: FirstFrame,
    wanted: npt.NDArray[np.int64],
    buffer: FrameBuffer,
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
    pixels = buffer.room(len(wanted), first.height, first.width)
    with open_clip(source, index.stream) as (container, stream):
        cursor = Cursor(container, stream, index, buffer.progress)
        for slot, position in enumerate(wanted):
            frame = cursor.frame_at(int(position))
            if frame is None or cursor.errors.count:
                return None
            pixels[slot] = buffer.fit(shown(frame, first, buffer.resize))
            buffer.filled(pixels, slot + 1)
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
    buffer: FrameBuffer,
    *,
    careful: bool,
) -> Pixels:
    """The frames that come out of the decoder as number `ordinals` (ascending), upright, resized.

    Fewer than asked for where the decoder gives fewer than it did before.
    """
    pixels = buffer.room(len(ordinals), first.height, first.width)
    slot = 0
    with open_clip(source, index.stream, share_frames=careful) as (container, stream):
        frames = decode_in_a_row(container, stream, index, Errors(), buffer.progress)
        for ordinal, frame in enumerate(frames):
            if slot == len(ordinals):
                break
            if ordinal == ordinals[slot]:
                pixels[slot] = buffer.fit(shown(frame, first, buffer.resize))
                slot += 1
                buffer.filled(pixels, slot)
    return pixels[:slot]
