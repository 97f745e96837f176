"""Reading real files: the frames that were asked for come out, or one clear line says why not."""

from __future__ import annotations

import os
import socket
import sys
import types
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from adatp_cli.errors import MemoryLimitError, UsageError, VideoError
from adatp_cli.video import decode as decode_module
from adatp_cli.video import decord_decoder
from adatp_cli.video.decode import read_frames
from adatp_cli.video.frames import Frames, VideoInfo
from adatp_cli.video.pyav_decoder import orientation_of
from adatp_cli.video.sampling import Sampling

DATA = Path(__file__).parent / "data"
EVERY = Sampling()
FOUR = Sampling(frames=4)
needs_decord = pytest.mark.skipif(
    not decord_decoder.installed(), reason="decord has no wheel for this platform"
)

# Every generated frame carries its own number: a row of black and white squares along the top,
# so that a test can say which frame really came out, whatever codec it went through.
BITS, SIDE = 8, 16


def numbered(number: int, height: int = 64) -> np.ndarray:
    image = np.full((height, BITS * SIDE, 3), 96, dtype=np.uint8)
    image[:, :, 0] = np.linspace(40, 200, BITS * SIDE).astype(np.uint8)
    for bit in range(BITS):
        image[:SIDE, bit * SIDE : (bit + 1) * SIDE] = 255 if number >> bit & 1 else 0
    return image


def number_of(image: np.ndarray) -> int:
    centres = image[SIDE // 2, SIDE // 2 :: SIDE, :].mean(axis=-1)
    return sum(1 << bit for bit, value in enumerate(centres) if value > 128)


def write_clip(
    path: Path,
    frames: int = 60,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    *,
    pts_ms: list[int] | None = None,
    rotate: float | None = None,
    mirror: bool = False,
    sound: bool = False,
    still: bool = False,
    mux: dict[str, str] | None = None,
) -> None:
    x264 = {"preset": "ultrafast", "x264-params": "keyint=12:log-level=-1"}
    with av.open(path, "w", options=mux or {}) as out:
        stream: Any = out.add_stream(codec, rate=30)
        stream.width, stream.height = BITS * SIDE, 64
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        stream.options = x264 if options is None and codec == "libx264" else options or {}
        if rotate is not None:
            stream.set_display_rotation(rotate, hflip=mirror)
        if pts_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if sound:
            silence = out.add_stream("aac", rate=16000, layout="mono")
            packets = silent(silence)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered(0 if still else number), format="rgb24")
            frame.pts = number if pts_ms is None else pts_ms[number]
            if pts_ms is not None:
                frame.time_base = Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound:
            out.mux(packets)


def silent(stream: Any) -> list[Any]:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
    frame.sample_rate = 16000
    return [*stream.encode(frame), *stream.encode(None)]


def write_sound(path: Path, codec: str) -> None:
    with av.open(path, "w") as out:
        stream: Any = out.add_stream(codec, rate=16000, layout="mono")
        kind = (np.float32, "fltp") if codec == "aac" else (np.int16, "s16")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), kind[0]), kind[1], "mono")
        frame.sample_rate = 16000
        out.mux([*stream.encode(frame), *stream.encode(None)])


def numbers(frames: Frames) -> list[int]:
    return [number_of(image) for image in frames.pixels]


def failure(source: Any, sampling: Sampling = FOUR, **more: Any) -> VideoError:
    with pytest.raises(VideoError) as caught:
        read_frames(source, sampling, **more)
    error = caught.value
    assert error.exit_code == 3
    assert error.hint
    for line in (error.message, error.hint):
        assert "\n" not in line
        assert "github/workspace" not in line  # decord's C++ stacks
        assert "Errno" not in line
    return error


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "plain.mp4")
    write_clip(folder / "sound.mp4", sound=True)
    write_clip(folder / "start.mp4", mux={"movflags": "faststart"})
    return folder


# The shared clips: what a person would expect of each.


