"""What a decoded frame shows: upright, of square pixels, without interlacing and without HDR."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from adatp_cli.video.frames import Pixels, Resize

if TYPE_CHECKING:
    from av.sidedata.sidedata import SideData
    from av.video.frame import VideoFrame

# FFmpeg's kinds of side data, and some that it may yet get.
_SIDE_DATA_KINDS = 64
# Pixels are all but square from this on, and their shape is a mistake from that on.
_SQUARE = Fraction(1, 100)
_ODDEST = 4


@dataclass(frozen=True, slots=True)
class Orientation:
    """How stored pixels become upright ones: transposed first, then mirrored."""

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False
    clockwise: int = 0  # 0, 90, 180 or 270 degrees, without the mirroring where there is one
    plain: bool = True  # the steps are a pure rotation
    odd: bool = False  # the file asks for an angle that is no multiple of 90: it is not applied

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
    """What only a decoded frame tells."""

    width: int  # as shown
    height: int
    orientation: Orientation
    pixel_shape: Fraction = Fraction(1)  # width of a stored pixel by its height; shown are squares
    interlaced: bool = False  # two half pictures, taken one after the other
    transfer: int = 0  # FFmpeg's number of how light is coded, by which HDR is known
    # Frames of the index before it: those of a recording that begins in the middle of a group of
    # pictures need what is not there.
    before: int = 0

    def notes(self) -> list[str]:
        """What the reader should know of how its pixels came about."""
        found = []
        if is_hdr(self.transfer):
            found.append(f"its {HDR_NAMES[self.transfer]} frames are tone-mapped to SDR")
        if self.interlaced:
            found.append("its frames are interlaced, and deinterlaced one by one")
        if self.orientation.odd:
            found.append("it asks for a rotation that is no multiple of 90 degrees: not applied")
        elif not self.orientation.plain:
            found.append("it asks to be mirrored, and is")
        return found


def first_frame(frame: VideoFrame, pixel_shape: Fraction | None, before: int) -> FirstFrame:
    """What is known from the first frame that decodes."""
    orientation = _orientation(frame)
    width, height = frame.width, frame.height
    shape = pixel_shape or Fraction(1)
    if abs(shape - 1) <= _SQUARE or not Fraction(1, _ODDEST) <= shape <= _ODDEST:
        shape = Fraction(1)
    # The longer side of a pixel is what the other one is brought to: nothing of the picture goes.
    if shape > 1:
        width = round(width * shape)
    else:
        height = round(height / shape)
    if orientation.transpose:
        width, height = height, width
    return FirstFrame(
        width,
        height,
        orientation,
        pixel_shape=shape,
        interlaced=frame.interlaced_frame,
        transfer=int(frame.color_trc),
        before=before,
    )


def shown(frame: VideoFrame, first: FirstFrame, resize: Resize | None) -> Pixels:
    """(H, W, 3): the pixels of a frame as shown, in the size of the first frame throughout.

    `resize` is what becomes of them later: HDR is mapped in no more detail than that needs.
    """
    width, height = first.width, first.height
    if first.orientation.transpose:
        width, height = height, width
    if frame.interlaced_frame:
        frame = _filtered(frame, [("estdif", "mode=frame:deint=interlaced")])
    transfer = int(frame.color_trc)
    if is_hdr(transfer):
        if resize is not None and resize.shrinks(height, width):
            # Mapping every pixel of a 4K frame takes a second; of those left, nothing shows.
            width, height = (min(side, 2 * resize.size) for side in (width, height))
        deep = frame.reformat(width, height, "rgb48le", interpolation="AREA").to_ndarray()
        return first.orientation.apply(tone_map(np.asarray(deep, dtype=np.uint16), transfer))
    rgb = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
    return first.orientation.apply(np.asarray(rgb, dtype=np.uint8))


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
    from av.sidedata.sidedata import Type

    known = [cast("int", kind.value) for kind in Type]
    unknown = [kind for kind in range(_SIDE_DATA_KINDS) if kind not in known]
    return _filtered(frame, [("sidedata", f"mode=delete:type={kind}") for kind in unknown])


def _filtered(frame: VideoFrame, steps: list[tuple[str, str]]) -> VideoFrame:
    """One frame through filters that need no other one, each a name and its options."""
    from av.filter import Graph

    graph = Graph()
    first = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)
    )
    chain = [graph.add(name, options) for name, options in steps]
    graph.link_nodes(first, *chain, graph.add("buffersink")).configure()
    graph.push(frame)
    graph.push(None)
    return cast("VideoFrame", graph.pull())


FloatArray = npt.NDArray[np.float32]

# HDR as a screen without HDR shows it, by the published formulas, in the order of FFmpeg's zscale
# and tonemap filters, which PyAV's FFmpeg lacks: to linear light with 1.0 at the reference white of
# 203 cd/m2 (ITU-R BT.2408), from BT.2020's primaries to BT.709's, down to white what is brighter
# (`tonemap=clip`), and encoded for a screen after BT.1886.

# FFmpeg's numbers of the two transfers, and what notes call them.
PQ, HLG = 16, 18
HDR_NAMES = {PQ: "HDR10 (PQ)", HLG: "HLG"}
_WHITE_NITS = 203.0
_HLG_NITS, _HLG_SYSTEM_GAMMA = 1000.0, 1.2
_PQ_NITS = 10_000.0
_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
# From twice the luminance of white on, colours lose their saturation.
_LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)
_WASHED_OUT = 2.0
_STEPS = 1 << 20
# Rows at a time, so that what is in between stays small and near.
_ROWS = 64


def is_hdr(transfer: int) -> bool:
    """Whether frames of this transfer, by FFmpeg's number, need tone mapping."""
    return transfer in HDR_NAMES


