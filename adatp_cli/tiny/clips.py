"""Clips of the world as real files: H.264 in mp4."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from adatp_cli.tiny.questions import Question, all_questions
from adatp_cli.tiny.render import render
from adatp_cli.tiny.world import Clip, random_clip

SIDE = 192  # twice what the tower looks at: a file is resized on its way in, as real ones are
RATE = 24


@dataclass(frozen=True, slots=True)
class DemoClip:
    """The clip that `adatp demo` writes, with questions about it and their true answers."""

    path: Path
    questions: tuple[Question, ...]


def write_mp4(path: Path, clip: Clip, seconds: float, *, side: int = SIDE) -> None:
    """Encode a clip as H.264 (yuv420p, crf 20) at `RATE` frames a second.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    import av

    from adatp_cli.model.checkpoints import TINY_WORLD

    count = round(seconds * RATE)
    times = (np.arange(count) + 0.5) / count
    with av.open(str(path), "w", format="mp4") as container:
        container.metadata["comment"] = TINY_WORLD
        stream = container.add_stream(
            "libx264", rate=Fraction(RATE), options={"crf": "20", "threads": "1"}
        )
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for part in np.array_split(times, max(count // 32, 1)):
            for picture in render(clip, part, side):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def held_out_clip(seed: int, number: int) -> tuple[Clip, np.random.Generator]:
    """Clip `number` of evaluation set `seed`, and the generator that goes on to draw its questions.

    Training never sees it: its generators have other keys.
    """
    rng = np.random.default_rng([0x5EED, seed, number])
    return random_clip(rng), rng


def clip_seconds(rng: np.random.Generator) -> float:
    """How long a held-out clip is, 4 to 8 seconds; drawn before its questions."""
    return float(rng.uniform(4.0, 8.0))


def write_demo_clip(path: Path, *, seed: int = 2) -> DemoClip:
    """Write a clip of three scenes and return it with one question each of several kinds.

    The seed is one of a clip with a flash, about which the pruned `tiny` is right, as it is about
    most; how often it is not stands in README.md's table.
    """
    clip = random_clip(np.random.default_rng([0xDE70, seed]), scenes=3)
    write_mp4(path, clip, 6.0)
    first = {
        kind: (wordings[0], answer) for kind, wordings, answer in reversed(all_questions(clip))
    }
    kinds = ("happens", "middle", "colour", "motion", "scenes", "flash")
    return DemoClip(path, tuple(Question(kind, *first[kind]) for kind in kinds if kind in first))
