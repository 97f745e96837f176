"""What an evaluation found, as Markdown, CSV, JSON Lines and pictures, in a folder."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from adatp_cli.errors import AdatpError
from adatp_cli.evaluation.questions import Rule
from adatp_cli.evaluation.statistics import Share
from adatp_cli.evaluation.summary import COSTS, Outcome, Result, Summary, Versus
from adatp_cli.files import OutputPath
from adatp_cli.pictures.style import can_draw, drawing, label, legend, plot
from adatp_cli.record import json_line
from adatp_cli.text import CSV_MARK, csv_line, markdown_cell, percent, printable

PAGE = "report.md"
_SUMMARY, _PARTS, _ANSWERS = "summary.csv", "parts.csv", "answers.jsonl"
_COST, _KINDS = "accuracy-cost.png", "kinds.png"
FILES = (PAGE, _SUMMARY, _PARTS, _ANSWERS, _COST, _KINDS)
_NONE = "-"
_DPI = 150
_RULES = {
    Rule.strict: "an answer counts when it names exactly one option; any other is wrong",
    Rule.harness: "lmms-eval's own rule for this benchmark",
}
_EXPLAINED = """\
Right is the share of the answered questions, with Wilson's 95 % interval; what failed,
missing clips among it, is counted apart. The difference to vanilla, in percentage
points, is over the questions that both answered; p is McNemar's exact two-sided test;
changed is the share of answers that are other ones. Costs are means of the single
answers' ratios to the unpruned run. Seconds run from opening a clip to the end of the
answer, as if each question were asked alone.
"""
# Not matplotlib's own, which need not be installed; its axes come in arrays of any shape.
Figure: TypeAlias = Any
# Okabe and Ito's colours, which people with any colour vision tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
# Profiles beyond the colours begin them again with another mark.
_MARKERS = ("o", "s", "^", "D")
_COUNTS = (("paper", "LLM cost, paper's count"), ("end_to_end", "end to end, FLOP"))
# From here up the chart's colours are light.
_BRIGHT = 55


def report_outputs(folder: Path | None, names: Iterable[str]) -> list[OutputPath]:
    """The files of a report, to be checked before anything is run; none without a folder."""
    if folder is None:
        return []
    return [OutputPath("--report", folder / name, makes_folder=True) for name in names]


def write_files(
    folder: Path,
    above: Sequence[str],
    explained: str,
    pictures: Mapping[str, Callable[[], Figure]],
    texts: Mapping[str, str],
) -> list[str]:
    """Draw and write a report's files by their names, and return what to tell of it.

    The page has the lines `above` the pictures, and below them what is `explained`. An `AdatpError`
    where the folder cannot be made or a file not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        shown = printable(os.fspath(folder))
        raise AdatpError(
            f"--report {shown}: cannot be made: {error.strerror}", "name another folder"
        ) from None
    drawn = list(pictures) if can_draw() else []
    page = "\n".join([*above, *(f"![{name}]({name})\n" for name in drawn), explained])
    try:
        for name in drawn:
            with drawing():
                pictures[name]().savefig(folder / name, dpi=_DPI)
        for name, text in {**texts, PAGE: page}.items():
            mark = CSV_MARK if name.endswith(".csv") else ""
            (folder / name).write_text(mark + text, encoding="utf-8", newline="")
    except OSError as error:
        raise AdatpError(
            f"{printable(os.fspath(folder / name))}: cannot be written: {error.strerror}",
            "make room, and run again",
        ) from error
    missing = [] if can_draw() else ["no plots: they need matplotlib (pip install matplotlib)"]
    return [*missing, f"the report is {folder / PAGE}"]


