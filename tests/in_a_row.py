"""What a clip holds by another way: all packets decoded in a row, no seeking, no sampling.

As a program: ``python -m tests.in_a_row CLIP...`` writes a line for each, `[whole frames, packets]`
as JSON. A process of its own, as damaged clips may take it down.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import av

from adatp_cli.errors import AdatpError
from adatp_cli.video.frames import Resize
from adatp_cli.video.isolated import IsolatedReader
from adatp_cli.video.sampling import Sampling


def count(path: str) -> tuple[int, int] | None:
    """Frames that decode without a flag, and packets; None where nothing opens it."""
    av.logging.set_level(None)
    frames = packets = 0
    try:
        with av.open(path) as container:
            stream = container.streams.best("video") or container.streams.video[0]
            stream.codec_context.thread_type = "SLICE"  # type: ignore[attr-defined]
            for packet in container.demux(stream):
                packets += packet.size > 0 and not packet.is_discard
                try:
                    decoded = packet.decode()
                except (av.FFmpegError, ValueError, OSError):
                    continue
                frames += sum(not frame.is_corrupt for frame in decoded)  # type: ignore[union-attr]
    except (av.FFmpegError, OSError, ValueError, IndexError, OverflowError):
        return (frames, packets) if packets else None
    return frames, packets


def counts(paths: Sequence[Path]) -> list[tuple[int, int] | None]:
    """`count` of each, None too for one over which the process ended."""
    found: list[tuple[int, int] | None] = []
    while len(found) < len(paths):
        command = [sys.executable, "-m", "tests.in_a_row", *map(str, paths[len(found) :])]
        run = subprocess.run(command, capture_output=True, text=True)
        found += [json.loads(line) and tuple(json.loads(line)) for line in run.stdout.splitlines()]
        if run.returncode != 0:
            found.append(None)
    return found


def disagreements(paths: Sequence[Path]) -> list[str]:
    """Clips that the program serves as more whole than they are, a line each."""
    said: list[str] = []
    with IsolatedReader() as reader:
        for path, known in zip(paths, counts(paths), strict=True):
            try:
                read = reader.read(path, Sampling(), resize=Resize(32, "bilinear"))
            except AdatpError:
                continue
            if known is None:
                continue
            whole, packets = known
            lost = read.info.frames_lost
            silent = read.info.codec not in ("h264", "hevc", "mpeg2video")
            if len(read) > whole or (whole < packets and lost == 0 and not silent):
                served = f"{len(read)} frames served, {lost} lost by {read.info.decoder}"
                said.append(f"{path.name}: {served}; in a row {whole} of {packets} are whole")
    return said


def main(paths: Iterable[str]) -> None:
    for path in paths:
        sys.stdout.write(f"{json.dumps(count(path))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
