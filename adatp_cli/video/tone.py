"""HDR frames as a screen without HDR shows them: by the published formulas, in NumPy.

The chain is that of FFmpeg's zscale and tonemap filters: to linear light with 1.0 at the reference
white of 203 cd/m2 (ITU-R BT.2408), from BT.2020's primaries to BT.709's, down to white what is
brighter (`tonemap=clip`), and encoded for a screen after BT.1886. PyAV's FFmpeg has no zscale.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

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
