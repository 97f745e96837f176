"""Pictures of the biases: by layer, along the clip, and over the frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adatp_cli.evaluation.bias import EIGHTHS, PARTS, BiasSummary, LayerBias
from adatp_cli.evaluation.plots import COLOURS, label, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BY_LAYER = "bias-layers.png"
ALONG = "bias-frames.png"
PLACES = "bias-places.png"
FILES = (BY_LAYER, ALONG, PLACES)
_MAPS = 5  # heat maps of attention, spread over the layers


def draw(summary: BiasSummary, folder: Path) -> list[str]:
    """Draw the pictures into a folder, and return the files' names.

    Raises
    ------
    AdatpError
        The disk takes it not.
    """
    drawn = {BY_LAYER: _by_layer, ALONG: _along, PLACES: _places}
    for name, make in drawn.items():
        save(make(summary), folder / name)
    return list(drawn)


def _figure(width: float, height: float, title: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(label(title), fontsize=11)
    return figure


def _legend(figure: Any, axis: Any) -> None:
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, fontsize=8, loc="outside lower center", ncols=3)


def _by_layer(summary: BiasSummary) -> Figure:
    figure: Figure = _figure(11.0, 4.2, f"By layer: {summary.title}")
    axes = figure.subplots(1, 3)
    drawn: tuple[tuple[str, Callable[[LayerBias], float], float], ...] = (
        ("in the last eighth of the clip (%)", lambda layer: 100 * layer.last_eighth, 12.5),
        ("in the first eighth of the clip (%)", lambda layer: 100 * layer.first_eighth, 12.5),
        ("hottest place to the mean", lambda layer: layer.hottest, 1.0),
    )
    for axis, (title, tell, even) in zip(axes, drawn, strict=True):
        axis.axhline(even, color="#777777", linewidth=0.8, linestyle=":", label="even")
        views = [(summary.before, "attention (its top 10 % in the clip)")]
        views += [(view, f"{view.profile} keeps") for view in summary.kept()]
        for number, (view, name) in enumerate(views):
            values = [tell(layer) for layer in view.layers]
            axis.plot(values, "o-", markersize=3, color=_colour(number), label=label(name))
        axis.set_xlabel("layer")
        axis.locator_params(axis="x", integer=True)
        axis.set_title(title, fontsize=10)
        axis.set_ylim(0, None)
        axis.grid(alpha=0.3)
    _legend(figure, axes[0])
    return figure


def _along(summary: BiasSummary) -> Figure:
    figure: Figure = _figure(11.0, 4.4, f"Along the clip, 1 is even: {summary.title}")
    left, right = figure.subplots(1, 2)
    middles = (np.arange(PARTS) + 0.5) / PARTS
    steps: dict[str, Any] = {"drawstyle": "steps-mid"}
    layers = summary.before.layers
    for number, layer in enumerate(layers):
        shade = str(0.85 - 0.6 * number / max(len(layers) - 1, 1))
        name = f"layer {number}" if number in (0, len(layers) - 1) else None
        left.plot(middles, PARTS * layer.parts, color=shade, linewidth=0.8, label=name, **steps)
    mean = np.mean([layer.parts for layer in layers], axis=0)
    left.plot(
        middles, PARTS * mean, color=_colour(0), linewidth=2, label="mean over layers", **steps
    )
    left.set_title("attention", fontsize=10)
    for number, view in enumerate(summary.kept()):
        kept = PARTS * view.layers[-1].parts
        name = label(f"{view.profile} keeps")
        right.plot(middles, kept, color=_colour(number + 1), label=name, **steps)
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


def _places(summary: BiasSummary) -> Figure:
    layers = summary.before.layers
    count = min(_MAPS, len(layers))
    chosen = np.unique(np.linspace(0, len(layers) - 1, count).round().astype(int))
    maps = [(f"attention, layer {number}", layers[number]) for number in chosen]
    maps += [
        (f"{label(view.profile)} keeps\nto the last layer", view.layers[-1])
        for view in summary.kept()
    ]
    figure: Figure = _figure(
        1.0 + 2.0 * len(maps), 3.1, f"Over the frame, 1 is even: {summary.title}"
    )
    axes = np.atleast_1d(figure.subplots(1, len(maps)))
    hottest = max(layer.hottest for _, layer in maps)
    image = None
    for axis, (name, layer) in zip(axes, maps, strict=True):
        shown = layer.places / layer.places.mean()
        image = axis.imshow(shown, cmap="viridis", vmin=0, vmax=max(hottest, 1.0))
        axis.set_title(f"{name}\nhottest {layer.hottest:.2f}", fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    if image is not None:
        figure.colorbar(image, ax=list(axes), shrink=0.8)
    return figure


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
