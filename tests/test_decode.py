"""Reading real files: the frames that were asked for come out, at their own times."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import pytest

from adatp_cli.video.decode import read_frames
from adatp_cli.video.frames import Frames, VideoInfo
from adatp_cli.video.sampling import Sampling
from tests.decode_case import DATA, EVERY, number_of, numbers, write_clip

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


def test_h265_with_frames_across_key_frames_is_exact() -> None:
    with av.open(DATA / "h265_video.mp4") as container:
        truth = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for count in (1, 2, 3, 5, 10):
        frames = read_frames(DATA / "h265_video.mp4", Sampling(frames=count))
        for index, image in zip(frames.indices, frames.pixels, strict=True):
            assert np.array_equal(image, truth[index])


def test_timestamps_stored_out_of_order_come_out_in_order() -> None:
    frames = read_frames(DATA / "unordered.mov", Sampling(frames=16))
    assert frames.timestamps_s == pytest.approx([0, 1 / 32, 2 / 32, 3 / 32])
    assert frames.indices.tolist() == [0, 1, 2, 3]
    assert "16 frames asked for, 4 are there: each is used once" in frames.notes


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


# Times are the clip's own, however they are spaced.


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


@pytest.mark.parametrize("ending", ["mkv", "webm", "ts", "mpg", "avi"])
def test_recordings_put_behind_each_other_are_read_to_the_end(tmp_path: Path, ending: str) -> None:
    codec = {"webm": "libvpx", "mpg": "mpeg2video", "avi": "mpeg4"}.get(ending, "libx264")
    write_clip(tmp_path / f"a.{ending}", 40, codec)
    write_clip(tmp_path / f"b.{ending}", 60, codec)
    joined = tmp_path / f"joined.{ending}"
    joined.write_bytes(b"".join((tmp_path / f"{name}.{ending}").read_bytes() for name in "ab"))
    frames = read_frames(joined, Sampling(frames=100))
    assert numbers(frames) == [*range(40), *range(60)]
    assert np.abs(frames.timestamps_s - np.arange(100) / 30).max() < 0.002
    assert frames.info.frames_lost == 0


def test_clips_strung_together_keep_their_order(tmp_path: Path) -> None:
    write_clip(tmp_path / "one.ts", 40, pts_ms=[37 * number for number in range(40)])
    write_clip(tmp_path / "long.ts", 250)  # Its clock has run for eight seconds at the joint.
    both = (tmp_path / "long.ts").read_bytes() + (tmp_path / "one.ts").read_bytes()
    (tmp_path / "both.ts").write_bytes(both)
    frames = read_frames(tmp_path / "both.ts", EVERY)
    assert numbers(frames) == [*range(250), *range(40)]
    own = [*np.arange(250) / 30, *(250 / 30 + 0.037 * np.arange(40))]
    assert frames.timestamps_s == pytest.approx(own, abs=1e-3)
    assert any("joined of 2 parts" in note for note in frames.notes)
    assert numbers(read_frames(tmp_path / "both.ts", Sampling(frames=2))) == [73, 220]


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
