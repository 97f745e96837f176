"""What was measured of the biases, as Markdown, CSV, JSON and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from adatp_cli.evaluation.bias import EIGHTHS, PARTS, BiasSummary, LayerBias
from adatp_cli.evaluation.report import PAGE, Figure, colour, csv_text, markdown, write_files
from adatp_cli.pictures.style import label, legend, plot
from adatp_cli.text import markdown_cell, percent

_LAYERS = "layers.csv"
_FRAMES = "frames.csv"
_PLACES = "places.csv"
_BY_LAYER = "bias-layers.png"
_ALONG = "bias-frames.png"
_OVER = "bias-places.png"
FILES = (PAGE, _LAYERS, _FRAMES, _PLACES, _BY_LAYER, _ALONG, _OVER)
_NUMBERS = ("tokens", "first_eighth", "last_eighth", "hottest")
_EVEN = percent(1 / EIGHTHS)
_MAPS = 5  # heat maps of attention, spread over the layers
SMALL_MODEL = (
    "tiny is a small model that was trained on clips of moving shapes, part of it to look at what "
    "it is asked about: what it shows here says nothing about the attention of large models"
)
_EXPLAINED = """\
Attention is the last prompt token's to the clip's tokens, in the unpruned run, mean over heads and
then over questions. Its top 10 % are the tokens of one question and layer with most of it. What a
profile keeps are the tokens that enter a layer; each counts the same. Even means that every frame
or every place has as many. The hottest place is the one of a frame's places that has most, over
all frames and questions, to the mean over places.
"""


def tables(summary: BiasSummary) -> str:
    """The tables, as they stand on stdout."""
    top = "top 10 % by attention"
    return "\n".join(
        (
            f"Share in the last eighth of the clip (even: {_EVEN})\n",
            _by_layer(summary, top, lambda layer: percent(layer.last_eighth)),
            f"Share in the first eighth of the clip (even: {_EVEN})\n",
            _by_layer(summary, top, lambda layer: percent(layer.first_eighth)),
            "Hottest place of the frame to the mean over places (even: 1)\n",
            _by_layer(summary, "attention", lambda layer: f"{layer.hottest:.2f}"),
            f"By eighth of the clip (even: {_EVEN})\n",
            _by_eighth(summary),
        )
    )


def _by_layer(summary: BiasSummary, before: str, tell: Callable[[LayerBias], str]) -> str:
    head = ["layer", before, *(f"{profile} keeps" for profile in summary.kept)]
    rows = [
        [str(number), tell(layer), *(tell(kept[number]) for kept in summary.kept.values())]
        for number, layer in enumerate(summary.before)
    ]
    return markdown(head, rows)


def _by_eighth(summary: BiasSummary) -> str:
    head = ["eighth", "attention, mean over layers"]
    head += [f"{profile} keeps to the last layer" for profile in summary.kept]
    mean = np.mean([layer.eighths for layer in summary.before], axis=0)
    columns = [mean, *(kept[-1].eighths for kept in summary.kept.values())]
    rows = [
        [str(number + 1), *(percent(float(column[number])) for column in columns)]
        for number in range(EIGHTHS)
    ]
    return markdown(head, rows)


def as_data(summary: BiasSummary, facts: Sequence[str]) -> dict[str, Any]:
    return {
        "dataset": summary.title,
        "facts": list(facts),
        "questions": dict(summary.questions),
        "failed": dict(summary.failed),
        "views": [
            {
                "profile": profile,
                "what": what,
                "layers": [
                    {
                        "layer": number,
                        **{name: getattr(layer, name) for name in _NUMBERS},
                        "parts": layer.parts.tolist(),
                        "top_parts": layer.top_parts.tolist(),
                        "places": layer.places.tolist(),
                    }
                    for number, layer in enumerate(layers)
                ],
            }
            for (profile, what), layers in summary.views.items()
        ],
    }


def write_report(folder: Path, summary: BiasSummary, facts: Sequence[str]) -> list[str]:
    """Write the report, `facts` being what was run, a line each, and return what to tell of it."""
    above = [f"# Biases of attention: {markdown_cell(summary.title)}", ""]
    above += [f"- {markdown_cell(fact)}" for fact in facts]
    if summary.failed:
        told = ", ".join(f"{count} {kind}" for kind, count in summary.failed.items())
        above.append(f"- not measured, over all profiles: {told}")
    texts = {
        _LAYERS: _layers_csv(summary),
        _FRAMES: frames_csv(summary),
        _PLACES: places_csv(summary),
    }
    return write_files(folder, [*above, "", tables(summary)], _EXPLAINED, pictures(summary), texts)


_Layers = list[tuple[list[object], LayerBias]]


def _layers(summary: BiasSummary) -> _Layers:
    """Every layer of every view, with the cells that name it."""
    return [
        ([*view, number], layer)
        for view, layers in summary.views.items()
        for number, layer in enumerate(layers)
    ]


def _layers_csv(summary: BiasSummary) -> str:
    rows = [
        [*named, *(getattr(layer, name) for name in _NUMBERS)] for named, layer in _layers(summary)
    ]
    return csv_text(["profile", "what", "layer", *_NUMBERS], rows)


def frames_csv(summary: BiasSummary) -> str:
    """A row for each view, layer and part of the clip: share of all, and of the top tenth."""
    head = ["profile", "what", "layer", "part", "of", "share", "top_share"]
    rows = [
        [*named, part, PARTS, float(share), float(top)]
        for named, layer in _layers(summary)
        for part, (share, top) in enumerate(zip(layer.parts, layer.top_parts, strict=True))
    ]
    return csv_text(head, rows)


def places_csv(summary: BiasSummary) -> str:
    rows = [
        [*named, row, col, float(share)]
        for named, layer in _layers(summary)
        for (row, col), share in np.ndenumerate(layer.places)
    ]
    return csv_text(["profile", "what", "layer", "row", "col", "share"], rows)


def pictures(summary: BiasSummary) -> dict[str, Callable[[], Figure]]:
    drawn = {_BY_LAYER: _draw_by_layer, _ALONG: _draw_along, _OVER: _draw_places}
    return {name: partial(draw, summary) for name, draw in drawn.items()}


def _draw_by_layer(summary: BiasSummary) -> Figure:
    figure = plot(11.0, 4.2, f"By layer: {summary.title}")
    axes = figure.subplots(1, 3)
    drawn: tuple[tuple[str, Callable[[LayerBias], float], float], ...] = (
        ("in the last eighth of the clip (%)", lambda layer: 100 * layer.last_eighth, 12.5),
        ("in the first eighth of the clip (%)", lambda layer: 100 * layer.first_eighth, 12.5),
        ("hottest place to the mean", lambda layer: layer.hottest, 1.0),
    )
    views = [(summary.before, "attention (its top 10 % in the clip)")]
    views += [(layers, f"{profile} keeps") for profile, layers in summary.kept.items()]
    for axis, (title, tell, even) in zip(axes, drawn, strict=True):
        axis.axhline(even, color="#777777", linewidth=0.8, linestyle=":", label="even")
        for number, (layers, name) in enumerate(views):
            values = [tell(layer) for layer in layers]
            axis.plot(values, "o-", markersize=3, color=colour(number), label=label(name))
        axis.set_xlabel("layer")
        axis.locator_params(axis="x", integer=True)
        axis.set_title(title, fontsize=10)
        axis.set_ylim(0, None)
        axis.grid(alpha=0.3)
    legend(figure, axes[0], 3)
    return figure


def _draw_along(summary: BiasSummary) -> Figure:
    figure = plot(11.0, 4.4, f"Along the clip, 1 is even: {summary.title}")
    left, right = figure.subplots(1, 2)
    middles = (np.arange(PARTS) + 0.5) / PARTS
    steps: dict[str, Any] = {"drawstyle": "steps-mid"}
    layers = summary.before
    for number, layer in enumerate(layers):
        shade = str(0.85 - 0.6 * number / max(len(layers) - 1, 1))
        name = f"layer {number}" if number in (0, len(layers) - 1) else None
        left.plot(middles, PARTS * layer.parts, color=shade, linewidth=0.8, label=name, **steps)
    mean = PARTS * np.mean([layer.parts for layer in layers], axis=0)
    left.plot(middles, mean, color=colour(0), linewidth=2, label="mean over layers", **steps)
    left.set_title("attention", fontsize=10)
    for number, (profile, found) in enumerate(summary.kept.items(), 1):
        kept = PARTS * found[-1].parts
        name = label(f"{profile} keeps")
        right.plot(middles, kept, color=colour(number), label=name, **steps)
    right.set_title("kept to the last layer", fontsize=10)
    for axis in (left, right):
        axis.axhline(1.0, color="#777777", linewidth=0.8, linestyle=":")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, None)
        axis.set_xticks(np.linspace(0, 1, EIGHTHS // 2 + 1))
        axis.set_xlabel("place in the clip")
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    return figure


def _draw_places(summary: BiasSummary) -> Figure:
    layers = summary.before
    count = min(_MAPS, len(layers))
    chosen = np.unique(np.linspace(0, len(layers) - 1, count).round().astype(int))
    maps = [(f"attention, layer {number}", layers[number]) for number in chosen]
    maps += [
        (f"{label(profile)} keeps\nto the last layer", kept[-1])
        for profile, kept in summary.kept.items()
    ]
    title = f"Over the frame, 1 is even: {summary.title}"
    figure = plot(1.0 + 2.0 * len(maps), 3.1, title)
    axes = np.atleast_1d(figure.subplots(1, len(maps)))
    hottest = max(1.0, *(layer.hottest for _, layer in maps))
    image: Any = None
    for axis, (name, layer) in zip(axes, maps, strict=True):
        shown = layer.places / layer.places.mean()
        image = axis.imshow(shown, cmap="viridis", vmin=0, vmax=hottest)
        axis.set_title(f"{name}\nhottest {layer.hottest:.2f}", fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.colorbar(image, ax=list(axes), shrink=0.8)
    return figure
