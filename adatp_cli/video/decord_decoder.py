"""Frames through decord: fast with small clips, but unmaintained and silent about its mistakes.

It gets only files whose packets show that seeking is safe; what it returns is checked, and its
FFmpeg is listened to (docs/decoding.md).
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from adatp_cli.video.container import MAX_THREADS
from adatp_cli.video.frames import FrameBuffer, Pixels
from adatp_cli.video.index import ClipIndex
from adatp_cli.video.shown import FirstFrame, is_hdr
from adatp_cli.video.source import Source

# Where it is faster than PyAV (docs/decoding.md): small frames of a clip that is soon read whole.
_FASTER_PIXELS = 200_000
_FASTER_FRAMES = 1000
# Those of which its FFmpeg says what is damaged; it says nothing of VP8.
_HEARD = ("h264", "mpeg4")
# Smaller than one frame of any clip: one recovered (repeated) frame is already an error.
_NO_FAULTS = 1e-9
# It keeps frames by the dozen as it decodes: at 4K two gigabytes, where PyAV takes a third of one.
_MOST_PIXELS = 1920 * 1200
# It counts in float32 from the clock's zero, and dies where that is the year 1970.
_LATEST_START_S = 3600.0
# It gets the file's bytes, and holds them twice.
_MOST_BYTES = 64 << 20


class DecordUnfitError(Exception):
    """decord is not to be used on this file; the text says why, in words for a note."""


def installed() -> bool:
    """Whether decord is there and loads. It has wheels for few platforms."""
    try:
        import decord  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def decode(
    source: Source,
    index: ClipIndex,
    first: FirstFrame,
    wanted: npt.NDArray[np.int64],
    buffer: FrameBuffer,
) -> Pixels:
    """The frames at positions `wanted` of the index: (T, H, W, 3) uint8, upright, resized."""
    reason = unfit(source, index, first)
    if reason is not None:
        raise DecordUnfitError(reason)
    import decord

    ear = buffer.ear
    decord.logging.set_level(decord.logging.QUIET if ear is None else decord.logging.ERROR)
    if ear is not None:
        os.lseek(ear, 0, os.SEEK_SET)  # what was said before does not count
    # decord's errors carry C++ stacks and the file's own bytes: none of their text goes on.
    try:
        with source.open() as content:  # which it takes into memory
            reader = decord.VideoReader(
                content,
                ctx=decord.cpu(0),
                num_threads=max(1, min(MAX_THREADS, os.cpu_count() or 1)),
                fault_tol=_NO_FAULTS,
            )
        times = np.asarray(reader.get_frame_timestamp(range(len(reader))), dtype=np.float64)
    except Exception:
        raise DecordUnfitError("decord cannot open it") from None
    if not _same_frames(times, index):
        raise DecordUnfitError("decord sees other frames than the file holds")
    pixels = buffer.room(len(wanted), first.height, first.width)
    try:
        # One at a time: decord holds each batch twice, and shows no progress in the middle of one.
        for slot, position in enumerate(wanted):
            buffer.progress()
            batch = reader.get_batch([int(position)])
            frames = batch.asnumpy() if hasattr(batch, "asnumpy") else np.asarray(batch)
            if frames.shape[1:] != (first.height, first.width, 3):
                raise DecordUnfitError("decord returns frames of another size")
            pixels[slot] = buffer.fit(np.asarray(frames[0], dtype=np.uint8))
            if ear is not None and os.lseek(ear, 0, os.SEEK_CUR) > 0:
                raise DecordUnfitError("some of the data is damaged")
            buffer.filled(pixels, slot + 1)
    except DecordUnfitError:
        raise
    except Exception:
        raise DecordUnfitError("decord cannot decode all of the frames needed") from None
    return pixels


def worth(index: ClipIndex, first: FirstFrame) -> bool:
    """Whether decord is worth trying unasked: faster, over a clip with nothing odd about it."""
    clean = not index.missing and not index.notes and not first.before
    small = first.width * first.height <= _FASTER_PIXELS and len(index) <= _FASTER_FRAMES
    return clean and small and index.codec in _HEARD


def unfit(source: Source, index: ClipIndex, first: FirstFrame) -> str | None:
    """Why decord must not be trusted with this file; None where it may be."""
    mov = index.format.startswith("mov")
    if not mov and not index.format.startswith("matroska"):
        return "decord does not seek exactly in this container"
    if not index.exact:
        return "the frames have no timestamps that decord could be checked by"
    if not index.closed:
        return "decord does not seek exactly where frames refer across key frames"
    if first.interlaced or first.pixel_shape != 1:
        return (
            "decord shows frames as they are stored: interlaced, or of pixels that are not square"
        )
    if is_hdr(first.transfer):
        return "decord shows HDR as if it were none"
    if first.before:
        return "it begins in the middle of a group of pictures"
    if abs(float(index.pts[0])) * index.time_base_s > _LATEST_START_S:
        return "its clock starts too late for decord"
    if index.video_streams > 1:
        return "there are several video streams"
    turned = first.orientation
    if not turned.plain or turned.odd or (turned.clockwise and not mov):
        return "decord does not honour this orientation"
    if first.width * first.height > _MOST_PIXELS:
        return "decord takes too much memory for frames of this size"
    if source.size > _MOST_BYTES:
        return "decord takes too much memory for a file of this size"
    # Its FFmpeg, of 2018, follows playlists and knows no limit to that: a movie that begins like a
    # playlist is a movie to PyAV alone.
    with source.open() as content:
        head = content.read(8)
    if not (head[4:] == b"ftyp" if mov else head[:4] == b"\x1aE\xdf\xa3"):
        return "decord may take it for a file of another kind"
    return None


def _same_frames(times: npt.NDArray[np.float64], index: ClipIndex) -> bool:
    """Whether decord's list of frames is the index's, up to a shift of the clock."""
    if len(times) != len(index):
        return False
    starts = times[:, 0] - times[0, 0]
    expected = (index.pts - index.pts[0]) * index.time_base_s
    gaps = np.diff(expected)
    # decord keeps seconds as float32: off by up to a millisecond after some hours.
    tolerance = 1e-3 if len(gaps) == 0 else max(1e-3, 0.4 * float(gaps.min()))
    return bool(np.abs(starts - expected).max() < tolerance)
