"""Clips that clients may name or send: files below the media roots, and bytes."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from adatp_cli.errors import UsageError, VideoError
from adatp_cli.video.source import Source, local_path

_OPENING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class MediaRoots:
    """The folders whose clips clients may name; none at all unless the server was given some.

    Raises
    ------
    UsageError
        A root is no folder.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = [os.path.realpath(folder) for folder in folders]
        for folder, path in zip(folders, self.folders, strict=True):
            if not os.path.isdir(path):
                raise UsageError(f"--media-root {folder} is no folder", "name one that exists")

    def open(self, text: str) -> Source:
        """The open file that a path or a ``file://`` address names; the caller closes it.

        One error for whatever is wrong: a client must not learn what lies outside. Links are
        followed where they stay below a root.
        """
        for root in self.folders if "\0" not in text else ():
            file = _open_below(root, os.path.realpath(local_path(text, root)))
            if file is not None:
                size = os.fstat(file).st_size
                return Source(text, None, None, size, file, os.path.splitext(text)[1].lower())
        raise VideoError(
            "there is no such clip below the server's media roots",
            "send the clip's bytes, or have its folder served with --media-root",
            kind="missing",
        )


def _open_below(root: str, path: str) -> int | None:
    """The open file at a path without links, walked down from its root; None for anything else."""
    if os.path.commonpath((root, path)) != root:
        return None
    opened = -1
    try:
        opened = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in Path(os.path.relpath(path, root)).parts:
            # Not by its whole path: what was a folder a moment ago may be a link by now.
            inner = os.open(part, _OPENING, dir_fd=opened)
            os.close(opened)
            opened = inner
        found = os.fstat(opened)
        if stat.S_ISREG(found.st_mode) and found.st_size > 0:
            file, opened = opened, -1
            return file
    except OSError:
        pass
    finally:
        if opened >= 0:
            os.close(opened)
    return None


def decoded_bytes(text: str) -> bytes:
    """The bytes of a clip that came as a ``data:`` address or as base64 alone."""
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise UsageError("a data: address of a clip needs ;base64,", "encode it so")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError("the clip's base64 is broken", "encode the whole file anew") from None
    if not data:
        raise UsageError("the clip has no bytes", "send a video file")
    return data
