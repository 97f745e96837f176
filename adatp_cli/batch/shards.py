"""A share of a batch for each machine of several, without any of them asking the others.

Each machine runs the same command with its own `--shard i/n` and its own `-o`. The results of
finished runs are merged by putting them one behind the other: ``cat part-*.jsonl > all.jsonl``. The
first line of a CSV file is its header, of which one is wanted:
``awk 'NR == 1 || FNR > 1' part-*.csv > all.csv``. A merged file is a result file like any other:
`--resume` without `--shard` asks what is missing in it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from adatp_cli.batch.walk import ClipJob
from adatp_cli.errors import UsageError
from adatp_cli.text import printable

_HINT = "as in --shard 2/5: the second of five shares"


@dataclass(frozen=True, slots=True)
class Shard:
    """Share `index` (from 1) of `count`."""

    index: int
    count: int


def parse_shard(text: str) -> Shard:
    """`2/5` as a shard."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None:
        raise UsageError(f"--shard {printable(text)}: expects two numbers, i/n", _HINT)
    index, count = int(match[1]), int(match[2])
    if not 1 <= index <= count:
        raise UsageError(f"--shard {text}: there is no such share, they go from 1 to n", _HINT)
    return Shard(index, count)


def select(jobs: Iterable[ClipJob], shard: Shard) -> tuple[ClipJob, ...]:
    """The jobs of one shard, in their order.

    A job's shard follows from its `relative` path alone: not from where the folder is mounted, nor
    from what else is in it, so a clip that is added or removed moves no other one.
    """
    return tuple(job for job in jobs if _index(job, shard.count) == shard.index)


def _index(job: ClipJob, count: int) -> int:
    name = (job.relative or job.path).replace(os.sep, "/")
    # Any text has to do, lone surrogates among it: names that are no UTF-8 hold them.
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest, "big") % count + 1