def test_pancake_is_read_by_its_real_timestamps() -> None:
    frames = read_frames(DATA / "flipping_a_pancake.mkv", Sampling(frames=16))
    assert frames.pixels.shape == (16, 240, 426, 3)
    assert frames.indices.tolist() == [(2 * k + 1) * 310 // 32 for k in range(16)]
    # Matroska keeps whole milliseconds.
    assert frames.timestamps_s == pytest.approx(np.round(frames.indices / 30, 3), abs=1e-9)
    assert frames.info.codec == "h264"
    assert frames.info.fps == 30
    assert frames.info.frames_total == 310
    assert frames.info.duration_s == pytest.approx(10.333, abs=1e-3)
    assert frames.notes == ()


@needs_decord
def test_decord_goes_first() -> None:
    for name in ("flipping_a_pancake.mkv", "h264_10bits.mp4", "unordered.mov", "video_90.mov"):
        assert read_frames(DATA / name, Sampling(frames=2)).info.decoder == "decord", name


@needs_decord
def test_frames_beyond_full_hd_fall_to_pyav(tmp_path: Path) -> None:
    for height, decoder in ((1080, "decord"), (1280, "pyav")):
        path = tmp_path / f"{height}.mp4"
        with av.open(path, "w") as out:
            stream: Any = out.add_stream("libx264", rate=5)
            stream.width, stream.height, stream.pix_fmt = 1920, height, "yuv420p"
            stream.options = {"preset": "ultrafast", "x264-params": "log-level=-1"}
            image = np.zeros((height, 1920, 3), dtype=np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            out.mux(stream.encode(None))
        frames = read_frames(path, Sampling(frames=1))
        assert frames.info.decoder == decoder
    assert frames.notes == (
        "decoded by PyAV: decord takes too much memory for frames of this size",
    )


def test_av1_falls_to_pyav() -> None:
    frames = read_frames(DATA / "av1_video.mkv", Sampling(frames=4))
    assert (frames.info.decoder, frames.info.codec) == ("pyav", "av1")
    assert frames.pixels.shape == (4, 360, 640, 3)
    assert frames.indices.tolist() == [15, 46, 78, 109]
    assert frames.timestamps_s == pytest.approx(frames.indices / 25)


def test_h265_with_frames_across_key_frames_is_exact() -> None:
    with av.open(DATA / "h265_video.mp4") as container:
        truth = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for count in (1, 2, 3, 5, 10):
        frames = read_frames(DATA / "h265_video.mp4", Sampling(frames=count))
        for index, image in zip(frames.indices, frames.pixels, strict=True):
            assert np.array_equal(image, truth[index])


def test_a_damaged_clip_is_used_where_enough_of_it_decodes() -> None:
    frames = read_frames(DATA / "corrupted.mp4", Sampling(frames=16))
    assert len(frames) == 16
    assert frames.info.decoder == "pyav"
    assert frames.info.frames_total == 50
    assert "1 of 50 frames could not be decoded: left out" in frames.notes
    assert frames.info.frames_lost == 1
    assert (np.diff(frames.indices) > 0).all()
    # No frame stands in for another one.
    assert all(not np.array_equal(a, b) for a, b in pairwise(frames.pixels))
    assert frames.timestamps_s == pytest.approx(frames.indices / 10)


def wipe(clip: Path, places: range) -> bytes:
    """The clip with the frames at these places overwritten with zeros."""
    data = bytearray(clip.read_bytes())
    with av.open(clip) as container:
        stream = container.streams.video[0]
        stored = {packet.pts: packet for packet in container.demux(stream) if packet.size}
    for place in places:
        packet = stored[sorted(stored)[place]]
        assert packet.pos is not None
        data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    return bytes(data)


def test_damage_between_the_frames_used_is_told(clips: Path) -> None:
    damaged = wipe(clips / "plain.mp4", range(28, 29))  # Frames 6, 18, 30, 42, 54 are used.
    frames = read_frames(damaged, Sampling(frames=5), decoder="pyav")
    assert len(frames) == 5
    assert frames.notes == ("1 of 60 frames could not be decoded: left out",)
    assert frames.info.frames_lost == 1
    assert 28 not in read_frames(damaged, EVERY).indices
    # Nobody looked where the damage is.
    assert read_frames(damaged, Sampling(frames=2, end_s=0.5)).info.frames_lost == 0


def test_a_damaged_clip_is_used_from_half_of_the_frames_wanted_on(tmp_path: Path) -> None:
    frames = read_frames(DATA / "corrupted.mp4", Sampling(frames=50))
    assert (len(frames), frames.info.frames_lost) == (49, 1)
    assert frames.notes == (
        "decoded by PyAV: decord cannot decode all of the frames needed",
        "1 of 50 frames could not be decoded: left out",
        "50 frames asked for, 49 are there: each is used once",
    )
    write_clip(tmp_path / "intra.mp4", 40, options={"g": "1", "preset": "ultrafast"})
    half, less = (wipe(tmp_path / "intra.mp4", range(first, 40)) for first in (20, 19))
    for asked in (Sampling(frames=40), Sampling(fps=30.0), EVERY):
        frames = read_frames(half, asked, decoder="pyav")
        assert (numbers(frames), frames.info.frames_lost) == (list(range(20)), 20)
        error = failure(less, asked, decoder="pyav")
        assert error.kind == "truncated"
        assert "only 19 of its 40 frames can be decoded, at least 20 are needed" in error.message
        assert "--frames 19 or fewer" in error.hint
    assert numbers(read_frames(less, Sampling(frames=19), decoder="pyav")) == list(range(19))
    # Nothing of what was asked about is left, and what came before stands in for none of it.
    assert failure(less, Sampling(frames=1, start_s=1.0), decoder="pyav").kind == "truncated"


def test_timestamps_stored_out_of_order_come_out_in_order() -> None:
    frames = read_frames(DATA / "unordered.mov", Sampling(frames=16))
    assert frames.timestamps_s == pytest.approx([0, 1 / 32, 2 / 32, 3 / 32])
    assert frames.indices.tolist() == [0, 1, 2, 3]
    assert "16 frames asked for, 4 are there: each is used once" in frames.notes


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_rotation_is_honoured(decoder: str) -> None:
    frames = read_frames(DATA / "video_90.mov", Sampling(frames=3), decoder=decoder)
    assert frames.pixels.shape == (3, 568, 320, 3)
    assert (frames.info.width, frames.info.height, frames.info.rotation) == (320, 568, 90)


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


def test_mirroring_and_rotation_in_matroska_are_honoured(tmp_path: Path) -> None:
    write_clip(tmp_path / "mirrored.mp4", 3, rotate=0, mirror=True)
    mirrored = read_frames(tmp_path / "mirrored.mp4", EVERY)
    assert [number_of(image[:, ::-1]) for image in mirrored.pixels] == [0, 1, 2]
    assert "it asks to be mirrored, and is" in mirrored.notes
    write_clip(tmp_path / "turned.mkv", 3, rotate=90)
    turned = read_frames(tmp_path / "turned.mkv", EVERY)
    assert (turned.info.width, turned.info.height, turned.info.rotation) == (64, 128, 270)
    assert [number_of(np.rot90(image, -1)) for image in turned.pixels] == [0, 1, 2]


def test_an_odd_angle_is_left_alone_and_told(tmp_path: Path) -> None:
    write_clip(tmp_path / "askew.mp4", 3, rotate=45)
    frames = read_frames(tmp_path / "askew.mp4", EVERY)
    assert numbers(frames) == [0, 1, 2]
    assert any("no multiple of 90" in note for note in frames.notes)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("x", [-1, 1])
@pytest.mark.parametrize("y", [-1, 1])
def test_a_display_matrix_moves_every_pixel_where_it_says(transpose: bool, x: int, y: int) -> None:
    matrix = [0, y, 0, x, 0, 0, 0, 0, 1] if transpose else [x, 0, 0, 0, y, 0, 0, 0, 1]
    image = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    shown = orientation_of(matrix).apply(image)
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    places = {(a * i + c * j, b * i + d * j): image[j, i] for j in range(3) for i in range(4)}
    left, top = (min(place[axis] for place in places) for axis in (0, 1))
    for (px, py), value in places.items():
        assert shown[py - top, px - left] == value


# The frame that was asked for is the frame that comes out, in every container and codec.

OPEN_GOP = {"preset": "ultrafast", "x264-params": "keyint=12:bframes=3:open-gop=1:log-level=-1"}
X265 = {"preset": "ultrafast", "x265-params": "keyint=12:open-gop=1:log-level=none"}


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", None),
        ("a.mkv", "libx264", None),
        ("a.flv", "libx264", None),
        ("a.ts", "libx264", None),
        ("a.avi", "libx264", {"preset": "veryfast", "bf": "2", "g": "12"}),
        ("a.h264", "libx264", {"preset": "veryfast", "bf": "2", "g": "12"}),
        ("open.mp4", "libx264", OPEN_GOP),
        ("open.mkv", "libx264", OPEN_GOP),
        ("open.ts", "libx264", OPEN_GOP),
        ("h265.mp4", "libx265", X265),
        ("mpeg4.avi", "mpeg4", {"bf": "2", "g": "12"}),
        ("mpeg4.mp4", "mpeg4", {"bf": "2", "g": "12"}),
        ("mpeg2.mpg", "mpeg2video", {"bf": "2", "g": "12"}),
        ("a.wmv", "wmv2", {"g": "12"}),
        ("a.webm", "libvpx", {"g": "12", "deadline": "realtime"}),
        ("a.gif", "gif", None),
    ],
)
def test_the_right_frames_come_out(
    tmp_path: Path, name: str, codec: str, options: dict[str, str] | None
) -> None:
    write_clip(tmp_path / name, 60, codec, options)
    for asked in (Sampling(frames=5), Sampling(frames=1, start_s=1.4), EVERY):
        frames = read_frames(tmp_path / name, asked)
        assert numbers(frames) == frames.indices.tolist()
        assert frames.info.frames_total == 60
        rate = 25.0 if name.endswith(".h264") else 30.0  # A bare stream has no clock.
        assert frames.timestamps_s == pytest.approx(frames.indices / rate, abs=0.011)
        assert not any("could not" in note or "cut" in note for note in frames.notes)
        if not name.endswith((".mp4", ".mkv", ".webm")):
            assert frames.info.decoder == "pyav"  # decord seeks to neighbours in these.
    assert len(frames) == 60


