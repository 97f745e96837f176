"""What turns a clip into frames, for those who need not know how: `FrameReader`."""

from __future__ import annotations

import os
from typing import Protocol

from adatp_cli.video.decode import read_frames
from adatp_cli.video.frames import Frames
from adatp_cli.video.resize import Resize
from adatp_cli.video.sampling import Sampling


class FrameReader(Protocol):
    """Anything that reads clips as `adatp_cli.video.decode.read_frames` does."""

    def read(
        self,
        source: str | os.PathLike[str] | bytes,
        sampling: Sampling,
        *,
        name: str | None = None,
        resize: Resize | None = None,
        decoder: str = "auto",
    ) -> Frames:
        """The frames of a clip; parameters and errors are those of `read_frames`."""
        ...


class InProcessReader:
    """Decodes in this process: for clips that can be trusted, as tests and the demo's are."""

    def read(
        self,
        source: str | os.PathLike[str] | bytes,
        sampling: Sampling,
        *,
        name: str | None = None,
        resize: Resize | None = None,
        decoder: str = "auto",
    ) -> Frames:
        """See `FrameReader.read`."""
        return read_frames(source, sampling, decoder=decoder, name=name, resize=resize)
