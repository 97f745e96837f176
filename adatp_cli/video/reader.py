"""What turns a clip into frames, for those who need not know how: `FrameReader`."""

from __future__ import annotations

import os
from typing import Protocol

from adatp_cli.video.decode import read_frames
from adatp_cli.video.frames import Filled, FrameBuffer, Frames, Resize, not_watched
from adatp_cli.video.picture_list import PictureList, picture_bytes, read_pictures
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
        on_frames: Filled = not_watched,
    ) -> Frames:
        """The frames of a clip; parameters and errors are those of `read_frames`.

        Parameters
        ----------
        on_frames
            Called while decoding goes on, or not at all, with an array of all frames' size and how
            many of its first ones are there. They are the clip's only where the result's `pixels`
            are that very array; a decoder that gives up leaves frames that are nobody's. What it
            raises ends the reading and goes on to the caller.
        """
        ...

    def read_pictures(self, pictures: PictureList, resize: Resize | None = None) -> Frames:
        """Frames that are files; errors are those of `picture_list.read_pictures`."""
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
        on_frames: Filled = not_watched,
    ) -> Frames:
        """See `FrameReader.read`."""
        buffer = FrameBuffer(resize, filled=on_frames)
        return read_frames(source, sampling, decoder=decoder, name=name, buffer=buffer)

    def read_pictures(self, pictures: PictureList, resize: Resize | None = None) -> Frames:
        """See `FrameReader.read_pictures`."""
        contents = [picture_bytes(path) for path in pictures.paths]
        return read_pictures(contents, pictures, FrameBuffer(resize))
