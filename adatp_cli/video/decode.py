"""`read_frames`: from a file, or bytes, to the frames asked for, whatever the file does.

decord decodes where it is safe, PyAV by seeking where it is not, or in a row where that fails too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adatp_cli.errors import MemoryLimitError, UsageError, VideoError
from adatp_cli.text import plural, printable
from adatp_cli.video import decord_decoder, pyav_decoder
from adatp_cli.video.container import MAX_FRAME_PIXELS, ClipFile
from adatp_cli.video.frames import (
    Filled,
    FrameBuffer,
    Frames,
    PictureList,
    Pixels,
    Resize,
    VideoInfo,
    unwatched,
)
from adatp_cli.video.index import ClipIndex, index_clip, times_of
from adatp_cli.video.sampling import IndexArray, Sampling, TimeArray, sample_indices
from adatp_cli.video.shown import FirstFrame, Orientation
from adatp_cli.video.source import Source, check_source, encrypted, is_encrypted, unreadable

MAX_PIXEL_BYTES = 6 << 30
# Of the time asked for, what the frames that are left must stand for.
_LEAST_COVERED = 1 / 3
# Frames that a header may promise beyond those in the file, for what would have been chosen.
_MOST_MISSING = 1_000_000


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip that can be decoded, and what is wanted of it."""

    file: ClipFile
    index: ClipIndex
    first: FirstFrame
    sampling: Sampling
    buffer: FrameBuffer

    @property
    def name(self) -> str:
        return self.file.source.name

    def chosen(self, times: TimeArray) -> IndexArray:
        """Which frames to use where those at `times` are there.

        A range that ends where only the missing end of a cut file would be ends with the file.
        """
        sampling, end = self.sampling, self.index.end_s
        if self.index.missing and sampling.end_s is not None and sampling.end_s > end:
            sampling = dataclasses.replace(sampling, end_s=end)
        return sample_indices(times, sampling, duration_s=end, name=self.name)

    def asked(self) -> tuple[float, float]:
        """The range asked for, in seconds, as far as the whole clip would go."""
        start = max(self.sampling.start_s or 0.0, float(self.index.timestamps_s[0]))
        end = self.index.promised_end_s
        return start, max(
            start, end if self.sampling.end_s is None else min(self.sampling.end_s, end)
        )

    def whole(self) -> TimeArray:
        """When the frames are shown that would be used if nothing were damaged or missing."""
        index = self.index
        missing = np.arange(1, min(index.missing, _MOST_MISSING) + 1) / index.fps
        times = np.concatenate([index.timestamps_s, index.timestamps_s[-1] + missing])
        end = index.promised_end_s
        return times[sample_indices(times, self.sampling, duration_s=end, name=self.name)]


