"""A clip's bytes: where they are, and what they say before a decoder sees them."""

from __future__ import annotations

import io
import os
import re
import shlex
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

from adatp_cli.errors import VideoError
from adatp_cli.text import printable

STDIN_NAME = "standard input"
_BUFFER_BYTES = 1 << 17
_WHOLE_FILE_HINT = "get or record the whole file again"
_OTHER_FILE_HINT = "give a video file, such as .mp4, .mkv, .webm, .mov or .avi"

# Only enough to name what somebody gave by mistake. A prefix decides nothing but the wording.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"BM", "a BMP picture"),
    (b"II*\x00", "a TIFF picture"),
    (b"MM\x00*", "a TIFF picture"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x7fELF", "a program"),
    (b"#EXTM3U", "a playlist"),
    (b"ffconcat", "a playlist"),
)
_CONTAINERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM"),
    (8, b"AVI ", "AVI"),
    (0, b"FLV", "FLV"),
    (0, b"GIF8", "GIF"),
    (0, b"OggS", "Ogg"),
)
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_STREAMS = frozenset({"mms", "rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "udp"})
_MP4_FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp"})


@dataclass(frozen=True, slots=True)
class Source:
    """A clip that exists and holds bytes: a regular file, open or not, or bytes in memory.

    Decoders get what `open` gives, never a path: one that finds a playlist in a file would open
    the files that it names, and the name of a file itself may read as an address.
    """

    name: str  # for messages: one line, printable
    path: str | None  # absolute
    data: bytes | None  # None for a file
    size: int  # in bytes, above 0
    file: int | None = (
        None  # the descriptor of the open file, where there is one: its owner closes it
    )
    ending: str = ""  # of the file's name, as in ``.mp4``: some containers are only known by it

    def open(self) -> BinaryIO:
        """The bytes from the start; the caller closes."""
        if self.data is not None:
            return io.BytesIO(self.data)
        try:
            raw = io.FileIO(self.path or "") if self.file is None else _OpenFile(self.file)
        except OSError as error:
            raise unreadable(self.name, error) from None
        return _Content(raw, self.ending)


class _Content(io.BufferedReader):
    """A file's bytes, and of its name the ending alone, which is all that FFmpeg gets of it."""

    def __init__(self, raw: io.RawIOBase, ending: str) -> None:
        super().__init__(raw, _BUFFER_BYTES)
        self._ending = ending

    @property
    def name(self) -> str:
        return f"clip{self._ending}"


class _OpenFile(io.RawIOBase):
    """An open file from its start, with a place of its own: whoever else reads it moves nothing."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = os.preadv(self._file, [buffer], self._at)
        self._at += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence)
        if start is None:
            start = os.fstat(self._file).st_size
        if start + offset < 0:
            raise ValueError("before the start")
        self._at = start + offset
        return self._at


def local_path(text: str, folder: str = "") -> str:
    """The path that a text names, whatever way people and programs write paths.

    ``file://`` goes and its percent signs are decoded; ``~`` is the home folder, which no shell
    expands in quotes, lists and ``--option=~/clip.mp4``. A file that is really called so stays.
    """
    path = os.path.join(folder, text)
    if os.path.lexists(path):
        return path
    if text[:7].lower() == "file://":
        host, slash, rest = text[7:].partition("/")
        here = slash and host.lower() in ("", "localhost")
        return os.fsdecode(b"/" + unquote_to_bytes(rest)) if here else text
    if is_address(text):
        return text
    expanded = os.path.expanduser(text)
    return path if expanded == text else expanded


def is_address(text: str) -> bool:
    """Whether the text names something on another machine, as in ``rtsp://camera/1``."""
    return _ADDRESS.match(text) is not None and not os.path.lexists(text)


def refused_address(text: str) -> VideoError:
    """Why an address is no clip, and how to get one from it."""
    scheme = text.partition(":")[0].lower()
    shown = printable(text)
    if scheme in ("http", "https"):
        recipe = f"curl -L {shlex.quote(shown)} | adatp ask - QUESTION"
    elif scheme not in _STREAMS:
        recipe = "copy it to this machine first"
    else:
        recipe = f"to record a minute: ffmpeg -i {shlex.quote(shown)} -t 60 -c copy clip.mkv"
    return VideoError(
        f"{shown}: is an address, and adatp reads files of this machine", recipe, kind="missing"
    )


def check_source(
    source: str | os.PathLike[str] | bytes | Source, name: str | None = None
) -> Source:
    """The source of a clip, or the reason why it cannot be one."""
    if isinstance(source, Source):
        return source
    if isinstance(source, (bytes, bytearray, memoryview)):
        shown = printable(name or STDIN_NAME)
        if not source:
            raise VideoError(f"{shown}: no bytes came", "pipe a video file into it", kind="empty")
        return Source(shown, None, bytes(source), len(source))
    path = os.fspath(source)
    if is_address(path):
        raise refused_address(path)
    shown = printable(name or path)
    mode, size = _stat(path, shown)
    if stat.S_ISDIR(mode):
        raise VideoError(
            f"{shown}: is a folder, not a video file",
            "give a file, or use `adatp batch` for a folder",
            kind="not_a_video",
        )
    if not stat.S_ISREG(mode):
        what = "a named pipe" if stat.S_ISFIFO(mode) else "a device or socket"
        raise VideoError(
            f"{shown}: is {what}, not a video file",
            "pass the bytes on standard input instead: `adatp ask - ...`",
            kind="not_a_video",
        )
    if size == 0:
        raise VideoError(f"{shown}: the file is empty (0 bytes)", _WHOLE_FILE_HINT, kind="empty")
    if not os.access(path, os.R_OK):
        raise VideoError(f"{shown}: no permission to read it", "check the file's rights")
    ending = os.path.splitext(path)[1]
    ending = ending if ending[1:].isascii() and ending[1:].isalnum() else ""
    return Source(shown, os.path.abspath(path), None, size, ending=ending)


def _stat(path: str, shown: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        dangling = os.path.islink(path)
        what = "is a link to a file that does not exist" if dangling else "no such file"
        raise VideoError(f"{shown}: {what}", "check the path", kind="missing") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no valid path"
        raise VideoError(f"{shown}: cannot be opened: {reason}", "check the path") from None
    return found.st_mode, found.st_size


def unreadable(name: str, error: OSError) -> VideoError:
    return VideoError(f"{name}: cannot be read: {error.strerror}", "check the disk and the file")


# What a file says by its own structure. Lengths in headers are a writer's word about the clip
# before it was cut, joined or copied: they say that something is missing only where the structure
# says so too.
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
# A live recording may be a cluster of unknown size with a block each few milliseconds.
_MOST_PARTS = 500_000
_TS_PACKET = 188
# Bytes of an MP4's index that are looked through.
_MOST_INDEX = 1 << 24
_BOX_HEAD = 8
# A fragmented recording has many; a hostile file of 8-byte boxes must not cost a long walk.
_MOST_LISTED = 10_000


def explain_unopened(source: Source) -> VideoError:
    """Why no demuxer took the source: a file of another kind, or a video that is cut or damaged."""
    try:
        with source.open() as stream:
            head = stream.read(512)
            kinds = [kind for _, kind, _ in islice(_boxes(stream, source.size), _MOST_LISTED)]
    except OSError as error:
        return unreadable(source.name, error)
    picture = next((what for magic, what in _SIGNATURES if head.startswith(magic)), None)
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"heic", b"heix", b"mif1"):
        picture = "an AVIF or HEIC picture"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        picture = "a WebP picture"
    if picture is not None:
        return VideoError(
            f"{source.name}: is {picture}, not a video", _OTHER_FILE_HINT, kind="not_a_video"
        )
    if kinds and kinds[0] in _MP4_FIRST_BOXES:
        if b"moov" not in kinds:
            return VideoError(
                f"{source.name}: the MP4 file ends before its index (moov): it is cut short",
                "finish the download or the recording, or repair the file",
                kind="truncated",
            )
        return VideoError(f"{source.name}: the MP4 file's index is damaged", _WHOLE_FILE_HINT)
    for offset, magic, container in _CONTAINERS:
        if head[offset : offset + len(magic)] == magic:
            return VideoError(
                f"{source.name}: the {container} file is cut short or damaged at its start",
                _WHOLE_FILE_HINT,
                kind="truncated",
            )
    text = sum(32 <= byte < 127 or byte in (9, 10, 13) for byte in head)
    what = "holds text" if text > 0.95 * len(head) else "its content is of no known kind"
    return VideoError(f"{source.name}: {what}, not a video", _OTHER_FILE_HINT, kind="not_a_video")


class Ending(Enum):
    """How a file ends."""

    WHOLE = "whole"  # as its writer finished it, so that lengths in its header are true
    OPEN = "open"  # nothing says where it should end: a pipe, a recording, another format
    CUT = "cut"  # in the middle of a part that says how long it is


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
        for place, kind, length in _boxes(stream, source.size):
            if kind == b"moov":
                stream.seek(place)
                content = stream.read(min(length, _MOST_INDEX))
                return b"encv" in content and b"schm" in content
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
    """By its outermost boxes; nothing tells of a fragment that is not there at all."""
    end = 0
    for place, kind, length in _boxes(stream, size):
        if length < _BOX_HEAD or not kind.isascii():  # 0: to the end, wherever that is
            return Ending.OPEN
        end = place + length
        if end > size:
            return Ending.CUT
    if end == size:
        return Ending.WHOLE
    return Ending.CUT if size - end < _BOX_HEAD else Ending.OPEN


def _boxes(stream: BinaryIO, size: int) -> Iterator[tuple[int, bytes, int]]:
    """Place, kind and length of an MP4 or QuickTime file's outermost boxes, while they make sense.

    The last one need not: its length may lead beyond the file, or be less than its own head.
    """
    place = 0
    for _ in range(_MOST_PARTS):
        if place >= size:
            return
        stream.seek(place)
        head = stream.read(2 * _BOX_HEAD)
        if len(head) < _BOX_HEAD:
            return
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:  # a longer one follows; where it is cut, it leads beyond the file
            length = int.from_bytes(head[8:].ljust(8, b"\xff"), "big")
        yield place, kind, length
        if length < _BOX_HEAD:
            return
        place += length


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
