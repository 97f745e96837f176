"""What a batch says at its end: what came of it, where it is, and how well decoding kept up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adatp_cli.cli.progress import BatchProgress, duration
from adatp_cli.text import percent, plural, printable

if TYPE_CHECKING:
    from adatp_cli.batch.prefetch import Throughput

_CLIPS_SHOWN = 5

# Below this share of waiting nobody would gain much by faster decoding.
_NOTABLE = 0.05


def waiting(throughput: Throughput) -> str:
    """The end of the line on clips per minute; empty where only the first clip was waited for."""
    if throughput.clips < 2:
        return ""
    return f"; the model waited for frames {percent(throughput.waited_share)} of the time"


def decoding_limit(throughput: Throughput, decoders: int, cores: int) -> list[str]:
    """What kept the model waiting and what would help; nothing where it hardly waited.

    Parameters
    ----------
    decoders
        Clips that were decoded at the same time; 0: none ahead.
    cores
        What this process may use.
    """
    if throughput.clips < 2 or throughput.waited_share < _NOTABLE:
        return []
    if decoders == 0:
        return ["with --decoders 0 nothing is decoded ahead"]
    decoding, answering = throughput.decoding_s / decoders, throughput.answering_s
    if decoding > answering:
        reason = (
            f"decoding is the limit: it takes {decoding / throughput.clips:.2f} s a clip, "
            f"the model {answering / throughput.clips:.2f} s"
        )
    else:
        reason = "some clips take longer to decode than the ones before them to answer"
    if decoders >= cores:
        return [reason, "no core is left for more decoders: scale clips down, or --shard them"]
    enough = math.ceil(min(cores, throughput.decoding_s / max(answering, 1e-9)))
    return [reason, f"{cores} cores can do more: try --decoders {max(decoders + 1, enough)}"]


class Remarks:
    """Counts what is worth a word about rows that are answers."""

    def __init__(self) -> None:
        self._found: Counter[str] = Counter()
        self._damaged: set[str] = set()

    def add(self, row: Mapping[str, Any]) -> None:
        """Look at one more row."""
        if not row["ok"]:
            return
        if row["video_info"]["frames_lost"]:
            self._damaged.add(row["video"])
        self._found["cut"] += row["finish_reason"] == "length"
        self._found["empty"] += not row["answer"]

    def lines(self) -> list[str]:
        """A line for each kind that was met."""
        lines = []
        if self._found["cut"]:
            cut = plural(self._found["cut"], "answer was", "answers were")
            lines.append(f"{cut} cut; --max-new-tokens raises the limit")
        if self._found["empty"]:
            lines.append(f"{plural(self._found['empty'], 'answer is', 'answers are')} empty")
        if self._damaged:
            damaged = plural(len(self._damaged), "clip is", "clips are")
            lines.append(f"{damaged} damaged: video_info.frames_lost counts what is missing")
        return lines


def outcome(progress: BatchProgress) -> list[str]:
    """How many questions and clips, and which clips failed."""
    failed = sum(progress.failed.values())
    about = f"{plural(progress.rows, 'question')} about {plural(progress.clips, 'clip')}: "
    lines = [
        f"{about if progress.rows else ''}{progress.answered} answered, {failed} failed in "
        f"{duration(progress.seconds)}"
    ]
    lines += [f"  {count} {kind}" for kind, count in progress.failed.most_common()]
    clips = list(progress.failed_clips.items())
    for video, message in clips[:_CLIPS_SHOWN]:
        name = printable(video)
        lines.append(f"  {message if message.startswith(name) else f'{name}: {message}'}")
    if len(clips) > _CLIPS_SHOWN:
        lines.append(f"  and {plural(len(clips) - _CLIPS_SHOWN, 'clip')} more")
    return lines


def going_on(file: Path | None, *, failed: int, left: int) -> list[str]:
    """Where the rows are, and how to get those that are missing.

    Parameters
    ----------
    file
        None where they went to stdout.
    failed, left
        Rows that are failures, and questions that were not come to.
    """
    ways = []
    if left:
        ways.append(f"--resume asks the {plural(left, 'question')} that {_is(left)} left")
    if failed:
        ways.append(f"--resume --retry-failed asks the {failed} that failed again")
    if file is None:
        return [f"with -o FILE, {' and '.join(ways)}"] if ways else []
    return ["; ".join([f"the rows are in {printable(str(file))}", *ways])]


def _is(count: int) -> str:
    return "is" if count == 1 else "are"
