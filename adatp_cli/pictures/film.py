"""The film: the frames at their moments, with what was kept of each."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adatp_cli.errors import ModelError
from adatp_cli.pictures import style
from adatp_cli.pictures.scene import Panel, Scene

_DPI = 100
_PANEL = 6.4  # inches
_TALLEST = 6.4
_MARGIN = 0.2
_HEAD = 0.75
_FOOT = 1.0
_TICKS = 1000  # a second; containers round timestamps to milliseconds anyway
_CODEC = "libx264"


def save_film(scene: Scene, path: Path) -> None:
    """Write an mp4: H.264, each frame shown from its own timestamp to the next one's.

    Its time begins with the first frame; the last one stays as long as the one before it.
    """
    import av

    if _CODEC not in av.codecs_available:
        raise ModelError(
            f"this PyAV has no {_CODEC} to write an mp4 with",
            "pip install --force-reinstall av, or write a .png or .html",
        )
    times = scene.times
    last = 2 * times[-1] - times[-2] if len(times) > 1 else times[-1] + 1.0
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream(
            _CODEC, rate=Fraction(25), options={"crf": "20", "movflags": "+faststart"}
        )
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
        for number, (moment, picture) in enumerate(
            zip([*times, last], _pictures(scene), strict=True)
        ):
            if number == 0:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.time_base = Fraction(1, _TICKS)
            frame.pts = max(round((moment - times[0]) * _TICKS), number)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _pictures(scene: Scene) -> Iterator[npt.NDArray[np.uint8]]:
    """(H, W, 3) of every frame, with even sides, and the last one twice."""
    tall = min(_PANEL / scene.aspect, _TALLEST)
    width = len(scene.panels) * (_PANEL + _MARGIN) + _MARGIN
    question = style.wrapped(scene.record.question, style.letters(width, style.LARGE), 2)
    head = _HEAD + style.QUESTION_LINE * (len(question) - 1)
    bottom = head + tall
    figure, page = style.blank_page(width, bottom + _FOOT, _DPI)
    style.write_lines(page, _MARGIN, 0.12, question, style.LARGE, style.QUESTION_LINE)
    lefts = [_MARGIN + index * (_PANEL + _MARGIN) for index in range(len(scene.panels))]
    for panel, left in zip(scene.panels, lefts, strict=True):
        style.write(page, left, head - 0.3, style.heading(panel), 10)
        answer = style.wrapped(panel.answer, style.letters(_PANEL, 11), 2)
        style.write_lines(page, left, bottom + 0.34, answer, 11, 0.2)
        cost = dict(panel.costs).get("LLM cost", "")
        told = style.wrapped(f"LLM cost {cost}" if cost else "", 90, 1)[0]
        style.write(page, left, bottom + 0.34 + 0.42, told, 8.5, color="#444444")
    pictures = [style.faded(scene.pixels, panel.fates) for panel in scene.panels]
    canvas: Any = figure.canvas
    picture = np.zeros((0, 0, 3), dtype=np.uint8)
    shown: list[Any] = []
    for number in range(len(scene.pixels)):
        for artist in shown:
            artist.remove()
        shown = []
        for panel, left, frames in zip(scene.panels, lefts, pictures, strict=True):
            wide = min(_PANEL, tall * scene.aspect)
            begin = left + (_PANEL - wide) / 2
            box = (begin, begin + wide, bottom, head)
            shown += style.draw_frame(page, frames[number], panel.fates.kept[number], box)
            told = _caption(panel, number, scene.times)
            shown.append(style.write(page, left, bottom + 0.06, told, 10))
        with style.drawing():
            canvas.draw()
        drawn = np.asarray(canvas.buffer_rgba())[..., :3]
        height, width_px = (side // 2 * 2 for side in drawn.shape[:2])
        picture = np.ascontiguousarray(drawn[:height, :width_px])
        yield picture
    yield picture


def _caption(panel: Panel, number: int, times: list[float]) -> str:
    """The frame's moment, what was kept of it, and its segment."""
    kept = panel.fates.kept[number]
    told = f"{style.moment(times[number])}   frame {number + 1} of {len(times)}   "
    told += f"{int(kept.sum())} of {kept.size} kept"
    found = panel.segment_of(number)
    if found is not None:
        index, segment = found
        told += f"   segment {index + 1}{style.STAR if segment.salient else ''}"
        told += "" if segment.relevance is None else f" relevance {segment.relevance:.3f}"
    return told
