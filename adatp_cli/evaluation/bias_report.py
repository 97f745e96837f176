"""What was measured of the biases, as Markdown, CSV and JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adatp_cli.evaluation.bias import EIGHTHS, PARTS, BiasSummary, LayerBias, View
from adatp_cli.evaluation.report import PAGE, csv_text, markdown, percent, write_texts
from adatp_cli.text import markdown_cell

LAYERS = "layers.csv"
FRAMES = "frames.csv"
PLACES = "places.csv"
FILES = (PAGE, LAYERS, FRAMES, PLACES)
_EVEN = percent(1 / EIGHTHS)
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
    parts = [
        f"Share in the last eighth of the clip (even: {_EVEN})",
        _by_layer(summary, "top 10 % by attention", lambda layer: percent(layer.last_eighth)),
        f"Share in the first eighth of the clip (even: {_EVEN})",
        _by_layer(summary, "top 10 % by attention", lambda layer: percent(layer.first_eighth)),
        "Hottest place of the frame to the mean over places (even: 1)",
        _by_layer(summary, "attention", lambda layer: f"{layer.hottest:.2f}"),
        f"By eighth of the clip (even: {_EVEN})",
        _by_eighth(summary),
    ]
    return "\n".join(part if part.endswith("\n") else f"{part}\n" for part in parts)


def page(summary: BiasSummary, facts: Sequence[str], plots: Sequence[str]) -> str:
    """The whole report.

    Parameters
    ----------
    facts
        What was run, a line each.
    plots
        File names of the pictures beside it.
    """
    lines = [f"# Biases of attention: {markdown_cell(summary.title)}", ""]
    lines += [f"- {markdown_cell(fact)}" for fact in facts]
    if summary.failed:
        told = ", ".join(f"{count} {kind}" for kind, count in summary.failed.items())
        lines.append(f"- not measured, over all profiles: {told}")
    lines += ["", tables(summary)]
    lines += [f"![{name}]({name})\n" for name in plots]
    return "\n".join(lines) + "\n" + _EXPLAINED


def as_data(summary: BiasSummary, facts: Sequence[str]) -> dict[str, Any]:
    """Everything, for JSON."""
    return {
        "dataset": summary.title,
        "facts": list(facts),
        "questions": dict(summary.questions),
        "failed": dict(summary.failed),
        "views": [
            {
                "profile": view.profile,
                "what": view.what,
                "layers": [_layer_data(layer) for layer in view.layers],
            }
            for view in summary.views
        ],
    }


def write_report(
    folder: Path, summary: BiasSummary, facts: Sequence[str], plots: Sequence[str]
) -> None:
    """Write everything but the pictures.

    Raises
    ------
    AdatpError
        The disk takes it not.
    """
    texts: Mapping[str, str] = {
        LAYERS: layers_csv(summary),
        FRAMES: frames_csv(summary),
        PLACES: places_csv(summary),
        PAGE: page(summary, facts, plots),
    }
    write_texts(folder, texts)


def layers_csv(summary: BiasSummary) -> str:
    """A row for each view and layer."""
    head = ["profile", "what", "layer", "tokens", "first_eighth", "last_eighth", "hottest"]
    rows = [
        [
            view.profile,
            view.what,
            layer.layer,
            layer.tokens,
            layer.first_eighth,
            layer.last_eighth,
            layer.hottest,
        ]
        for view in summary.views
        for layer in view.layers
    ]
    return csv_text(head, rows)


def frames_csv(summary: BiasSummary) -> str:
    """A row for each view, layer and part of the clip: share of all, and of the top tenth."""
    head = ["profile", "what", "layer", "part", "of", "share", "top_share"]
    rows = [
        [view.profile, view.what, layer.layer, part, PARTS, float(share), float(top)]
        for view in summary.views
        for layer in view.layers
        for part, (share, top) in enumerate(zip(layer.parts, layer.top_parts, strict=True))
    ]
    return csv_text(head, rows)


def places_csv(summary: BiasSummary) -> str:
    """A row for each view, layer and place of the frame."""
    rows = [
        [view.profile, view.what, layer.layer, row, col, float(share)]
        for view in summary.views
        for layer in view.layers
        for (row, col), share in np.ndenumerate(layer.places)
    ]
    return csv_text(["profile", "what", "layer", "row", "col", "share"], rows)


def mean_eighths(view: View) -> list[float]:
    """Share in each eighth of the clip, mean over layers."""
    return [float(value) for value in np.mean([layer.eighths for layer in view.layers], axis=0)]


def _layer_data(layer: LayerBias) -> dict[str, Any]:
    return {
        "layer": layer.layer,
        "tokens": layer.tokens,
        "first_eighth": layer.first_eighth,
        "last_eighth": layer.last_eighth,
        "hottest": layer.hottest,
        "parts": layer.parts.tolist(),
        "top_parts": layer.top_parts.tolist(),
        "places": layer.places.tolist(),
    }


def _by_layer(summary: BiasSummary, before: str, tell: Callable[[LayerBias], str]) -> str:
    kept = summary.kept()
    head = ["layer", before, *(f"{view.profile} keeps" for view in kept)]
    rows = [
        [str(layer.layer), tell(layer), *(tell(view.layers[layer.layer]) for view in kept)]
        for layer in summary.before.layers
    ]
    return markdown(head, rows)


def _by_eighth(summary: BiasSummary) -> str:
    kept = summary.kept()
    head = ["eighth", "attention, mean over layers"]
    head += [f"{view.profile} keeps to the last layer" for view in kept]
    columns = [mean_eighths(summary.before), *(view.layers[-1].eighths for view in kept)]
    rows = [
        [str(number + 1), *(percent(column[number]) for column in columns)]
        for number in range(EIGHTHS)
    ]
    return markdown(head, rows)
