"""The summary as Markdown, CSV and JSON Lines, and the folder that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from adatp_cli.evaluation.outcomes import Outcome
from adatp_cli.evaluation.questions import Rule
from adatp_cli.evaluation.statistics import Share
from adatp_cli.evaluation.summary import Result, Summary, Versus
from adatp_cli.evaluation.tables import NONE, PAGE, csv_text, markdown, percent, write_texts
from adatp_cli.record import json_line
from adatp_cli.text import markdown_cell

SUMMARY = "summary.csv"
PARTS = "parts.csv"
ANSWERS = "answers.jsonl"
FILES = (PAGE, SUMMARY, PARTS, ANSWERS)
_RULES = {
    Rule.strict: "an answer counts when it names exactly one option; any other is wrong",
    Rule.harness: "lmms-eval's own rule for this benchmark",
}


def tables(summary: Summary) -> str:
    """The tables, as they stand on stdout: accuracy, cost, and accuracy by kind."""
    parts = [_accuracy(summary), _costs(summary)]
    parts += [_by_part(title, shares) for title, shares in _divisions(summary)]
    return "\n".join(part for part in parts if part)


def page(summary: Summary, facts: Sequence[str], plots: Sequence[str]) -> str:
    """The whole report.

    Parameters
    ----------
    facts
        What was run, a line each.
    plots
        File names of the pictures beside it.
    """
    lines = [f"# {markdown_cell(summary.dataset.title)}", ""]
    lines += [f"- {markdown_cell(fact)}" for fact in (*facts, *summary.dataset.notes)]
    lines += [f"- scoring: {_RULES[summary.rule]}", "", tables(summary)]
    lines += [f"![{name}]({name})\n" for name in plots]
    lines += [
        "Right is the share of the answered questions, with Wilson's 95 % interval; what failed,",
        "missing clips among it, is counted apart. The difference to vanilla, in percentage",
        "points, is over the questions that both answered; p is McNemar's exact two-sided test;",
        "changed is the share of answers that are other ones. Costs are means of the single",
        "answers' ratios to the unpruned run. Seconds run from opening a clip to the end of the",
        "answer, as if each question were asked alone.",
    ]
    return "\n".join(lines) + "\n"


def summary_csv(summary: Summary) -> str:
    """A row for each profile."""
    rows: list[dict[str, object]] = [_summary_row(result) for result in summary.results]
    return csv_text(list(rows[0]), [list(row.values()) for row in rows])


def parts_csv(summary: Summary) -> str:
    """A row for each profile and part of the dataset, all questions first."""
    rows: list[list[object]] = []
    for result in summary.results:
        divisions: dict[str, Mapping[str, Share]] = {"all": {"all": result.share}}
        divisions |= {summary.dataset.kind_title: result.kinds} if result.kinds else {}
        divisions |= result.groups
        for title, shares in divisions.items():
            rows += [[result.name, title, part, *_numbers(share)] for part, share in shares.items()]
    head = ["profile", "division", "part", "questions", "right", "accuracy", "low", "high"]
    return csv_text(head, rows)


def answers_jsonl(outcomes: Iterable[Outcome]) -> str:
    """A line for each question and profile."""
    lines = []
    for outcome in outcomes:
        item, verdict = outcome.item, outcome.verdict
        lines.append(
            json_line(
                {
                    "item": item.id,
                    "video": item.clip.name,
                    "kind": item.kind,
                    "groups": dict(item.groups),
                    "profile": outcome.profile,
                    "truth": item.answer,
                    "error": outcome.error,
                    "answer": outcome.answer,
                    "choice": None if verdict is None else verdict.choice,
                    "parsed": verdict is not None and verdict.parsed,
                    "right": verdict is not None and verdict.right,
                }
            )
        )
    return "".join(f"{line}\n" for line in lines)


def write_report(
    folder: Path,
    summary: Summary,
    outcomes: Sequence[Outcome],
    facts: Sequence[str],
    plots: Sequence[str],
) -> None:
    """Write everything but the pictures.

    Raises
    ------
    AdatpError
        The disk takes it not.
    """
    texts = {
        SUMMARY: summary_csv(summary),
        PARTS: parts_csv(summary),
        ANSWERS: answers_jsonl(outcomes),
        PAGE: page(summary, facts, plots),
    }
    write_texts(folder, texts)


def _accuracy(summary: Summary) -> str:
    own = summary.dataset.average_title
    head = ["profile", "LLM cost", "end to end", "answered", "right", "95 % interval"]
    head += [own] if own else []
    head += ["to vanilla", "p", "changed"] if summary.baseline is not None else []
    head += [f"to {summary.against}", "p"] if summary.against is not None else []
    head += ["unparsed", "failed"]
    unasked = any(result.unasked for result in summary.results)
    head += ["not asked"] if unasked else []
    rows = []
    for result in summary.results:
        cells = [
            result.name,
            percent(result.costs.get("paper")),
            percent(result.costs.get("end_to_end")),
            str(result.share.of),
            percent(result.share.value),
            _interval(result.share),
        ]
        cells += [percent(result.average)] if own else []
        if summary.baseline is not None:
            cells += _difference(result.versus)
            cells.append(NONE if result.versus is None else percent(result.versus.changed.value))
        if summary.against is not None:
            cells += _difference(result.rival)
        cells += [str(result.unparsed), _failed(result)]
        rows.append(cells + ([str(result.unasked)] if unasked else []))
    return markdown(head, rows)


def _difference(versus: Versus | None) -> list[str]:
    """In percentage points, and the p-value of McNemar's test."""
    if versus is None:
        return [NONE] * 2
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


