"""`read_frames`: from a file, or bytes, to the frames asked for, whatever the file does.

The way of a clip: its source is checked, its packets are indexed, the sampling chooses positions in
that index, and a decoder brings those frames. decord goes first where it is safe, PyAV by seeking
where it is not; a file that neither can serve like this is decoded in a row by PyAV, and the
sampling is repeated over the frames that really came out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adatp_cli.errors import MemoryLimitError, UsageError, VideoError
from adatp_cli.video import decord_decoder, pyav_decoder
from adatp_cli.video.container import ClipIndex, index_clip
from adatp_cli.video.frames import Frames, VideoInfo
from adatp_cli.video.pyav_decoder import FirstFrame
from adatp_cli.video.sampling import Sampling, sample_indices
from adatp_cli.video.source import Source, check_source

DECODERS = ("auto", "decord", "pyav")
MAX_PIXEL_BYTES = 6 << 30
# Identical neighbours are looked at with a second decoder; in a still clip a few will do.
_REPEATS_CHECKED = 3


def read_frames(
    source: str | os.PathLike[str] | bytes,
    sampling: Sampling,
    *,
    decoder: str = "auto",
    name: str | None = None,
) -> Frames:
    """The frames of a clip that `sampling` asks for.

    Parameters
    ----------
    source
        A local file, or a clip's bytes.
    sampling
        Which frames. A clip that has fewer gives each once, and a note says so.
    decoder
        ``auto``: decord where it is there and can be trusted with the file, else PyAV.
        ``decord`` or ``pyav``: this one or an error.
    name
        What messages call the clip. Default: the path, or "standard input" for bytes.

    Raises
    ------
    VideoError
        Nothing usable in the file; `kind` says what is wrong with it.
    UsageError
        A time range beyond the clip, or an unknown decoder.
    MemoryLimitError
        More frames than fit the memory.
    """
    if decoder not in DECODERS:
        raise UsageError(f"no decoder {decoder!r}", f"one of: {', '.join(DECODERS)}")
    checked = check_source(source, name)
    index = index_clip(checked)
    first = pyav_decoder.probe(checked)
    if first is None:
        if index.promised_frames is not None or index.promised_s is not None:
            raise _cut_short(checked, index, 0, sampling)
        raise VideoError(
            f"{checked.name}: none of its {len(index)} frames can be decoded ({index.codec})",
            "the file is damaged; get or record it again",
        )
    _check_promised_range(checked, index, sampling)
    wanted = sample_indices(index.timestamps_s, sampling, duration_s=index.end_s, name=checked.name)
    _check_memory(checked, first, len(wanted))
    try:
        picked = _decode(checked, index, first, sampling, wanted, decoder)
    except MemoryError:
        raise MemoryLimitError(
            f"{checked.name}: no memory for {len(wanted)} frames of {first.width}x{first.height}",
            "use fewer --frames",
        ) from None
    return _frames(checked, index, first, sampling, picked)


@dataclass(frozen=True, slots=True)
class _Picked:
    """Decoded frames: (T, H, W, 3) pixels, their times and positions, and who decoded them."""

    pixels: npt.NDArray[np.uint8]
    times: npt.NDArray[np.float64]
    positions: npt.NDArray[np.int64]
    decoder: str
    notes: tuple[str, ...] = ()


def _decode(
    source: Source,
    index: ClipIndex,
    first: FirstFrame,
    sampling: Sampling,
    wanted: npt.NDArray[np.int64],
    decoder: str,
) -> _Picked:
    times = index.timestamps_s[wanted]
    notes: tuple[str, ...] = ()
    if decoder == "decord" and not decord_decoder.installed():
        raise UsageError("decord is not installed", "leave the choice of the decoder to adatp")
    if decoder != "pyav" and decord_decoder.installed():
        try:
            pixels = decord_decoder.decode(source, index, first, wanted)
            _check_repeats(source, index, first, wanted, pixels)
            return _Picked(pixels, times, wanted, "decord")
        except decord_decoder.DecordUnfitError as reason:
            if decoder == "decord":
                raise VideoError(
                    f"{source.name}: {reason}", "leave the choice of the decoder to adatp"
                ) from None
            notes = (f"decoded by PyAV: {reason}",)
    found = pyav_decoder.decode_by_pts(source, index, first, wanted)
    if found is not None:
        return _Picked(found, times, wanted, "pyav", notes)
    return _decode_in_a_row(source, index, first, sampling, len(wanted), notes)


def _check_repeats(
    source: Source,
    index: ClipIndex,
    first: FirstFrame,
    wanted: npt.NDArray[np.int64],
    pixels: npt.NDArray[np.uint8],
) -> None:
    """DecordUnfitError where frames that decord gave twice differ for PyAV."""
    repeats = decord_decoder.repeated(pixels)
    if len(repeats) == 0:
        return
    spread = np.linspace(0, len(repeats) - 1, min(len(repeats), _REPEATS_CHECKED))
    pairs = [[k - 1, k] for k in repeats[spread.astype(np.int64)]]
    again = [pyav_decoder.decode_by_pts(source, index, first, wanted[pair]) for pair in pairs]
    if any(two is None or not np.array_equal(two[0], two[1]) for two in again):
        raise decord_decoder.DecordUnfitError("decord repeats frames that differ")


def _decode_in_a_row(
    source: Source,
    index: ClipIndex,
    first: FirstFrame,
    sampling: Sampling,
    needed: int,
    notes: tuple[str, ...],
) -> _Picked:
    """Sample over the frames that really come out when all are decoded in a row."""
    until = None
    if sampling.end_s is not None and index.exact:
        later = int(np.searchsorted(index.timestamps_s, sampling.end_s))
        until = int(index.pts[min(later, len(index) - 1)])
    # An index without errors of its own is tried at full speed first.
    survey = pyav_decoder.survey(source, until, careful=index.exact)
    careful = index.exact or survey.errors > 0
    if careful and not index.exact:
        survey = pyav_decoder.survey(source, until, careful=True)
    times, positions = _surveyed_times(index, survey.pts, until is not None)
    expected = len(index) if until is None else int(np.searchsorted(index.pts, until, "right"))
    lost = expected - len(times)
    if survey.errors and lost <= 0:
        notes += ("some of the data is damaged; every frame could still be decoded",)
    elif survey.errors:
        notes += (f"{lost} of {expected} frames could not be decoded: left out",)
    chosen = sample_indices(times, sampling, duration_s=index.end_s, name=source.name)
    # A count is met or refused; a rate, or all frames, is worth having from one half on.
    exact_count = sampling.frames is not None and sampling.fps is None
    enough = len(chosen) >= needed if exact_count else 2 * len(chosen) >= needed
    if len(chosen) == 0 or (survey.errors and not enough):
        raise _cut_short(source, index, len(times), sampling)
    pixels = pyav_decoder.decode_by_count(source, first, chosen, careful=careful)
    if len(pixels) < len(chosen):
        raise _cut_short(source, index, len(pixels), sampling)
    return _Picked(pixels, times[chosen], positions[chosen], "pyav", notes)


def _surveyed_times(
    index: ClipIndex, pts: list[int | None], partial: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """When each frame that came out is shown, and which frame of the clip it is."""
    count = len(pts)
    ordinals = np.arange(count, dtype=np.int64)
    known = [moment for moment in pts if moment is not None]
    rising = np.asarray(known, dtype=np.int64)
    if index.exact and len(known) == count and bool((np.diff(rising) > 0).all()):
        positions = np.minimum(np.searchsorted(index.pts, rising), len(index) - 1)
        if bool((index.pts[positions] == rising).all()):
            return index.timestamps_s[positions], positions.astype(np.int64)
    if count == len(index) or (partial and count < len(index)):
        return index.timestamps_s[:count], ordinals
    return float(index.timestamps_s[0]) + ordinals / index.fps, ordinals


def _check_promised_range(source: Source, index: ClipIndex, sampling: Sampling) -> None:
    """A range that the header promises and the file no longer holds is no usage error."""
    if index.promised_s is None and index.promised_frames is None:
        return
    promised = index.promised_s or (index.promised_frames or 0) / index.fps
    beyond = max(sampling.start_s or 0.0, 0.0)
    if index.end_s <= beyond < promised:
        raise VideoError(
            f"{source.name}: cut short: its frames end at {index.end_s:.2f} s "
            f"of {promised:.2f} s, before --start {beyond:g} s",
            "get or record the whole file again",
            kind="truncated",
        )


def _cut_short(source: Source, index: ClipIndex, decoded: int, sampling: Sampling) -> VideoError:
    """Too few of the frames that the file should hold."""
    promised = index.promised_frames or round((index.promised_s or 0.0) * index.fps)
    needed = f", {sampling.frames} are needed" if sampling.frames is not None else ""
    hint = f"ask for --frames {decoded} or fewer, or get" if decoded else "get"
    return VideoError(
        f"{source.name}: cut short or damaged: only {decoded} of its {max(promised, len(index))} "
        f"frames can be decoded{needed}",
        f"{hint} the whole file again",
        kind="truncated",
    )


def _check_memory(source: Source, first: FirstFrame, frames: int) -> None:
    each = first.width * first.height * 3
    if frames * each > MAX_PIXEL_BYTES:
        raise MemoryLimitError(
            f"{source.name}: {frames} frames of {first.width}x{first.height} would take "
            f"{frames * each / 2**30:.1f} GB",
            f"ask for --frames {max(1, MAX_PIXEL_BYTES // each)} or fewer",
        )


def _frames(
    source: Source, index: ClipIndex, first: FirstFrame, sampling: Sampling, picked: _Picked
) -> Frames:
    notes = list(index.notes + picked.notes)
    used = len(picked.pixels)
    short = sampling.frames is not None and sampling.fps is None and used < sampling.frames
    if index.promised_frames is not None or index.promised_s is not None:
        reaches_cut = sampling.end_s is None or sampling.end_s > index.end_s
        if short and reaches_cut:
            raise _cut_short(source, index, len(index), sampling)
        promised = (
            f"{index.promised_frames} frames"
            if index.promised_frames is not None
            else f"{index.promised_s:.2f} s"
        )
        notes.append(
            f"the file is cut short: {len(index)} frames to {index.end_s:.2f} s of {promised}"
        )
    if short:
        notes.append(f"{sampling.frames} frames asked for, {used} are there: each is used once")
    if sampling.fps is not None and sampling.fps > 1.01 * index.fps:
        notes.append(f"--fps {sampling.fps:g} is above the clip's rate of {index.fps:.3g}")
    turned = first.orientation
    if turned.odd:
        notes.append("it asks for a rotation that is no multiple of 90 degrees: not applied")
    elif not turned.plain:
        notes.append("it asks to be mirrored, and is")
    return Frames(
        pixels=picked.pixels,
        timestamps_s=picked.times.astype(np.float64),
        indices=picked.positions.astype(np.int64),
        info=VideoInfo(
            decoder=picked.decoder,
            codec=index.codec,
            width=first.width,
            height=first.height,
            fps=index.fps,
            duration_s=index.end_s,
            frames_total=len(index),
            rotation=turned.clockwise,
        ),
        notes=tuple(notes),
    )
