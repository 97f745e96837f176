"""The page: one HTML file with a slider over the layers, which loads nothing from anywhere."""

from __future__ import annotations

import base64
import html
import io
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adatp_cli.pictures import style
from adatp_cli.pictures.scene import Panel, Scene

# Frames on the page, in pixels of the longer side: sharp enough for a cell, and light.
_LONGER = 320
_LONGER_OF_MANY = 224
_MANY = 32
_QUALITY = 80
_CELL = 13.0  # rem: the width of a frame where there are few of them


def save_page(scene: Scene, path: Path) -> None:
    """Write a scene as a page; an OSError where the file cannot be written."""
    path.write_text(page(scene), encoding="utf-8")


def page_data(scene: Scene) -> dict[str, Any]:
    """What the page's script draws: each frame once, and the layer at which each token fell.

    Numbers and pictures in base64 alone: no text that could end the script which holds it.
    """
    rows, cols = scene.panels[0].fates.fell.shape[1:]
    return {
        "layers": scene.record.model.layers,
        "rows": rows,
        "cols": cols,
        "shade": style.SHADE,
        "frames": [_jpeg(frame, scene) for frame in scene.pixels],
        "panels": [
            {
                "fell": panel.fates.fell.reshape(len(scene.pixels), -1).tolist(),
                "fading": {str(k): round(v, 3) for k, v in style.fading(panel.fates.steps).items()},
            }
            for panel in scene.panels
        ],
    }


def page(scene: Scene) -> str:
    """The page's text, whole: nothing in it is loaded from anywhere."""
    parts = {
        "title": _escaped(style.wrapped(scene.record.question, 80, 1)[0]),
        "question": _escaped(scene.record.question),
        "about": _escaped(style.about(scene)),
        "layers": str(scene.record.model.layers),
        "panels": "".join(_panel(scene, number) for number in range(len(scene.panels))),
        "data": json.dumps(page_data(scene), allow_nan=False, separators=(",", ":")),
    }
    template = resources.files("adatp_cli.pictures").joinpath("page.html").read_text("utf-8")
    pieces = template.split("@@")  # text and names by turns; what is put in is not looked at again
    return "".join(parts[piece] if odd % 2 else piece for odd, piece in enumerate(pieces))


def _escaped(text: str) -> str:
    """Text for a page: as it is, but for broken encodings and what has a meaning in HTML."""
    return html.escape(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _panel(scene: Scene, number: int) -> str:
    panel = scene.panels[number]
    widest = _CELL * (0.65 if len(scene.pixels) > _MANY else 1.0)
    cell = widest * min(1.0, scene.aspect) * (0.65 if len(scene.panels) > 1 else 1.0)
    figures = "".join(_figure(scene, panel, frame) for frame in range(len(scene.pixels)))
    costs = "".join(
        f"<tr><th>{_escaped(label)}</th><td>{_escaped(text)}</td></tr>"
        for label, text in panel.costs
    )
    return (
        f'<section class="panel" id="panel-{number}" '
        f'style="--cell: {cell:.2f}rem; --aspect: {scene.aspect:.4f}">'
        f"<h2>{_escaped(style.heading(panel))}</h2>{_segments(panel)}"
        f'<p class="answer">{_escaped(panel.answer)}</p>'
        f'<div class="frames">{figures}</div><table>{costs}</table></section>'
    )


def _figure(scene: Scene, panel: Panel, frame: int) -> str:
    colour = name = ""
    found = panel.segment_of(frame)
    if found is not None:
        colour = f' style="--segment: {style.segment_colour(found[0])}"'
        name = f", segment {found[0] + 1}"
    when = style.moment(scene.times[frame])
    return (
        f'<figure{colour}><div class="picture"><img alt="frame at {when}{name}"><canvas></canvas>'
        f'</div><figcaption><span>{when}</span><span class="count"></span></figcaption></figure>'
    )


def _segments(panel: Panel) -> str:
    if not panel.record.segments:
        return ""
    lines = []
    for number, segment in enumerate(panel.record.segments):
        measured = "" if segment.relevance is None else f"{segment.relevance:.3f}"
        lines.append(
            f'<tr style="--segment: {style.segment_colour(number)}">'
            f'<td><span class="swatch"></span> {number + 1}</td>'
            f"<td>{style.moment(segment.start_s)} to {style.moment(segment.end_s)}</td>"
            f"<td>{measured}</td><td>{'yes' if segment.salient else 'no'}</td>"
            f"<td>{segment.kept}</td></tr>"
        )
    return (
        f"<details><summary>{len(lines)} segments</summary><table><tr><th>segment</th>"
        "<th>frames at</th><th>relevance</th><th>salient</th><th>kept</th></tr>"
        f"{''.join(lines)}</table></details>"
    )


def _jpeg(frame: npt.NDArray[np.uint8], scene: Scene) -> str:
    """A frame at the clip's shape, as an address that holds its own bytes."""
    from PIL import Image

    longer = _LONGER_OF_MANY if len(scene.pixels) > _MANY else _LONGER
    wide = longer * min(1.0, scene.aspect)
    size = max(round(wide), 1), max(round(wide / scene.aspect), 1)
    file = io.BytesIO()
    Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS).save(
        file, "JPEG", quality=_QUALITY
    )
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
