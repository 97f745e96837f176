"""Generated clips of moving shapes with true answers: what the bundled model knows."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from adatp_cli.evaluation.questions import Dataset, Item
from adatp_cli.evaluation.scoring import verbatim
from adatp_cli.text import plural
from adatp_cli.tiny.clips import held_out_clip, write_mp4
from adatp_cli.tiny.questions import draw_questions
from adatp_cli.video.frames import FrameReader, Frames, Resize
from adatp_cli.video.sampling import Sampling

_QUESTIONS = 2  # a clip


@dataclass(frozen=True, slots=True)
class ShapesClip:
    """Clip `number` of evaluation set `seed`; written as an mp4 only while it is read."""

    seed: int
    number: int

    @property
    def name(self) -> str:
        return f"shapes-{self.seed}-{self.number:05d}.mp4"

    @property
    def key(self) -> str:
        return f"ShapesClip(seed={self.seed}, number={self.number})"

    def exists(self) -> bool:
        return True

    def stamp(self) -> tuple[None, None]:
        return None, None

    def read(self, reader: FrameReader, sampling: Sampling, resize: Resize) -> Frames:
        clip, seconds, _ = held_out_clip(self.seed, self.number)
        with tempfile.TemporaryDirectory(prefix="adatp-shapes-") as folder:
            path = Path(folder) / self.name
            write_mp4(path, clip, seconds)
            return reader.read(os.fspath(path), sampling, name=self.name, resize=resize)


def shapes(clips: int, seed: int) -> Dataset:
    """`clips` clips of set `seed` with up to two questions each; training saw none.

    A larger set begins with the clips of a smaller one.
    """
    items = []
    for number in range(clips):
        clip, _, rng = held_out_clip(seed, number)
        for index, asked in enumerate(draw_questions(clip, rng, _QUESTIONS)):
            name = f"{seed}-{number}-{index}"
            source = ShapesClip(seed, number)
            items.append(Item(name, source, asked.text, asked.answer, kind=asked.kind))
    return Dataset(
        "shapes",
        f"shapes, {plural(clips, 'clip')} of set {seed}",
        tuple(items),
        verbatim,
        max_new_tokens=48,
        kind_title="kind of question",
    )
