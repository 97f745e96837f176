"""The film: the frames at their moments, with what was kept of each."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from adatp_cli.errors import ModelError
from adatp_cli.pictures import style
from adatp_cli.pictures.scene import Panel, Scene

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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

    Raises
    ------
    ModelError
        PyAV was built without an H.264 encoder.
    OSError
        The file cannot be written.
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
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stage = _Stage(scene)
    canvas: Any = FigureCanvasAgg(stage.figure)
    picture = np.zeros((0, 0, 3), dtype=np.uint8)
    for number in range(len(scene.pixels)):
        stage.show(number)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # drawn as a box; the record has it
            canvas.draw()
        drawn = np.asarray(canvas.buffer_rgba())[..., :3]
        height, width = (side // 2 * 2 for side in drawn.shape[:2])
        picture = np.ascontiguousarray(drawn[:height, :width])
        yield picture
    yield picture


class _Stage:
    """A figure in which one frame takes the place of the other."""

    def __init__(self, scene: Scene) -> None:
        from matplotlib.figure import Figure

        self._scene = scene
        self._faded = [style.faded(scene.pixels, panel.fates) for panel in scene.panels]
        wide = _PANEL
        tall = wide / scene.aspect
        if tall > _TALLEST:
            tall = _TALLEST
        width = len(scene.panels) * (_PANEL + _MARGIN) + _MARGIN
        question = style.wrapped(scene.record.question, int(width * 72 / (0.6 * 13)), 2)
        head = _HEAD + 0.26 * (len(question) - 1)
        height = head + tall + _FOOT
        self.figure: Figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
        self._page: Any = self.figure.add_axes((0, 0, 1, 1))
        self._page.set_xlim(0, width)
        self._page.set_ylim(height, 0)
        self._page.axis("off")
        look: dict[str, Any] = {"va": "top", "parse_math": False}
        for number, line in enumerate(question):
            self._page.text(_MARGIN, 0.12 + 0.26 * number, line, fontsize=13, weight="bold", **look)
        self._moving: list[Any] = []
        self._boxes = []
        for index, panel in enumerate(scene.panels):
            left = _MARGIN + index * (_PANEL + _MARGIN)
            shown = min(_PANEL, tall * scene.aspect)
            begin = left + (_PANEL - shown) / 2
            self._boxes.append((begin, begin + shown, head + tall, head))
            self._page.text(left, head - 0.3, style.heading(panel), fontsize=10, **look)
            self._answer(panel, left, head + tall + 0.34)
        self._clock = head + tall + 0.06

    def _answer(self, panel: Panel, left: float, top: float) -> None:
        look: dict[str, Any] = {"va": "top", "parse_math": False}
        answer = panel.record.answer.strip() or "(no text)"
        room = int(_PANEL * 72 / (0.6 * 11))
        for number, line in enumerate(style.wrapped(f"Answer: {answer}", room, 2)):
            self._page.text(left, top + 0.2 * number, line, fontsize=11, weight="bold", **look)
        cost = dict(panel.costs).get("LLM cost", "")
        told = style.wrapped(f"LLM cost {cost}" if cost else "", 90, 1)[0]
        self._page.text(left, top + 0.42, told, fontsize=8.5, color="#444444", **look)

    def show(self, number: int) -> None:
        """Put frame `number` on the stage."""
        for artist in self._moving:
            artist.remove()
        self._moving = []
        scene, page = self._scene, self._page
        times = scene.times
        for index, panel in enumerate(scene.panels):
            left, right, bottom, top = self._boxes[index]
            picture = self._faded[index][number]
            image = page.imshow(picture, extent=(left, right, bottom, top), aspect="auto")
            self._moving.append(image)
            outline = style.outline(panel.fates.kept[number], (left, right, bottom, top))
            if outline is not None:
                self._moving.append(page.add_collection(outline, autolim=False))
            kept = int(panel.fates.kept[number].sum())
            told = f"{style.moment(times[number])}   frame {number + 1} of {len(times)}   "
            told += f"{kept} of {panel.fates.kept[number].size} kept"
            segment = _segment_of(panel, number)
            if segment is not None:
                told += f"   segment {segment[0] + 1}{segment[1]}"
            begin = _MARGIN + index * (_PANEL + _MARGIN)
            self._moving.append(
                page.text(begin, self._clock, told, fontsize=10, va="top", parse_math=False)
            )


def _segment_of(panel: Panel, frame: int) -> tuple[int, str] | None:
    """Number of the frame's segment, and what is to be said of it."""
    for number, segment in enumerate(panel.record.segments):
        if segment.first_frame <= frame <= segment.last_frame:
            star = "\N{BLACK STAR}" if segment.salient else ""
            measured = "" if segment.relevance is None else f" relevance {segment.relevance:.3f}"
            return number, f"{star}{measured}"
    return None
