"""Damaged clips, and what `adatp batch` makes of them.

As a program: `python -m tests.fuzz --count 10000 --seed 1` writes so many mutated clips, drives the
real command over them, and tells what came out.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.checkpoint import write_random_checkpoint
from tests.in_a_row import disagreements
from tests.structure import mutate as mutate_parts

DATA = Path(__file__).parent / "data"
# Extension, encoder, pixel format: what PyAV's own FFmpeg can write.
WRITTEN = (
    ("mp4", "libx264", "yuv420p"),
    ("mov", "libx264", "yuv420p"),
    ("mkv", "libx264", "yuv420p"),
    ("ts", "libx264", "yuv420p"),
    ("flv", "libx264", "yuv420p"),
    ("webm", "libvpx", "yuv420p"),
    ("avi", "mpeg4", "yuv420p"),
    ("mpg", "mpeg2video", "yuv420p"),
)
REAL = ("h265_video.mp4", "av1_video.mkv", "h264_10bits.mp4", "video_90.mov")
# Box and element names whose neighbourhood holds sizes, counts and offsets.
_LANDMARKS = (
    b"tkhd", b"mvhd", b"mdhd", b"stsz", b"stts", b"stco", b"stsc", b"stss", b"ctts", b"avc1",
    b"avcC", b"hvc1", b"elst", b"mdat", b"moov", b"avih", b"strh", b"strf", b"idx1",
    b"\x15\x49\xa9\x66", b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75", b"\x2a\xd7\xb1",
)  # fmt: skip
_ABSURD = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\x00\x00\x00\x00",
           b"\x00\x00\x00\x01", b"\xff\xff\xff\xff\xff\xff\xff\xff")  # fmt: skip

Mutation = Callable[[bytearray, random.Random], bytes]


def write_clip(path: Path, codec: str, pixel_format: str, frames: int = 24) -> None:
    """A short clip of a moving bar, in the container that the file's name says."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(12))
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixel_format  # type: ignore[attr-defined]
        stream.codec_context.gop_size = 8
        for number in range(frames):
            pixels = np.full((64, 96, 3), 40 + 2 * number, dtype=np.uint8)
            pixels[16:48, 3 * number : 3 * number + 16] = 230
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))  # type: ignore[attr-defined]
        container.mux(stream.encode(None))  # type: ignore[attr-defined]


def base_clips(folder: Path) -> list[Path]:
    """Good clips of several containers and codecs."""
    clips = [DATA / name for name in REAL]
    for extension, codec, pixel_format in WRITTEN:
        path = folder / f"{codec}.{extension}"
        write_clip(path, codec, pixel_format)
        clips.append(path)
    return clips


def flip_bits(data: bytearray, rng: random.Random) -> bytes:
    """Single bits anywhere."""
    for _ in range(rng.choice((1, 4, 32, 256))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def flip_bits_in_the_header(data: bytearray, rng: random.Random) -> bytes:
    """Bits among the first and the last bytes, where containers keep their tables."""
    reach = min(len(data), 1500)
    for _ in range(rng.choice((1, 3, 12))):
        place = rng.randrange(reach)
        data[place if rng.random() < 0.5 else len(data) - 1 - place] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut(data: bytearray, rng: random.Random) -> bytes:
    """The end is missing."""
    return bytes(data[: rng.randrange(len(data))])


def behead(data: bytearray, rng: random.Random) -> bytes:
    """The beginning is missing."""
    return bytes(data[rng.randrange(1, min(len(data), 4096)) :])


def _span(data: bytearray, rng: random.Random) -> tuple[int, int]:
    begin = rng.randrange(len(data))
    return begin, min(len(data), begin + rng.choice((8, 64, 512, 4096)))


def swap(data: bytearray, rng: random.Random) -> bytes:
    """Two chunks have changed places."""
    (a, b), (c, d) = sorted((_span(data, rng), _span(data, rng)))
    if b > c:
        return bytes(data[:a] + data[c:d] + data[a:c] + data[d:])
    return bytes(data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:])


def repeat(data: bytearray, rng: random.Random) -> bytes:
    """A chunk comes twice."""
    a, b = _span(data, rng)
    return bytes(data[:b] + data[a:])


def blank(data: bytearray, rng: random.Random) -> bytes:
    """A chunk is zeros, as after a disk error."""
    a, b = _span(data, rng)
    data[a:b] = bytes(b - a)
    return bytes(data)


def noise(data: bytearray, rng: random.Random) -> bytes:
    """A chunk is noise."""
    a, b = _span(data, rng)
    data[a:b] = rng.randbytes(b - a)
    return bytes(data)


def wrong_header(data: bytearray, rng: random.Random) -> bytes:
    """The first bytes are another container's, or noise."""
    heads = (b"\x00\x00\x00\x20ftypisom", b"\x1aE\xdf\xa3\x9f", b"RIFF\xff\xff\xff\xffAVI LIST",
             b"FLV\x01\x05", b"G@\x00\x10", rng.randbytes(32))  # fmt: skip
    head = rng.choice(heads)
    data[: len(head)] = head
    return bytes(data)


