"""A clip to measure on, where none is given: 1080p H.264 as cameras write it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

WIDTH, HEIGHT, RATE = 1920, 1080, 24
SECONDS = 8
_SCENES = 4


def write_clip(
    path: Path, *, width: int = WIDTH, height: int = HEIGHT, seconds: int = SECONDS
) -> None:
    """Write scenes of a moving texture, cut hard; the same every time.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    import av

    random = np.random.default_rng(0)
    count = seconds * RATE
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "28", "x264-params": "log-level=-1"}
        for numbers in np.array_split(np.arange(count), _SCENES):
            coarse = random.integers(0, 256, (height // 8 + 32, width // 8 + 32, 3), dtype=np.uint8)
            scene = np.kron(coarse, np.ones((8, 8, 1), dtype=np.uint8))
            for step in range(len(numbers)):
                top, left = 2 * step % 256, 3 * step % 256
                view = np.ascontiguousarray(scene[top : top + height, left : left + width])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode(None))
