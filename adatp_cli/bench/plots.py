"""A result as a picture: where each contender's time goes, and how it grows with the frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adatp_cli.bench.report import BenchResult
from adatp_cli.bench.results import Curve, Growth, Row, Spread
from adatp_cli.pictures.style import drawing, label, legend, plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

# The stages that add up to the total, in Okabe and Ito's colours, which people with any colour
# vision tell apart.
_PARTS = {
    "decode": "#999999",
    "vision": "#0072B2",
    "relevance": "#CC79A7",
    "prefill": "#D55E00",
    "generate": "#009E73",
}
# Of contenders: the same colours in another order, black for the first, plain transformers.
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
# Contenders beyond the colours begin them again with another mark.
_MARKERS = ("o", "s", "^", "D")
_LEGEND_COLUMNS = 5
_STEPS = 100
_DPI = 150


def draw(result: BenchResult, path: Path) -> None:
    """Write the picture: where the time goes, and below it how time and memory grow.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    measured = [row for row in result.rows if row.not_measured is None]
    scaling = result.scaling
    counts = len({row.frames for row in measured})
    tall = 1.2 + 0.27 * max(1, counts) + 0.3 * max(1, len(measured))
    below = 3.6 + 0.2 * (len(scaling) // _LEGEND_COLUMNS) if scaling else 0.0
    weights = ", random weights" if result.random_weights else ""
    title = f"{result.model.name}{weights}, {result.model.dtype}, {result.machine.device}"
    figure = plot(9.0, tall + below, title)
    if scaling:
        above, beneath = figure.subfigures(2, 1, squeeze=False, height_ratios=(tall, below))[:, 0]
        _stages(above, measured)
        _curves(beneath, measured, scaling)
    else:
        _stages(figure, measured)
    with drawing():
        figure.savefig(path, dpi=_DPI, format="png")


def _stages(figure: FigureBase, measured: Sequence[Row]) -> None:
    """Bars of the stages, one part for each number of frames."""
    counts = list(dict.fromkeys(row.frames for row in measured)) or [0]
    heights = [max(1, sum(row.frames == count for row in measured)) for count in counts]
    all_axes = figure.subplots(
        len(counts), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axes, count in zip(all_axes[:, 0], counts, strict=True):
        rows = [row for row in measured if row.frames == count]
        places = range(len(rows))
        left = [0.0] * len(rows)
        for part, colour in _PARTS.items():
            widths = [row.seconds[part].median if part in row.seconds else 0.0 for row in rows]
            axes.barh(places, widths, left=left, color=colour, label=part)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.set_yticks(places, [label(row.contender) for row in rows])
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
        axes.set_title(f"{count} frames", fontsize=10)
    all_axes[-1, 0].set_xlabel("seconds from opening the clip to the end of the answer")
    legend(figure, all_axes[0, 0], len(_PARTS))


def _curves(figure: FigureBase, measured: Sequence[Row], scaling: Sequence[Growth]) -> None:
    """Points with their spread, and the curves through their medians."""
    with_memory = any(one.peak_bytes is not None for one in scaling)
    all_axes = figure.subplots(1, 1 + with_memory, squeeze=False)[0]
    for number, one in enumerate(scaling):
        rows = [row for row in measured if row.contender == one.contender]
        seconds = [row.seconds["prefill"] for row in rows]
        _points(all_axes[0], one, seconds, one.prefill_s, 1.0, number)
        held = [row.peak_bytes for row in rows if row.peak_bytes is not None]
        if one.peak_bytes is not None:
            _points(all_axes[1], one, held, one.peak_bytes, 1e-6, number)
    for axes, what in zip(all_axes, ("prefill, seconds", "peak memory, MB"), strict=False):
        axes.set_title(what, fontsize=10)
        axes.set_xlabel("frames")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    legend(figure, all_axes[0], min(len(scaling), _LEGEND_COLUMNS))


def _points(
    axes: Axes, one: Growth, values: Sequence[Spread], curve: Curve, unit: float, number: int
) -> None:
    colour = _COLOURS[number % len(_COLOURS)]
    marker = _MARKERS[number // len(_COLOURS) % len(_MARKERS)]
    axes.errorbar(
        one.frames,
        [unit * value.median for value in values],
        yerr=[
            [unit * (value.median - value.low) for value in values],
            [unit * (value.high - value.median) for value in values],
        ],
        fmt=marker,
        markerfacecolor="none",  # so that points on one another stay visible
        markersize=4.5,
        elinewidth=0.8,
        capsize=3,
        color=colour,
        label=label(one.contender),
    )
    first, last = min(one.frames), max(one.frames)
    steps = [first + (last - first) * step / _STEPS for step in range(_STEPS + 1)]
    axes.plot(steps, [unit * curve.at(step) for step in steps], linewidth=1.0, color=colour)