def write_report(
    folder: Path, summary: Summary, outcomes: Iterable[Outcome], facts: Sequence[str]
) -> list[str]:
    """Write the report, `facts` being what was run, a line each, and return what to tell of it."""
    dataset = summary.dataset
    listed = [*facts, *dataset.notes, f"scoring: {_RULES[summary.rule]}"]
    above = [
        f"# {markdown_cell(dataset.title)}",
        "",
        *(f"- {markdown_cell(one)}" for one in listed),
    ]
    texts = {
        _SUMMARY: summary_csv(summary),
        _PARTS: parts_csv(summary),
        _ANSWERS: _answers_jsonl(outcomes),
    }
    return write_files(folder, [*above, "", tables(summary)], _EXPLAINED, pictures(summary), texts)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts, a line for each row."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(markdown_cell, line))} |\n" for line in lines)


def csv_text(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV; None is an empty cell."""
    return "".join(csv_line(line) for line in (head, *rows))


def tables(summary: Summary) -> str:
    """The tables, as they stand on stdout: accuracy, cost, and accuracy by kind."""
    parts = [_accuracy(summary), _costs(summary)]
    of_profiles = [_divisions(summary, result) for result in summary.results]
    for title, first in of_profiles[0].items():
        head = [title, *(result.name for result in summary.results)]
        shares = [divisions[title] for divisions in of_profiles]
        rows = [
            [part, *(f"{percent(one[part].value)} of {one[part].of}" for one in shares)]
            for part in first
        ]
        parts.append(markdown(head, rows))
    return "\n".join(part for part in parts if part)


def _divisions(summary: Summary, result: Result) -> dict[str, Mapping[str, Share]]:
    """The shares of a profile by the parts of each division that the dataset has."""
    kinds = {summary.dataset.kind_title: result.kinds} if result.kinds else {}
    return {**kinds, **result.groups}


def _accuracy(summary: Summary) -> str:
    own, baseline, against = summary.dataset.average_title, summary.baseline, summary.against
    head = ["profile", "LLM cost", "end to end", "answered", "right", "95 % interval"]
    head += [own] if own else []
    head += ["to vanilla", "p", "changed"] if baseline is not None else []
    head += [f"to {against}", "p"] if against is not None else []
    head += ["unparsed", "failed"]
    unasked = any(result.unasked for result in summary.results)
    head += ["not asked"] if unasked else []
    rows = []
    for result in summary.results:
        share, versus, bounds = result.share, result.versus, result.share.interval
        between = f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} %" if bounds else _NONE
        failed = str(sum(result.failed.values()))
        if result.failed:
            failed += f" ({', '.join(f'{count} {kind}' for kind, count in result.failed.items())})"
        cells = [
            result.name,
            percent(result.costs.get("paper")),
            percent(result.costs.get("end_to_end")),
            str(share.of),
            percent(share.value),
            between,
        ]
        cells += [percent(result.average)] if own else []
        if baseline is not None:
            cells += _difference(versus)
            cells.append(_NONE if versus is None else percent(versus.changed.value))
        cells += _difference(result.rival) if against is not None else []
        cells += [str(result.unparsed), failed]
        cells += [str(result.unasked)] if unasked else []
        rows.append(cells)
    return markdown(head, rows)


def _difference(versus: Versus | None) -> list[str]:
    """In percentage points, and the p-value of McNemar's test."""
    if versus is None:
        return [_NONE, _NONE]
    paired = versus.paired
    difference = _NONE if paired.difference is None else f"{100 * paired.difference:+.1f}"
    return [difference, p_text(paired.p_value)]


def p_text(p_value: float) -> str:
    """A p-value for people: three decimals, or `< 0.001`."""
    return "< 0.001" if p_value < 0.0005 else f"{p_value:.3f}"


def _costs(summary: Summary) -> str:
    head = ["profile", "visual tokens", "to the last layer", "mean per layer", "text tokens"]
    head += ["answer tokens", "first token", "whole answer"]
    rows = [
        [
            result.name,
            f"{costs['visual']:.0f}",
            f"{costs['kept_final']:.0f}",
            percent(costs["kept_mean_ratio"]),
            f"{costs['text']:.0f}",
            f"{costs['generated']:.1f}",
            f"{costs['first_token_s']:.2f} s",
            f"{costs['seconds']:.2f} s",
        ]
        for result in summary.results
        if (costs := result.costs)
    ]
    return markdown(head, rows) if rows else ""


def summary_csv(summary: Summary) -> str:
    head = ["profile", "questions", "right", "accuracy", "low", "high", "benchmark_average"]
    head += ["difference_to_vanilla", "gained", "lost", "mcnemar_p", "changed"]
    head += ["difference_to_rival", "rival_mcnemar_p", "unparsed", "failed", "missing", "not_asked"]
    rows = []
    for result in summary.results:
        row: list[object] = [result.name, *_numbers(result.share), result.average]
        versus, rival, failed = result.versus, result.rival, result.failed
        if versus is None:
            row += [None] * 5
        else:
            paired = versus.paired
            row += [paired.difference, paired.gained, paired.lost, paired.p_value]
            row.append(versus.changed.value)
        row += [None] * 2 if rival is None else [rival.paired.difference, rival.paired.p_value]
        row += [result.unparsed, sum(failed.values()), failed.get("missing", 0), result.unasked]
        rows.append(row + [result.costs.get(name) for name in COSTS])
    return csv_text([*head, *COSTS], rows)


def parts_csv(summary: Summary) -> str:
    """A row for each profile and part of the dataset, all questions first."""
    rows: list[list[object]] = []
    for result in summary.results:
        divisions = {"all": {"all": result.share}, **_divisions(summary, result)}
        for title, shares in divisions.items():
            rows += [[result.name, title, part, *_numbers(share)] for part, share in shares.items()]
    head = ["profile", "division", "part", "questions", "right", "accuracy", "low", "high"]
    return csv_text(head, rows)


def _numbers(share: Share) -> tuple[object, ...]:
    low, high = share.interval or (None, None)
    return share.of, share.right, share.value, low, high


def _answers_jsonl(outcomes: Iterable[Outcome]) -> str:
    lines = []
    for outcome in outcomes:
        item, verdict = outcome.item, outcome.verdict
        row = {
            "item": item.id,
            "video": item.clip.name,
            "kind": item.kind,
            "groups": dict(item.groups),
            "profile": outcome.profile,
            "truth": item.answer,
            "error": outcome.error,
            "answer": outcome.answer,
            "choice": verdict.choice,
            "parsed": verdict.parsed,
            "right": verdict.right,
        }
        lines.append(f"{json_line(row)}\n")
    return "".join(lines)


def pictures(summary: Summary) -> dict[str, Callable[[], Figure]]:
    found: dict[str, Callable[[], Figure]] = {}
    if any(result.costs for result in summary.results):
        found[_COST] = partial(_against_cost, summary)
    if any(len(result.kinds) > 1 for result in summary.results):
        # Bars of more profiles than colours are a picture that nobody reads.
        many = len(summary.results) > len(_COLOURS)
        found[_KINDS] = partial(_chart if many else _bars, summary)
    return found


def colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _against_cost(summary: Summary) -> Figure:
    families: dict[str, list[Result]] = {}
    for result in summary.results:
        families.setdefault(result.family, []).append(result)
    drawn = plot(9.0, 4.2 + 0.2 * (len(families) // 5), summary.dataset.title)
    axes = drawn.subplots(1, 2, sharey=True)
    for axis, (count, title) in zip(axes, _COUNTS, strict=True):
        for number, (family, results) in enumerate(families.items()):
            points = sorted(
                (100 * one.costs[count], 100 * one.share.value, one.share.interval)
                for one in results
                if count in one.costs and one.share.value is not None and one.share.interval
            )
            if not points:
                continue
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
                label=label(family),
            )
        axis.set_xlabel(f"{title} (% of unpruned)")
        axis.set_xlim(0, 105)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("right (%), with 95 % intervals")
    legend(drawn, axes[0], min(len(families), 5))
    return drawn


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
