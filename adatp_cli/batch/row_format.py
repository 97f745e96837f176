"""A row of results: what names it, and how it is written as JSON or CSV.

A row is an answer or failure record as plain data, with an object `batch` that holds its key and
what the file looked like: see `stamp`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from adatp_cli.answering.tasks import Ask, ClipSource, ClipTask
from adatp_cli.record import json_line
from adatp_cli.text import csv_line as line_of_cells

if TYPE_CHECKING:
    from adatp_cli.answering.run import Row

FORMATS = ("jsonl", "csv")

Columns = tuple[tuple[str, tuple[str, ...]], ...]

# Not in the record: from opening the clip to the end of the answer, without loading the model.
OWN_SECONDS = ("seconds", "own")

# The columns of a CSV row, and where their values stand in the record. The rest of a record does
# not fit a table; JSON Lines has it.
COLUMNS: Columns = (
    ("ok", ("ok",)),  # true or false
    ("video", ("video",)),
    ("question", ("question",)),
    ("answer", ("answer",)),  # empty in a failed row, as all below but the error and the key
    ("error_kind", ("error", "kind")),
    ("error_message", ("error", "message")),
    ("frames_used", ("video_info", "frames_used")),
    ("duration_s", ("video_info", "duration_s")),
    ("frames_lost", ("video_info", "frames_lost")),  # do not decode, or are not in the file
    ("visual_tokens", ("tokens", "visual")),  # before pruning
    ("kept_mean_ratio", ("tokens", "kept_mean_ratio")),  # of these, mean over the layers
    ("flops_ratio", ("flops", "end_to_end", "ratio")),  # of the unpruned run, end to end
    ("seconds", OWN_SECONDS),  # from opening the clip to the end of the answer
    ("seconds_load", ("seconds", "load")),  # of the model, once for all rows
    ("key", ("batch", "key")),
)
_ADDED = ("frames_lost", "seconds", "seconds_load", "key")
# As they were with version 1 of the record; a file that began so is gone on with so.
OLD_COLUMNS: Columns = (
    *(column for column in COLUMNS if column[0] not in _ADDED),
    ("seconds_total", ("seconds", "total")),
    COLUMNS[-1],
)

# The descriptions of profiles that stand in keys, by those of today: other words for the same
# profile must not ask everything again. `uniform` is not among them, as it keeps other tokens now.
_DESCRIBED_IN_KEYS = {
    "The paper's method and setting": "The paper's setting, 27.3 % of the language model's cost",
    "The paper's method at a small budget": "About a tenth of the language model's cost",
    "The same without a second encoder": "The same budget without a second encoder",
    "AdaTP on a clip thinned out before the model (ours)": (
        "AdaTP on a clip thinned out before the model (ours), 10 %"
    ),
    "Ablation: the schedule alone, over the whole clip": (
        "Ablation: the schedule alone, best scores over all the clip"
    ),
    "Ablation: progressive, and a budget for each segment": (
        "Ablation: adatp-progressive and a budget for each segment"
    ),
    "Ablation: weights, and one token a place and segment": (
        "Ablation: adatp-weights and one token a position and segment"
    ),
    "Ablation: segments, and more for those that match": (
        "Ablation: adatp-segments and more for segments that match"
    ),
    "FastV (arXiv 2403.06764), once, early in the model": (
        "FastV (arXiv 2403.06764), K=2, keeping 25 % of the tokens"
    ),
    "FastVID (arXiv 2503.11187), before the model": (
        "FastVID (arXiv 2503.11187), a quarter before the model"
    ),
    "PyramidDrop (arXiv 2410.17247), at three layers": (
        "PyramidDrop (arXiv 2410.17247), halving at three layers"
    ),
    "PyramidDrop in AdaTP's layers, which can cost less": (
        "PyramidDrop in AdaTP's layers, so that it can cost as little"
    ),
    "UniComp (arXiv 2512.03575), before the model": (
        "UniComp (arXiv 2512.03575), a quarter before the model"
    ),
    "VidCom2 (arXiv 2505.14454), before the model": (
        "VidCom2 (arXiv 2505.14454), a quarter before the model"
    ),
}


def row_key(
    path: str,
    size_bytes: int | None,
    mtime_ns: int | None,
    question: str,
    settings: Mapping[str, object],
) -> str:
    """What names a row: the same file, question and settings give the same key, on any machine.

    SHA-256 of all these as canonical JSON. `clips/a.mp4` and `./clips//a.mp4` are one path.
    """
    named = {
        "path": os.path.normpath(path).replace(os.sep, "/"),
        "size_bytes": size_bytes,
        "mtime_ns": mtime_ns,
        "question": question,
        "settings": _as_in_keys(settings),
    }
    text = json.dumps(named, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _as_in_keys(settings: Mapping[str, object]) -> Mapping[str, object]:
    profile = settings.get("profile")
    if not isinstance(profile, Mapping) or profile.get("description") not in _DESCRIBED_IN_KEYS:
        return settings
    described = _DESCRIBED_IN_KEYS[profile["description"]]
    return {**settings, "profile": {**profile, "description": described}}


def task_of(clip: ClipSource, asks: Iterable[Ask], settings: Mapping[str, object]) -> ClipTask:
    """A clip with its questions and the keys of their rows.

    `settings` is whatever else decides an answer beside clip, question and profile: the model,
    which frames, how answers are decoded.
    """
    size, mtime = clip.stamp()
    keyed = []
    for ask in asks:
        named = {**settings, "profile": ask.run.context.profile, **ask.names}
        keyed.append(replace(ask, key=row_key(clip.name, size, mtime, ask.text, named)))
    return ClipTask(clip, tuple(keyed), size, mtime)


def without(planned: Sequence[ClipTask], done: Mapping[str, bool]) -> list[ClipTask]:
    """What is left of a plan when the rows with the keys of `done` exist."""
    left = []
    for task in planned:
        asks = tuple(ask for ask in task.asks if ask.key not in done)
        if asks:
            left.append(replace(task, asks=asks))
    return left


def stamp(key: str, size_bytes: int | None, mtime_ns: int | None) -> dict[str, Any]:
    """The object `batch` of a row; nanoseconds are text, for jq keeps 53 bits of a number."""
    return {
        "key": key,
        "size_bytes": size_bytes,
        "mtime_ns": None if mtime_ns is None else str(mtime_ns),
    }


def row_data(row: Row) -> dict[str, Any]:
    """A row of a run as plain data: its record, and what names it."""
    batch = stamp(row.ask.key, row.task.size_bytes, row.task.mtime_ns)
    return {**row.record.to_dict(), "batch": batch}


def jsonl_line(row: Mapping[str, Any]) -> str:
    """A row as JSON with its line end, ASCII alone."""
    return f"{json_line(row)}\n"


def csv_header(columns: Columns = COLUMNS) -> str:
    """The first line of a CSV table, with its line end."""
    return line_of_cells([name for name, _ in columns])


def csv_line(row: Mapping[str, Any], columns: Columns = COLUMNS) -> str:
    """A row as CSV with its line end, guarded as `adatp_cli.text.csv_line` tells."""
    return line_of_cells(look_up(row, where) for _, where in columns)


def look_up(row: Mapping[str, Any], where: tuple[str, ...]) -> object:
    """The value at the end of a path of keys; None where there is none."""
    if where == OWN_SECONDS:
        seconds = row.get("seconds")
        return None if seconds is None else round(seconds["first_token"] + seconds["generate"], 6)
    value: Any = row
    for name in where:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
