"""The contact sheet: every frame with what was kept of it, the segments, answer and cost."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adatp_cli.pictures import strips, style
from adatp_cli.pictures.scene import Panel, Scene
from adatp_cli.record import SegmentFacts
from adatp_cli.text import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches, points and dots an inch.
_MARGIN = 0.25
_GAP = 0.07
_BAND = 0.19
_CAPTION = 0.18
_WIDTH = 13.0
_NARROW = 8.5
_LARGEST_CELL = 3.2
_SMALLEST_CELL = 1.3
_HEAD = 0.42
_LINE = 0.19
_DPI = 150
# A sheet of very many frames is drawn with fewer dots an inch rather than with more dots.
_MOST_DOTS = 48e6
_SMALL, _MEDIUM, _LARGE = 7.5, 9.5, 13.0


@dataclass(frozen=True, slots=True)
class Grid:
    """Where frames stand in a panel; lengths in inches.

    Parameters
    ----------
    columns, rows
        Of frames.
    cell_width, cell_height
        Of one frame.
    band
        Height of the strip above each row that names its segments; 0 without any.
    width
        Of the panel.
    """

    columns: int
    rows: int
    cell_width: float
    cell_height: float
    band: float
    width: float

    @property
    def row_height(self) -> float:
        """From the top of one row to the next one's."""
        return self.band + self.cell_height + _CAPTION + _GAP

    @property
    def height(self) -> float:
        """Of all rows."""
        return self.rows * self.row_height

    def place(self, frame: int) -> tuple[float, float]:
        """Left and top of a frame's picture, from those of the grid."""
        row, column = divmod(frame, self.columns)
        return column * (self.cell_width + _GAP), row * self.row_height + self.band


def plan_grid(count: int, aspect: float, *, width: float, shape: float, bands: bool) -> Grid:
    """Columns and sizes for `count` frames of this aspect.

    Parameters
    ----------
    width
        Of the panel in inches; it grows where frames would become too small to see.
    shape
        Width over height that the grid should come near to.
    """
    band = _BAND if bands else 0.0

    def grid(columns: int) -> Grid:
        cell = (width + _GAP) / columns - _GAP
        cell = min(max(cell, _SMALLEST_CELL), _LARGEST_CELL, _LARGEST_CELL * aspect)
        wide = max(width, columns * (cell + _GAP) - _GAP)
        return Grid(columns, math.ceil(count / columns), cell, cell / aspect, band, wide)

    def badness(made: Grid) -> float:
        used = made.columns * (made.cell_width + _GAP)
        empty = (made.rows * made.columns - count) / count
        return (
            abs(math.log(used / made.height / shape)) + 0.5 * empty + 0.2 * (made.width / width - 1)
        )

    return min((grid(columns) for columns in range(1, count + 1)), key=badness)


def draw_sheet(scene: Scene) -> Figure:
    """The contact sheet of a scene, a panel beside the other where there are several."""
    from matplotlib.figure import Figure

    alone = len(scene.panels) == 1
    grids = [
        plan_grid(
            len(scene.pixels),
            scene.aspect,
            width=_WIDTH if alone else _NARROW,
            shape=2.2 if alone else 1.2,
            bands=any(panel.record.segments for panel in scene.panels),
        )
        for _ in scene.panels
    ]
    width = sum(grid.width + _MARGIN for grid in grids) + _MARGIN
    question = style.wrapped(scene.record.question, _letters(width, _LARGE), 3)
    # Frames of panels side by side stand at one height.
    above = _HEAD + max(strips.height(panel) for panel in scene.panels)
    below = [
        _footer_height(panel, grid.width) for panel, grid in zip(scene.panels, grids, strict=True)
    ]
    top = _MARGIN + 0.26 * len(question) + 0.3
    height = top + above + grids[0].height + max(below) + _MARGIN
    dpi = min(_DPI, math.sqrt(_MOST_DOTS / (width * height)))
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
    page: Any = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    page.set_xlim(0, width)
    page.set_ylim(height, 0)
    page.axis("off")
    _head(page, scene, question)
    left = _MARGIN
    for panel, grid in zip(scene.panels, grids, strict=True):
        _panel(page, scene, panel, grid, (left, top, top + above))
        left += grid.width + _MARGIN
    return figure


