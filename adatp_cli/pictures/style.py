"""How kept and dropped patches look, the same in every kind of picture."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from adatp_cli.pictures.scene import Panel, TokenFates
from adatp_cli.video.source import printable

if TYPE_CHECKING:
    from matplotlib.collections import LineCollection

# What dropped patches fade into, and how far: those that fall first the most.
SHADE = (24, 22, 46)
_FIRST, _LAST, _ONLY = 0.93, 0.5, 0.82
KEPT_EDGE = "#ffd23f"
# Okabe and Ito's colours, which people with any colour vision tell apart.
SEGMENTS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


def fading(steps: tuple[int, ...]) -> dict[int, float]:
    """How far what falls at each layer fades, from 0 (as it is) to 1 (not to be seen)."""
    if len(steps) == 1:
        return {steps[0]: _ONLY}
    by = (_FIRST - _LAST) / max(len(steps) - 1, 1)
    return {layer: _FIRST - by * number for number, layer in enumerate(steps)}


def faded(pixels: npt.NDArray[np.uint8], fates: TokenFates) -> npt.NDArray[np.uint8]:
    """The frames with dropped patches faded.

    Parameters
    ----------
    pixels
        (T, H, W, 3).

    Returns
    -------
    ndarray
        The same shape.
    """
    table = np.zeros(fates.layers + 1, dtype=np.float32)
    for layer, amount in fading(fates.steps).items():
        table[layer] = amount
    _, rows, cols = fates.fell.shape
    height, width = pixels.shape[1:3]
    row = np.arange(height) * rows // height
    col = np.arange(width) * cols // width
    shade = np.asarray(SHADE, dtype=np.float32)
    result = np.empty_like(pixels)
    for number, frame in enumerate(pixels):  # one by one: floats of all frames may be large
        weight = table[fates.fell[number]][row[:, None], col[None, :], None]
        result[number] = np.rint(frame * (1 - weight) + shade * weight)
    return result


def edges(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """(n, 2, 2): lines (x, y) to (x, y) around the true cells of a (rows, cols) mask, each 1 x 1.

    Lines that go on are joined, so that there are few of them.
    """
    framed = np.pad(mask, 1)
    lines = []
    for horizontal, grid in ((True, framed), (False, framed.T)):
        changes = np.diff(grid.astype(np.int8), axis=0)  # between line k and k + 1 of the grid
        for at, change in enumerate(changes):
            for kind in (1, -1):
                runs = np.flatnonzero(np.diff(np.pad((change == kind).astype(np.int8), 1)))
                for begin, end in runs.reshape(-1, 2) - 1:
                    ends = [(begin, at), (end, at)]
                    lines.append(ends if horizontal else [(y, x) for x, y in ends])
    return np.asarray(lines, dtype=np.float64).reshape(-1, 2, 2)


def outline(
    kept: npt.NDArray[np.bool_], box: tuple[float, float, float, float]
) -> LineCollection | None:
    """Lines around what was kept of a frame, so that a dark scene is not taken for a dropped one.

    Parameters
    ----------
    kept
        (rows, cols).
    box
        Left, right, bottom and top of the frame's picture.
    """
    from matplotlib.collections import LineCollection

    lines = edges(kept)
    if not len(lines):
        return None
    left, right, bottom, top = box
    rows, cols = kept.shape
    scale = np.asarray([(right - left) / cols, (bottom - top) / rows])
    placed = lines * scale + np.asarray([left, top])
    return LineCollection(list(placed), colors=KEPT_EDGE, linewidths=0.9, zorder=2)


def segment_colour(number: int) -> str:
    """The colour of a segment; neighbours differ."""
    return SEGMENTS[number % len(SEGMENTS)]


def moment(seconds: float) -> str:
    """1.25 -> '1.25 s', 75.5 -> '1:15.5', 3675 -> '1:01:15'."""
    if seconds < 60:
        return f"{seconds:.2f} s"
    if seconds < 3600:
        minutes, tenths = divmod(round(seconds * 10), 600)
        return f"{minutes}:{tenths // 10:02d}.{tenths % 10}"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def wrapped(text: str, width: int, lines: int) -> list[str]:
    """Text in lines of `width` characters, at most so many; what does not fit ends in dots."""
    shown = printable(" ".join(text.split()))
    return textwrap.wrap(shown, width=max(width, 8), max_lines=lines, placeholder=" ...") or [""]


def heading(panel: Panel) -> str:
    """What a panel is about: the profile, and how much of the clip reached the last layer."""
    tokens = panel.record.tokens
    told = f"{panel.name}: {tokens.kept_final} of {tokens.visual} visual tokens kept"
    # A method that puts line breaks between groups of tokens has them counted as its tokens.
    breaks = tokens.kept_final - int(panel.fates.kept.sum())
    return f"{told}, {breaks} of them line breaks" if breaks > 0 else told