def check_enough(clip: Clip, used: TimeArray, there: IndexArray) -> None:
    """VideoError where what is left of a damaged clip is not worth having.

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
        f"{clip.name}: cut short or damaged: {what}",
        f"{hint} the whole file again",
        kind="truncated",
    )


DECODERS = ("auto", "decord", "pyav")
_A_FRAME_A_PACKET = ("h264", "hevc", "mpeg2video")
# Identical neighbours are looked at with a second decoder; in a still clip a few will do.
_REPEATS_CHECKED = 3


def read_frames(
    source: str | os.PathLike[str] | bytes | Source,
    sampling: Sampling,
    *,
    decoder: str = "auto",
    name: str | None = None,
    resize: Resize | None = None,
    buffer: FrameBuffer | None = None,
) -> Frames:
    """The frames of a clip that `sampling` asks for.

    A clip that has fewer gives each once, and a note says so. Of a clip that is damaged or cut
    short, it gives at least half of the frames that the whole one would have given, or an error.
    `decoder` ``auto`` is decord where it is there, faster, and would be heard complaining, else
    PyAV; ``decord`` or ``pyav`` is that one or an error. `name` is what messages call the clip;
    `buffer` takes the pixels, in place of memory of this process, and its own `resize` counts then.
    """
    check_decoder(decoder)
    with contextlib.closing(ClipFile(check_source(source, name))) as file:
        clip = _open(file, sampling, buffer or FrameBuffer(resize))
        index, first = clip.index, clip.first
        wanted = clip.chosen(index.timestamps_s[first.before :]) + first.before
        if index.missing:
            check_enough(clip, index.timestamps_s[wanted], np.arange(first.before, len(index)))
        height, width = clip.buffer.kept(first.height, first.width)
        each = height * width * 3
        if len(wanted) * each > MAX_PIXEL_BYTES:
            raise MemoryLimitError(
                f"{clip.name}: {plural(len(wanted), 'frame')} of {width}x{height} would take "
                f"{len(wanted) * each / 2**30:.1f} GB",
                f"ask for --frames {max(1, MAX_PIXEL_BYTES // each)} or fewer",
            )
        try:
            return _decode(clip, wanted, decoder)
        except MemoryError as error:
            raise MemoryLimitError(
                f"{clip.name}: no memory for {len(wanted)} frames of {first.width}x{first.height}",
                "use fewer --frames",
            ) from error


def check_clip(source: Source, sampling: Sampling, buffer: FrameBuffer | None = None) -> None:
    """Refuse whatever `read_frames` refuses before it decodes the frames that it was asked for."""
    with contextlib.closing(ClipFile(source)) as file:
        clip = _open(file, sampling.with_default_frames(1), buffer or FrameBuffer())
        clip.chosen(clip.index.timestamps_s[clip.first.before :])


def _open(file: ClipFile, sampling: Sampling, buffer: FrameBuffer) -> Clip:
    """The clip, once its packets are read and its first frame is decoded."""
    name = file.source.name
    try:
        index = index_clip(file, buffer.progress)
        if not index.exact:
            # A demuxer that has read on into a second recording does not come back from it whole.
            file.keep_nothing()
        first = pyav_decoder.probe(file, index)
        if first is None and index.missing:
            unseen = FirstFrame(1, 1, Orientation())
            raise too_few(Clip(file, index, unseen, sampling, buffer), 0)
        if first is None:
            raise VideoError(
                f"{name}: none of its {plural(len(index), 'frame')} can be decoded ({index.codec})",
                "the file is damaged; get or record it again",
            )
    except VideoError:
        if is_encrypted(file.source):
            raise encrypted(file.source) from None
        raise
    start, end = sampling.start_s or 0.0, sampling.end_s
    # A range that the header promises and the file no longer holds is no usage error.
    if index.missing and index.end_s <= start < index.promised_end_s:
        raise VideoError(
            f"{name}: cut short: its frames end at {index.end_s:.2f} s "
            f"of {index.promised_end_s:.2f} s, before --start {start:g} s",
            "get or record the whole file again",
            kind="truncated",
        )
    clip = Clip(file, index, first, sampling, buffer)
    if index.missing:
        clip.whole()  # a range beyond the whole clip is told before anything is decoded
    if first.before and end is not None and end <= (begins := index.timestamps_s[first.before]):
        raise VideoError(
            f"{name}: nothing before {begins:.2f} s can be decoded: it begins in the "
            "middle of a group of pictures",
            f"ask for a time after --start {begins:.2f}",
            kind="truncated",
        )
    return clip


def check_decoder(decoder: str) -> None:
    """UsageError for a name that is not in `DECODERS`."""
    if decoder not in DECODERS:
        raise UsageError(f"no decoder {decoder!r}", f"one of: {', '.join(DECODERS)}")


def _decode(clip: Clip, wanted: IndexArray, decoder: str) -> Frames:
    file, index, first, buffer = clip.file, clip.index, clip.first, clip.buffer
    times = index.timestamps_s[wanted]
    notes: tuple[str, ...] = ()
    if decoder == "decord" and not decord_decoder.installed():
        raise UsageError("decord is not installed", "leave the choice of the decoder to adatp")
    # Unasked only where it would be heard if it found damage.
    if decoder == "decord" or (
        decoder == "auto"
        and buffer.ear is not None
        and decord_decoder.installed()
        and decord_decoder.worth(index, first)
        and decord_decoder.unfit(file.source, index, first) is None
    ):
        try:
            buffer.at("decord")
            pixels = decord_decoder.decode(file.source, index, first, wanted, buffer)
            buffer.at("pyav")
            _check_repeats(clip, wanted, pixels)
            return _frames(clip, "decord", pixels, times, wanted)
        except decord_decoder.DecordUnfitError as reason:
            if decoder == "decord":
                raise VideoError(
                    f"{clip.name}: {reason}", "leave the choice of the decoder to adatp"
                ) from None
            notes = (f"decoded by PyAV: {reason}",)
            buffer.at("pyav")
    found = pyav_decoder.decode_by_pts(file, index, first, wanted, buffer)
    if found is not None:
        return _frames(clip, "pyav", found, times, wanted, notes, lost=first.before)
    return _decode_in_a_row(clip, notes)


def _check_repeats(clip: Clip, wanted: IndexArray, pixels: Pixels) -> None:
    """DecordUnfitError where frames that decord gave twice differ for PyAV."""
    pairs = [[k - 1, k] for k in range(1, len(pixels)) if np.array_equal(pixels[k - 1], pixels[k])]
    spread = np.linspace(0, len(pairs) - 1, min(len(pairs), _REPEATS_CHECKED))
    # Elsewhere than `pixels`, which are still wanted; resized like them, to be as alike.
    apart = clip.buffer.private()
    again = [
        pyav_decoder.decode_by_pts(clip.file, clip.index, clip.first, wanted[pair], apart)
        for pair in (pairs[k] for k in spread.astype(np.int64))
    ]
    if any(two is None or not np.array_equal(two[0], two[1]) for two in again):
        raise decord_decoder.DecordUnfitError("decord repeats frames that differ")


def _decode_in_a_row(clip: Clip, notes: tuple[str, ...]) -> Frames:
    """Sample over the frames that really come out when all are decoded in a row."""
    file, index, sampling, buffer = clip.file, clip.index, clip.sampling, clip.buffer
    until = None
    if sampling.end_s is not None and index.exact:
        later = int(np.searchsorted(index.timestamps_s, sampling.end_s))
        until = int(index.pts[min(later, len(index) - 1)])
    # An index without errors of its own is tried at full speed first.
    careful = index.exact
    pts, errors = pyav_decoder.survey(file, index, until, buffer.progress, careful=careful)
    if errors and not careful:
        careful = True
        pts, errors = pyav_decoder.survey(file, index, until, buffer.progress, careful=careful)
    times, positions = times_of(index, pts, clip.first.before, partial=until is not None)
    expected = len(index) if until is None else int(np.searchsorted(index.pts, until, "right"))
    before = clip.first.before
    missing = max(0, expected - len(times))
    # Other codecs have packets that show nothing, and fields may come in packets of their own.
    vanished = index.codec in _A_FRAME_A_PACKET and missing < expected / 3
    lost = missing if errors or vanished else before
    if lost > before:
        notes += (f"{lost} of {expected} frames could not be decoded: left out",)
    elif errors and not lost:
        notes += ("some of the data is damaged; every frame could still be decoded",)
    chosen = clip.chosen(times)
    if lost and sampling.start_s is not None:
        # What is left before the range stands in for nothing in it.
        shown = np.searchsorted(index.timestamps_s, sampling.start_s, side="right") - 1
        chosen = chosen[times[chosen] >= index.timestamps_s[max(int(shown), 0)]]
    if len(chosen) == 0:
        raise too_few(clip, 0)
    if errors or lost > before or index.missing:
        check_enough(clip, times[chosen], positions)
    pixels = pyav_decoder.decode_by_count(file, index, clip.first, chosen, buffer, careful=careful)
    if len(pixels) < len(chosen):
        raise too_few(clip, len(pixels))
    return _frames(clip, "pyav", pixels, times[chosen], positions[chosen], notes, lost)


def _frames(
    clip: Clip,
    decoder: str,
    pixels: Pixels,
    times: TimeArray,
    positions: IndexArray,
    found: tuple[str, ...] = (),
    lost: int = 0,
) -> Frames:
    """The decoded frames with all that there is to note; `found` is what decoding noted."""
    index, first, sampling = clip.index, clip.first, clip.sampling
    notes = list(index.notes + found)
    used = len(pixels)
    if index.missing:
        notes.append(
            f"the file is cut short: {len(index)} of {len(index) + index.missing} frames, to "
            f"{index.end_s:.2f} s of {index.promised_end_s:.2f} s"
        )
    if sampling.frames is not None and sampling.fps is None and used < sampling.frames:
        notes.append(
            f"{plural(sampling.frames, 'frame')} asked for, {plural(used, 'is', 'are')} there: "
            "each is used once"
        )
    if sampling.fps is not None and sampling.fps > 1.01 * index.fps:
        notes.append(f"--fps {sampling.fps:g} is above the clip's rate of {index.fps:.3g}")
    if first.before:
        which = "frame" if first.before == 1 else f"{first.before} frames"
        notes.append(
            f"it begins in the middle of a group of pictures: its first {which}, to "
            f"{index.timestamps_s[first.before]:.2f} s, cannot be decoded"
        )
    notes.extend(first.notes())
    return Frames(
        pixels=pixels,
        timestamps_s=times.astype(np.float64),
        indices=positions.astype(np.int64),
        info=VideoInfo(
            decoder=decoder,
            codec=index.codec,
            width=first.width,
            height=first.height,
            fps=index.fps,
            duration_s=index.end_s,
            frames_total=len(index),
            rotation=first.orientation.clockwise,
            sample_aspect_ratio=f"{first.pixel_shape.numerator}:{first.pixel_shape.denominator}",
            frames_lost=index.missing + lost,
            comment=index.comment,
        ),
        notes=tuple(notes),
    )


# Frames that come as a picture each, in named formats: whatever else a file is stays shut.
_PICTURE_FORMATS = ("PNG", "JPEG")
_MOST_PICTURE_BYTES = 64 << 20
_PICTURES_HINT = "unpack the frames again"


def picture_bytes(path: str) -> bytes:
    """A picture's file; a VideoError where it is none, or cannot be read."""
    try:
        # A pipe must not be waited for.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise VideoError(
                    f"{printable(path)}: is no file", _PICTURES_HINT, kind="unreadable"
                )
            content = file.read(_MOST_PICTURE_BYTES + 1)
    except OSError as error:
        raise unreadable(printable(path), error) from None
    if len(content) > _MOST_PICTURE_BYTES:
        raise VideoError(f"{printable(path)}: is too large for a picture", _PICTURES_HINT)
    return content


