"""What is written down: a file of JSON for each group of cases."""

from __future__ import annotations

import gzip
import json
from typing import Any

from tests.goldens.answers import BATCH, BENCH, BIAS, EVAL, PICTURES, RECORDS
from tests.goldens.runs import HERE, Case, machine
from tests.goldens.words import HELP, PROFILES, REFUSALS

GROUPS: dict[str, list[Case]] = {
    "help": HELP,
    "profiles": PROFILES,
    "refusals": REFUSALS,
    "records": RECORDS,
    "batch": BATCH,
    "eval": EVAL,
    "bias": BIAS,
    "bench": BENCH,
    "pictures": PICTURES,
}
# Words are read in a diff; of answers the program tells the differences.
_PLAIN = frozenset({"help", "profiles", "refusals"})


class Book:
    """What a group's cases came to when they were written down, and on which machine."""

    def __init__(self, group: str) -> None:
        self._path = HERE / f"{group}.json" if group in _PLAIN else HERE / f"{group}.json.gz"
        text = "{}"
        if self._path.exists():
            data = self._path.read_bytes()
            text = (data if group in _PLAIN else gzip.decompress(data)).decode()
        found: dict[str, Any] = json.loads(text)
        self.machine: dict[str, str] = found.get("machine", {})
        self.told: dict[str, dict[str, Any]] = found.get("cases", {})

    def save(self) -> None:
        """Write it all down, as of this machine."""
        found = {"machine": machine(), "cases": self.told}
        if self._path.suffix == ".gz":
            text = json.dumps(found, separators=(",", ":"))
            self._path.write_bytes(gzip.compress(text.encode(), mtime=0))
        else:  # words are the same everywhere
            lines = (f" {json.dumps(name)}: {_shown(one)}" for name, one in self.told.items())
            self._path.write_text('{"cases": {\n' + ",\n".join(lines) + "\n}}\n")


def _shown(told: dict[str, Any]) -> str:
    """A line where it is short."""
    text = json.dumps(told, ensure_ascii=False)
    return text if len(text) < 1000 else json.dumps(told, indent=1, ensure_ascii=False)
