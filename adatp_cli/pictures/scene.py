"""What a picture shows: the frames of a clip, and what one or two profiles made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from adatp_cli.record import AnswerRecord, SegmentFacts

# Beyond these a frame is drawn as if it were this wide or this tall: it could not be seen at all.
_WIDEST, _TALLEST = 4.0, 0.25


@dataclass(frozen=True, slots=True, eq=False)
class TokenFates:
    """What became of each visual token."""

    # (T, rows, cols): the layer before which the token fell, 0 for what went (or was merged into
    # another) before the language model; `layers` for what was kept to the end.
    fell: npt.NDArray[np.int64]
    layers: int  # of the language model
    steps: tuple[int, ...]  # the layers before which tokens could go, rising; none: no pruning

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]], layers: int) -> TokenFates:
        """From a trace's arrays; a `ValueError` if no model of so many layers made them."""
        try:
            rows, cols = (int(count) for count in arrays["grid"])
            fell = np.full((int(arrays["frames"]), rows, cols), layers, dtype=np.int64)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("the arrays are no trace") from error
        steps = sorted(int(name[5:]) for name in arrays if name.startswith("kept_"))
        if steps and steps[-1] >= layers:
            raise ValueError(f"the trace has choices at layer {steps[-1]} of {layers}")
        flat = fell.reshape(-1)
        for layer in steps:
            dropped = np.setdiff1d(arrays[f"alive_before_{layer}"], arrays[f"kept_{layer}"])
            flat[dropped] = layer
        return cls(fell, layers, tuple(steps))

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """(T, rows, cols): the tokens that reach the last layer."""
        kept: npt.NDArray[np.bool_] = self.fell == self.layers
        return kept


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One profile's answer."""

    record: AnswerRecord
    fates: TokenFates
    costs: Sequence[tuple[str, str]]  # what it cost: label and text of each line
    relevance: npt.NDArray[np.float64] | None  # (T,) of each frame to the question, if measured
    similarity: npt.NDArray[np.float64] | None  # (T-1,) of each frame to the next, if measured

    @classmethod
    def of(
        cls,
        record: AnswerRecord,
        arrays: Mapping[str, npt.NDArray[Any]],
        costs: Sequence[tuple[str, str]] = (),
    ) -> Panel:
        """From a record and the trace of the same answer."""
        relevance, similarity = (
            arrays[name] if len(arrays[name]) else None
            for name in ("frame_relevance", "frame_similarity")
        )
        return cls(record, TokenFates.of(arrays, record.model.layers), costs, relevance, similarity)

    @property
    def answer(self) -> str:
        """The answer as a line of its own."""
        return f"Answer: {self.record.answer.strip() or '(no text)'}"

    def segment_of(self, frame: int) -> tuple[int, SegmentFacts] | None:
        """The segment that a frame belongs to, and its number from 0; None without segments."""
        for number, segment in enumerate(self.record.segments):
            if segment.first_frame <= frame <= segment.last_frame:
                return number, segment
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A question about a clip, and one or more answers to it."""

    pixels: npt.NDArray[np.uint8]  # (T, H, W, 3), RGB; any size, the same for all
    panels: Sequence[Panel]  # at least one, all about these frames

    def __post_init__(self) -> None:
        if not self.panels:
            raise ValueError("a picture needs at least one answer")
        for panel in self.panels:
            count = len(panel.record.video_info.timestamps_s)
            if not len(self.pixels) == count == len(panel.fates.fell):
                raise ValueError("frames and answers do not belong together")

    @property
    def record(self) -> AnswerRecord:
        """The first answer's record, for what all have in common."""
        return self.panels[0].record

    @property
    def aspect(self) -> float:
        """Width over height at which frames are shown, as the clip is."""
        info = self.record.video_info
        return min(max(info.width / info.height, _TALLEST), _WIDEST)

    @property
    def times(self) -> list[float]:
        """Timestamps of the frames in seconds."""
        return self.record.video_info.timestamps_s
