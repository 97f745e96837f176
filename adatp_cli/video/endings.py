"""Whether a file is there to its end, and whether it is encrypted, by its own structure.

Lengths in headers are a writer's word about the clip before it was cut, joined or copied: they say
that something is missing only where the structure says so too.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import BinaryIO

from adatp_cli.errors import VideoError
from adatp_cli.video.source import Source

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
# A live recording may be a cluster of unknown size with a block each few milliseconds.
_MOST_PARTS = 500_000
_TS_PACKET = 188
# Bytes of an MP4's index that are looked through.
_MOST_INDEX = 1 << 24


class Ending(Enum):
    """How a file ends.

    WHOLE: as its writer finished it, so that lengths in its header are of what is in it.
    OPEN: nothing says where it should end: a pipe, a recording not finished, another format.
    CUT: in the middle of a part that says how long it is.
    """

    WHOLE = "whole"
    OPEN = "open"
    CUT = "cut"


def ending_of(source: Source, container: str) -> Ending:
    """How the file ends; `container` is FFmpeg's name of its format."""
    kinds = (("matroska", _matroska), ("mov", _mp4), ("flv", _flv), ("avi", _avi))
    look = next((look for kind, look in kinds if container.startswith(kind)), None)
    if look is None:
        return Ending.OPEN
    with source.open() as stream:
        try:
            return look(stream, source.size)
        except (IndexError, struct.error):  # it ends in the middle of a number
            return Ending.CUT


def encrypted(source: Source) -> VideoError:
    """That a clip is encrypted."""
    return VideoError(
        f"{source.name}: it is encrypted (DRM): its frames cannot be read without a key",
        "give a copy that is not encrypted",
        kind="encrypted",
    )


def is_encrypted(source: Source) -> bool:
    """Whether an MP4 file names encrypted samples, or a transport stream scrambled packets."""
    with source.open() as stream:
        head = stream.read(_TS_PACKET * 2000)
        if head[:1] == b"G" and head[_TS_PACKET : _TS_PACKET + 1] == b"G":
            return any(bits & 0x80 for bits in head[3::_TS_PACKET])
        place = 0
        for _ in range(_MOST_PARTS):
            stream.seek(place)
            box = stream.read(16)
            if len(box) < 16 or not box[4:8].isascii():
                return False
            length = int.from_bytes(box[8:16] if box[:4] == b"\0\0\0\1" else box[:4], "big")
            if box[4:8] == b"moov":
                stream.seek(place)
                content = stream.read(min(length, _MOST_INDEX))
                return b"encv" in content and b"schm" in content
            if length < 8:
                return False
            place += length
    return False


def _matroska(stream: BinaryIO, size: int) -> Ending:
    """A file that was finished states the size of its one segment; a pipe cannot."""
    place = 0
    for _ in range(_MOST_PARTS):
        if place >= size:
            return Ending.OPEN
        stream.seek(place)
        head = stream.read(12)
        kind_length = 9 - head[0].bit_length()
        if kind_length > 4:
            return Ending.OPEN  # damaged: what follows cannot be found
        length_length = 9 - head[kind_length].bit_length()
        if length_length > 8:
            return Ending.OPEN
        kind = int.from_bytes(head[:kind_length], "big")
        place += kind_length + length_length
        coded = head[kind_length : kind_length + length_length]
        unknown = (1 << 7 * length_length) - 1
        length = int.from_bytes(coded, "big") & unknown
        if len(coded) < length_length:
            return Ending.CUT
        if length == unknown:
            if kind not in (_SEGMENT, _CLUSTER):
                return Ending.OPEN
            continue  # its parts come next
        place += length
        if place > size:
            return Ending.CUT
        if kind == _SEGMENT:
            return Ending.WHOLE
    return Ending.OPEN


def _mp4(stream: BinaryIO, size: int) -> Ending:
    """By its outermost boxes; a fragment that is not there at all is missed by nobody."""
    place = 0
    for _ in range(_MOST_PARTS):
        if place >= size:
            return Ending.WHOLE
        stream.seek(place)
        length, kind = struct.unpack(">I4s", stream.read(8))
        if length == 1:
            (length,) = struct.unpack(">Q", stream.read(8))
        if length == 0:
            return Ending.OPEN  # to the end, wherever that is
        if length < 8 or not kind.isascii():
            return Ending.OPEN
        place += length
        if place > size:
            return Ending.CUT
    return Ending.OPEN


def _flv(stream: BinaryIO, size: int) -> Ending:
    """By the file size in its metadata, and by the length that stands behind its last tag."""
    head = stream.read(4096)
    place = head.find(b"filesize\x00")
    stated = struct.unpack(">d", head[place + 9 : place + 17])[0] if place > 0 else 0.0
    if stated > size:
        return Ending.CUT
    stream.seek(max(0, size - 4))
    (behind,) = struct.unpack(">I", stream.read(4))
    if not 11 <= behind <= size - 4:
        return Ending.CUT
    stream.seek(size - 4 - behind)
    if behind != 11 + int.from_bytes(stream.read(4)[1:], "big"):
        return Ending.CUT
    return Ending.WHOLE if stated > 0 else Ending.OPEN


def _avi(stream: BinaryIO, size: int) -> Ending:
    """By its RIFF chunks, of which a long file has several."""
    place = 0
    while place + 12 <= size:
        stream.seek(place)
        kind, length = struct.unpack("<4sI", stream.read(8))
        if kind != b"RIFF" or length in (0, 0xFFFFFFFF):
            return Ending.OPEN if place == 0 or kind == b"RIFF" else Ending.WHOLE
        place += 8 + length + length % 2
        if place > size + 1:
            return Ending.CUT
    return Ending.WHOLE
