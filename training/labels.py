"""What training knows of a clip beside its questions: what every cell shows, and what answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from adatp_cli.tiny.clips import distance, shown_at
from adatp_cli.tiny.questions import Question, Row, all_questions, vary
from adatp_cli.tiny.world import COLOURS, MOTIONS, SHAPES, Clip, Thing

LOOK_CODES = (1 + len(SHAPES)) * (1 + len(COLOURS))
SETTLED_AFTER = 0.2  # share of a scene in which a moving thing covers more than half a pooled cell


@dataclass(frozen=True, slots=True)
class Labels:
    """What each cell of a square grid shows, frame by frame.

    Arrays are (T, cells, cells), or (T,) where they tell of the whole frame.
    """

    # 0 for the background, else 1 + the index in the world's tables.
    shape: NDArray[np.int64]
    colour: NDArray[np.int64]
    motion: NDArray[np.int64]
    large: NDArray[np.int64]  # 0 for the background, 1 for a small thing, 2 for a large one
    # (T, cells, cells, 2): from the cell's middle to the thing's centre, in picture sides.
    offset: NDArray[np.float32]
    count: NDArray[np.int64]  # (T,) things in view
    scene: NDArray[np.int64]  # (T,) the scene's index
    flash: NDArray[np.int64]  # (T,) 1 in the flash, else 0
    # (T,) whether the scene has been seen for long enough that a motion can be told.
    settled: NDArray[np.bool_]

    @property
    def look(self) -> NDArray[np.int64]:
        """(T, cells, cells): shape and colour as one number below `LOOK_CODES`."""
        return _code(self.shape, self.colour)


def _code(shape: NDArray[np.int64], colour: NDArray[np.int64]) -> NDArray[np.int64]:
    return shape * (1 + len(COLOURS)) + colour


def look_of(thing: Thing) -> tuple[int, int]:
    """A thing's shape and colour as `Labels` has them."""
    return 1 + SHAPES.index(thing.shape), 1 + list(COLOURS).index(thing.colour)


def look_code(thing: Thing) -> int:
    """The number of `Labels.look` for a thing."""
    shape, colour = (np.asarray(part, np.int64) for part in look_of(thing))
    return int(_code(shape, colour))


def label(clip: Clip, times: NDArray[np.float64], cells: int) -> Labels:
    """What each cell shows at each of `times`: a thing that covers any of nine points of it."""
    count = len(times)
    grid = (count, cells, cells)
    result = Labels(
        shape=np.zeros(grid, np.int64),
        colour=np.zeros(grid, np.int64),
        motion=np.zeros(grid, np.int64),
        large=np.zeros(grid, np.int64),
        offset=np.zeros((*grid, 2), np.float32),
        count=np.zeros(count, np.int64),
        scene=np.zeros(count, np.int64),
        flash=np.zeros(count, np.int64),
        settled=np.zeros(count, np.bool_),
    )
    middle = (np.arange(cells, dtype=np.float32) + 0.5) / cells
    fine = ((np.arange(3 * cells, dtype=np.float32) + 0.5) / (3 * cells)).astype(np.float32)
    first_look: dict[int, float] = {}
    for t, time in enumerate(float(v) for v in times):
        shown = shown_at(clip, time)
        result.count[t] = len(shown)
        result.scene[t] = clip.scene_at(time)
        result.flash[t] = int(clip.in_flash(time))
        if not result.flash[t]:
            scene = clip.scenes[clip.scene_at(time)]
            progress = (time - scene.begin) / (scene.end - scene.begin)
            since = progress - first_look.setdefault(int(result.scene[t]), progress)
            result.settled[t] = since >= SETTLED_AFTER
        for thing, centre in shown:
            dx, dy = np.broadcast_arrays(
                fine[None] - np.float32(centre[0]), fine[:, None] - np.float32(centre[1])
            )
            inside = distance(thing.shape, dx, dy, thing.radius) < 0
            mask = inside.reshape(cells, 3, cells, 3).any((1, 3))
            result.shape[t][mask], result.colour[t][mask] = look_of(thing)
            result.motion[t][mask] = 1 + list(MOTIONS).index(thing.motion)
            result.large[t][mask] = 1 + int(thing.large)
            way_x, way_y = np.broadcast_arrays(
                centre[0] - middle[None], centre[1] - middle[:, None]
            )
            result.offset[t][mask] = np.stack([way_x, way_y], -1)[mask]
    return result


# Index of the scene that a kind, or a scene's name, speaks of.
_SCENE_OF = {"first": 0, "middle": 1, "last": -1}


# A thing as a question names it: colour and shape, None for what it leaves open.
Mention = tuple[str | None, str | None]


def draw_lookups(clip: Clip, rng: np.random.Generator, count: int) -> list[Question]:
    """Draw up to `count` more of what is learned last, in turns.

    Questions that name a thing by its shape alone, and questions for what came before and after.
    """
    by_shape: list[Row] = []
    by_time: list[Row] = []
    for kind, wordings, answer in all_questions(clip):
        if kind in ("colour", "motion"):
            bare = [text for text in wordings if mentions(text)[0][0] is None]
            by_shape += [(kind, bare, answer)] if bare else []
        elif kind in ("order", "next"):
            by_time.append((kind, wordings, answer))
    rng.shuffle(by_shape)
    rng.shuffle(by_time)
    turns = [row for pair in zip_longest(by_time, by_shape) for row in pair if row is not None]
    return [
        Question(kind, vary(wordings[int(rng.integers(len(wordings)))], rng), answer)
        for kind, wordings, answer in turns[:count]
    ]


def mentions(text: str) -> list[Mention]:
    """The things that a question speaks of."""
    found: list[Mention] = []
    colour: str | None = None
    for word in re.findall("[a-z]+", text.lower()):
        if word in SHAPES:
            found.append((colour, word))
            colour = None
        elif word in COLOURS:
            colour = word
    return [*found, (colour, None)] if colour else found


def is_called(thing: Thing, mention: Mention) -> bool:
    """Whether a mention fits a thing."""
    colour, shape = mention
    return colour in (None, thing.colour) and shape in (None, thing.shape)


def evidence(clip: Clip, question: Question) -> tuple[list[Thing], list[Thing]]:
    """What one has to look at to answer: first the things to be found, then those that answer.

    Both are empty where no single thing answers, as in counting scenes.
    """
    text, kind = question.text.lower(), question.kind
    scenes = clip.scenes
    if kind == "scenes":
        return [], []
    if kind == "happens":
        subjects = [scene.subject for scene in scenes]
        return subjects, subjects
    if kind in _SCENE_OF:
        subject = [scenes[_SCENE_OF[kind]].subject]
        return subject, subject
    if kind == "count":
        shown = [
            thing
            for name, index in _SCENE_OF.items()
            if f"{name} scene" in text
            for thing in scenes[index].things
        ]
        return shown, shown
    named = [t for mention in mentions(text) for t in clip.things if is_called(t, mention)]
    if kind in ("order", "next", "flash"):
        answer = [thing for thing in clip.things if question.answer.endswith(f" {thing.name}")]
        return named or answer, answer
    return named, named
