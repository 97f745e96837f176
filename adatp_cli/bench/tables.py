"""A result as Markdown, as it stands on stdout: one part for each number of frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from adatp_cli.bench.report import RANDOM_WEIGHTS, BenchResult
from adatp_cli.bench.sample import PLAIN, STAGES
from adatp_cli.bench.summary import Row, Spread
from adatp_cli.video.source import printable

_NONE = "-"
_LABELS = {
    "decode": "decode",
    "vision": "vision",
    "relevance": "relevance encoder",
    "prefill": "prefill",
    "choosing": "choosing, in prefill",
    "first_token": "first token",
    "next_first_token": "first token, next question",
    "generate": "further tokens",
    "total": "total",
}


def tables(result: BenchResult) -> str:
    """All of it, with what it was measured on."""
    lines = [_title(result), ""]
    counts = dict.fromkeys(row.frames for row in result.rows)
    for frames in counts:
        rows = [row for row in result.rows if row.frames == frames]
        lines += [f"## {frames} frames", ""]
        lines += _seconds(rows)
        lines += ["", "Over plain transformers in the same round:", ""]
        lines += _ratios(rows)
        lines += ["", *_costs(rows), ""]
        lines += [
            f"Not measured: {_cell(row.contender)}, {_cell(row.not_measured)}."
            for row in rows
            if row.not_measured is not None
        ]
    return "\n".join(lines).rstrip() + "\n"


def _title(result: BenchResult) -> str:
    model, machine = result.model, result.machine
    weights = model.dtype if model.quantization == "none" else model.quantization
    told = [f"# {_cell(model.name)} in {weights} on {_cell(machine.device)}", ""]
    if result.random_weights:
        told += [f"**{RANDOM_WEIGHTS}.**", ""]
    alone = "" if result.plan.vision else ", no vision tower: visual tokens are noise"
    told += [
        f"{result.date:%Y-%m-%d}, {machine.cpus} CPUs, {machine.threads} threads, "
        f"torch {result.versions.torch}, transformers {result.versions.transformers}. "
        f"{result.plan.repeat} rounds, {result.plan.new_tokens} new tokens, "
        f"{result.text_tokens} text tokens{alone}. Seconds are medians, ± half the range."
    ]
    return "\n".join(told)


def _seconds(rows: Sequence[Row]) -> list[str]:
    def show(stage: str) -> Callable[[Row], str]:
        return lambda row: _spread(row.seconds.get(stage))

    stages = [stage for stage in STAGES if any(stage in row.seconds for row in rows)]
    lines = _header("seconds", rows) + [_line(_LABELS[one], rows, show(one)) for one in stages]
    rate = _line("further tokens a second", rows, lambda row: _spread(row.tokens_per_second))
    return [*lines, rate]


def _ratios(rows: Sequence[Row]) -> list[str]:
    def show(name: str) -> Callable[[Row], str]:
        return lambda row: _ratio(row.ratio.get(name))

    others = [row for row in rows if row.contender != PLAIN]
    stages = [stage for stage in STAGES if any(stage in row.ratio for row in others)]
    lines = _header("ratio", others) + [_line(_LABELS[one], others, show(one)) for one in stages]
    own = _line("relevance + choosing, of prefill", others, lambda row: _ratio(row.overhead))
    return [*lines, own, _line("peak memory", others, show("peak_bytes"))]


def _costs(rows: Sequence[Row]) -> list[str]:
    lines = _header("cost", rows)
    counted: list[tuple[str, Callable[[Row], str]]] = [
        ("visual tokens to the last layer", _kept),
        (
            "LLM cost, paper's count",
            lambda row: _share(row.flops.paper.ratio if row.flops else None),
        ),
        ("vision, TFLOP", lambda row: _tera(row.flops.end_to_end.vision if row.flops else None)),
        ("prefill + scoring, TFLOP", lambda row: _tera(_prefill(row))),
        ("vision, TFLOP/s", lambda row: _tera(row.flop_per_second.get("vision"))),
        ("prefill, TFLOP/s", lambda row: _tera(row.flop_per_second.get("prefill"))),
        ("peak memory, MB", lambda row: _mega(row.peak_bytes.median if row.peak_bytes else None)),
        ("keys and values, MB", lambda row: _mega(row.cache_bytes)),
    ]
    return lines + [_line(label, rows, show) for label, show in counted]


def _header(what: str, rows: Sequence[Row]) -> list[str]:
    names = " | ".join(_cell(row.contender) for row in rows)
    return [f"| {what} | {names} |", "|---" * (len(rows) + 1) + "|"]


def _line(label: str, rows: Sequence[Row], show: Callable[[Row], str]) -> str:
    return f"| {label} | {' | '.join(show(row) for row in rows)} |"


def _spread(value: Spread | None) -> str:
    if value is None:
        return _NONE
    return f"{_number(value.median)} ±{_number((value.high - value.low) / 2)}"


def _number(value: float) -> str:
    """Three digits, or two behind the point."""
    digits = 3 if value < 0.995 else 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f}"


def _ratio(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3f}"


def _kept(row: Row) -> str:
    return _NONE if row.tokens is None else f"{row.tokens.kept_final} of {row.tokens.visual}"


def _prefill(row: Row) -> int | None:
    if row.flops is None:
        return None
    return row.flops.end_to_end.prefill + row.flops.end_to_end.scoring


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f} %"


def _tera(value: float | None) -> str:
    return _NONE if value is None else _number(value / 1e12)


def _mega(value: float | None) -> str:
    return _NONE if value is None else f"{value / 1e6:.0f}"


def _cell(text: str | None) -> str:
    return printable(text or "").replace("|", "\\|")