def absurd_sizes(data: bytearray, rng: random.Random) -> bytes:
    """Sizes, counts, durations or dimensions in the metadata are absurd."""
    places = [at for mark in _LANDMARKS for at in _occurrences(data, mark)] or [
        rng.randrange(len(data))
    ]
    for _ in range(rng.choice((1, 2, 5))):
        at = max(0, rng.choice(places) + rng.randrange(-4, 90))
        value = rng.choice(_ABSURD)
        data[at : at + len(value)] = value
    return bytes(data)


def _occurrences(data: bytearray, mark: bytes) -> list[int]:
    found: list[int] = []
    at = data.find(mark)
    while at >= 0 and len(found) < 8:
        found.append(at)
        at = data.find(mark, at + 1)
    return found


def structure(data: bytearray, rng: random.Random) -> bytes:
    """Boxes, elements, chunks or packets are missing, doubled, swapped, or say what is not so."""
    return mutate_parts(data, rng)


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits, flip_bits_in_the_header, cut, behead, swap, repeat, blank, noise, wrong_header,
    absurd_sizes, structure, structure, structure,
)  # fmt: skip


def write_corpus(
    folder: Path, count: int, seed: int, mutations: Sequence[Mutation] = MUTATIONS
) -> None:
    """Write `count` mutated clips, the same ones for the same seed.

    Each is named by its number, its mutations and the clip that it was.
    """
    with tempfile.TemporaryDirectory() as scratch:
        bases = [(path.name, path.read_bytes()) for path in base_clips(Path(scratch))]
    for number in range(count):
        rng = random.Random(f"{seed}-{number}")
        name, data = bases[number % len(bases)]
        chosen = rng.sample(mutations, min(len(mutations), rng.choice((1, 1, 1, 2, 3))))
        for mutation in chosen:
            data = mutation(bytearray(data or b"\0"), rng)
        made = "+".join(mutation.__name__ for mutation in chosen)
        (folder / f"{number:05} {made} {name}").write_bytes(data)


@dataclass
class Outcome:
    """What a run over a folder came to.

    Parameters
    ----------
    code
        Exit code of the program.
    rows
        Rows as written, parsed; a line that is no JSON raises.
    seconds
        In all.
    resident
        Of the program itself, in bytes, as (rows written, resident size), sampled while it ran.
    stderr
        What it said.
    """

    code: int
    rows: list[dict[str, Any]]
    seconds: float
    stderr: str
    resident: list[tuple[int, int]] = field(default_factory=list)

    def kinds(self) -> Counter[str]:
        """How the rows ended: `answered`, or the kind of the error."""
        return Counter("answered" if row["ok"] else row["error"]["kind"] for row in self.rows)

    def growth(self, after: int) -> int:
        """Bytes that the program grew by since `after` rows were written."""
        sizes = [size for rows, size in self.resident if rows >= after]
        return max(sizes) - sizes[0] if sizes else 0


def drive(folder: Path, out: Path, model: str, arguments: Sequence[str] = ()) -> Outcome:
    """Run `adatp batch` over a folder, watching its memory."""
    command = [
        sys.executable, "-m", "adatp_cli", "batch", str(folder), "-q", "what happens?",
        "-m", model, "-n", "4", "--max-new-tokens", "2", "-o", str(out), *arguments,
    ]  # fmt: skip
    began = time.monotonic()
    resident: list[tuple[int, int]] = []
    with tempfile.TemporaryFile("w+") as said:
        program = subprocess.Popen(command, stderr=said)
        while program.poll() is None:
            time.sleep(0.25)
            resident.append((_lines(out), _resident(program.pid)))
        said.seek(0)
        stderr = said.read()
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    rows = [json.loads(line) for line in lines]
    seconds = time.monotonic() - began
    return Outcome(program.returncode, rows, seconds, stderr, [r for r in resident if r[1]])


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _resident(pid: int) -> int:
    """Resident bytes of a process; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except OSError:
        return 0
    return int(fields[1]) * 4096 if len(fields) > 1 else 0


def main() -> None:
    """Write a corpus, drive the command over it, print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep the clips and the rows here")
    parser.add_argument("--compared", type=int, default=1000, help="clips decoded in a row too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home: Path = given.folder or Path(scratch)
        clips, out = home / "clips", home / "rows.jsonl"
        clips.mkdir(parents=True, exist_ok=True)
        write_corpus(clips, given.count, given.seed)
        model = write_random_checkpoint(home / "model")
        outcome = drive(clips, out, str(model), ("--overwrite", "--quiet"))
        said = disagreements(sorted(clips.iterdir())[: given.compared])
    names = Counter(row["video"] for row in outcome.rows)
    lines = [
        f"{given.count} clips, seed {given.seed}: exit {outcome.code}, {len(outcome.rows)} rows",
        f"{len(names)} different clips, {outcome.seconds:.0f} s, "
        f"grown by {outcome.growth(10) / 1e6:.0f} MB after ten rows",
        *(f"{count:6} {kind}" for kind, count in outcome.kinds().most_common()),
        f"{len(said)} served as more whole than they are",
        *said,
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
