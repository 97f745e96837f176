"""The summary as Markdown, CSV and JSON Lines, and the folder that a report is written into."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from adatp_cli.errors import AdatpError
from adatp_cli.evaluation.plots import Figure
from adatp_cli.evaluation.questions import Rule
from adatp_cli.evaluation.statistics import Share
from adatp_cli.evaluation.summary import COSTS, Outcome, Result, Summary, Versus
from adatp_cli.files import OutputPath
from adatp_cli.pictures.style import can_draw, drawing
from adatp_cli.record import json_line
from adatp_cli.text import CSV_MARK, csv_line, markdown_cell, percent, printable

PAGE = "report.md"
_SUMMARY = "summary.csv"
_PARTS = "parts.csv"
_ANSWERS = "answers.jsonl"
FILES = (PAGE, _SUMMARY, _PARTS, _ANSWERS)
NONE = "-"
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


def report_outputs(folder: Path | None, names: Iterable[str]) -> list[OutputPath]:
    """The files of a report, to be checked before anything is run; none without a folder."""
    if folder is None:
        return []
    return [OutputPath("--report", folder / name, makes_folder=True) for name in names]


def write_report(
    folder: Path,
    pictures: Mapping[str, Callable[[], Figure]],
    texts: Callable[[Sequence[str]], Mapping[str, str]],
) -> list[str]:
    """Draw and write a report's files by their names, and return what to tell of it.

    `texts` gets the names of the pictures that were drawn. An `AdatpError` where the folder cannot
    be made or a file not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        shown = printable(os.fspath(folder))
        raise AdatpError(
            f"--report {shown}: cannot be made: {error.strerror}", "name another folder"
        ) from None
    drawn = list(pictures) if can_draw() else []
    try:
        for name in drawn:
            with drawing():
                pictures[name]().savefig(folder / name, dpi=_DPI)
        for name, text in texts(drawn).items():
            mark = CSV_MARK if name.endswith(".csv") else ""
            (folder / name).write_text(mark + text, encoding="utf-8", newline="")
    except OSError as error:
        raise AdatpError(
            f"{printable(os.fspath(folder / name))}: cannot be written: {error.strerror}",
            "make room, and run again",
        ) from error
    missing = [] if can_draw() else ["no plots: they need matplotlib (pip install matplotlib)"]
    return [*missing, f"the report is {folder / PAGE}"]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts, a line for each row."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(markdown_cell, line))} |\n" for line in lines)


def csv_text(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV; None is an empty cell."""
    return "".join(csv_line(line) for line in (head, *rows))


def report_texts(
    summary: Summary, outcomes: Iterable[Outcome], facts: Sequence[str], drawn: Sequence[str]
) -> dict[str, str]:
    """The files but for the pictures that were `drawn`; `facts` is what was run, a line each."""
    lines = [f"# {markdown_cell(summary.dataset.title)}", ""]
    lines += [f"- {markdown_cell(fact)}" for fact in (*facts, *summary.dataset.notes)]
    lines += [f"- scoring: {_RULES[summary.rule]}", "", tables(summary)]
    lines += [f"![{name}]({name})\n" for name in drawn]
    return {
        _SUMMARY: summary_csv(summary),
        _PARTS: parts_csv(summary),
        _ANSWERS: _answers_jsonl(outcomes),
        PAGE: "\n".join(lines) + "\n" + _EXPLAINED,
    }


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
        share, versus = result.share, result.versus
        cells = [
            result.name,
            percent(result.costs.get("paper")),
            percent(result.costs.get("end_to_end")),
            str(share.of),
            percent(share.value),
            _interval(share),
        ]
        cells += [percent(result.average)] if own else []
        if baseline is not None:
            cells += _difference(versus)
            cells.append(NONE if versus is None else percent(versus.changed.value))
        cells += _difference(result.rival) if against is not None else []
        cells += [str(result.unparsed), _failed(result)]
        cells += [str(result.unasked)] if unasked else []
        rows.append(cells)
    return markdown(head, rows)


def _interval(share: Share) -> str:
    bounds = share.interval
    return NONE if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} %"


def _difference(versus: Versus | None) -> list[str]:
    """In percentage points, and the p-value of McNemar's test."""
    if versus is None:
        return [NONE, NONE]
    paired = versus.paired
    difference = NONE if paired.difference is None else f"{100 * paired.difference:+.1f}"
    return [difference, p_text(paired.p_value)]


def p_text(p_value: float) -> str:
    """A p-value for people: three decimals, or `< 0.001`."""
    return "< 0.001" if p_value < 0.0005 else f"{p_value:.3f}"


def _failed(result: Result) -> str:
    total = sum(result.failed.values())
    told = ", ".join(f"{count} {kind}" for kind, count in result.failed.items())
    return f"{total} ({told})" if total else "0"


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
    """A row for each profile."""
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
    """A line for each question and profile."""
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