def _divisions(summary: Summary) -> list[tuple[str, list[tuple[str, Mapping[str, Share]]]]]:
    """Each division that has parts, with every profile's shares."""
    results = summary.results
    found = []
    if any(result.kinds for result in results):
        found.append(
            (summary.dataset.kind_title, [(result.name, result.kinds) for result in results])
        )
    found += [
        (title, [(result.name, result.groups[title]) for result in results])
        for title in results[0].groups
    ]
    return found


def _by_part(title: str, profiles: Sequence[tuple[str, Mapping[str, Share]]]) -> str:
    parts = profiles[0][1]
    rows = [
        [part, *(f"{percent(shares[part].value)} of {shares[part].of}" for _, shares in profiles)]
        for part in parts
    ]
    return markdown([title, *(name for name, _ in profiles)], rows)


def _summary_row(result: Result) -> dict[str, object]:
    versus = result.versus
    row: dict[str, object] = {"profile": result.name}
    row |= dict(
        zip(("questions", "right", "accuracy", "low", "high"), _numbers(result.share), strict=True)
    )
    row["benchmark_average"] = result.average
    row["difference_to_vanilla"] = None if versus is None else versus.paired.difference
    row["gained"] = None if versus is None else versus.paired.gained
    row["lost"] = None if versus is None else versus.paired.lost
    row["mcnemar_p"] = None if versus is None else versus.paired.p_value
    row["changed"] = None if versus is None else versus.changed.value
    rival = result.rival
    row["difference_to_rival"] = None if rival is None else rival.paired.difference
    row["rival_mcnemar_p"] = None if rival is None else rival.paired.p_value
    row["unparsed"] = result.unparsed
    row["failed"] = sum(result.failed.values())
    row["missing"] = result.failed.get("missing", 0)
    row["not_asked"] = result.unasked
    names = ("paper", "end_to_end", "visual", "kept_final", "kept_mean_ratio", "text", "generated",
             "first_token_s", "seconds")  # fmt: skip
    return row | {name: result.costs.get(name) for name in names}


def _numbers(share: Share) -> tuple[object, ...]:
    low, high = share.interval or (None, None)
    return share.of, share.right, share.value, low, high


def _interval(share: Share) -> str:
    bounds = share.interval
    return NONE if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} %"
