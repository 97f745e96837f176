"""The world that `tiny` knows: scenes of moving coloured shapes, drawn from a seed.

A clip is one to three scenes joined by hard cuts. Each scene has a cluttered background of muted
colours, one large shape (its *subject*) and up to two small ones; every shape moves in one
direction or stays still. Some clips are interrupted by a *flash*: for a moment the screen turns
light and shows one more shape.

Times are fractions of the clip in [0, 1]; lengths are fractions of the side of the (square)
picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "yellow": (244, 214, 50),
    "green": (46, 170, 70),
    "blue": (48, 92, 232),
    "purple": (158, 62, 196),
    "white": (248, 248, 248),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
MOTIONS: dict[str, tuple[float, float]] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "still": (0.0, 0.0),
}
MAX_SCENES = 3
# A scene is long enough for three of the `samples` that a clip is made for, a flash for one or two:
# a motion cannot be told from fewer than two looks, and a moment that no sample meets could not be
# asked about.
SCENE_SAMPLES = 3.25
FLASH_SAMPLES = (1.15, 1.6)


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape: what it is, how large, and its straight way from `start` to `end` in its scene."""

    shape: str
    colour: str
    motion: str
    large: bool
    radius: float
    start: tuple[float, float]
    end: tuple[float, float]

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    def centre(self, progress: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """Centre at `progress` in [0, 1] of the scene; shape (2,) or (2, n)."""
        (x0, y0), (x1, y1) = self.start, self.end
        return np.asarray([x0 + (x1 - x0) * progress, y0 + (y1 - y0) * progress])


@dataclass(frozen=True, slots=True)
class Scene:
    """A background and one to three things, the large subject first, from `begin` to `end`."""

    begin: float
    end: float
    things: tuple[Thing, ...]
    background_seed: int

    @property
    def subject(self) -> Thing:
        return self.things[0]


@dataclass(frozen=True, slots=True)
class Flash:
    """A moment in which only `thing` is seen, on a light screen."""

    begin: float
    end: float
    thing: Thing


@dataclass(frozen=True, slots=True)
class Clip:
    """One to three scenes, one after the other, and perhaps a flash."""

    scenes: tuple[Scene, ...]
    flash: Flash | None

    @property
    def things(self) -> tuple[Thing, ...]:
        """Everything that is ever seen, in order of scenes, the flash last."""
        shown = tuple(thing for scene in self.scenes for thing in scene.things)
        return (*shown, self.flash.thing) if self.flash else shown

    def scene_at(self, time: float) -> int:
        """Index of the scene that `time` in [0, 1] falls into."""
        return next(
            (k for k, scene in enumerate(self.scenes) if time < scene.end), len(self.scenes) - 1
        )

    def in_flash(self, time: float) -> bool:
        return self.flash is not None and self.flash.begin <= time < self.flash.end


def random_clip(rng: np.random.Generator, *, samples: int = 16, scenes: int | None = None) -> Clip:
    """Draw a clip whose every scene and flash is met when `samples` frames are taken evenly.

    `samples` is at least 4; the number of scenes is drawn where it is not given.
    """
    with_flash = bool(rng.random() < 0.4) and samples >= 6
    flash_length = rng.uniform(*FLASH_SAMPLES) / samples if with_flash else 0.0
    room = int((1.0 - flash_length) * samples / SCENE_SAMPLES)
    count = scenes or int(rng.integers(1, min(MAX_SCENES, max(room, 1)) + 1))
    shortest = SCENE_SAMPLES / samples
    spare = 1.0 - flash_length - count * shortest
    lengths = shortest + spare * rng.dirichlet(np.ones(count))
    flashed = int(rng.integers(count)) if with_flash else -1
    names: set[tuple[str, str]] = set()
    made: list[Scene] = []
    flash: Flash | None = None
    begin = 0.0
    for k in range(count):
        end = begin + lengths[k] + (flash_length if k == flashed else 0.0)
        if k == flashed:
            at = begin + rng.uniform(0.0, 1.0) * lengths[k]
            flash = Flash(at, at + flash_length, _flash_thing(rng, names))
        things = _scene_things(rng, names)
        made.append(Scene(begin, 1.0 if k == count - 1 else end, things, int(rng.integers(2**31))))
        begin = end
    return Clip(tuple(made), flash)


def _draw_name(
    rng: np.random.Generator,
    taken: set[tuple[str, str]],
    without: tuple[Thing, ...],
    colours: list[str],
) -> tuple[str, str]:
    """A colour and a shape that no thing of `without` has, as a pair new to the clip."""
    while True:
        colour = colours[int(rng.integers(len(colours)))]
        shape = SHAPES[int(rng.integers(len(SHAPES)))]
        clash = any(thing.colour == colour or thing.shape == shape for thing in without)
        if not clash and (colour, shape) not in taken:
            taken.add((colour, shape))
            return colour, shape


def _flash_thing(rng: np.random.Generator, taken: set[tuple[str, str]]) -> Thing:
    # White would not be seen on the flash's light screen.
    colour, shape = _draw_name(rng, taken, (), [name for name in COLOURS if name != "white"])
    spot = (float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.3, 0.7)))
    return Thing(shape, colour, "still", True, float(rng.uniform(0.18, 0.22)), spot, spot)


def _scene_things(rng: np.random.Generator, taken: set[tuple[str, str]]) -> tuple[Thing, ...]:
    things: tuple[Thing, ...] = ()
    for number in range(int(rng.choice([1, 2, 3], p=[0.4, 0.35, 0.25]))):
        large = number == 0
        radius = float(rng.uniform(0.175, 0.215) if large else rng.uniform(0.105, 0.125))
        placed = _place(rng, radius, things)
        if placed is None:
            break
        colour, shape = _draw_name(rng, taken, things, list(COLOURS))
        things = (*things, Thing(shape, colour, placed[0], large, radius, placed[1], placed[2]))
    return things


def _place(
    rng: np.random.Generator, radius: float, others: tuple[Thing, ...]
) -> tuple[str, tuple[float, float], tuple[float, float]] | None:
    """A motion and a way inside the picture that never touches `others`; None if none is found."""
    progress = np.linspace(0.0, 1.0, 13)
    low, high = radius + 0.02, 0.98 - radius
    # The motion is drawn before the place, or those that fit anywhere would be drawn more often.
    for motion in rng.permutation(list(MOTIONS)):
        dx, dy = MOTIONS[str(motion)]
        for _ in range(20):
            way = float(rng.uniform(0.42, min(0.58, high - low)))
            x = float(rng.uniform(low - min(dx * way, 0.0), high - max(dx * way, 0.0)))
            y = float(rng.uniform(low - min(dy * way, 0.0), high - max(dy * way, 0.0)))
            ex, ey = x + dx * way, y + dy * way
            path = np.asarray([x + (ex - x) * progress, y + (ey - y) * progress])
            gaps = [
                np.hypot(*(path - o.centre(progress))).min() - radius - o.radius for o in others
            ]
            if all(gap > 0.03 for gap in gaps):
                return str(motion), (x, y), (ex, ey)
    return None
