"""Encoded clips that stay in memory, so that a further question about one waits for nothing."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adatp_cli.video.sampling import Sampling
from adatp_cli.video.source import Source

if TYPE_CHECKING:
    from adatp_cli.answering.events import Clip
    from adatp_cli.answering.session import Session


@dataclass(frozen=True, slots=True)
class ClipKey:
    """What decides an encoded clip: the bytes, which frames of it, and what is known of them."""

    content: str  # of a file where it is and when it was written, else the hash of the bytes
    sampling: Sampling
    reuse_frames: float | None
    encoder: bool
    tower_keys: bool


def content_of(source: str | os.PathLike[str] | bytes | Source) -> str | None:
    """What names a clip's bytes, and changes when they may have; None where there is no file."""
    if isinstance(source, bytes):
        return f"sha256:{hashlib.sha256(source).hexdigest()}"
    if isinstance(source, Source):
        if source.data is not None:
            return content_of(source.data)
        where: str | os.PathLike[str] | int = source.path or ""
        if source.file is not None:
            where = source.file
    else:
        where = source
    try:
        found = os.stat(where)
    except (OSError, ValueError):
        return None
    # By whatever name or link it is reached; a copy or a new file of that name is another.
    changed = f"{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"
    return f"file:{found.st_dev}:{found.st_ino}:{changed}"


def clip_key(
    source: str | os.PathLike[str] | bytes | Source, sampling: Sampling, session: Session
) -> ClipKey | None:
    """The key under which a session finds a clip that it can answer about; None without a file."""
    content, needs = content_of(source), session.plan.needs
    if content is None:
        return None
    reuse = session.profile.reuse_frames
    return ClipKey(content, sampling, reuse, needs.encoder, needs.tower_keys)


def clip_bytes(clip: Clip) -> int:
    """Bytes that a clip holds: pixels, and what was encoded of them."""
    encoded = clip.encoded
    tensors = (
        encoded.visual, encoded.tower_vectors, encoded.frame_vectors, encoded.probe_attention,
        encoded.tower_keys,
    )  # fmt: skip
    return int(clip.frames.pixels.nbytes) + sum(one.nbytes for one in tensors if one is not None)


class ClipStore:
    """Encoded clips of one model, at most `limit` bytes of them; which was used last stays longest.

    A clip larger than the whole store is not kept. For any thread.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._clips: OrderedDict[ClipKey, tuple[Clip, int]] = OrderedDict()
        self._guard = threading.Lock()
        self.bytes = self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._clips)

    def __contains__(self, key: ClipKey) -> bool:
        return key in self._clips

    def get(self, key: ClipKey) -> Clip | None:
        """The clip, where it is there; it counts as a hit or a miss."""
        with self._guard:
            found = self._clips.get(key)
            if found is None:
                self.misses += 1
                return None
            self._clips.move_to_end(key)
            self.hits += 1
            return found[0]

    def put(self, key: ClipKey, clip: Clip) -> None:
        """Keep a clip, and let go of those not used for longest until all fit."""
        size = clip_bytes(clip)
        with self._guard:
            if key in self._clips:
                self.bytes -= self._clips.pop(key)[1]
            if size > self.limit:
                return
            self._clips[key] = clip, size
            self.bytes += size
            while self.bytes > self.limit:
                _, (_, gone) = self._clips.popitem(last=False)
                self.bytes -= gone