def read_pictures(contents: Sequence[bytes], pictures: PictureList, buffer: FrameBuffer) -> Frames:
    """The frames in these files; a VideoError where one is no picture as large as the first."""
    size: tuple[int, int] | None = None
    try:
        for slot, (path, content) in enumerate(zip(pictures.paths, contents, strict=True)):
            image = _picture(printable(path), content)
            height, width, _ = image.shape
            if size is None:
                size = (width, height)
                pixels = buffer.room(len(contents), height, width)
            if (width, height) != size:
                raise VideoError(
                    f"{printable(path)}: is not as large as the first one", _PICTURES_HINT
                )
            pixels[slot] = buffer.fit(image)
            buffer.progress()
    except MemoryError as error:
        raise MemoryLimitError("no memory for these pictures", "use fewer --frames") from error
    if size is None:
        raise VideoError("no pictures", _PICTURES_HINT, kind="no_frames")
    chosen = np.asarray(pictures.indices, dtype=np.int64)
    info = VideoInfo(
        decoder="pillow",
        codec="pictures",
        width=size[0],
        height=size[1],
        fps=pictures.fps,
        duration_s=pictures.total / pictures.fps,
        frames_total=pictures.total,
        rotation=0,
    )
    return Frames(pixels, chosen / pictures.fps, chosen, info)


