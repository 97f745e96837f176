"""Clips whose frames carry their own numbers, for the tests of reading them, and how that fails."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from adatp_cli.errors import VideoError
from adatp_cli.video.decode import read_frames
from adatp_cli.video.frames import Frames
from adatp_cli.video.sampling import Sampling

DATA = Path(__file__).parent / "data"
EVERY = Sampling()
FOUR = Sampling(frames=4)

# Every generated frame carries its own number: a row of black and white squares along the top,
# so that a test can say which frame really came out, whatever codec it went through.
BITS, SIDE = 8, 16


def numbered(number: int, height: int = 64) -> np.ndarray:
    """(height, 128, 3) uint8: the frame of this number, below 256."""
    image = np.full((height, BITS * SIDE, 3), 96, dtype=np.uint8)
    image[:, :, 0] = np.linspace(40, 200, BITS * SIDE).astype(np.uint8)
    for bit in range(BITS):
        image[:SIDE, bit * SIDE : (bit + 1) * SIDE] = 255 if number >> bit & 1 else 0
    return image


def number_of(image: np.ndarray) -> int:
    """The number that a frame shows."""
    centres = image[SIDE // 2, SIDE // 2 :: SIDE, :].mean(axis=-1)
    return sum(1 << bit for bit, value in enumerate(centres) if value > 128)


def numbers(frames: Frames) -> list[int]:
    """The numbers that frames show, in their order."""
    return [number_of(image) for image in frames.pixels]


def write_clip(
    path: Path,
    frames: int = 60,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    *,
    pts_ms: list[int] | None = None,
    rotate: float | None = None,
    mirror: bool = False,
    sound: bool = False,
    still: bool = False,
    mux: dict[str, str] | None = None,
) -> None:
    """Numbered frames, 30 a second or at `pts_ms`; in a still clip all are frame 0."""
    x264 = {"preset": "ultrafast", "x264-params": "keyint=12:log-level=-1"}
    with av.open(path, "w", options=mux or {}) as out:
        stream: Any = out.add_stream(codec, rate=30)
        stream.width, stream.height = BITS * SIDE, 64
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        stream.options = x264 if options is None and codec == "libx264" else options or {}
        if rotate is not None:
            stream.set_display_rotation(rotate, hflip=mirror)
        if pts_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if sound:
            silence = out.add_stream("aac", rate=16000, layout="mono")
            packets = _silent(silence)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered(0 if still else number), format="rgb24")
            frame.pts = number if pts_ms is None else pts_ms[number]
            if pts_ms is not None:
                frame.time_base = Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound:
            out.mux(packets)


def _silent(stream: Any) -> list[Any]:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
    frame.sample_rate = 16000
    return [*stream.encode(frame), *stream.encode(None)]


def wipe(clip: Path, places: range) -> bytes:
    """The clip with the frames at these places overwritten with zeros."""
    data = bytearray(clip.read_bytes())
    with av.open(clip) as container:
        stream = container.streams.video[0]
        stored = {packet.pts: packet for packet in container.demux(stream) if packet.size}
    for place in places:
        packet = stored[sorted(stored)[place]]
        assert packet.pos is not None
        data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    return bytes(data)


def failure(source: Any, sampling: Sampling = FOUR, **more: Any) -> VideoError:
    """The error of reading this, which has a hint and is free of what libraries say."""
    with pytest.raises(VideoError) as caught:
        read_frames(source, sampling, **more)
    error = caught.value
    assert error.exit_code == 3
    assert error.hint
    for line in (error.message, error.hint):
        assert "\n" not in line
        assert "github/workspace" not in line  # decord's C++ stacks
        assert "Errno" not in line
    return error
