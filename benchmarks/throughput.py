"""Clips per minute of `adatp batch`: ``python benchmarks/throughput.py``.

Makes a folder of 1080p clips (one that is generated and copies of it, H.264) in a temporary folder
and runs the real command on it, in turns

- in a row: each clip is decoded when the one before is answered (``--decoders 0``);
- ahead: the next clips are decoded meanwhile, as the command does by itself;
- ahead with as many decoders as --decoders names.

Loading the model is left out: the rates are those that the command tells at its end, the first
clip's wait included. Writes Markdown to stdout.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adatp_cli.bench.report import machine_facts
from adatp_cli.bench.synthetic import HEIGHT, RATE, WIDTH, write_clip

SAID = re.compile(r"clips, ([\d.]+) a minute; the model waited for frames ([\d.]+) % of the time")


@dataclass(frozen=True)
class Run:
    """One run of the command: what it said, and seconds of a clip from its rows."""

    clips_a_minute: float
    waited_percent: float
    decode_s: float
    answer_s: float
    limit: str
    model: Mapping[str, Any]


def write_clips(folder: Path, count: int, seconds: int) -> None:
    folder.mkdir()
    first = folder / "0000.mp4"
    write_clip(first, seconds=seconds)
    for number in range(1, count):
        shutil.copy(first, folder / f"{number:04}.mp4")


def run(clips: Path, options: argparse.Namespace, decoders: Sequence[str]) -> Run:
    """Run the command once.

    Raises
    ------
    SystemExit
        It failed, or does not say what is looked for.
    """
    command = [
        sys.executable, "-m", "adatp_cli", "batch", str(clips), "-q", options.question,
        "-m", options.model, "-p", options.profile, *decoders,
    ]  # fmt: skip
    if options.frames:
        command += ["-n", str(options.frames)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    said = SAID.search(done.stderr)
    if done.returncode or said is None:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    seconds = [row["seconds"] for row in rows]
    stages = ("vision", "relevance", "prefill", "generate")
    return Run(
        clips_a_minute=float(said[1]),
        waited_percent=float(said[2]),
        decode_s=statistics.mean(item["decode"] for item in seconds),
        answer_s=statistics.mean(sum(item[name] for name in stages) for item in seconds),
        limit=" ".join(done.stderr[said.end() :].split()),
        model=rows[0]["model"] | {"frames": rows[0]["video_info"]["frames_used"]},
    )


def line(name: str, runs: Sequence[Run]) -> str:
    """Medians; of clips a minute the range too."""
    rates = [one.clips_a_minute for one in runs]
    shown = [
        f"{statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})",
        f"{statistics.median(one.waited_percent for one in runs):.0f} %",
        f"{statistics.median(one.decode_s for one in runs):.2f}",
        f"{statistics.median(one.answer_s for one in runs):.2f}",
    ]
    return f"| {name} | {' | '.join(shown)} |"


def report(found: Mapping[str, Sequence[Run]], options: argparse.Namespace, load: float) -> str:
    model = next(iter(found.values()))[0].model
    facts = dataclasses.asdict(machine_facts(model["device"]))
    machine = ", ".join(
        [
            facts["device"],
            f"{facts['cpus']} CPUs",
            f"{facts['threads']} threads",
            f"{facts['memory_bytes'] / 2**30:.0f} GB",
            facts["system"],
            f"load {load:.1f} before",
        ]
    )
    weights = model["dtype"] if model["quantization"] == "none" else model["quantization"]
    lines = [
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {machine}. {model['name']} in {weights}, "
        f"profile {options.profile}, {model['frames']} frames; {options.clips} clips of "
        f"{WIDTH}x{HEIGHT}, {options.seconds} s at {RATE} frames a second; {options.repeat} runs "
        "in turns, medians:",
        "",
        "| decoding | clips a minute | model waited for frames | decoding, s a clip "
        "| model, s a clip |",
        "|---|---|---|---|---|",
        *(line(name, runs) for name, runs in found.items()),
        "",
        *(
            f"- {name}, last run: {runs[-1].limit}"
            for name, runs in found.items()
            if runs[-1].limit
        ),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("-m", "--model", default="tiny", help="as for adatp batch")
    parser.add_argument("-p", "--profile", default="adatp")
    parser.add_argument("-n", "--frames", type=int, help="default: the model's")
    parser.add_argument("--question", default="what happens?")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--seconds", type=int, default=8, help="how long each clip is")
    parser.add_argument("--decoders", type=int, nargs="*", default=[], help="to be tried besides")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    if options.clips < 2 or options.repeat < 1 or options.seconds < 1:
        parser.error("2 clips, 1 second and 1 run are the least")
    ways: dict[str, list[str]] = {"in a row": ["--decoders", "0"], "ahead": []}
    ways |= {f"ahead, {n} decoders": ["--decoders", str(n)] for n in options.decoders}
    found: dict[str, list[Run]] = {name: [] for name in ways}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="adatp-throughput-") as scratch:
        clips = Path(scratch) / "clips"
        write_clips(clips, options.clips, options.seconds)
        for turn in range(options.repeat):
            # Who goes first changes from round to round.
            for name in list(ways) if turn % 2 == 0 else reversed(ways):
                found[name].append(run(clips, options, ways[name]))
    sys.stdout.write(report(found, options, load))


if __name__ == "__main__":
    main()
