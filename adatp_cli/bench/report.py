"""The result of a measurement: as one JSON object, as tables in Markdown, and as a picture."""

from __future__ import annotations

import dataclasses
import datetime
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

from adatp_cli.bench.results import PLAIN, STAGES, Curve, Growth, Row, Spread, growth
from adatp_cli.bench.runner import BenchPlan
from adatp_cli.machine import usable_cores
from adatp_cli.model.device import is_cuda
from adatp_cli.pictures.style import drawing, label, legend, plot
from adatp_cli.record import ModelInfo, Versions
from adatp_cli.text import markdown_cell, percent, plural
from adatp_cli.video.frames import VideoInfo

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

SCHEMA_VERSION = 1
RANDOM_WEIGHTS = "random weights: time and memory mean something, answers nothing"
_NONE = "-"
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
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    processor = next(named, platform.processor() or platform.machine())
    return MachineFacts(
        device=torch.cuda.get_device_name(device) if is_cuda(device) else processor,
        processor=processor,
        cpus=usable_cores(),
        threads=torch.get_num_threads(),
        memory_bytes=int(psutil.virtual_memory().total),
        system=f"{platform.system()} {platform.machine()}",
    )


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
        """As bench_result.schema.json describes it."""
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
    lines = [
        (name, [_spread(row.seconds.get(stage)) for row in rows])
        for stage, name in STAGES.items()
        if any(stage in row.seconds for row in rows)
    ]
    lines.append(("further tokens a second", [_spread(row.tokens_per_second) for row in rows]))
    return _table("seconds", rows, lines)


def _ratios(rows: Sequence[Row]) -> list[str]:
    others = [row for row in rows if row.contender != PLAIN]
    lines = [
        (name, [_ratio(row.ratio.get(stage)) for row in others])
        for stage, name in STAGES.items()
        if any(stage in row.ratio for row in others)
    ]
    lines.append(("relevance + choosing, of prefill", [_ratio(row.overhead) for row in others]))
    lines.append(("peak memory", [_ratio(row.ratio.get("peak_bytes")) for row in others]))
    return _table("ratio", others, lines)


def _costs(rows: Sequence[Row]) -> list[str]:
    columns = [_cost_cells(row) for row in rows]
    names = max(columns, key=len)  # what was not measured has no cells
    lines = [(name, [cells.get(name, _NONE) for cells in columns]) for name in names]
    return _table("cost", rows, lines)


def _cost_cells(row: Row) -> dict[str, str]:
    if row.tokens is None or row.flops is None:
        return {}
    whole, achieved = row.flops.end_to_end, row.flop_per_second
    return {
        "visual tokens to the last layer": f"{row.tokens.kept_final} of {row.tokens.visual}",
        "LLM cost, paper's count": percent(row.flops.paper.ratio),
        "vision, TFLOP": _tera(whole.vision),
        "prefill + scoring, TFLOP": _tera(whole.prefill + whole.scoring),
        "vision, TFLOP/s": _tera(achieved.get("vision")),
        "prefill, TFLOP/s": _tera(achieved.get("prefill")),
        "peak memory, MB": _mega(row.peak_bytes.median if row.peak_bytes else None),
        "keys and values, MB": _mega(row.cache_bytes),
    }


def _growth(scaling: Sequence[Growth]) -> list[str]:
    """How prefill grows with the frames n, and memory, where it was measured."""
    if not scaling:
        return []
    lines = ["## How prefill grows", ""]
    lines += ["a + b n + c n² of n frames, by least squares through the medians.", ""]
    lines.append("| prefill | a, s | b, ms a frame | c, µs a frame² | worst residual |")
    lines.append("|---" * 5 + "|")
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
    head = [what, *(markdown_cell(row.contender) for row in rows)]
    body = [f"| {name} | {' | '.join(cells)} |" for name, cells in lines]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *body]


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


def draw(result: BenchResult, path: Path) -> None:
    """Write the picture: where the time goes, and below it how time and memory grow."""
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
