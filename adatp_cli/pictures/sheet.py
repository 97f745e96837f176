"""The contact sheet: every frame with what was kept of it, the segments, answer and cost."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adatp_cli.pictures import style
from adatp_cli.pictures.scene import Panel, Scene
from adatp_cli.record import SegmentFacts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
_ANSWER_LINE = 0.24
_DPI = 150
# A sheet of very many frames is drawn with fewer dots an inch rather than with more dots.
_MOST_DOTS = 48e6
# Of the strips above the frames.
_STRIP = 0.62
_BETWEEN = 0.3
_LEFT = 1.25  # room for the names of the strips and the labels of their axes
_LEGEND = 0.62
_TICKS = 9


@dataclass(frozen=True, slots=True)
class Grid:
    """Where frames stand in a panel; lengths in inches."""

    columns: int
    rows: int
    cell_width: float
    cell_height: float
    band: float  # above each row, for the names of its segments; 0 without any
    width: float  # of the panel

    @property
    def row_height(self) -> float:
        return self.band + self.cell_height + _CAPTION + _GAP

    @property
    def height(self) -> float:
        return self.rows * self.row_height

    def place(self, frame: int) -> tuple[float, float]:
        """Left and top of a frame's picture, from those of the grid."""
        row, column = divmod(frame, self.columns)
        return column * (self.cell_width + _GAP), row * self.row_height + self.band


