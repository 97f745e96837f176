"""decord where it is right, PyAV elsewhere: the same frames from both, and no mistake kept."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from adatp_cli.errors import UsageError, VideoError
from adatp_cli.video import decord_decoder
from adatp_cli.video.channel import shared_file
from adatp_cli.video.decode import read_frames
from adatp_cli.video.frames import FrameBuffer
from adatp_cli.video.isolated import IsolatedReader
from adatp_cli.video.sampling import Sampling
from tests.decode_case import DATA, EVERY, failure, number_of, numbered, numbers, write_clip

needs_decord = pytest.mark.skipif(
    not decord_decoder.installed(), reason="decord has no wheel for this platform"
)


# Which decoder reads what.


@pytest.fixture
def listening() -> Iterator[Callable[[], FrameBuffer]]:
    """`listening()`: a buffer as in the decoding child, where decord's complaints are heard."""
    with shared_file(bytes(64)) as ear:
        yield lambda: FrameBuffer(ear=ear)


@needs_decord
def test_decord_reads_small_clips_in_the_child() -> None:
    with IsolatedReader() as reader:
        for name in ("flipping_a_pancake.mkv", "h264_10bits.mp4", "unordered.mov", "video_90.mov"):
            assert reader.read(DATA / name, Sampling(frames=2)).info.decoder == "decord", name
    # Elsewhere nobody would hear it complain.
    assert read_frames(DATA / "unordered.mov", Sampling(frames=2)).info.decoder == "pyav"


@needs_decord
def test_large_frames_fall_to_pyav(tmp_path: Path, listening: Callable[[], FrameBuffer]) -> None:
    for height, decoder in ((96, "decord"), (360, "pyav")):
        path = tmp_path / f"{height}.mp4"
        with av.open(path, "w") as out:
            stream: Any = out.add_stream("libx264", rate=5)
            stream.width, stream.height, stream.pix_fmt = 640, height, "yuv420p"
            stream.options = {"preset": "ultrafast", "x264-params": "log-level=-1"}
            image = np.zeros((height, 640, 3), dtype=np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            out.mux(stream.encode(None))
        frames = read_frames(path, Sampling(frames=1), buffer=listening())
        assert (frames.info.decoder, frames.notes) == (decoder, ())


def test_av1_falls_to_pyav() -> None:
    frames = read_frames(DATA / "av1_video.mkv", Sampling(frames=4))
    assert (frames.info.decoder, frames.info.codec) == ("pyav", "av1")
    assert frames.pixels.shape == (4, 360, 640, 3)
    assert frames.indices.tolist() == [15, 46, 78, 109]
    assert frames.timestamps_s == pytest.approx(frames.indices / 25)


def test_without_decord_pyav_reads_everything(monkeypatch: pytest.MonkeyPatch, clips: Path) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    frames = read_frames(clips / "plain.mp4", Sampling(frames=6))
    assert (frames.info.decoder, frames.notes) == ("pyav", ())
    assert numbers(frames) == [5, 15, 25, 35, 45, 55]
    with pytest.raises(UsageError):
        read_frames(clips / "plain.mp4", Sampling(frames=6), decoder="decord")


def test_a_decoder_that_is_demanded_is_used_or_refused() -> None:
    with pytest.raises(UsageError, match="no decoder 'ffmpeg'"):
        read_frames(DATA / "unordered.mov", EVERY, decoder="ffmpeg")
    if decord_decoder.installed():
        assert "decord cannot open it" in failure(DATA / "av1_video.mkv", decoder="decord").message


# Both decoders give the same.


@needs_decord
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("flipping_a_pancake.mkv", 0.5),
        ("unordered.mov", 0.5),
        ("video_90.mov", 0.5),
        # From 10 bits, the two scale the colour planes up by different filters.
        ("h264_10bits.mp4", 5.0),
    ],
)
def test_decoders_agree(name: str, tolerance: float) -> None:
    asked = Sampling(frames=7)
    ours = read_frames(DATA / name, asked, decoder="pyav")
    theirs = read_frames(DATA / name, asked, decoder="decord")
    assert (ours.info.decoder, theirs.info.decoder) == ("pyav", "decord")
    assert ours.indices.tolist() == theirs.indices.tolist()
    assert ours.timestamps_s.tolist() == theirs.timestamps_s.tolist()
    off = np.abs(ours.pixels.astype(int) - theirs.pixels.astype(int))
    assert off.mean(axis=(1, 2, 3)).max() <= tolerance


