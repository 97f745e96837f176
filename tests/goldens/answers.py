"""Cases that ask tiny."""

from __future__ import annotations

from pathlib import Path

from tests.goldens.runs import Case
from tests.goldens.words import BUNDLED

_TINY = ("-m", "tiny", "--dtype", "float32")
_ASKED = ("What moves first?", "where does the yellow square move?", "how many scenes are there?")
# Seconds, rates and what follows from them.
_TIMES = (
    r"\b\d+(\.\d+)? s\b|^\d+ clips?, .* a minute.*$|^decoding is the limit.*$"
    r"|^the model is the limit.*$|^\d+ cores can do more.*$"
)


def _ask(name: str, *options: str, questions: int = 1, cheap: bool = True) -> Case:
    arguments = ("ask", "shapes.mp4", *_ASKED[:questions], *_TINY, *options, "--quiet")
    return Case(name, arguments, cheap=cheap)


RECORDS = [
    *(
        _ask(f"{name}, one question", "-p", name, "-n", "4", "--json", "--trace", "t.npz")
        for name in BUNDLED
    ),
    *(_ask(f"{name}, three", "-p", name, "-n", "4", "--json", questions=3) for name in BUNDLED),
    *(_ask(f"{name}, auto", "-p", name, "-n", "auto", "--json", cheap=False) for name in BUNDLED),
]
BATCH: list[Case] = []
EVAL: list[Case] = []
BIAS: list[Case] = []
BENCH: list[Case] = []
PICTURES: list[Case] = []
_ = Path
