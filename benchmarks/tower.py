"""How many frames should share a pass of the vision tower: ``python benchmarks/tower.py``.

Encodes noise with the tower of a model of random weights (in the published dimensions) in passes of
different sizes, in turns, and prints medians over the rounds as Markdown: seconds, the ratio to one
pass for all, and the memory that was held at most. With --compile each size is measured once more
with the tower through `torch.compile`, whose first round is shown apart. With --reuse the same clip
is encoded with every second frame a copy, and `reuse_frames: 0`.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from adatp_cli.answering.encode import ClipEncoder
from adatp_cli.bench.baseline import PeakWatch
from adatp_cli.bench.report import machine_facts
from adatp_cli.bench.synthetic import load_random
from adatp_cli.model.load import LoadedModel, LoadRequest


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to encode the clip."""

    at_once: int
    compiled: bool = False
    reuse: bool = False

    def __str__(self) -> str:
        extra = (", compiled" if self.compiled else "") + (", half copies" if self.reuse else "")
        return f"{self.at_once}{extra}"


def ways(arguments: argparse.Namespace) -> list[Way]:
    """What is measured, the whole clip in one pass first."""
    sizes = sorted({min(size, arguments.frames) for size in arguments.at_once}, reverse=True)
    found = [Way(size) for size in sizes]
    if arguments.compile:
        found += [Way(size, compiled=True) for size in sizes]
    if arguments.reuse:
        found.append(Way(sizes[-1], reuse=True))
    return found


def encode(loaded: LoadedModel, pixels: Any, way: Way) -> float:
    """Seconds of the clip."""
    encoder = ClipEncoder(
        loaded,
        with_relevance=False,
        reuse=0.0 if way.reuse else None,
        at_once=way.at_once,
    )
    started = time.perf_counter()
    encoder.add(pixels)
    encoder.finish()
    return time.perf_counter() - started


def main(given: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("-m", "--model", default="0.5b-random")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--reuse", action="store_true")
    arguments = parser.parse_args(given)

    request = LoadRequest(
        model=arguments.model,
        device=arguments.device,
        dtype=arguments.dtype,
        quantization="none",
        relevance="none",
    )
    loaded = load_random(request, lambda _text: None)
    side = loaded.shape.vision.image_size
    pixels = np.random.default_rng(0).integers(
        0, 256, (arguments.frames, side, side, 3), dtype=np.uint8
    )
    halves = pixels[np.arange(arguments.frames) // 2 * 2]
    inner: Any = loaded.model.model
    plain = inner.vision_tower
    compiled = torch.compile(plain) if arguments.compile else None
    watch = PeakWatch(loaded.device)
    seconds: dict[Way, list[float]] = {way: [] for way in ways(arguments)}
    peaks: dict[Way, list[int]] = {way: [] for way in seconds}
    first: dict[Way, float] = {}
    for turn in range(arguments.repeat + 1):
        for way in seconds:
            inner.vision_tower = compiled if way.compiled else plain
            if turn == 0:  # warming up
                part = pixels if way.compiled else pixels[: way.at_once]
                first[way] = encode(loaded, part, dataclasses.replace(way, reuse=False))
                continue
            with watch.watch() as peak:
                seconds[way].append(encode(loaded, halves if way.reuse else pixels, way))
            peaks[way].append(peak.above or 0)
    facts = machine_facts(loaded.device)
    sys.stdout.write(
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {facts.device}, {facts.cpus} CPUs, "
        f"{facts.threads} threads, {loaded.name} (random weights) in {loaded.dtype}, "
        f"{arguments.frames} frames, {arguments.repeat} rounds\n\n"
        "| frames per pass | seconds | of one pass | most held, MB |\n|---|---|---|---|\n"
    )
    base = next(iter(seconds))
    for way, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values, seconds[base], strict=True))
        spread = f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
        note = f", first time {first[way]:.1f}" if way.compiled else ""
        held = statistics.median(peaks[way]) / 1e6
        sys.stdout.write(f"| {way} | {spread}{note} | {ratio:.2f} | {held:.0f} |\n")


if __name__ == "__main__":
    main(sys.argv[1:])