def save_sheet(scene: Scene, path: Path) -> None:
    """Draw a scene into a PNG file.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = draw_sheet(scene)
    FigureCanvasAgg(figure)  # without pyplot, which keeps every figure and looks for a screen
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box; the record has it.
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(path, format="png")


def _letters(width: float, size: float) -> int:
    """How many letters of a size in points fit a width in inches."""
    return int(width * 72 / (0.6 * size))


def write(page: Axes, x: float, y: float, text: str, size: float, **look: Any) -> None:
    """Text with its upper left corner at a place, drawn as it is: no mathematics in it."""
    settings = {"va": "top", "ha": "left", "color": "black"} | look
    page.text(x, y, text, fontsize=size, parse_math=False, **settings)


def _head(page: Axes, scene: Scene, question: list[str]) -> None:
    for number, line in enumerate(question):
        write(page, _MARGIN, _MARGIN + 0.26 * number, line, _LARGE, weight="bold")
    record = scene.record
    info, model = record.video_info, record.model
    told = (
        f"{record.video}: {info.width} x {info.height}, {style.moment(info.duration_s)}, "
        f"{info.frames_used} of {plural(info.frames_total, 'frame')}; model {model.name}"
    )
    y = _MARGIN + 0.26 * len(question) + 0.02
    write(page, _MARGIN, y, style.wrapped(told, 400, 1)[0], _MEDIUM, color="#444444")


def _panel(
    page: Axes, scene: Scene, panel: Panel, grid: Grid, place: tuple[float, float, float]
) -> None:
    """Everything of one profile; `place` is left, top, and the top of the frames."""
    left, top, start = place
    write(page, left, top + 0.06, style.heading(panel), _LARGE)
    strips.draw(page, panel, (left, top + _HEAD, grid.width))
    pictures = style.faded(scene.pixels, panel.fates)
    share = panel.fates.kept.sum(axis=(1, 2))
    per_frame = panel.fates.kept[0].size
    size = _SMALL if grid.cell_width < 2 else _MEDIUM
    for number, picture in enumerate(pictures):
        x, y = grid.place(number)
        x, y = left + x, start + y
        box = (x, x + grid.cell_width, y + grid.cell_height, y)
        page.imshow(picture, extent=box, aspect="auto", zorder=1)
        outline = style.outline(panel.fates.kept[number], box)
        if outline is not None:
            page.add_collection(outline, autolim=False)
        below = y + grid.cell_height + 0.03
        write(page, x, below, style.moment(scene.times[number]), size)
        kept = f"{share[number]}/{per_frame}"
        write(page, x + grid.cell_width, below, kept, size, ha="right", color="#444444")
    for number, segment in enumerate(panel.record.segments):
        _segment(page, number, segment, grid, (left, start))
    _footer(page, panel, (left, start + grid.height, grid.width))


def _segment(
    page: Axes, number: int, segment: SegmentFacts, grid: Grid, corner: tuple[float, float]
) -> None:
    """A band above a segment's frames in each row that it has a part in, and a line around them."""
    from matplotlib.patches import Rectangle

    colour = style.segment_colour(number)
    first = segment.first_frame
    for row in range(first // grid.columns, segment.last_frame // grid.columns + 1):
        begin = max(first, row * grid.columns)
        end = min(segment.last_frame, (row + 1) * grid.columns - 1)
        x, y = grid.place(begin)
        x, y = corner[0] + x, corner[1] + y - grid.band
        width = grid.place(end)[0] + corner[0] + grid.cell_width - x
        band = Rectangle((x, y), width, grid.band, facecolor=colour, linewidth=0)
        border = Rectangle(
            (x, y), width, grid.band + grid.cell_height,
            fill=False, edgecolor=colour, linewidth=1.6, zorder=3,
        )  # fmt: skip
        page.add_patch(band)
        page.add_patch(border)
        text = _segment_label(number, segment, _letters(width - 0.1, 1.1 * _SMALL), begin == first)
        look = {"color": "white", "va": "center", "weight": "bold"}
        write(page, x + 0.04, y + grid.band / 2, text, _SMALL, **look)


def _segment_label(number: int, segment: SegmentFacts, room: int, begins: bool) -> str:
    """The longest of some texts that fits."""
    star = "\N{BLACK STAR}" if segment.salient else ""
    short = f"{number + 1}{star}"
    if not begins:
        return short
    texts = [short]
    if segment.relevance is not None:
        texts.append(f"{short} {segment.relevance:.2f}")
        texts.append(f"{short} rel {segment.relevance:.3f}")
        texts.append(f"{short} relevance {segment.relevance:.3f}")
    texts.append(f"{texts[-1]}, {segment.kept} kept")
    texts.append(f"segment {texts[-1]}")
    span = f"{style.moment(segment.start_s)} to {style.moment(segment.end_s)}"
    texts.append(f"{texts[-1]}, {span}")
    return next((text for text in reversed(texts) if len(text) <= room), short)


def _footer_height(panel: Panel, width: float) -> float:
    return 0.14 + 0.24 * len(_answer(panel, width)) + _LINE * len(panel.costs) + 0.05


def _answer(panel: Panel, width: float) -> list[str]:
    answer = panel.record.answer.strip() or "(no text)"
    return style.wrapped(f"Answer: {answer}", _letters(width, 12.0), 4)


def _footer(page: Axes, panel: Panel, place: tuple[float, float, float]) -> None:
    left, top, width = place
    top += 0.1
    for line in _answer(panel, width):
        write(page, left, top, line, 12.0, weight="bold")
        top += 0.24
    for label, text in panel.costs:
        write(page, left, top, label, _MEDIUM, color="#666666")
        room = _letters(width - 1.0, _MEDIUM)
        write(page, left + 1.0, top, style.wrapped(text, room, 1)[0], _MEDIUM)
        top += _LINE
