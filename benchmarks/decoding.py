"""What decoding costs: ``python benchmarks/decoding.py``.

Generates its clips (some minutes and a gigabyte, in --folder, kept for the next run), then measures
on this machine

- the seconds of a 1080p clip at 32 frames, decoded in this process and in a child, in turns;
- seconds and peak memory of the child for an hour of 1080p and for a 4K clip, at 64 frames.

Writes Markdown to stdout.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil

from adatp_cli.video.decode import InProcessReader
from adatp_cli.video.frames import FrameReader, Frames, Resize
from adatp_cli.video.isolated import IsolatedReader
from adatp_cli.video.sampling import Sampling

FPS = 30
# What the published checkpoints look at.
MODEL = Resize(384, "bicubic")
PAGE = 4096


def write_clip(path: Path, width: int, height: int, seconds: int) -> None:
    """H.264 as cameras and cutting programs write it: B-frames, a key frame every 250 frames."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (height // 8 + 64, width // 8 + 64, 3), dtype=np.uint8)
    scene = np.kron(coarse, np.ones((8, 8, 1), dtype=np.uint8))
    scene += random.integers(0, 24, scene.shape, dtype=np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "28", "x264-params": "log-level=-1"}
        for number in range(seconds * FPS):
            left, top = number % 500, number // 3 % 500
            view = np.ascontiguousarray(scene[top : top + height, left : left + width])
            out.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        out.mux(stream.encode(None))


def repeat_clip(path: Path, clip: Path, times: int) -> None:
    """The same packets over and over, with a clock that goes on."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as out:
        stream = source.streams.video[0]
        base = stream.time_base or Fraction(1, 1)
        copy = out.add_stream_from_template(stream)
        packets = [
            (bytes(packet), packet.pts or 0, packet.dts or 0, packet.is_keyframe)
            for packet in source.demux(stream)
            if packet.size
        ]
        length = round(len(packets) / FPS / base)
        for turn in range(times):
            for content, pts, dts, is_key in packets:
                packet = av.Packet(content)
                packet.pts, packet.dts = pts + turn * length, dts + turn * length
                packet.time_base, packet.stream, packet.is_keyframe = base, copy, is_key
                out.mux(packet)


def generated(folder: Path, name: str, write: Callable[[Path], None]) -> Path:
    """The clip of this name, written first where it is not there yet."""
    path = folder / name
    if not path.exists():
        unfinished = folder / f"unfinished-{name}"
        write(unfinished)
        unfinished.rename(path)
    return path


def seconds_of(
    reader: FrameReader, clip: Path, resize: Resize | None, decoder: str
) -> tuple[float, Frames]:
    """How long reading 32 frames takes, with every page of theirs looked at."""
    started = time.perf_counter()
    frames = reader.read(clip, Sampling(frames=32), resize=resize, decoder=decoder)
    frames.pixels.reshape(-1)[::PAGE].max()
    return time.perf_counter() - started, frames


def compare(clip: Path, repeats: int) -> list[str]:
    """A line for each decoder, with and without resizing."""
    lines = [
        "| decoder | frames | in this process, s | in a child, s | ratio |",
        "|---|---|---|---|---|",
    ]
    here = InProcessReader()
    with IsolatedReader() as there:
        for decoder in ("auto", "pyav"):
            for resize in (None, MODEL):
                ours: list[float] = []
                theirs: list[float] = []
                for turn in range(repeats + 1):
                    # The first round fills caches; who goes first changes from round to round.
                    pair = [(here, ours), (there, theirs)]
                    for reader, taken in pair if turn % 2 else reversed(pair):
                        seconds, frames = seconds_of(reader, clip, resize, decoder)
                        if turn:
                            taken.append(seconds)
                height, width = frames.pixels.shape[1:3]
                one, other = statistics.median(ours), statistics.median(theirs)
                lines.append(
                    f"| {frames.info.decoder} | 32 of {width}x{height} | {one:.3f} | {other:.3f} "
                    f"| {other / one:.3f} |"
                )
    return lines


class PeakMemory(threading.Thread):
    """The most memory that any child of this process ever had resident, shared pages included."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = 0
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.02):
            for child in psutil.Process().children():
                # A child that has grown is replaced as soon as its clip is read.
                with contextlib.suppress(OSError):
                    self._look(child.pid)

    def _look(self, pid: int) -> None:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                self.bytes = max(self.bytes, int(line.split()[1]) * 1024)

    def end(self) -> None:
        self._ended.set()
        self.join()


def measure(clip: Path, frames: int, decoder: str) -> str:
    """One line on a fresh child that reads one clip."""
    with IsolatedReader() as reader:
        reader.start()
        peak = PeakMemory()
        peak.start()
        started = time.perf_counter()
        read = reader.read(clip, Sampling(frames=frames), resize=MODEL, decoder=decoder)
        seconds = time.perf_counter() - started
        peak.end()
    info = read.info
    size = clip.stat().st_size
    again = f"; {'; '.join(read.notes)}" if read.notes else ""
    return (
        f"| {info.width}x{info.height}, {info.duration_s:.0f} s, {size / 1e6:.0f} MB "
        f"| {info.decoder}{again} | {seconds:.1f} | {peak.bytes / 1e9:.2f} GB |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "adatp-decoding"
    )
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)

    full_hd = generated(folder, "1080p.mp4", lambda path: write_clip(path, 1920, 1080, 20))
    hour = generated(folder, "hour.mp4", lambda path: repeat_clip(path, full_hd, 180))
    four_k = generated(folder, "4k.mp4", lambda path: write_clip(path, 3840, 2160, 10))

    load = os.getloadavg()[0]
    machine = f"{os.cpu_count()} CPUs, {platform.machine()}, load {load:.1f} before"
    lines = [f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {machine}.", ""]
    lines += [f"32 frames of a 20 s clip, median of {options.repeats} in turns:", ""]
    lines += compare(full_hd, options.repeats)
    lines += ["", "64 frames, resized to the model's 384x384 as they are decoded:", ""]
    lines += ["| clip | decoder | seconds | peak memory of the child |", "|---|---|---|---|"]
    for clip in (full_hd, hour, four_k):
        lines += [measure(clip, 64, decoder) for decoder in ("auto", "pyav")]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
