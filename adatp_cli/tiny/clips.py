"""Clips of the world: as pixels, and as real files, H.264 in mp4."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adatp_cli.tiny.questions import Question, all_questions
from adatp_cli.tiny.world import COLOURS, Clip, Thing, random_clip

SIDE = 192  # twice what the tower looks at: a file is resized on its way in, as real ones are
RATE = 24

Pixels = NDArray[np.uint8]


def distance(
    shape: str, x: NDArray[np.float32], y: NDArray[np.float32], radius: float
) -> NDArray[np.float32]:
    """Signed distance to a shape of circumscribed `radius` around the origin.

    Negative inside; y points down.
    """
    if shape == "circle":
        return np.asarray(np.hypot(x, y) - radius)
    if shape == "square":
        return np.asarray(np.maximum(np.abs(x), np.abs(y)) - 0.84 * radius)
    if shape == "triangle":
        lean = np.sqrt(3.0) / 2.0
        return np.asarray(np.maximum(y, np.abs(x) * lean - y / 2) - 0.56 * radius)
    if shape == "cross":
        ax, ay = np.abs(x), np.abs(y)
        arm = 0.34 * radius
        return np.asarray(
            np.minimum(np.maximum(ax - radius, ay - arm), np.maximum(ay - radius, ax - arm))
        )
    # A five-pointed star: fold the plane onto half a ray, then one edge remains.
    step = np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + step) % (2 * step) - step)
    length = np.hypot(x, y)
    px, py = length * np.cos(angle) - radius, length * np.sin(angle)
    inner = 0.45 * radius
    ex, ey = inner * np.cos(step) - radius, inner * np.sin(step)
    return np.asarray((px * ey - py * ex) / np.hypot(ex, ey))


def background(seed: int, side: int) -> NDArray[np.float32]:
    """A static cluttered picture of muted colours, (side, side, 3).

    The same seed gives the same picture at every size, up to resolution.
    """
    rng = np.random.default_rng(seed)
    v, u = np.meshgrid(*([(np.arange(side, dtype=np.float32) + 0.5) / side] * 2), indexing="ij")
    base = rng.uniform(35, 120) + rng.uniform(-14, 14, 3)
    slope = rng.uniform(-30, 30, 2)
    picture = base + (slope[0] * (u - 0.5) + slope[1] * (v - 0.5))[..., None]
    for _ in range(int(rng.integers(0, 7))):
        x, y = rng.uniform(0, 1, 2)
        w, h = rng.uniform(0.03, 0.3, 2)
        angle = rng.uniform(0, np.pi)
        tint = rng.uniform(-26, 26) + rng.uniform(-8, 8, 3)
        a = (u - x) * np.cos(angle) + (v - y) * np.sin(angle)
        b = (v - y) * np.cos(angle) - (u - x) * np.sin(angle)
        inside = np.clip(0.5 - np.maximum(np.abs(a) - w, np.abs(b) - h) * side, 0, 1)
        picture = picture + inside[..., None] * tint
    return np.asarray(np.clip(picture, 0, 165), dtype=np.float32)


def _stamp(picture: NDArray[np.float32], thing: Thing, centre: NDArray[np.float64]) -> None:
    side = picture.shape[0]
    x, y, r = float(centre[0]) * side, float(centre[1]) * side, thing.radius * side
    reach = 1.2 * r + 2
    x0, x1 = max(int(x - reach), 0), min(int(x + reach) + 1, side)
    y0, y1 = max(int(y - reach), 0), min(int(y + reach) + 1, side)
    dx = np.arange(x0, x1, dtype=np.float32)[None] + 0.5 - x
    dy = np.arange(y0, y1, dtype=np.float32)[:, None] + 0.5 - y
    dx, dy = np.broadcast_arrays(dx, dy)
    cover = np.clip(0.5 - distance(thing.shape, dx, dy, r), 0, 1)[..., None]
    patch = picture[y0:y1, x0:x1]
    patch += cover * (np.asarray(COLOURS[thing.colour], np.float32) - patch)


def shown_at(clip: Clip, time: float) -> list[tuple[Thing, NDArray[np.float64]]]:
    """The things in view at `time` with their centres."""
    if clip.flash is not None and clip.in_flash(time):
        return [(clip.flash.thing, clip.flash.thing.centre(0.0))]
    scene = clip.scenes[clip.scene_at(time)]
    progress = (time - scene.begin) / (scene.end - scene.begin)
    return [(thing, thing.centre(progress)) for thing in scene.things]


def render(clip: Clip, times: NDArray[np.float64], side: int) -> Pixels:
    """The frames at `times` (fractions of the clip): (T, side, side, 3) uint8 RGB."""
    backdrops: dict[int, NDArray[np.float32]] = {}
    frames = np.empty((len(times), side, side, 3), np.uint8)
    for t, time in enumerate(float(v) for v in times):
        index = -1 if clip.in_flash(time) else clip.scene_at(time)
        if index not in backdrops:
            backdrops[index] = (
                np.full((side, side, 3), 208, np.float32)
                if index < 0
                else background(clip.scenes[index].background_seed, side)
            )
        picture = backdrops[index].copy()
        for thing, centre in shown_at(clip, time):
            _stamp(picture, thing, centre)
        frames[t] = np.rint(picture)
    return frames


def sample_times(samples: int) -> NDArray[np.float64]:
    """The middles of `samples` equal spans of [0, 1]: where `--frames` looks."""
    return (np.arange(samples) + 0.5) / samples


def write_mp4(path: Path, clip: Clip, seconds: float) -> None:
    """Encode a clip as H.264 (yuv420p, crf 20) at `RATE` frames a second."""
    import av

    from adatp_cli.model.checkpoints import TINY_WORLD

    count = round(seconds * RATE)
    with av.open(str(path), "w", format="mp4") as container:
        container.metadata["comment"] = TINY_WORLD
        stream = container.add_stream(
            "libx264", rate=Fraction(RATE), options={"crf": "20", "threads": "1"}
        )
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for part in np.array_split(sample_times(count), max(count // 32, 1)):
            for picture in render(clip, part, SIDE):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def held_out_clip(seed: int, number: int) -> tuple[Clip, float, np.random.Generator]:
    """Clip `number` of evaluation set `seed`, its 4 to 8 seconds, and what draws its questions.

    Training never sees it: its generators have other keys.
    """
    rng = np.random.default_rng([0x5EED, seed, number])
    return random_clip(rng), float(rng.uniform(4.0, 8.0)), rng


def write_demo_clip(path: Path) -> tuple[Question, ...]:
    """Write a clip of three scenes; the result is one question about it of each of several kinds.

    It has a flash, and the pruned `tiny` is right about it, as about most clips; README.md's table
    says how often it is not.
    """
    clip = random_clip(np.random.default_rng([0xDE70, 2]), scenes=3)
    write_mp4(path, clip, 6.0)
    first = {
        kind: (wordings[0], answer) for kind, wordings, answer in reversed(all_questions(clip))
    }
    kinds = ("happens", "middle", "colour", "motion", "scenes", "flash")
    return tuple(Question(kind, *first[kind]) for kind in kinds)
