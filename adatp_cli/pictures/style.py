"""How things look, the same in every kind of picture."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from adatp_cli.pictures.scene import Panel, Scene, TokenFates
from adatp_cli.text import plural, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

# What dropped patches fade into, and how far: those that fall first the most.
SHADE = (24, 22, 46)
_FIRST, _LAST, _ONLY = 0.93, 0.5, 0.82
KEPT_EDGE = "#ffd23f"
STAR = "\N{BLACK STAR}"  # marks a segment that matches the question
# Okabe and Ito's colours, which people with any colour vision tell apart.
SEGMENTS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
SMALL, MEDIUM, LARGE = 7.5, 9.5, 13.0  # points
QUESTION_LINE = 0.26  # inches from one line of a question to the next


def fading(steps: tuple[int, ...]) -> dict[int, float]:
    """How far what falls at each layer fades, from 0 (as it is) to 1 (not to be seen)."""
    if len(steps) == 1:
        return {steps[0]: _ONLY}
    by = (_FIRST - _LAST) / max(len(steps) - 1, 1)
    return {layer: _FIRST - by * number for number, layer in enumerate(steps)}


def faded(pixels: npt.NDArray[np.uint8], fates: TokenFates) -> npt.NDArray[np.uint8]:
    """The frames (T, H, W, 3) with dropped patches faded."""
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


def blank_page(width: float, height: float, dpi: float) -> tuple[Figure, Axes]:
    """A figure, and axes over the whole of it in inches from its upper left corner."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
    FigureCanvasAgg(figure)  # without pyplot, which keeps every figure and looks for a screen
    page = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    page.set_xlim(0, width)
    page.set_ylim(height, 0)
    page.axis("off")
    return figure, page


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def plot(width: float, height: float, title: str) -> Any:
    """An empty figure for plots, in inches; its axes come in arrays of any shape."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(label(title), fontsize=11)
    return figure


def legend(figure: FigureBase, axis: Axes, columns: int) -> None:
    """The legend of one of a figure's plots below it, where it covers nothing."""
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, fontsize=8, loc="outside lower center", ncols=columns)


def label(text: str) -> str:
    """A name that a plot shows as it is: no mathematics, no leading underscore, which hides it."""
    shown = printable(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


@contextmanager
def drawing() -> Iterator[None]:
    """Draw a letter that the font lacks as a box without a warning; records and tables have it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        yield


def draw_frame(
    page: Axes,
    picture: npt.NDArray[np.uint8],
    kept: npt.NDArray[np.bool_],
    box: tuple[float, float, float, float],
) -> list[Any]:
    """Draw a frame, and lines around what was kept of it, and return both.

    The lines tell a dark scene from a dropped one. `box` is left, right, bottom and top.
    """
    from matplotlib.collections import LineCollection

    drawn: list[Any] = [page.imshow(picture, extent=box, aspect="auto", zorder=1)]
    lines = edges(kept)
    if len(lines):
        left, right, bottom, top = box
        rows, cols = kept.shape
        scale = np.asarray([(right - left) / cols, (bottom - top) / rows])
        placed = list(lines * scale + np.asarray([left, top]))
        outline = LineCollection(placed, colors=KEPT_EDGE, linewidths=0.9, zorder=2)
        drawn.append(page.add_collection(outline, autolim=False))
    return drawn


def write(page: Axes, x: float, y: float, text: str, size: float, **look: Any) -> Any:
    """Text with its upper left corner at a place, drawn as it is: no mathematics in it."""
    settings: dict[str, Any] = {"va": "top", "parse_math": False} | look
    return page.text(x, y, text, fontsize=size, **settings)


def write_lines(
    page: Axes, x: float, y: float, lines: Sequence[str], size: float, step: float
) -> None:
    """Bold lines of text, each `step` inches below the one before."""
    for number, line in enumerate(lines):
        write(page, x, y + step * number, line, size, weight="bold")


def letters(width: float, size: float) -> int:
    """How many letters of a size in points fit a width in inches."""
    return int(width * 72 / (0.6 * size))


def wrapped(text: str, width: int, lines: int) -> list[str]:
    """Text in lines of `width` characters, at most so many; what does not fit ends in dots."""
    shown = printable(" ".join(text.split()))
    return textwrap.wrap(shown, width=max(width, 8), max_lines=lines, placeholder=" ...") or [""]


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


def about(scene: Scene) -> str:
    """What the clip is, how much of it was looked at, and by which model."""
    info = scene.record.video_info
    return (
        f"{scene.record.video}: {info.width} x {info.height}, {moment(info.duration_s)}, "
        f"{info.frames_used} of {plural(info.frames_total, 'frame')}; "
        f"model {scene.record.model.name}"
    )


def heading(panel: Panel) -> str:
    """What a panel is about: the profile, and how much of the clip reached the last layer."""
    tokens = panel.record.tokens
    name = panel.record.profile["name"]
    told = f"{name}: {tokens.kept_final} of {tokens.visual} visual tokens kept"
    # A method that puts line breaks between groups of tokens has them counted as its tokens.
    breaks = tokens.kept_final - int(panel.fates.kept.sum())
    return f"{told}, {breaks} of them line breaks" if breaks > 0 else told
