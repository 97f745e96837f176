"""Questions about a clip of the world, with the one true answer each.

Every wording of a kind has the same answer. Answers are lower case without a full stop, and are
right only when they are equal word for word.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from adatp_cli.tiny.world import Clip, Thing

NUMBERS = ("zero", "one", "two", "three")
# Kind, wordings, answer.
Row = tuple[str, list[str], str]


@dataclass(frozen=True, slots=True)
class Question:
    """One question as it is typed, its kind and the one right answer."""

    kind: str
    text: str
    answer: str


def _sentence(thing: Thing) -> str:
    return (
        f"a {thing.name} stays still"
        if thing.motion == "still"
        else f"a {thing.name} moves {thing.motion}"
    )


def _place_names(count: int) -> list[str]:
    """Names by which the scenes of a clip can be asked for."""
    return {1: ["first"], 2: ["first", "last"], 3: ["first", "middle", "last"]}[count]


def _story(clip: Clip) -> list[Row]:
    told = [_sentence(scene.subject) for scene in clip.scenes]
    rows = [
        (
            "happens",
            ["what happens?", "what happens in the clip?", "describe the clip."],
            ", then ".join(told),
        )
    ]
    rows.append(("first", ["what happens first?", "what happens at the start?"], told[0]))
    rows.append(("last", ["what happens last?", "what happens at the end?"], told[-1]))
    if len(told) == 3:
        rows.append(("middle", ["what happens in the middle?", "what happens second?"], told[1]))
    return rows


def _looks(clip: Clip) -> list[Row]:
    colours, shapes = Counter(t.colour for t in clip.things), Counter(t.shape for t in clip.things)
    flashed = clip.flash.thing if clip.flash else None
    rows: list[Row] = []
    for thing in clip.things:
        if shapes[thing.shape] == 1:
            wordings = [f"what colour is the {thing.shape}?", f"what color is the {thing.shape}?"]
            rows.append(("colour", wordings, thing.colour))
        if colours[thing.colour] == 1:
            wordings = [f"what shape is {thing.colour}?", f"what shape is the {thing.colour} one?"]
            rows.append(("shape", wordings, thing.shape))
        if thing is flashed:
            continue
        called = [f"the {thing.name}"] + (
            [f"the {thing.shape}"] if shapes[thing.shape] == 1 else []
        )
        moves = "it stays still" if thing.motion == "still" else thing.motion
        wordings = [
            f"{start} {name} move?" for name in called for start in ("where does", "which way does")
        ]
        rows.append(("motion", wordings, moves))
        rows.append(
            ("size", [f"is the {thing.name} small or large?"], "large" if thing.large else "small")
        )
    return rows


def _counts(clip: Clip) -> list[Row]:
    rows = [
        (
            "scenes",
            ["how many scenes are there?", "how many scenes does the clip have?"],
            NUMBERS[len(clip.scenes)],
        )
    ]
    for name, scene in zip(_place_names(len(clip.scenes)), clip.scenes, strict=True):
        wordings = [
            f"how many shapes are in the {name} scene?",
            f"how many shapes does the {name} scene have?",
        ]
        rows.append(("count", wordings, NUMBERS[len(scene.things)]))
    return rows


def _orders(clip: Clip) -> list[Row]:
    rows: list[Row] = []
    subjects = [scene.subject for scene in clip.scenes]
    for i, early in enumerate(subjects):
        for late in subjects[i + 1 :]:
            pairs = ((early, late), (late, early))
            for ask, right in (("first", early), ("last", late)):
                wordings = [f"which comes {ask}, the {a.name} or the {b.name}?" for a, b in pairs]
                rows.append(("order", wordings, f"the {right.name}"))
    for early, late in pairwise(subjects):
        rows.append(("next", [f"what large shape comes after the {early.name}?"], f"a {late.name}"))
        rows.append(
            ("next", [f"what large shape comes before the {late.name}?"], f"a {early.name}")
        )
    return rows


def all_questions(clip: Clip) -> list[Row]:
    """Every question the clip can answer: rows of (kind, wordings, answer)."""
    flash = f"a {clip.flash.thing.name}" if clip.flash else "nothing"
    rows = [*_story(clip), *_looks(clip), *_counts(clip), *_orders(clip)]
    return [*rows, ("flash", ["what flashes?", "what is seen for a moment?"], flash)]


def draw_questions(clip: Clip, rng: np.random.Generator, count: int) -> list[Question]:
    """Draw up to `count` different questions.

    The kind is drawn before the question, or kinds with many questions would be asked more often.
    """
    kinds: dict[str, list[Row]] = {}
    for row in all_questions(clip):
        kinds.setdefault(row[0], []).append(row)
    for rows in kinds.values():
        rng.shuffle(rows)
    drawn: list[Question] = []
    while kinds and len(drawn) < count:
        for kind in rng.permutation(list(kinds)):
            if len(drawn) == count:
                break
            _, wordings, answer = kinds[kind].pop()
            if not kinds[kind]:
                del kinds[kind]
            drawn.append(
                Question(str(kind), vary(wordings[int(rng.integers(len(wordings)))], rng), answer)
            )
    return drawn


def vary(text: str, rng: np.random.Generator) -> str:
    """People write capitals and leave out question marks."""
    if rng.random() < 0.2:
        text = text[0].upper() + text[1:]
    return text.rstrip("?.") if rng.random() < 0.1 else text
