"""The report's pictures: accuracy against cost, and accuracy by kind of question."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adatp_cli.errors import AdatpError
from adatp_cli.evaluation.summary import Result, Summary
from adatp_cli.video.source import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COST = "accuracy-cost.png"
KINDS = "kinds.png"
FILES = (COST, KINDS)
MISSING = "no plots: they need matplotlib (pip install matplotlib)"
# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
# Profiles beyond the colours begin them again with another mark.
_MARKERS = ("o", "s", "^", "D")
_HATCHES = ("", "///", "...", "xxx")
_COUNTS = (("paper", "LLM cost, paper's count"), ("end_to_end", "end to end, FLOP"))
# Bars of more profiles than colours are a picture that nobody reads.
_MOST_BARS = len(COLOURS)
# From here up the chart's colours are light.
_BRIGHT = 55
_DPI = 150


def available() -> bool:
    """Whether pictures can be drawn here."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def draw(summary: Summary, folder: Path) -> list[str]:
    """Draw what there is to draw into a folder, and return the files' names.

    Raises
    ------
    AdatpError
        The disk takes it not.
    """
    drawn = []
    if any(result.costs for result in summary.results):
        save(_against_cost(summary), folder / COST)
        drawn.append(COST)
    if any(len(result.kinds) > 1 for result in summary.results):
        save(_by_kind(summary), folder / KINDS)
        drawn.append(KINDS)
    return drawn


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG.

    Raises
    ------
    AdatpError
        The disk takes it not.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)  # without pyplot, which keeps every figure and looks for a screen
    try:
        with warnings.catch_warnings():
            # A letter that the font lacks is drawn as a box, and the tables have it.
            warnings.filterwarnings("ignore", "Glyph")
            figure.savefig(path, dpi=_DPI)
    except OSError as error:
        raise AdatpError(
            f"{printable(os.fspath(path))}: cannot be written: {error.strerror}", "make room"
        ) from error


def _against_cost(summary: Summary) -> Figure:
    from matplotlib.figure import Figure

    families: dict[str, list[Result]] = {}
    for result in summary.results:
        families.setdefault(result.family, []).append(result)
    figure = Figure(figsize=(9.0, 4.2 + 0.2 * (len(families) // 5)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (count, title) in zip(axes, _COUNTS, strict=True):
        for number, results in enumerate(families.values()):
            _points(axis, results, count, number)
        axis.set_xlabel(f"{title} (% of unpruned)")
        axis.set_xlim(0, 105)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("right (%), with 95 % intervals")
    _legend(figure, axes[0], len(families))
    figure.suptitle(label(summary.dataset.title), fontsize=11)
    return figure


def _legend(figure: Figure, axis: Axes, count: int) -> None:
    """Below the picture, where it covers nothing."""
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, fontsize=8, loc="outside lower center", ncols=min(count, 5))


def _look(number: int) -> tuple[str, int]:
    """The colour of a profile, and which round of the colours it is."""
    return COLOURS[number % len(COLOURS)], number // len(COLOURS)


def _points(axis: Axes, results: Sequence[Result], count: str, number: int) -> None:
    """One profile, at all of its budgets."""
    placed = sorted(
        (100 * result.costs[count], 100 * result.share.value, result.share.interval)
        for result in results
        if count in result.costs and result.share.value is not None
    )
    points = [(cost, value, bounds) for cost, value, bounds in placed if bounds is not None]
    if not points:
        return
    colour, turn = _look(number)
    axis.errorbar(
        [cost for cost, _, _ in points],
        [value for _, value, _ in points],
        yerr=[
            [value - 100 * bounds[0] for _, value, bounds in points],
            [100 * bounds[1] - value for _, value, bounds in points],
        ],
        fmt=_MARKERS[turn % len(_MARKERS)] + ("-" if len(points) > 1 else ""),
        linewidth=1.0,
        elinewidth=0.8,
        markersize=4.5,
        capsize=3,
        color=colour,
        label=label(results[0].family),
    )


def _by_kind(summary: Summary) -> Figure:
    """Bars with intervals, or a chart of numbers where there would be too many bars."""
    if len(summary.results) > _MOST_BARS:
        return _chart(summary)
    from matplotlib.figure import Figure

    kinds = list(summary.results[0].kinds)
    count = len(summary.results)
    height = max(2.5, 1.4 + len(kinds) * (0.12 + 0.11 * count))
    figure = Figure(figsize=(8.0, height), layout="constrained")
    axis = figure.subplots()
    thick = 0.8 / count
    for number, result in enumerate(summary.results):
        offset = (number - (count - 1) / 2) * thick
        places = [place + offset for place in range(len(kinds))]
        _bars(axis, places, thick, result, number)
    axis.set_yticks(range(len(kinds)), [label(kind) for kind in kinds])
    axis.set_ylim(len(kinds) - 0.5, -0.5)  # the first kind on top
    axis.set_xlim(0, 100)
    axis.set_xlabel("right (%), with 95 % intervals")
    axis.grid(axis="x", alpha=0.3)
    _legend(figure, axis, count)
    title = f"{summary.dataset.title}, by {summary.dataset.kind_title}"
    figure.suptitle(label(title), fontsize=11)
    return figure


def _chart(summary: Summary) -> Figure:
    """A row for each profile, a column for each kind."""
    from matplotlib.figure import Figure

    results, kinds = summary.results, list(summary.results[0].kinds)
    size = (2.6 + 0.62 * len(kinds), 1.6 + 0.2 * len(results))
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    values = [
        [math.nan if share.value is None else 100 * share.value for share in result.kinds.values()]
        for result in results
    ]
    axis.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for row, shares in enumerate(values):
        for column, value in enumerate(shares):
            if not math.isnan(value):
                ink = "black" if value > _BRIGHT else "white"
                axis.text(column, row, f"{value:.0f}", ha="center", va="center", color=ink, size=7)
    axis.set_yticks(range(len(results)), [label(result.name) for result in results], fontsize=7)
    names = [label(kind) for kind in kinds]
    axis.set_xticks(range(len(kinds)), names, fontsize=7, rotation=40, ha="left")
    axis.xaxis.tick_top()
    title = f"{summary.dataset.title}, right (%) by {summary.dataset.kind_title}"
    figure.suptitle(label(title), fontsize=11)
    return figure


def _bars(axis: Axes, places: Sequence[float], thick: float, result: Result, number: int) -> None:
    colour, turn = _look(number)
    shares = list(result.kinds.values())
    values = [100 * (share.value or 0.0) for share in shares]
    # A kind without answers has no bar, and no whiskers.
    bounds = [share.interval or (0.0, 0.0) for share in shares]
    low = [max(value - 100 * bound[0], 0.0) for value, bound in zip(values, bounds, strict=True)]
    high = [max(100 * bound[1] - value, 0.0) for value, bound in zip(values, bounds, strict=True)]
    axis.barh(
        places,
        values,
        height=thick,
        xerr=[low, high],
        color=colour,
        hatch=_HATCHES[turn % len(_HATCHES)],
        edgecolor="white" if turn else colour,
        linewidth=0.0,
        label=label(result.name),
        error_kw={"elinewidth": 0.8, "capsize": 1.5, "alpha": 0.7},
    )


def label(text: str) -> str:
    """A name that is drawn as it is: no mathematics, and no leading underscore, which hides it."""
    shown = printable(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
