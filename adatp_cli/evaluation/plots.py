"""The report's pictures: accuracy against cost, and accuracy by kind of question."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from adatp_cli.evaluation.summary import Result, Summary
from adatp_cli.pictures.style import label, legend, plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Not matplotlib's own, which need not be installed; its axes come in arrays of any shape.
Figure: TypeAlias = Any

_COST = "accuracy-cost.png"
_KINDS = "kinds.png"
FILES = (_COST, _KINDS)
# Okabe and Ito's colours, which people with any colour vision tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
# Profiles beyond the colours begin them again with another mark.
_MARKERS = ("o", "s", "^", "D")
_COUNTS = (("paper", "LLM cost, paper's count"), ("end_to_end", "end to end, FLOP"))
# From here up the chart's colours are light.
_BRIGHT = 55


def pictures(summary: Summary) -> dict[str, Callable[[], Figure]]:
    """What there is to draw, by file name."""
    found: dict[str, Callable[[], Figure]] = {}
    if any(result.costs for result in summary.results):
        found[_COST] = partial(_against_cost, summary)
    if any(len(result.kinds) > 1 for result in summary.results):
        # Bars of more profiles than colours are a picture that nobody reads.
        many = len(summary.results) > len(_COLOURS)
        found[_KINDS] = partial(_chart if many else _bars, summary)
    return found


def colour(number: int) -> str:
    """The colour of a profile."""
    return _COLOURS[number % len(_COLOURS)]


def _against_cost(summary: Summary) -> Figure:
    families: dict[str, list[Result]] = {}
    for result in summary.results:
        families.setdefault(result.family, []).append(result)
    drawn = plot(9.0, 4.2 + 0.2 * (len(families) // 5), summary.dataset.title)
    axes = drawn.subplots(1, 2, sharey=True)
    for axis, (count, title) in zip(axes, _COUNTS, strict=True):
        for number, results in enumerate(families.values()):
            _points(axis, results, count, number)
        axis.set_xlabel(f"{title} (% of unpruned)")
        axis.set_xlim(0, 105)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("right (%), with 95 % intervals")
    legend(drawn, axes[0], min(len(families), 5))
    return drawn


def _points(axis: Axes, results: Sequence[Result], count: str, number: int) -> None:
    """One profile, at all of its budgets."""
    points = sorted(
        (100 * result.costs[count], 100 * result.share.value, result.share.interval)
        for result in results
        if count in result.costs and result.share.value is not None and result.share.interval
    )
    if not points:
        return
    values = [value for _, value, _ in points]
    marker = _MARKERS[number // len(_COLOURS) % len(_MARKERS)]
    axis.errorbar(
        [cost for cost, _, _ in points],
        values,
        yerr=_whiskers(values, [bounds for _, _, bounds in points]),
        fmt=marker + ("-" if len(points) > 1 else ""),
        linewidth=1.0,
        elinewidth=0.8,
        markersize=4.5,
        capsize=3,
        color=colour(number),
        label=label(results[0].family),
    )


def _whiskers(values: Sequence[float], bounds: Sequence[tuple[float, float]]) -> list[list[float]]:
    """How far each interval goes below its value and above it, in percent."""
    pairs = list(zip(values, bounds, strict=True))
    low = [max(value - 100 * bound[0], 0.0) for value, bound in pairs]
    return [low, [max(100 * bound[1] - value, 0.0) for value, bound in pairs]]


def _bars(summary: Summary) -> Figure:
    """Bars with intervals: a group for each kind, a bar for each profile."""
    kinds = list(summary.results[0].kinds)
    count = len(summary.results)
    height = max(2.5, 1.4 + len(kinds) * (0.12 + 0.11 * count))
    title = f"{summary.dataset.title}, by {summary.dataset.kind_title}"
    drawn = plot(8.0, height, title)
    axis = drawn.subplots()
    thick = 0.8 / count
    for number, result in enumerate(summary.results):
        offset = (number - (count - 1) / 2) * thick
        shares = list(result.kinds.values())
        values = [100 * (share.value or 0.0) for share in shares]
        axis.barh(
            [place + offset for place in range(len(kinds))],
            values,
            height=thick,
            # A kind without answers has no bar, and no whiskers.
            xerr=_whiskers(values, [share.interval or (0.0, 0.0) for share in shares]),
            color=colour(number),
            linewidth=0.0,
            label=label(result.name),
            error_kw={"elinewidth": 0.8, "capsize": 1.5, "alpha": 0.7},
        )
    axis.set_yticks(range(len(kinds)), [label(kind) for kind in kinds])
    axis.set_ylim(len(kinds) - 0.5, -0.5)  # the first kind on top
    axis.set_xlim(0, 100)
    axis.set_xlabel("right (%), with 95 % intervals")
    axis.grid(axis="x", alpha=0.3)
    legend(drawn, axis, min(count, 5))
    return drawn


def _chart(summary: Summary) -> Figure:
    """Numbers on colours: a row for each profile, a column for each kind."""
    results, kinds = summary.results, list(summary.results[0].kinds)
    title = f"{summary.dataset.title}, right (%) by {summary.dataset.kind_title}"
    drawn = plot(2.6 + 0.62 * len(kinds), 1.6 + 0.2 * len(results), title)
    axis = drawn.subplots()
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
    return drawn
