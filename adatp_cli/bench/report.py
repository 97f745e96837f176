"""The result of a measurement, and what it was made on: as one JSON object, and as Markdown."""

from __future__ import annotations

import dataclasses
import datetime
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import psutil
import torch

from adatp_cli.bench.results import PLAIN, STAGES, Curve, Growth, Row, Spread, growth
from adatp_cli.bench.runner import BenchPlan
from adatp_cli.machine import usable_cores
from adatp_cli.model.device import is_cuda
from adatp_cli.record import ModelInfo, Versions
from adatp_cli.text import markdown_cell, percent, plural
from adatp_cli.video.frames import VideoInfo

SCHEMA_VERSION = 1
RANDOM_WEIGHTS = "random weights: time and memory mean something, answers nothing"
_SCHEMA_FILE = "bench_result.schema.json"
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


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """The machine, as far as it decides how fast something is."""

    device: str  # the accelerator's name, or the processor's
    processor: str
    cpus: int  # that this process may use
    threads: int  # that PyTorch computes with on the CPU
    memory_bytes: int
    system: str


def machine_facts(device: str) -> MachineFacts:
    """This machine, for a model on `device`."""
    processor = _processor()
    return MachineFacts(
        device=torch.cuda.get_device_name(device) if is_cuda(device) else processor,
        processor=processor,
        cpus=usable_cores(),
        threads=torch.get_num_threads(),
        memory_bytes=int(psutil.virtual_memory().total),
        system=f"{platform.system()} {platform.machine()}",
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


@dataclass(frozen=True, slots=True)
class BenchResult:
    """A whole measurement."""

    date: datetime.datetime  # when it was begun
    machine: MachineFacts
    versions: Versions
    model: ModelInfo
    random_weights: bool
    clip: VideoInfo | None  # None where none was read
    clip_generated: bool
    plan: BenchPlan
    text_tokens: int  # of the prompt, beside the clip's; the newline is among them
    memory_method: str | None  # None where memory was not measured
    profiles: Mapping[str, Mapping[str, Any]]  # resolved, by contender
    rows: Sequence[Row]

    @property
    def scaling(self) -> list[Growth]:
        """How each contender grows with the frames, as far as enough of them were measured."""
        return growth(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """As `schema_text` describes it."""
        plan = self.plan
        clip = None
        if self.clip is not None:
            shown = ("decoder", "codec", "width", "height", "fps", "duration_s")
            clip = {name: getattr(self.clip, name) for name in shown}
            clip["generated"] = self.clip_generated
        return {
            "schema_version": SCHEMA_VERSION,
            "date": self.date.isoformat(timespec="seconds"),
            "machine": dataclasses.asdict(self.machine),
            "versions": dataclasses.asdict(self.versions),
            "model": dataclasses.asdict(self.model) | {"random_weights": self.random_weights},
            "clip": clip,
            "settings": {
                "repeat": plan.repeat,
                "questions": len(plan.questions),
                "new_tokens": plan.new_tokens,
                "text_tokens": self.text_tokens,
                "vision": plan.vision,
            },
            "memory_method": self.memory_method,
            "profiles": {name: dict(knobs) for name, knobs in self.profiles.items()},
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "scaling": [dataclasses.asdict(one) for one in self.scaling],
        }


def schema_text() -> str:
    """The JSON Schema (draft 2020-12) that every result fits."""
    return resources.files("adatp_cli.bench").joinpath(_SCHEMA_FILE).read_text(encoding="utf-8")


def tables(result: BenchResult) -> str:
    """A result as Markdown: a part for each number of frames, one for what several show."""
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
        # Each reason once, with those whom it kept out.
        names: dict[str, list[str]] = {}
        for row in rows:
            if row.not_measured is not None:
                names.setdefault(row.not_measured, []).append(markdown_cell(row.contender))
        for why, who in names.items():
            lines.append(f"Not measured: {', '.join(who)}: {markdown_cell(why)}.")
        lines += [""] if names else []
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


def _seconds(rows: Sequence[Row]) -> list[str]:
    stages = [stage for stage in STAGES if any(stage in row.seconds for row in rows)]
    lines = [(_LABELS[one], [_spread(row.seconds.get(one)) for row in rows]) for one in stages]
    lines.append(("further tokens a second", [_spread(row.tokens_per_second) for row in rows]))
    return _table("seconds", rows, lines)


def _ratios(rows: Sequence[Row]) -> list[str]:
    others = [row for row in rows if row.contender != PLAIN]
    stages = [stage for stage in STAGES if any(stage in row.ratio for row in others)]
    lines = [(_LABELS[one], [_ratio(row.ratio.get(one)) for row in others]) for one in stages]
    lines.append(("relevance + choosing, of prefill", [_ratio(row.overhead) for row in others]))
    lines.append(("peak memory", [_ratio(row.ratio.get("peak_bytes")) for row in others]))
    return _table("ratio", others, lines)


def _costs(rows: Sequence[Row]) -> list[str]:
    tokens = [row.tokens for row in rows]
    flops = [row.flops for row in rows]
    whole = [one.end_to_end if one else None for one in flops]
    achieved = [row.flop_per_second for row in rows]
    peaks = [row.peak_bytes.median if row.peak_bytes else None for row in rows]
    lines = [
        (
            "visual tokens to the last layer",
            [f"{one.kept_final} of {one.visual}" if one else _NONE for one in tokens],
        ),
        ("LLM cost, paper's count", [percent(one.paper.ratio if one else None) for one in flops]),
        ("vision, TFLOP", [_tera(one.vision if one else None) for one in whole]),
        (
            "prefill + scoring, TFLOP",
            [_tera(one.prefill + one.scoring if one else None) for one in whole],
        ),
        ("vision, TFLOP/s", [_tera(one.get("vision")) for one in achieved]),
        ("prefill, TFLOP/s", [_tera(one.get("prefill")) for one in achieved]),
        (
            "peak memory, MB",
            [_mega(one) for one in peaks],
        ),
        ("keys and values, MB", [_mega(row.cache_bytes) for row in rows]),
    ]
    return _table("cost", rows, lines)


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
    return f"| {markdown_cell(one.contender)} | {values} | {percent(curve.worst_residual)} |"


def _table(what: str, rows: Sequence[Row], lines: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    names = [markdown_cell(row.contender) for row in rows]
    top, *others = [
        f"| {label} | {' | '.join(cells)} |" for label, cells in ((what, names), *lines)
    ]
    return [top, "|---" * (len(rows) + 1) + "|", *others]


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


def _tera(value: float | None) -> str:
    return _NONE if value is None else _number(value / 1e12)


def _mega(value: float | None) -> str:
    return _NONE if value is None else f"{value / 1e6:.0f}"