def plan_grid(count: int, aspect: float, *, width: float, shape: float, bands: bool) -> Grid:
    """Columns and sizes for `count` frames of this aspect.

    `width` is the panel's, and grows where frames would become too small to see; `shape` is the
    width over height that the grid should come near to.
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


def save_sheet(scene: Scene, path: Path) -> None:
    """Draw a scene into a PNG file, a panel beside the other where there are several."""
    alone = len(scene.panels) == 1
    grid = plan_grid(
        len(scene.pixels),
        scene.aspect,
        width=_WIDTH if alone else _NARROW,
        shape=2.2 if alone else 1.2,
        bands=any(panel.record.segments for panel in scene.panels),
    )
    width = len(scene.panels) * (grid.width + _MARGIN) + _MARGIN
    question = style.wrapped(scene.record.question, style.letters(width, style.LARGE), 3)
    # Frames of panels side by side stand at one height.
    strips = max(len(_strips(panel)) for panel in scene.panels)
    above = _HEAD + _LEGEND + strips * (_STRIP + _BETWEEN)
    lines = [(len(_answer(panel, grid.width)), len(panel.costs)) for panel in scene.panels]
    below = max(0.19 + _ANSWER_LINE * answer + _LINE * costs for answer, costs in lines)
    told = _MARGIN + style.QUESTION_LINE * len(question)
    top = told + 0.3
    height = top + above + grid.height + below + _MARGIN
    dpi = min(_DPI, math.sqrt(_MOST_DOTS / (width * height)))
    figure, page = style.blank_page(width, height, dpi)
    style.write_lines(page, _MARGIN, _MARGIN, question, style.LARGE, style.QUESTION_LINE)
    about = style.wrapped(style.about(scene), 400, 1)[0]
    style.write(page, _MARGIN, told + 0.02, about, style.MEDIUM, color="#444444")
    for index, panel in enumerate(scene.panels):
        left = _MARGIN + index * (grid.width + _MARGIN)
        style.write(page, left, top + 0.06, style.heading(panel), style.LARGE)
        _draw_strips(page, panel, (left, top + _HEAD, grid.width))
        _draw_frames(page, scene, panel, grid, (left, top + above))
        _draw_footer(page, panel, (left, top + above + grid.height, grid.width))
    with style.drawing():
        figure.savefig(path, format="png")


def _draw_frames(
    page: Axes, scene: Scene, panel: Panel, grid: Grid, corner: tuple[float, float]
) -> None:
    left, top = corner
    size = style.SMALL if grid.cell_width < 2 else style.MEDIUM
    for number, picture in enumerate(style.faded(scene.pixels, panel.fates)):
        kept = panel.fates.kept[number]
        x, y = grid.place(number)
        x, y = left + x, top + y
        right, bottom = x + grid.cell_width, y + grid.cell_height
        style.draw_frame(page, picture, kept, (x, right, bottom, y))
        style.write(page, x, bottom + 0.03, style.moment(scene.times[number]), size)
        count = f"{kept.sum()}/{kept.size}"
        style.write(page, right, bottom + 0.03, count, size, ha="right", color="#444444")
    for number, segment in enumerate(panel.record.segments):
        _draw_segment(page, number, segment, grid, corner)


def _draw_segment(
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
        text = _segment_label(
            number, segment, style.letters(width - 0.1, 1.1 * style.SMALL), begin == first
        )
        look = {"color": "white", "va": "center", "weight": "bold"}
        style.write(page, x + 0.04, y + grid.band / 2, text, style.SMALL, **look)


def _segment_label(number: int, segment: SegmentFacts, room: int, begins: bool) -> str:
    """The longest of some texts that fits."""
    short = f"{number + 1}{style.STAR if segment.salient else ''}"
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


def _answer(panel: Panel, width: float) -> list[str]:
    return style.wrapped(panel.answer, style.letters(width, 12.0), 4)


def _draw_footer(page: Axes, panel: Panel, place: tuple[float, float, float]) -> None:
    left, top, width = place
    top += 0.1
    answer = _answer(panel, width)
    style.write_lines(page, left, top, answer, 12.0, _ANSWER_LINE)
    top += _ANSWER_LINE * len(answer)
    for label, text in panel.costs:
        style.write(page, left, top, label, style.MEDIUM, color="#666666")
        shown = style.wrapped(text, style.letters(width - 1.0, style.MEDIUM), 1)[0]
        style.write(page, left + 1.0, top, shown, style.MEDIUM)
        top += _LINE


def _draw_strips(page: Axes, panel: Panel, place: tuple[float, float, float]) -> None:
    """Draw the legend and the strips along the clip; `place` is left, top and width."""
    left, top, width = place
    _draw_legend(page, panel, place)
    top += _LEGEND
    figure: Any = page.figure
    page_width, page_height = figure.get_size_inches()
    strips = _strips(panel)
    for number, (name, draw) in enumerate(strips):
        bottom = top + _STRIP
        axes = figure.add_axes(
            (
                (left + _LEFT) / page_width,
                1 - bottom / page_height,
                (width - _LEFT - 0.05) / page_width,
                _STRIP / page_height,
            )
        )
        draw(axes, panel)
        _frame_axis(axes, panel, labels=number == len(strips) - 1)
        style.write(page, left, top + _STRIP / 2, name, style.SMALL, va="center")
        top = bottom + _BETWEEN


def _strips(panel: Panel) -> list[tuple[str, Callable[[Axes, Panel], None]]]:
    """The strips that there is something to draw in: name, and what draws it."""
    wanted: list[tuple[str, Callable[[Axes, Panel], None]]] = []
    if panel.relevance is not None:
        wanted.append(("relevance", _draw_relevance))
    if panel.similarity is not None and panel.record.segments:
        wanted.append(("likeness\nto the next", _draw_similarity))
    if panel.fates.steps:
        wanted.append(("kept", _draw_kept))
    return wanted


def _draw_legend(page: Axes, panel: Panel, place: tuple[float, float, float]) -> None:
    """What falls at which layer, from the most faded to what is kept."""
    from matplotlib.patches import Rectangle

    left, top, width = place
    fates = panel.fates
    middle = top + 0.16
    write = functools.partial(style.write, page, size=style.SMALL, va="center")
    if not fates.steps:
        write(left, middle, "nothing was dropped")
        return
    write(left, middle, "dropped before layer" if fates.steps != (0,) else "dropped or merged")
    begin = left + _LEFT
    each = min((width - _LEFT - 2.4) / (len(fates.steps) + 1), 0.62)
    often = max(1, round(0.3 / each))
    fading = style.fading(fates.steps)
    for number, layer in enumerate((*fates.steps, fates.layers)):
        kept = layer == fates.layers
        x = begin + number * each
        box = Rectangle(
            (x, top + 0.05), each - 0.02, 0.22,
            facecolor=_blend(0.0 if kept else fading[layer]),
            edgecolor=style.KEPT_EDGE if kept else "none",
        )  # fmt: skip
        page.add_patch(box)
        if number % often and not kept:
            continue
        name, ink = ("kept", "black") if kept else (str(layer), "white")
        write(x + each / 2, middle, name, ha="center", color=ink)
        count = int((fates.fell == layer).sum())
        write(x + each / 2, top + 0.37, f"{count}", ha="center", color="#444444")
    notes = []
    if 0 in fates.steps:
        notes.append("0: before the language model")
    if any(segment.salient for segment in panel.record.segments):
        notes.append(f"{style.STAR}: matches the question")
    x = begin + (len(fates.steps) + 1) * each + 0.15
    write(x, middle, "\n".join(notes), color="#444444")


def _blend(amount: float) -> tuple[float, ...]:
    light = np.full(3, 235.0)
    mixed = light * (1 - amount) + np.asarray(style.SHADE) * amount
    return tuple(float(value) / 255 for value in mixed)


def _frame_axis(axes: Axes, panel: Panel, *, labels: bool) -> None:
    times = panel.record.video_info.timestamps_s
    count = len(times)
    axes.set_xlim(-0.5, count - 0.5)
    ticks = np.unique(np.linspace(0, count - 1, min(count, _TICKS)).round().astype(int))
    names = [style.moment(times[tick]) for tick in ticks] if labels else []
    axes.set_xticks(ticks.tolist(), names if labels else [""] * len(ticks))
    axes.tick_params(labelsize=style.SMALL, length=2)
    axes.locator_params(axis="y", nbins=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for number, segment in enumerate(panel.record.segments):
        span = (segment.first_frame - 0.5, segment.last_frame + 0.5)
        shade = 0.22 if segment.salient else 0.07
        axes.axvspan(*span, color=style.segment_colour(number), alpha=shade, linewidth=0)
        if number:
            axes.axvline(span[0], color="#555555", linewidth=0.7)


def _draw_relevance(axes: Axes, panel: Panel) -> None:
    values = np.asarray(panel.relevance)
    axes.plot(range(len(values)), values, ".", color="#777777", markersize=3)
    axes.margins(y=0.15)
    axes.axhline(float(values.mean()), color="#555555", linewidth=0.7, linestyle=(0, (4, 3)))
    for number, segment in enumerate(panel.record.segments):
        first, last = segment.first_frame, segment.last_frame
        mean = float(values[first : last + 1].mean())
        axes.hlines(
            mean, first - 0.5, last + 0.5,
            color=style.segment_colour(number), linewidth=3.5 if segment.salient else 1.8,
        )  # fmt: skip


def _draw_similarity(axes: Axes, panel: Panel) -> None:
    values = np.asarray(panel.similarity)
    places = np.arange(len(values)) + 0.5
    axes.plot(places, values, ".-", color="#333333", linewidth=0.8, markersize=3)
    axes.margins(y=0.15)


def _draw_kept(axes: Axes, panel: Panel) -> None:
    share = panel.fates.kept.mean(axis=(1, 2))
    colours = []
    for frame in range(len(share)):
        found = panel.segment_of(frame)
        colours.append(style.segment_colour(found[0]) if found else "#666666")
    axes.bar(range(len(share)), 100 * share, width=0.8, color=colours)
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter("{x:g} %")