def test_uneven_timestamps_are_honoured(tmp_path: Path) -> None:
    times = np.cumsum([0, *([20] * 29), 3000, *([20] * 29)]).tolist()
    write_clip(tmp_path / "uneven.mp4", 60, pts_ms=times)
    frames = read_frames(tmp_path / "uneven.mp4", Sampling(frames=4, start_s=3.5))
    assert (frames.timestamps_s >= 3.5).all()
    assert frames.timestamps_s * 1000 == pytest.approx([times[i] for i in frames.indices], abs=1)
    assert numbers(frames) == frames.indices.tolist()
    rate = read_frames(tmp_path / "uneven.mp4", Sampling(fps=2))
    # 0.25, 0.75, ... s: one frame is shown from 0.58 s to 3.58 s.
    assert rate.indices.tolist() == [12, 29, 38]


def test_time_starts_where_the_clip_does(tmp_path: Path) -> None:
    write_clip(tmp_path / "late.mp4", 60, pts_ms=[100_000 + 40 * i for i in range(60)])
    frames = read_frames(tmp_path / "late.mp4", Sampling(frames=2, start_s=1.0))
    assert frames.timestamps_s == pytest.approx(frames.indices * 0.04, abs=2e-3)
    assert (frames.timestamps_s >= 1.0).all()


