"""A clip reaches nothing but its own bytes, whatever it says."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from adatp_cli.errors import VideoError
from adatp_cli.video import decord_decoder
from adatp_cli.video.container import ClipFile
from adatp_cli.video.decode import read_frames
from adatp_cli.video.frames import Frames
from adatp_cli.video.index import index_clip
from adatp_cli.video.isolated import IsolatedReader
from adatp_cli.video.pyav_decoder import probe
from adatp_cli.video.sampling import Sampling
from adatp_cli.video.source import Source
from tests.decode_case import DATA, numbers, write_clip

FOUR = Sampling(frames=4)


@contextmanager
def watched(path: Path) -> Iterator[Callable[[], bool]]:
    """`opened()` says whether anybody has opened the file since, in whatever process."""
    libc = ctypes.CDLL(None, use_errno=True)
    queue = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    in_open = 0x20
    assert libc.inotify_add_watch(queue, os.fsencode(path), in_open) >= 0

    def opened() -> bool:
        try:
            return bool(os.read(queue, 4096))
        except BlockingIOError:
            return False

    try:
        yield opened
    finally:
        os.close(queue)


def playlist_movie(movie: bytes, other: Path, out: Path) -> None:
    """A movie to FFmpeg 8 and, by its first bytes, a playlist of `other` to FFmpeg 4."""
    head = f"#EXTM3U\n#EXT-X-TARGETDURATION:60\n#EXTINF:60,\n{other}\n#EXT-X-ENDLIST\n".encode()
    size = int.from_bytes(head[:4], "big")  # "#EXT" as the length of an unknown box
    data = bytearray(movie)
    table = data.index(b"stco") + 8
    (count,) = struct.unpack_from(">I", data, table)
    for place in range(table + 4, table + 4 + 4 * count, 4):
        struct.pack_into(">I", data, place, struct.unpack_from(">I", data, place)[0] + size)
    with open(out, "wb") as file:
        file.write(head)
        file.seek(size)  # a hole, which takes no room
        file.write(data)


@pytest.mark.parametrize("decoder", ["auto", "pyav", "decord"])
@pytest.mark.parametrize("isolated", [True, False], ids=["child", "here"])
def test_a_movie_that_begins_like_a_playlist_opens_no_other_file(
    tmp_path: Path, clips: Path, decoder: str, isolated: bool
) -> None:
    other, poly = tmp_path / "other.ts", tmp_path / "poly.mp4"
    write_clip(other, 200)
    playlist_movie((clips / "start.mp4").read_bytes(), other, poly)

    def read() -> Frames:
        if not isolated:
            return read_frames(poly, FOUR, decoder=decoder)
        with IsolatedReader() as reader:
            return reader.read(poly, FOUR, decoder=decoder)

    with watched(other) as opened:
        if decoder == "decord" and decord_decoder.installed():
            with pytest.raises(VideoError):
                read()
        elif decoder != "decord":
            assert numbers(read()) == [7, 22, 37, 52]
        assert not opened()
        other.read_bytes()
        assert opened()


def test_decord_gets_what_can_only_be_the_container_that_it_is(clips: Path) -> None:
    data = (clips / "plain.mp4").read_bytes()
    whole = Source("plain.mp4", None, data, len(data))
    with closing(ClipFile(whole)) as file:
        index = index_clip(file)
        first = probe(file, index)
    assert first is not None
    assert decord_decoder.unfit(whole, index, first) is None
    for head in (b"#EXTM3U\n", b"ffconcat", b"\0\0\0\x08wide"):
        odd = Source("odd.mp4", None, head + data[8:], len(data))
        assert decord_decoder.unfit(odd, index, first) is not None


def test_a_name_that_reads_as_an_address_is_a_file(
    tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "concat:a|b.mp4",
        "pipe:0",
        "http:x.mp4",
        "data:,x.mp4",
        "frame%03d.png",
        b"\xff.mp4",
    ):
        Path(os.fsdecode(name)).write_bytes((clips / "plain.mp4").read_bytes())
        with IsolatedReader() as reader:
            assert numbers(reader.read(os.fsdecode(name), FOUR)) == [7, 22, 37, 52]


def test_reading_an_open_file_moves_nothing_for_others(clips: Path) -> None:
    with open(clips / "plain.mp4", "rb") as file:
        size = os.fstat(file.fileno()).st_size
        source = Source("plain.mp4", None, None, size, file.fileno())
        with source.open() as one, source.open() as two:
            assert one.read(100) == two.read(100)
            two.seek(-10, os.SEEK_END)
            assert two.tell() == size - 10
            assert len(two.read()) == 10
            assert two.seek(0) == 0
        assert file.tell() == 0
        frames = read_frames(source, FOUR)
    assert np.array_equal(frames.pixels, read_frames(clips / "plain.mp4", FOUR).pixels)


def test_a_clip_is_opened_once(monkeypatch: pytest.MonkeyPatch, clips: Path) -> None:
    """A header of 10,000 tags takes minutes each time."""
    opened: list[object] = []
    real = av.open

    def counted(*args: Any, **options: Any) -> Any:
        opened.append(args)
        return real(*args, **options)

    monkeypatch.setattr(av, "open", counted)
    for path in (clips / "plain.mp4", DATA / "flipping_a_pancake.mkv"):
        opened.clear()
        read_frames(path, FOUR, decoder="pyav")
        assert len(opened) == 1
