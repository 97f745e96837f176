"""Decoding in a child process: the same frames, the same errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from adatp_cli.errors import AdatpError, UsageError, VideoError
from adatp_cli.video import decord_decoder
from adatp_cli.video.decode import read_frames
from adatp_cli.video.frames import Frames, Resize
from adatp_cli.video.isolated import IsolatedReader
from adatp_cli.video.sampling import Sampling

DATA = Path(__file__).parent / "data"
CLIP = DATA / "unordered.mov"
TWO = Sampling(frames=2)


@pytest.fixture(scope="module")
def reader() -> Iterator[IsolatedReader]:
    with IsolatedReader() as made:
        yield made


def same(ours: Frames, theirs: Frames) -> bool:
    return (
        np.array_equal(ours.pixels, theirs.pixels)
        and ours.timestamps_s.tolist() == theirs.timestamps_s.tolist()
        and ours.indices.tolist() == theirs.indices.tolist()
        and (ours.info, ours.notes) == (theirs.info, theirs.notes)
    )


@pytest.mark.parametrize("clip", sorted(DATA.glob("*.m[kpo]*")), ids=lambda path: path.name)
@pytest.mark.parametrize("resize", [None, Resize(96, "bicubic")], ids=["whole", "resized"])
def test_the_same_frames(reader: IsolatedReader, clip: Path, resize: Resize | None) -> None:
    there = reader.read(clip, Sampling(frames=5), resize=resize)
    # Only in a child is decord chosen: here nobody would hear it complain.
    here = read_frames(clip, Sampling(frames=5), resize=resize, decoder=there.info.decoder)
    assert same(there, here)
    assert same(reader.read(clip.read_bytes(), Sampling(frames=5), resize=resize), here)
    assert there.pixels.flags.writeable


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_a_decoder_that_is_demanded_is_used(reader: IsolatedReader, decoder: str) -> None:
    if decoder == "decord" and not decord_decoder.installed():
        pytest.skip("decord has no wheel for this platform")
    frames = reader.read(CLIP, Sampling(fps=16.0, start_s=0.03), decoder=decoder)
    assert frames.info.decoder == decoder
    assert same(frames, read_frames(CLIP, Sampling(fps=16.0, start_s=0.03), decoder=decoder))


def test_errors_are_those_of_decoding_here(reader: IsolatedReader, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "notes.mp4").write_text("no video\n" * 50)
    (tmp_path / "cut.mkv").write_bytes((DATA / "flipping_a_pancake.mkv").read_bytes()[:600])
    sources = [tmp_path / name for name in ("none.mp4", "empty.mp4", "notes.mp4", "cut.mkv", ".")]
    for source in (*sources, b"", b"no video\n" * 50):
        for asked, decoder in ((TWO, "auto"), (Sampling(start_s=99.0), "pyav")):
            with pytest.raises(AdatpError) as here:
                read_frames(source, asked, decoder=decoder)
            with pytest.raises(AdatpError) as there:
                reader.read(source, asked, decoder=decoder)
            assert type(there.value) is type(here.value)
            for part in ("message", "hint", "kind"):
                assert getattr(there.value, part) == getattr(here.value, part)
    with pytest.raises(UsageError, match="beyond the end"):
        reader.read(CLIP, Sampling(start_s=99.0))
    with pytest.raises(UsageError, match="no decoder"):
        reader.read(CLIP, TWO, decoder="ffmpeg")


def test_names_are_what_they_are_here(
    reader: IsolatedReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("-x.mp4", "pipe:0.mp4", "café\n.mp4", os.fsdecode(b"\xff\xfe.mp4")):
        Path(name).write_bytes(CLIP.read_bytes())
        assert len(reader.read(name, TWO)) == 2  # The child began in another folder.
        Path(name).write_bytes(b"no video" * 99)
        with pytest.raises(VideoError, match="holds text") as caught:
            reader.read(name, TWO)
        assert caught.value.message.isprintable()
    with pytest.raises(VideoError, match=r"^the clip: holds text"):
        reader.read(name, TWO, name="the clip")