def test_clips_strung_together_keep_their_order(tmp_path: Path) -> None:
    write_clip(tmp_path / "one.ts", 40, pts_ms=[37 * number for number in range(40)])
    write_clip(tmp_path / "long.ts", 250)  # Its clock has run for eight seconds at the joint.
    both = (tmp_path / "long.ts").read_bytes() + (tmp_path / "one.ts").read_bytes()
    (tmp_path / "both.ts").write_bytes(both)
    frames = read_frames(tmp_path / "both.ts", EVERY)
    assert numbers(frames) == [*range(250), *range(40)]
    assert frames.timestamps_s == pytest.approx(np.arange(290) / 30)
    assert any("no usable timestamps" in note for note in frames.notes)
    assert numbers(read_frames(tmp_path / "both.ts", Sampling(frames=2))) == [72, 217]


def test_a_trimmed_file_gives_only_what_a_player_shows(tmp_path: Path, clips: Path) -> None:
    with av.open(clips / "plain.mp4") as old, av.open(tmp_path / "cut.mp4", "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            if packet.dts is not None:  # An edit list hides what comes before zero.
                packet.pts, packet.dts = packet.pts - 7 * 512, packet.dts - 7 * 512
                packet.stream = copy
                new.mux(packet)
    frames = read_frames(tmp_path / "cut.mp4", EVERY)
    with av.open(tmp_path / "cut.mp4") as container:
        shown = [number_of(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    assert numbers(frames) == shown
    assert len(frames) == frames.info.frames_total == len(shown)


def test_a_clip_from_memory_is_the_clip_from_disk(clips: Path) -> None:
    path = clips / "plain.mp4"
    for decoder in ("auto", "pyav"):
        there = read_frames(path, Sampling(frames=6), decoder=decoder)
        here = read_frames(path.read_bytes(), Sampling(frames=6), decoder=decoder)
        assert np.array_equal(there.pixels, here.pixels)
        assert there.timestamps_s.tolist() == here.timestamps_s.tolist()
        assert there.info == here.info


def test_a_second_video_stream_or_sound_changes_nothing(clips: Path) -> None:
    assert numbers(read_frames(clips / "sound.mp4", Sampling(frames=3))) == [10, 30, 50]


@pytest.mark.parametrize("name", ["-x.mp4", "a b'\"%d.mp4", "pipe:0.mp4", "café\n.mp4", "#?.mp4"])
def test_names_are_only_names(
    tmp_path: Path, clips: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes((clips / "plain.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    for decoder in ("auto", "pyav"):
        assert numbers(read_frames(name, Sampling(frames=3), decoder=decoder)) == [10, 30, 50]


def test_a_name_in_a_broken_encoding_is_read(tmp_path: Path, clips: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\xfe.mp4"
    try:
        with open(path, "wb") as file:
            file.write((clips / "plain.mp4").read_bytes())
    except OSError:
        pytest.skip("this file system holds no such names")
    assert numbers(read_frames(os.fsdecode(path), Sampling(frames=3))) == [10, 30, 50]


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
    module.logging = types.SimpleNamespace(set_level=lambda _: None, QUIET=0)
    monkeypatch.setitem(sys.modules, "decord", module)


def test_repeated_frames_are_checked_with_pyav(
    monkeypatch: pytest.MonkeyPatch, clips: Path
) -> None:
    fake_decord(monkeypatch, _FakeReader)
    frames = read_frames(clips / "plain.mp4", Sampling(frames=6))
    assert frames.info.decoder == "pyav"
    assert numbers(frames) == [5, 15, 25, 35, 45, 55]
    assert frames.notes == ("decoded by PyAV: decord repeats frames that differ",)


def test_repeats_in_a_still_clip_are_believed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_clip(tmp_path / "still.mkv", 60, "ffv1", still=True)
    fake_decord(monkeypatch, _FakeReader)
    assert read_frames(tmp_path / "still.mkv", Sampling(frames=6)).info.decoder == "decord"


@pytest.mark.parametrize("fault", ["short", "shifted", "open", "batch", "size"])
def test_other_faults_of_decord_send_the_file_to_pyav(
    monkeypatch: pytest.MonkeyPatch, clips: Path, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
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
            if fault == "size":
                return np.zeros((len(wanted), 4, 4, 3), np.uint8)
            return np.stack([numbered(i) for i in wanted])

    fake_decord(monkeypatch, Faulty)
    frames = read_frames(clips / "plain.mp4", Sampling(frames=6))
    assert frames.info.decoder == "pyav"
    assert numbers(frames) == [5, 15, 25, 35, 45, 55]
    assert len(frames.notes) == 1
    assert "github" not in frames.notes[0]
    assert "\n" not in frames.notes[0]
    assert capfd.readouterr() == ("", "")


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


# Each bad input has a line of its own.


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


def test_an_mp4_without_its_index_is_cut_short(tmp_path: Path, clips: Path) -> None:
    whole = (clips / "plain.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    error = failure(tmp_path / "cut.mp4")
    assert error.kind == "truncated"
    assert "ends before its index (moov)" in error.message
    (tmp_path / "no_moov.mp4").write_bytes(whole[: whole.index(b"moov") - 4])
    assert failure(tmp_path / "no_moov.mp4").message.endswith("it is cut short")


def test_a_cut_mp4_with_its_index_first_is_used_as_far_as_it_goes(
    tmp_path: Path, clips: Path
) -> None:
    whole = (clips / "start.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 6 // 10])
    frames = read_frames(tmp_path / "cut.mp4", Sampling(frames=8))
    assert numbers(frames) == frames.indices.tolist()
    assert len(frames) == 8
    left = frames.info.frames_total
    assert 25 <= left < 50
    assert frames.info.frames_lost == 60 - left
    assert any(
        note.startswith("the file is cut short:") and note.endswith("of 60 frames")
        for note in frames.notes
    )
    many = read_frames(tmp_path / "cut.mp4", Sampling(frames=50))
    decoded = 60 - many.info.frames_lost
    assert decoded in (left - 1, left)  # The last packet may be cut too: then it does not decode.
    assert numbers(many) == list(range(decoded))
    assert f"50 frames asked for, {decoded} are there: each is used once" in many.notes
    over = read_frames(tmp_path / "cut.mp4", Sampling(frames=9, start_s=0.3, end_s=1.9))
    assert len(over) == 9  # As long as half of it is there, a range may run into what is missing.
    with pytest.raises(UsageError, match=r"is 2\.00 s long"):
        read_frames(tmp_path / "cut.mp4", Sampling(frames=9, end_s=9.0))
    (tmp_path / "short.mp4").write_bytes(whole[: len(whole) * 4 // 10])
    error = failure(tmp_path / "short.mp4", Sampling(frames=60))
    assert error.kind == "truncated"
    assert "of its 60 frames can be decoded, at least 30 are needed" in error.message
    late = failure(tmp_path / "cut.mp4", Sampling(frames=2, start_s=1.8))
    assert late.kind == "truncated"
    assert "before --start 1.8 s" in late.message
    header = whole.index(b"mdat") + 8
    (tmp_path / "none.mp4").write_bytes(whole[:header])
    error = failure(tmp_path / "none.mp4")
    assert error.kind == "truncated"
    assert "only 0 of its 60 frames" in error.message


def test_a_cut_matroska_file_says_how_far_it_goes(tmp_path: Path) -> None:
    whole = (DATA / "flipping_a_pancake.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    frames = read_frames(tmp_path / "cut.mkv", Sampling(frames=8))
    assert frames.timestamps_s[-1] < 6
    assert any("of 10.33 s" in note for note in frames.notes)
    assert frames.info.frames_lost + frames.info.frames_total == pytest.approx(310, abs=1)
    (tmp_path / "head.mkv").write_bytes(whole[:600])
    error = failure(tmp_path / "head.mkv")
    assert error.kind == "truncated"
    assert "Matroska" in error.message


def test_no_frames(tmp_path: Path) -> None:
    for name in ("zero.mp4", "zero.mkv"):
        with av.open(tmp_path / name, "w") as out:
            stream: Any = out.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            out.start_encoding()
        assert failure(tmp_path / name).kind == "no_frames"


def test_frames_that_all_fail_to_decode_are_one_line(tmp_path: Path, clips: Path) -> None:
    whole = bytearray((clips / "start.mp4").read_bytes())
    begin = whole.index(b"mdat") + 4
    whole[begin:] = bytes(len(whole) - begin)
    (tmp_path / "blank.mp4").write_bytes(whole)
    error = failure(tmp_path / "blank.mp4")
    assert error.kind == "unreadable"
    assert "none of its 60 frames can be decoded (h264)" in error.message


def test_an_unknown_codec_is_named_as_such(tmp_path: Path, clips: Path) -> None:
    whole = (clips / "start.mp4").read_bytes().replace(b"avc1", b"zzzz")
    (tmp_path / "odd.mp4").write_bytes(whole)
    assert failure(tmp_path / "odd.mp4").kind == "unreadable"


def test_no_right_to_read(tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # Root may read everything.
    error = failure(clips / "plain.mp4")
    assert (error.kind, "no permission" in error.message) == ("unreadable", True)


def test_control_characters_of_a_name_do_not_reach_the_message(tmp_path: Path) -> None:
    error = failure(tmp_path / "a\n\x1b[31mb.mp4")
    assert "a\\n\\x1b[31mb.mp4" in error.message


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


def test_absurd_timestamps_are_mended(tmp_path: Path) -> None:
    write_clip(tmp_path / "far.mkv", 10, pts_ms=[*range(0, 360, 40), 900_000_000])
    frames = read_frames(tmp_path / "far.mkv", Sampling(frames=5))
    assert frames.info.duration_s < 60
    assert numbers(frames) == [1, 3, 5, 7, 9]
    assert any("no usable timestamps" in note for note in frames.notes)


def test_a_rate_above_the_clips_own_is_told(clips: Path) -> None:
    frames = read_frames(clips / "plain.mp4", Sampling(fps=90))
    assert len(frames) == 60
    assert "--fps 90 is above the clip's rate of 30" in frames.notes


# Frames keep what belongs together together.


def test_frames_check_themselves() -> None:
    info = VideoInfo("pyav", "h264", 4, 2, 30.0, 1.0, 30, 0)
    assert info.frames_lost == 0
    pixels, times, places = np.zeros((2, 2, 4, 3), np.uint8), np.array([0.0, 1.0]), np.array([0, 9])
    frames = Frames(pixels, times, places, info)
    assert len(frames) == 2
    assert "(2, 2, 4, 3)" in repr(frames)
    with pytest.raises(ValueError, match="timestamps"):
        Frames(pixels, times[::-1], places, info)
    with pytest.raises(ValueError, match="as many"):
        Frames(pixels, times[:1], places, info)
    with pytest.raises(ValueError, match="uint8"):
        Frames(pixels.astype(np.float32), times, places, info)  # type: ignore[arg-type]
