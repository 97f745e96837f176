"""Folders of pictures in place of a clip: PNG and JPEG alone, decoded in the limited child."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adatp_cli.errors import AdatpError
from adatp_cli.evaluation.datasets.benchmarks import FrameFolder
from adatp_cli.video.decode import InProcessReader
from adatp_cli.video.frames import Resize
from adatp_cli.video.isolated import IsolatedReader
from adatp_cli.video.sampling import Sampling

TWO = Sampling(frames=2)
SMALL = Resize(32, "bicubic")


@pytest.fixture(scope="module")
def reader() -> Iterator[IsolatedReader]:
    with IsolatedReader() as made:
        yield made


def png(width: int, height: int, *, extra: bytes = b"") -> bytes:
    """Black, one bit a pixel."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    rows = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    body = b"".join(rows.compress(row) for _ in range(height)) + rows.flush()
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(extra)) if extra else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + text + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def folder(tmp_path: Path, *contents: bytes, ending: str = "png") -> FrameFolder:
    for number, content in enumerate(contents, 1):
        (tmp_path / f"{number:05}.{ending}").write_bytes(content)
    return FrameFolder(str(tmp_path), 3.0)


def jpeg(shade: int, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (shade, 0, 0)).save(file, kind)
    return file.getvalue()


def test_pictures_are_frames(reader: IsolatedReader, tmp_path: Path) -> None:
    clip = folder(tmp_path, *(jpeg(50 * n) for n in range(4)), ending="jpg")
    there = clip.read(reader, TWO, SMALL)
    here = clip.read(InProcessReader(), TWO, SMALL)
    assert np.array_equal(there.pixels, here.pixels)
    assert there.pixels.shape == (2, 32, 32, 3)
    assert (there.info, there.indices.tolist()) == (here.info, [1, 3])
    assert there.info.frames_total == 4
    assert abs(int(there.pixels[0, 0, 0, 0]) - 50) < 5


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "WEBP", "PPM", "ICO"])
def test_other_formats_stay_shut_whatever_their_names_say(
    reader: IsolatedReader, tmp_path: Path, kind: str
) -> None:
    with pytest.raises(AdatpError, match="is neither PNG nor JPEG"):
        folder(tmp_path, jpeg(9, kind)).read(reader, TWO, SMALL)


def test_postscript_is_not_run(
    reader: IsolatedReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow gives EPS to Ghostscript, whatever the file is called."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    os.chmod(tools / "gs", 0o755)  # noqa: S103 - a program
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n%%EOF\n"
    clip = folder(tmp_path, eps, eps)
    for one in (reader, InProcessReader()):
        with pytest.raises(AdatpError, match="is neither PNG nor JPEG"):
            clip.read(one, TWO, SMALL)
    assert not (tmp_path / "ran").exists()


def test_what_is_damaged_or_far_too_large_is_one_line(
    reader: IsolatedReader, tmp_path: Path
) -> None:
    cases = {
        "is damaged or cut short": jpeg(9)[:400],
        "is neither PNG nor JPEG": b"no picture",
        "13300x13300 pixels are not decoded": png(13300, 13300),
    }
    for place, (said, content) in enumerate(cases.items()):
        (tmp_path / str(place)).mkdir()
        with pytest.raises(AdatpError, match=said) as caught:
            folder(tmp_path / str(place), content).read(reader, TWO, SMALL)
        assert caught.value.message.startswith(str(tmp_path))
        assert "\n" not in caught.value.message
    (tmp_path / "mixed").mkdir()
    with pytest.raises(AdatpError, match="is not as large as the first one"):
        folder(tmp_path / "mixed", png(64, 48), png(48, 64)).read(reader, TWO, SMALL)
    (tmp_path / "text").mkdir()
    with pytest.raises(AdatpError):
        folder(tmp_path / "text", png(64, 48, extra=bytes(60_000_000))).read(reader, TWO, SMALL)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "1.png")
    with pytest.raises(AdatpError, match="is no file"):
        FrameFolder(str(tmp_path / "pipe"), 3.0).read(reader, TWO, SMALL)
