"""The trace of one answer: every choice of the pruning, as arrays to recompute it from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adatp_cli.answering.generate import Generated, Request
from adatp_cli.files import replacing


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Named arrays, as `--trace` writes them.

    Parameters
    ----------
    arrays
        `video_token_start`, `frames`, `grid` (rows, columns); for every pruning layer l
        `alive_before_l` and `kept_l` (int64 indices of original visual tokens, ascending) and
        `score_l` (float32, one per alive token); `segment_bounds`, `segment_weight`,
        `frame_similarity` and `frame_relevance` (empty where nothing measured them); `prompt_ids`;
        `visual_tokens` (float32, n_v + 1 rows as encoded, the newline last); `first_logits`
        (float32); `answer_ids`. For a method that acts before the language model also
        `entered_tokens` (float32), `entered_owner` (the visual token that each is or was merged
        into) and `entered_break` (whether a line break of text entered instead). `score_l` is empty
        where a method looked at no attention.
    """

    arrays: Mapping[str, npt.NDArray[Any]]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz that loads with ``allow_pickle=False``; it appears whole or not at all.

        Raises
        ------
        UsageError
            When the file cannot be written.
        """
        with replacing(Path(path), "the trace") as file, file.open("wb") as opened:
            np.savez(opened, **dict(self.arrays))  # type: ignore[arg-type]


def build_trace(request: Request, generated: Generated) -> Trace:
    """Collect the arrays of one answer from what the language model was given and what came out."""
    layout, plan = request.layout, request.plan
    entry, segments = plan.entry, plan.segments
    arrays: dict[str, npt.NDArray[Any]] = {
        "video_token_start": np.asarray(layout.start),
        "frames": np.asarray(layout.frames),
        "grid": np.asarray((layout.rows, layout.cols)),
        "prompt_ids": request.input_ids[0].cpu().numpy(),
        "visual_tokens": request.visual.float().cpu().numpy(),
        "first_logits": generated.first_logits.float().cpu().numpy(),
        "answer_ids": np.asarray(generated.ids, dtype=np.int64),
    }
    for step in generated.report.steps:
        arrays[f"alive_before_{step.layer}"] = step.alive_before.numpy()
        arrays[f"kept_{step.layer}"] = step.kept.numpy()
        arrays[f"score_{step.layer}"] = step.score.numpy()
    if entry is not None:
        arrays["entered_tokens"] = entry.embeddings.float().cpu().numpy()
        arrays["entered_owner"] = entry.owners.numpy()
        arrays["entered_break"] = entry.breaks.numpy()
    empty = np.zeros(0)
    bounds = segments.bounds if segments else (0, layout.frames)
    arrays["segment_bounds"] = np.asarray(bounds, dtype=np.int64)
    arrays["segment_weight"] = np.asarray(segments.weights if segments else (1.0,))
    arrays["frame_similarity"] = segments.similarity.numpy() if segments else empty
    relevance = segments.relevance if segments else None
    arrays["frame_relevance"] = empty if relevance is None else relevance.numpy()
    return Trace(arrays)
