"""The result of a measurement as one JSON object, which says what it was made on."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from adatp_cli.bench.facts import MachineFacts
from adatp_cli.bench.runner import BenchPlan
from adatp_cli.bench.scaling import Growth, growth
from adatp_cli.bench.summary import Row
from adatp_cli.record import ModelInfo, Versions
from adatp_cli.video.frames import VideoInfo

SCHEMA_VERSION = 1
RANDOM_WEIGHTS = "random weights: time and memory mean something, answers nothing"
_SCHEMA_FILE = "bench_result.schema.json"


@dataclass(frozen=True, slots=True)
class BenchResult:
    """A whole measurement.

    Parameters
    ----------
    date
        When it was begun.
    machine, versions
        What it was made on.
    model, random_weights
        The weights.
    clip, clip_generated
        What was looked at, and whether it was made for the purpose; None where nothing was read.
    plan, text_tokens
        What was measured, and the prompt's tokens beside the clip's, the newline among them.
    memory_method
        How memory was measured; None where it was not.
    profiles
        Resolved, by contender.
    rows
        The figures.

    `scaling` is what follows from them where there are enough numbers of frames.
    """

    date: datetime.datetime
    machine: MachineFacts
    versions: Versions
    model: ModelInfo
    random_weights: bool
    clip: VideoInfo | None
    clip_generated: bool
    plan: BenchPlan
    text_tokens: int
    memory_method: str | None
    profiles: Mapping[str, Mapping[str, Any]]
    rows: Sequence[Row]

    @property
    def scaling(self) -> list[Growth]:
        """How each contender grows with the frames, as far as enough of them were measured."""
        return growth(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """As `schema_text` describes it."""
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


def schema_text() -> str:
    """The JSON Schema (draft 2020-12) that every result fits."""
    return resources.files("adatp_cli.bench").joinpath(_SCHEMA_FILE).read_text(encoding="utf-8")