@needs_decord
@pytest.mark.parametrize("angle", [90, 180, -90])
def test_decoders_agree_on_rotation(tmp_path: Path, angle: int) -> None:
    write_clip(tmp_path / "turned.mp4", 5, rotate=angle)
    ours = read_frames(tmp_path / "turned.mp4", EVERY, decoder="pyav")
    theirs = read_frames(tmp_path / "turned.mp4", EVERY, decoder="decord")
    assert ours.info.rotation == -angle % 360
    assert np.array_equal(ours.pixels, theirs.pixels)
    upright = np.rot90(ours.pixels, -angle // 90, axes=(1, 2))  # Undo it.
    assert [number_of(image) for image in upright] == [0, 1, 2, 3, 4]


# decord's silent mistakes are found out.


class _FakeReader:
    """A decord reader that gives the same frame for every index, as it does over broken data."""

    def __init__(self, *_: Any, **options: Any) -> None:
        # What decord calls tolerance is to repeat frames without a word.
        assert 0 < options["fault_tol"] < 1e-6

    def __len__(self) -> int:
        return 60

    def get_frame_timestamp(self, wanted: range) -> np.ndarray:
        return np.stack([np.array(wanted) / 30, (np.array(wanted) + 1) / 30], axis=1)

    def get_batch(self, wanted: list[int]) -> np.ndarray:
        return np.stack([numbered(0)] * len(wanted))


def fake_decord(monkeypatch: pytest.MonkeyPatch, reader: type) -> None:
    module: Any = types.ModuleType("decord")
    module.VideoReader = reader
    module.cpu = lambda _: None
    module.logging = types.SimpleNamespace(set_level=lambda _: None, QUIET=0, ERROR=16)
    monkeypatch.setitem(sys.modules, "decord", module)


def test_repeated_frames_are_checked_with_pyav(
    monkeypatch: pytest.MonkeyPatch, clips: Path, listening: Callable[[], FrameBuffer]
) -> None:
    fake_decord(monkeypatch, _FakeReader)
    frames = read_frames(clips / "plain.mp4", Sampling(frames=6), buffer=listening())
    assert frames.info.decoder == "pyav"
    assert numbers(frames) == [5, 15, 25, 35, 45, 55]
    assert frames.notes == ("decoded by PyAV: decord repeats frames that differ",)


def test_repeats_in_a_still_clip_are_believed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listening: Callable[[], FrameBuffer]
) -> None:
    write_clip(tmp_path / "still.mkv", 60, options={"qp": "0"}, still=True)
    fake_decord(monkeypatch, _FakeReader)
    frames = read_frames(tmp_path / "still.mkv", Sampling(frames=6), buffer=listening())
    assert frames.info.decoder == "decord"


@pytest.mark.parametrize("fault", ["short", "shifted", "open", "batch", "size", "damage"])
def test_other_faults_of_decord_send_the_file_to_pyav(
    monkeypatch: pytest.MonkeyPatch,
    clips: Path,
    fault: str,
    capfd: pytest.CaptureFixture[str],
    listening: Callable[[], FrameBuffer],
) -> None:
    buffer = listening()
    assert buffer.ear is not None
    ear: int = buffer.ear

    class Faulty(_FakeReader):
        def __init__(self, *_: Any, **__: Any) -> None:
            if fault == "open":
                raise RuntimeError("[/github/workspace/src] the file's own bytes\nstack")

        def __len__(self) -> int:
            return 59 if fault == "short" else 60

        def get_frame_timestamp(self, wanted: range) -> np.ndarray:
            times = super().get_frame_timestamp(wanted)
            times[30:] += 1.0 if fault == "shifted" else 0.0
            return times

        def get_batch(self, wanted: list[int]) -> np.ndarray:
            if fault == "batch":
                raise RuntimeError("[/github/workspace/src] the file's own bytes\nstack")
            if fault == "damage":
                os.write(ear, b"[h264] error while decoding MB 1 5")
            if fault == "size":
                return np.zeros((len(wanted), 4, 4, 3), np.uint8)
            return np.stack([numbered(i) for i in wanted])

    fake_decord(monkeypatch, Faulty)
    frames = read_frames(clips / "plain.mp4", Sampling(frames=6), buffer=buffer)
    assert frames.info.decoder == "pyav"
    assert numbers(frames) == [5, 15, 25, 35, 45, 55]
    assert len(frames.notes) == 1
    assert "github" not in frames.notes[0]
    assert "\n" not in frames.notes[0]
    assert capfd.readouterr() == ("", "")


def test_nothing_reaches_the_terminal(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = bytearray((DATA / "flipping_a_pancake.mkv").read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(2000, len(data), 300):
        data[place] ^= 0xFF
    (tmp_path / "broken.mkv").write_bytes(data)
    for path in (*sorted(DATA.glob("*.m[kpo]*")), tmp_path / "broken.mkv"):
        for decoder in ("auto", "pyav"):
            try:
                read_frames(path, Sampling(frames=3), decoder=decoder)
            except VideoError:
                continue
    assert capfd.readouterr() == ("", "")