def tone_map(image: npt.NDArray[np.uint16], transfer: int) -> npt.NDArray[np.uint8]:
    """(H, W, 3) BT.2020 RGB of 16 bits, full range, in this transfer to BT.709 RGB of 8 bits."""
    linear_of, encoded = _linear(transfer), _encoded()
    shown = np.empty(image.shape, np.uint8)
    for row in range(0, len(image), _ROWS):
        light = linear_of[image[row : row + _ROWS]]
        seen = np.clip(_within_white(light @ _TO_BT709.T), 0.0, 1.0)
        shown[row : row + _ROWS] = encoded[(seen * (_STEPS - 1)).astype(np.int32)]
    return shown


def _within_white(light: FloatArray) -> FloatArray:
    """Light brighter than white brought down to it with its hue; far brighter becomes white."""
    if float(light.max()) <= 1.0:
        return light
    luma = (light @ _LUMA)[..., None]
    overbright = np.maximum(luma - _WASHED_OUT, 1e-6) / np.maximum(luma, 1e-6)
    light = light + (luma - light) * overbright
    brightest: FloatArray = np.maximum(light.max(axis=-1, keepdims=True), 1.0)
    return light / brightest


@cache
def _linear(transfer: int) -> FloatArray:
    """(65536,) light of each 16-bit code, in units of white."""
    code = np.arange(65536) / 65535.0
    if transfer == PQ:  # SMPTE ST 2084
        power = code ** (32 / 2523)
        above = np.maximum(power - 3424 / 4096, 0.0)
        light = (above / (2413 / 128 - 2392 / 128 * power)) ** (16384 / 2610)
        light *= _PQ_NITS / _WHITE_NITS
    else:  # ARIB STD-B67
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
        # The display's gamma by channel, as zscale has it, where BT.2100 has it by luminance.
        light = scene**_HLG_SYSTEM_GAMMA * (_HLG_NITS / _WHITE_NITS)
    return light.astype(np.float32)


@cache
def _encoded() -> npt.NDArray[np.uint8]:
    """(2^20,) the level that a screen after BT.1886 needs for so much light."""
    light = np.arange(_STEPS) / (_STEPS - 1)
    return np.rint(255 * light ** (1 / 2.4)).astype(np.uint8)