def _picture(shown: str, content: bytes) -> npt.NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=_PICTURE_FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_FRAME_PIXELS:
                raise VideoError(
                    f"{shown}: {width}x{height} pixels are not decoded", _PICTURES_HINT
                )
            return np.asarray(picture.convert("RGB"), dtype=np.uint8)
    except UnidentifiedImageError:
        kinds = " nor ".join(_PICTURE_FORMATS)
        raise VideoError(
            f"{shown}: is neither {kinds}", _PICTURES_HINT, kind="not_a_video"
        ) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise VideoError(f"{shown}: the picture is damaged or cut short", _PICTURES_HINT) from None


class InProcessReader:
    """Decodes in this process: for clips that can be trusted, as tests and the demo's are."""

    def read(
        self,
        source: str | os.PathLike[str] | bytes | Source,
        sampling: Sampling,
        *,
        name: str | None = None,
        resize: Resize | None = None,
        decoder: str = "auto",
        on_frames: Filled = unwatched,
    ) -> Frames:
        """See `FrameReader.read`."""
        buffer = FrameBuffer(resize, filled=on_frames)
        return read_frames(source, sampling, decoder=decoder, name=name, buffer=buffer)

    def read_pictures(self, pictures: PictureList, resize: Resize | None = None) -> Frames:
        """See `FrameReader.read_pictures`."""
        contents = [picture_bytes(path) for path in pictures.paths]
        return read_pictures(contents, pictures, FrameBuffer(resize))
