"""How many questions about held-out clips are answered exactly right, profile by profile.

`python -m adatp_cli.tiny.accuracy` writes the clips as mp4 files, reads them back through the same
path as `adatp ask`, asks every question under every profile, and writes a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from adatp_cli.engine import Engine
from adatp_cli.events import Answered
from adatp_cli.generation import GenerationSettings
from adatp_cli.model.load import LoadedModel, LoadRequest, load_model
from adatp_cli.profiles import load_profile
from adatp_cli.tiny.clips import write_clips
from adatp_cli.tiny.questions import KINDS
from adatp_cli.video.decode import read_frames
from adatp_cli.video.sampling import Sampling

log = logging.getLogger("adatp.tiny.accuracy")


@dataclass(slots=True)
class Score:
    """Right answers of one profile, by kind of question, and what they cost."""

    profile: str
    right: dict[str, list[bool]] = field(default_factory=dict)
    ratios: list[float] = field(default_factory=list)

    def row(self) -> str:
        """The profile's line of the table."""
        every = [verdict for rows in self.right.values() for verdict in rows]
        kinds = [_percent(self.right.get(kind, [])) for kind in KINDS]
        cost = 100 * sum(self.ratios) / max(len(self.ratios), 1)
        cells = [self.profile, f"{cost:.1f} %", str(len(every)), _percent(every), *kinds]
        return "| " + " | ".join(cells) + " |"


def _percent(verdicts: Sequence[bool]) -> str:
    return f"{100 * sum(verdicts) / len(verdicts):.1f}" if verdicts else "-"


def table(scores: Sequence[Score]) -> str:
    """The scores as Markdown: cost (paper convention), and per cent right overall and by kind."""
    head = ["profile", "LLM cost", "questions", "right", *KINDS]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(score.row() for score in scores)]) + "\n"


def _clips(index: Path) -> Iterator[tuple[Path, list[dict[str, str]]]]:
    rows = (json.loads(line) for line in index.read_text(encoding="utf-8").splitlines())
    for video, asked in groupby(rows, key=lambda row: row["video"]):
        yield index.parent / video, list(asked)


def measure(loaded: LoadedModel, profiles: Sequence[str], index: Path, frames: int) -> list[Score]:
    """Ask every question of `index` (as written by `clips.write_clips`) under every profile.

    Raises
    ------
    AdatpError
        A profile, or a clip, cannot be read.
    """
    settings = GenerationSettings(max_new_tokens=48)
    engines = [Engine(loaded, load_profile(name), settings) for name in profiles]
    scores = [Score(name) for name in profiles]
    for number, (path, asked) in enumerate(_clips(index), start=1):
        pixels = read_frames(path, Sampling(frames=frames))
        for engine, score in zip(engines, scores, strict=True):
            clip = engine.encode(path.name, pixels)
            for row in asked:
                for event in engine.answer(clip, row["question"], stream=False):
                    if isinstance(event, Answered):
                        verdict = event.record.answer.strip() == row["answer"]
                        score.right.setdefault(row["kind"], []).append(verdict)
                        score.ratios.append(event.record.flops.paper.ratio)
        if number % 50 == 0:
            log.info("%d clips\n%s", number, table(scores))
    return scores


def main() -> None:
    """Read the command line, measure, and write the table to stdout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--profiles", nargs="+", default=["vanilla", "adatp", "adatp-light"])
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--questions", type=int, default=2, help="per clip")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0, help="of the clips and questions")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    loaded = load_model(LoadRequest(given.model), log.info)
    with tempfile.TemporaryDirectory() as folder:
        index = write_clips(Path(folder), given.clips, seed=given.seed, questions=given.questions)
        scores = measure(loaded, given.profiles, index, given.frames)
    sys.stdout.write(table(scores))


if __name__ == "__main__":
    main()
