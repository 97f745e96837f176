"""A result as Markdown, as it stands on stdout.

One part for each number of frames, and one for what several of them show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from adatp_cli.bench.report import RANDOM_WEIGHTS, BenchResult
from adatp_cli.bench.sample import PLAIN, STAGES
from adatp_cli.bench.scaling import Curve, Growth
from adatp_cli.bench.summary import Row, Spread
from adatp_cli.text import markdown_cell, plural

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
        lines += [f"## {plural(frames, 'frame')}", ""]
        if any(row.not_measured is None for row in rows):
            lines += _seconds(rows)
            lines += ["", "Over plain transformers in the same round:", ""]
            lines += _ratios(rows)
            lines += ["", *_costs(rows), ""]
        missing = _not_measured(rows)
        lines += [*missing, ""] if missing else []
    lines += _growth(result.scaling)
    return "\n".join(lines).rstrip() + "\n"


def _title(result: BenchResult) -> str:
    model, machine = result.model, result.machine
    weights = model.dtype if model.quantization == "none" else model.quantization
    told = [f"# {markdown_cell(model.name)} in {weights} on {markdown_cell(machine.device)}", ""]
    if result.random_weights:
        told += [f"**{RANDOM_WEIGHTS}.**", ""]
    alone = "" if result.plan.vision else ", no vision tower: visual tokens are noise"
    told += [
        f"{result.date:%Y-%m-%d}, {machine.cpus} CPUs, {machine.threads} threads, "
        f"torch {result.versions.torch}, transformers {result.versions.transformers}. "
        f"{plural(result.plan.repeat, 'round')}, {plural(result.plan.new_tokens, 'new token')}, "
        f"{plural(result.text_tokens, 'text token')}{alone}. Seconds are medians, ± half the range."
    ]
    return "\n".join(told)


def _not_measured(rows: Sequence[Row]) -> list[str]:
    """Each reason once, with those whom it kept out."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if row.not_measured is not None:
            names.setdefault(row.not_measured, []).append(markdown_cell(row.contender))
    return [f"Not measured: {', '.join(who)}: {markdown_cell(why)}." for why, who in names.items()]


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


def _growth(scaling: Sequence[Growth]) -> list[str]:
    """How prefill grows with the frames n, and memory, where it was measured."""
    if not scaling:
        return []
    lines = ["## How prefill grows", ""]
    lines += ["a + b n + c n² of n frames, by least squares through the medians.", ""]
    lines += [
        "| prefill | a, s | b, ms a frame | c, µs a frame² | worst residual |",
        "|---" * 5 + "|",
    ]
    lines += [_curve(one, one.prefill_s, (1.0, 1e3, 1e6)) for one in scaling]
    held = [(one, one.peak_bytes) for one in scaling if one.peak_bytes is not None]
    if held:
        lines += ["", "| peak memory | a, MB | b, MB a frame | worst residual |", "|---" * 4 + "|"]
        lines += [_curve(one, curve, (1e-6, 1e-6)) for one, curve in held]
    return lines


def _curve(one: Growth, curve: Curve, units: Sequence[float]) -> str:
    scaled = zip(curve.coefficients, units, strict=True)
    values = " | ".join(_three_digits(value * unit) for value, unit in scaled)
    return f"| {markdown_cell(one.contender)} | {values} | {_share(curve.worst_residual)} |"


def _header(what: str, rows: Sequence[Row]) -> list[str]:
    names = " | ".join(markdown_cell(row.contender) for row in rows)
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


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


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
