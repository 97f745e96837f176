"""What is no video, or none that can be read as asked: each bad input has a line of its own."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from adatp_cli.errors import MemoryLimitError, UsageError
from adatp_cli.video import decode as decode_module
from adatp_cli.video.decode import read_frames
from adatp_cli.video.sampling import Sampling
from tests.decode_case import failure


def write_sound(path: Path, codec: str) -> None:
    with av.open(path, "w") as out:
        stream: Any = out.add_stream(codec, rate=16000, layout="mono")
        kind = (np.float32, "fltp") if codec == "aac" else (np.int16, "s16")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), kind[0]), kind[1], "mono")
        frame.sample_rate = 16000
        out.mux([*stream.encode(frame), *stream.encode(None)])


# No file, or none that may be opened.


def test_missing(tmp_path: Path) -> None:
    error = failure(tmp_path / "no.mp4")
    assert error.kind == "missing"
    assert error.message == f"{tmp_path}/no.mp4: no such file"
    (tmp_path / "link.mp4").symlink_to(tmp_path / "no.mp4")
    assert "is a link to a file that does not exist" in failure(tmp_path / "link.mp4").message
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    assert failure(tmp_path / "loop.mp4").kind == "unreadable"
    assert failure("a\0b.mp4").kind == "unreadable"
    assert failure("x" * 5000 + ".mp4").kind == "unreadable"


def test_a_folder_says_what_to_do_with_it(tmp_path: Path) -> None:
    error = failure(tmp_path)
    assert error.kind == "not_a_video"
    assert "is a folder" in error.message
    assert "adatp batch" in error.hint


def test_pipes_devices_and_sockets_are_refused_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    error = failure(tmp_path / "pipe.mp4")  # Opening it would wait forever.
    assert (error.kind, "is a named pipe" in error.message) == ("not_a_video", True)
    assert failure("/dev/zero").kind == "not_a_video"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(tmp_path / "s"))
        assert "device or socket" in failure(tmp_path / "s").message


def test_no_right_to_read(tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # Root may read everything.
    error = failure(clips / "plain.mp4")
    assert (error.kind, "no permission" in error.message) == ("unreadable", True)


def test_control_characters_of_a_name_do_not_reach_the_message(tmp_path: Path) -> None:
    error = failure(tmp_path / "a\n\x1b[31mb.mp4")
    assert "a\\n\\x1b[31mb.mp4" in error.message


# A file that holds no frames of a video.


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    error = failure(tmp_path / "empty.mp4")
    assert error.kind == "empty"
    assert "0 bytes" in error.message
    error = failure(b"")
    assert error.kind == "empty"
    assert error.message == "standard input: no bytes came"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("notes.txt", b"this is no video\n" * 40, "holds text"),
        ("notes.mp4", b"this is no video\n" * 40, "holds text"),
        ("page.mp4", b"<!DOCTYPE html><html></html>", "holds text"),
        ("list.mp4", b"#EXTM3U\n#EXTINF:10,\n/etc/passwd\n", "is a playlist"),
        ("list.ffconcat", b"ffconcat version 1.0\nfile other.mp4\n", "is a playlist"),
        ("p.mp4", b"%PDF-1.7 ...", "is a PDF document"),
        ("z.mp4", b"PK\x03\x04" + bytes(99), "is a zip archive"),
        ("r.mp4", np.random.default_rng(0).bytes(4000), "its content is of no known kind"),
        ("zeros.mp4", bytes(4000), "its content is of no known kind"),
        ("one.mp4", b"\x00", "its content is of no known kind"),
    ],
)
def test_other_content_is_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    error = failure(tmp_path / name)
    assert error.kind == "not_a_video"
    assert says in error.message
    assert error.message.startswith(str(tmp_path / name))
    assert failure(content).message == error.message.replace(str(tmp_path / name), "standard input")


@pytest.mark.parametrize(("name", "codec"), [("p.png", "png"), ("p.jpg", "mjpeg")])
def test_a_picture_is_no_video(tmp_path: Path, name: str, codec: str) -> None:
    with av.open(tmp_path / name, "w", format="image2") as out:
        stream: Any = out.add_stream(codec)
        stream.width = stream.height = 64
        stream.pix_fmt = "rgb24" if codec == "png" else "yuvj420p"
        image = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
        out.mux([*stream.encode(image), *stream.encode(None)])
    error = failure(tmp_path / name)
    assert error.kind == "not_a_video"
    assert "picture, not a video" in error.message


@pytest.mark.parametrize(("name", "codec"), [("a.wav", "pcm_s16le"), ("a.m4a", "aac")])
def test_sound_only(tmp_path: Path, name: str, codec: str) -> None:
    write_sound(tmp_path / name, codec)
    error = failure(tmp_path / name)
    assert error.kind == "no_video_stream"
    assert "holds sound only" in error.message


def test_no_frames(tmp_path: Path) -> None:
    for name in ("zero.mp4", "zero.mkv"):
        with av.open(tmp_path / name, "w") as out:
            stream: Any = out.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            out.start_encoding()
        assert failure(tmp_path / name).kind == "no_frames"


def test_an_unknown_codec_is_named_as_such(tmp_path: Path, clips: Path) -> None:
    whole = (clips / "start.mp4").read_bytes().replace(b"avc1", b"zzzz")
    (tmp_path / "odd.mp4").write_bytes(whole)
    assert failure(tmp_path / "odd.mp4").kind == "unreadable"


# A video that cannot give what is asked of it.


def test_a_range_beyond_the_clip_names_file_and_length(clips: Path) -> None:
    for asked in (Sampling(frames=2, start_s=3.0), Sampling(frames=2, end_s=9.0)):
        with pytest.raises(UsageError) as caught:
            read_frames(clips / "plain.mp4", asked)
        assert "plain.mp4 is 2.00 s long" in caught.value.message


def test_more_pixels_than_the_memory_holds_is_said_before_decoding(
    monkeypatch: pytest.MonkeyPatch, clips: Path
) -> None:
    monkeypatch.setattr(decode_module, "MAX_PIXEL_BYTES", 10 * 64 * 128 * 3)
    assert len(read_frames(clips / "plain.mp4", Sampling(frames=10))) == 10
    with pytest.raises(MemoryLimitError) as caught:
        read_frames(clips / "plain.mp4", Sampling(frames=11))
    assert caught.value.exit_code == 5
    assert "--frames 10 or fewer" in caught.value.hint
