"""A result as a picture: where each contender's time goes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adatp_cli.bench.report import BenchResult
from adatp_cli.bench.summary import Row
from adatp_cli.errors import AdatpError, UsageError
from adatp_cli.video.source import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The stages that add up to the total, in Okabe and Ito's colours, which people with any colour
# vision tell apart.
_PARTS = {
    "decode": "#999999",
    "vision": "#0072B2",
    "relevance": "#CC79A7",
    "prefill": "#D55E00",
    "generate": "#009E73",
}
_DPI = 150


def check_plots() -> None:
    """Refuse before anything is measured what could not be drawn afterwards.

    Raises
    ------
    UsageError
        matplotlib is not installed.
    """
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib", "pip install matplotlib")


def draw(result: BenchResult, path: Path) -> None:
    """Write the picture.

    Raises
    ------
    AdatpError
        The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = [row for row in result.rows if row.not_measured is None]
    counts = list(dict.fromkeys(row.frames for row in measured)) or [0]
    tall = 1.2 + 0.45 * max(1, len(measured))
    figure = Figure(figsize=(9.0, tall), layout="constrained")
    heights = [max(1, sum(row.frames == count for row in measured)) for count in counts]
    all_axes = figure.subplots(
        len(counts), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axes, count in zip(all_axes[:, 0], counts, strict=True):
        _bars(axes, [row for row in measured if row.frames == count])
        axes.set_title(f"{count} frames", fontsize=10)
    all_axes[-1, 0].set_xlabel("seconds from opening the clip to the end of the answer")
    handles, labels = all_axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(_PARTS), fontsize=8)
    weights = ", random weights" if result.random_weights else ""
    title = f"{result.model.name}{weights}, {result.model.dtype}, {result.machine.device}"
    figure.suptitle(_label(title), fontsize=11)
    FigureCanvasAgg(figure)  # without pyplot, which keeps every figure and looks for a screen
    try:
        figure.savefig(path, dpi=_DPI)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        name = printable(os.fspath(path))
        raise AdatpError(f"{name}: cannot be written: {reason}", "name another file") from error


def _bars(axes: Axes, rows: Sequence[Row]) -> None:
    places = list(range(len(rows)))
    left = [0.0] * len(rows)
    for part, colour in _PARTS.items():
        widths = [row.seconds[part].median if part in row.seconds else 0.0 for row in rows]
        axes.barh(places, widths, left=left, color=colour, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(places, [_label(row.contender) for row in rows])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)


def _label(text: str) -> str:
    """A name that is drawn as it is: no mathematics, and no leading underscore, which hides it."""
    shown = printable(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
