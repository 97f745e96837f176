"""The strips above a contact sheet: relevance, likeness and what was kept along the clip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from adatp_cli.pictures import style
from adatp_cli.pictures.scene import Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STRIP = 0.62
_BETWEEN = 0.3
_LEFT = 1.25  # room for the names of the strips and the labels of their axes
_LEGEND = 0.62
_TICKS = 9
_SMALL = 7.5


def height(panel: Panel) -> float:
    """Inches that the strips take."""
    return _LEGEND + len(_wanted(panel)) * (_STRIP + _BETWEEN)


def draw(page: Axes, panel: Panel, place: tuple[float, float, float]) -> None:
    """Draw the legend and the strips.

    Parameters
    ----------
    page
        Axes over the whole figure, in inches from its upper left corner.
    place
        Left, top and width in inches.
    """
    left, top, width = place
    _legend(page, panel, place)
    top += _LEGEND
    figure: Any = page.figure
    page_width, page_height = figure.get_size_inches()
    for number, name in enumerate(wanted := _wanted(panel)):
        bottom = top + _STRIP
        axes = figure.add_axes(
            (
                (left + _LEFT) / page_width,
                1 - bottom / page_height,
                (width - _LEFT - 0.05) / page_width,
                _STRIP / page_height,
            )
        )
        _DRAWN[name](axes, panel)
        _frame_axis(axes, panel, labels=number == len(wanted) - 1)
        page.text(left, top + _STRIP / 2, name, fontsize=_SMALL, va="center")
        top = bottom + _BETWEEN


def _wanted(panel: Panel) -> list[str]:
    wanted = []
    if panel.relevance is not None:
        wanted.append("relevance")
    if panel.similarity is not None and panel.record.segments:
        wanted.append("likeness\nto the next")
    if panel.fates.steps:
        wanted.append("kept")
    return wanted


def _legend(page: Axes, panel: Panel, place: tuple[float, float, float]) -> None:
    """What falls at which layer, from the most faded to what is kept."""
    from matplotlib.patches import Rectangle

    left, top, width = place
    fates = panel.fates
    look: dict[str, Any] = {"fontsize": _SMALL, "va": "center", "parse_math": False}
    middle = top + 0.16
    if not fates.steps:
        page.text(left, middle, "nothing was dropped", **look)
        return
    said = "dropped before layer" if fates.steps != (0,) else "dropped or merged"
    page.text(left, middle, said, **look)
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
        name = "kept" if kept else str(layer)
        ink = "black" if kept else "white"
        page.text(x + each / 2, middle, name, ha="center", color=ink, **look)
        count = int((fates.fell == layer).sum())
        page.text(x + each / 2, top + 0.37, f"{count}", ha="center", color="#444444", **look)
    notes = []
    if 0 in fates.steps:
        notes.append("0: before the language model")
    if any(segment.salient for segment in panel.record.segments):
        notes.append("\N{BLACK STAR}: matches the question")
    x = begin + (len(fates.steps) + 1) * each + 0.15
    page.text(x, middle, "\n".join(notes), color="#444444", **look)


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
    axes.tick_params(labelsize=_SMALL, length=2)
    axes.locator_params(axis="y", nbins=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for number, segment in enumerate(panel.record.segments):
        span = (segment.first_frame - 0.5, segment.last_frame + 0.5)
        shade = 0.22 if segment.salient else 0.07
        axes.axvspan(*span, color=style.segment_colour(number), alpha=shade, linewidth=0)
        if number:
            axes.axvline(span[0], color="#555555", linewidth=0.7)


def _relevance(axes: Axes, panel: Panel) -> None:
    values = panel.relevance
    if values is None:
        return
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


def _likeness(axes: Axes, panel: Panel) -> None:
    values = panel.similarity
    if values is not None:
        places = np.arange(len(values)) + 0.5
        axes.plot(places, values, ".-", color="#333333", linewidth=0.8, markersize=3)
        axes.margins(y=0.15)


def _kept(axes: Axes, panel: Panel) -> None:
    share = panel.fates.kept_by_frame
    segments = panel.record.segments
    colours = ["#666666"] * len(share)
    for number, segment in enumerate(segments):
        for frame in range(segment.first_frame, segment.last_frame + 1):
            colours[frame] = style.segment_colour(number)
    axes.bar(range(len(share)), 100 * share, width=0.8, color=colours)
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter("{x:g} %")


_DRAWN = {"relevance": _relevance, "likeness\nto the next": _likeness, "kept": _kept}
