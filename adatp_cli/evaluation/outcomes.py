"""What became of each question under each profile, as far as a summary needs it."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adatp_cli.batch.scan import pieces
from adatp_cli.evaluation.questions import Item, Judge, Verdict
from adatp_cli.video.source import printable


@dataclass(frozen=True, slots=True)
class Costs:
    """What one answer cost; ratios are to the unpruned run of the same answer.

    Parameters
    ----------
    paper, end_to_end
        Ratios in the two counts.
    visual, kept_final, kept_mean_ratio
        Visual tokens, those that reach the last layer, and the mean share over the layers.
    text, generated
        Tokens of the prompt beside the video, and of the answer.
    first_token_s, seconds
        From opening the clip to the first token, and to the end of the answer.
    """

    paper: float
    end_to_end: float
    visual: int
    kept_final: int
    kept_mean_ratio: float
    text: int
    generated: int
    first_token_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question under one profile; either an error's kind or an answer with all the rest."""

    item: Item
    profile: str
    error: str | None = None
    answer: str = ""
    verdict: Verdict | None = None
    costs: Costs | None = None

    @property
    def said(self) -> str:
        """What tells two answers apart: the choice where there is one, else the text."""
        if self.verdict is not None and self.verdict.parsed and self.verdict.choice is not None:
            return self.verdict.choice
        return self.answer.strip()


def outcome_of(row: Mapping[str, Any], item: Item, profile: str, judge: Judge) -> Outcome:
    """From a row of the results; the answer is judged anew, so any rule may be asked for."""
    if not row["ok"]:
        return Outcome(item, profile, error=str(row["error"]["kind"]))
    answer: str = row["answer"]
    tokens, seconds, flops = row["tokens"], row["seconds"], row["flops"]
    costs = Costs(
        paper=flops["paper"]["ratio"],
        end_to_end=flops["end_to_end"]["ratio"],
        visual=tokens["visual"],
        kept_final=tokens["kept_final"],
        kept_mean_ratio=tokens["kept_mean_ratio"],
        text=tokens["text"],
        generated=tokens["generated"],
        first_token_s=seconds["first_token"],
        seconds=seconds["first_token"] + seconds["generate"],
    )
    return Outcome(item, profile, None, answer, judge(answer, item), costs)


def stored_rows(path: str | os.PathLike[str], keys: Collection[str]) -> dict[str, dict[str, Any]]:
    """The rows of a result file that have these keys; of several with one key an answer.

    Raises
    ------
    UsageError
        The file holds something else.
    """
    found: dict[str, dict[str, Any]] = {}
    wanted = set(keys)
    with Path(path).open("rb") as stream:
        for piece in pieces(stream, "jsonl", printable(os.fspath(path))):
            if piece is None or piece.key not in wanted:
                continue
            if piece.ok or piece.key not in found:
                found[piece.key] = json.loads(piece.raw)
    return found
