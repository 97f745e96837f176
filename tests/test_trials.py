"""Clips as they really are: what the file shows is read, whatever its header says."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from adatp_cli.errors import UsageError
from adatp_cli.video.container import ClipFile
from adatp_cli.video.decode import read_frames
from adatp_cli.video.frames import Frames, VideoInfo, unwatched
from adatp_cli.video.index import index_clip
from adatp_cli.video.pyav_decoder import Cursor
from adatp_cli.video.sampling import Sampling
from adatp_cli.video.source import check_source
from tests.decode_case import EVERY, failure, numbers, wipe, write_clip
from tests.trials_case import TRIALS, shown_number, shown_numbers

EIGHT = Sampling(frames=8)


def whole(source: Path | bytes, first: int, count: int, seconds: float) -> Frames:
    """All frames of a clip, which shows numbers from `first` on and has lost none."""
    frames = read_frames(source, EVERY)
    assert shown_numbers(frames) == [*range(first, first + count)]
    assert frames.info.frames_total == count
    assert frames.info.frames_lost == 0
    assert frames.info.duration_s == pytest.approx(seconds, abs=1e-6)
    assert not any("cut short" in note for note in frames.notes)
    return frames


# The length is that of the packets.


@pytest.mark.parametrize("name", ["a1_lastlong.mp4", "a1_lastlong.mkv"])
def test_a_last_frame_may_last_long(name: str) -> None:
    whole(TRIALS / name, 0, 50, 64.9)
    late = read_frames(TRIALS / name, Sampling(frames=8, start_s=30.0, end_s=40.0))
    assert shown_numbers(late) == [49]
    # It counts as one of the frames asked for; the others are spread over the rest.
    assert shown_numbers(read_frames(TRIALS / name, EIGHT)) == [3, 10, 17, 24, 31, 38, 45, 49]


def test_slides_and_a_still_are_read_by_default() -> None:
    whole(TRIALS / "a1_slides.mp4", 0, 5, 60.8)
    whole(TRIALS / "a1_still60.webm", 0, 1, 60.0)
    for name, count in (("a1_slides.mp4", 5), ("a1_still60.webm", 1)):
        assert len(read_frames(TRIALS / name, Sampling(frames=16))) == count


@pytest.mark.parametrize("name", ["a2_off100.mkv", "a2_off50.webm", "a2_wallclock.mkv"])
def test_a_clock_may_begin_late(name: str) -> None:
    frames = whole(TRIALS / name, 0, 100, 10.0)
    assert frames.timestamps_s == pytest.approx(np.arange(100) / 10, abs=1e-6)
    with pytest.raises(UsageError, match=r"--start 20 s is beyond the end: .* is 10\.00 s long"):
        read_frames(TRIALS / name, Sampling(frames=1, start_s=20.0))


def test_an_edit_list_may_show_a_part() -> None:
    whole(TRIALS / "a3_trim.mp4", 70, 30, 3.0)
    middle = read_frames(TRIALS / "a3_cutmid.mp4", EVERY)
    assert shown_numbers(middle) == [*range(20), *range(70, 100)]
    assert (middle.info.frames_lost, middle.info.duration_s) == (0, pytest.approx(5.0))


def test_a_pipes_header_promises_the_length_of_its_input() -> None:
    frames = read_frames(TRIALS / "a4_pipecut.mkv", EVERY)
    assert len(frames) == frames.info.frames_total == 32
    assert (frames.info.frames_lost, frames.info.duration_s) == (0, pytest.approx(3.5))
    whole((TRIALS / "a4_pipecut.webm").read_bytes(), 20, 20, 2.0)


class Pipe(io.RawIOBase):
    """What cannot be written to twice at the same place."""

    def __init__(self) -> None:
        self.written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.written += data
        return len(data)


def remuxed(clip: Path, container: str, packets: int, *, late_s: float = 0.0) -> bytes:
    """The first packets of a clip as a pipe in this format, its clock beginning late."""
    pipe = Pipe()
    options = {"movflags": "frag_keyframe+empty_moov"} if container == "mp4" else {}
    with av.open(clip) as old, av.open(pipe, "w", container, options=options) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for packet in list(old.demux(stream))[:packets]:
            late = round(late_s / float(stream.time_base or 1))
            packet.pts, packet.dts = (packet.pts or 0) + late, (packet.dts or 0) + late
            packet.stream = copy
            new.mux(packet)
    return bytes(pipe.written)


@pytest.mark.parametrize("container", ["matroska", "mp4", "flv", "mpegts", "nut", "asf"])
def test_a_pipe_cut_by_its_writer_is_whole_in_every_container(
    clips: Path, tmp_path: Path, container: str
) -> None:
    frames = read_frames(remuxed(clips / "plain.mp4", container, 36), EVERY)
    assert numbers(frames) == list(range(36))
    assert frames.info.frames_lost == 0
    assert frames.info.duration_s == pytest.approx(1.2, abs=0.05)


def test_a_flash_pipe_promises_nothing_either(clips: Path) -> None:
    data = bytearray(remuxed(clips / "plain.mp4", "flv", 36))
    place = data.index(b"duration\0") + 9
    data[place : place + 8] = struct.pack(">d", 600.0)
    frames = read_frames(bytes(data), EVERY)
    assert (len(frames), frames.info.frames_lost) == (36, 0)
    assert frames.info.duration_s == pytest.approx(1.2, abs=0.05)


@pytest.mark.parametrize("container", ["matroska", "mp4", "flv", "mpegts", "nut"])
def test_a_clock_may_begin_late_in_every_container(clips: Path, container: str) -> None:
    frames = read_frames(remuxed(clips / "plain.mp4", container, 60, late_s=500.0), EVERY)
    assert numbers(frames) == list(range(60))
    assert frames.info.frames_lost == 0
    assert frames.timestamps_s == pytest.approx(np.arange(60) / 30, abs=0.002)
    assert frames.info.duration_s == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv", "long.flv"])
def test_a_file_that_is_cut_is_told_where_its_header_is_right(tmp_path: Path, name: str) -> None:
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    write_clip(tmp_path / name, 120, mux=options)
    data = (tmp_path / name).read_bytes()
    frames = read_frames(data[: len(data) * 7 // 10], EIGHT)
    assert len(frames) == 8
    assert frames.info.frames_lost + frames.info.frames_total == pytest.approx(120, abs=1)
    assert any(note.startswith("the file is cut short: ") for note in frames.notes)


# The stream is the one that moves.


@pytest.mark.parametrize("name", ["b1_thumb.mp4", "b1_thumb.mkv"])
def test_a_larger_picture_is_not_the_clip(name: str) -> None:
    whole(TRIALS / name, 0, 100, 10.0)


def test_an_animated_avif_moves() -> None:
    whole(TRIALS / "b2_animated.avif", 0, 30, 3.0)


def test_a_picture_before_the_clip_and_marked_as_the_default_is_not_the_clip(
    tmp_path: Path, clips: Path
) -> None:
    with av.open(tmp_path / "both.mkv", "w") as out, av.open(clips / "plain.mp4") as clip:
        picture = out.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 640, 480, "yuvj420p"
        copy = out.add_stream_from_template(clip.streams.video[0])
        picture.disposition = 1
        copy.disposition = 0
        image = np.zeros((480, 640, 3), np.uint8)
        out.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for packet in clip.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
    assert numbers(read_frames(tmp_path / "both.mkv", Sampling(frames=3))) == [10, 30, 50]


def test_of_two_streams_that_move_the_default_is_the_clip(tmp_path: Path, clips: Path) -> None:
    write_clip(tmp_path / "large.mp4", still=True, options={"preset": "ultrafast", "g": "12"})
    with (
        av.open(tmp_path / "two.mkv", "w") as out,
        av.open(tmp_path / "large.mp4") as other,
        av.open(clips / "plain.mp4") as clip,
    ):
        copies = [out.add_stream_from_template(one.streams.video[0]) for one in (other, clip)]
        copies[0].disposition, copies[1].disposition = 0, 1
        for one, copy in ((other, copies[0]), (clip, copies[1])):
            for packet in one.demux(video=0):
                if packet.dts is not None:
                    packet.stream = copy
                    out.mux(packet)
    assert numbers(read_frames(tmp_path / "two.mkv", Sampling(frames=3))) == [10, 30, 50]


# Side data of any kind.


@pytest.mark.parametrize("name", ["c1_exif.avi", "c1_exif.mkv", "c1_exif.mov"])
def test_a_cameras_pictures_joined_are_a_clip(name: str) -> None:
    whole(TRIALS / name, 0, 20, 2.0)


def test_side_data_of_an_unknown_kind_in_the_first_frame_is_no_matter() -> None:
    assert len(read_frames(TRIALS / "c1_tiff.mov", EVERY)) == 5


# Clocks that are joined, have holes, or run for days.


def test_joined_clocks_are_counted_on() -> None:
    frames = whole(TRIALS / "d1_joined.ts", 0, 280, 28.0)
    assert frames.timestamps_s == pytest.approx(np.arange(280) / 10, abs=1e-6)
    assert any("joined of 7 parts" in note for note in frames.notes)
    asked = read_frames(TRIALS / "d1_joined.ts", Sampling(frames=1, start_s=6.2, end_s=6.3))
    assert shown_numbers(asked) == [62]


@pytest.mark.parametrize(
    ("name", "count", "at"), [("d2_gap.mkv", 80, "3.90"), ("d2_clockset.mp4", 100, "0.00")]
)
def test_a_hole_in_the_timestamps_takes_no_frames_from_the_footage(
    name: str, count: int, at: str
) -> None:
    frames = read_frames(TRIALS / name, EIGHT)
    assert (np.diff(shown_numbers(frames)) <= count // 6).all()
    assert max(shown_numbers(frames)) > 0.9 * count
    assert any(f"s from {at} s on" in note for note in frames.notes)


@pytest.mark.parametrize(
    ("name", "count", "days"), [("d5_5min3days.mkv", 864, 3), ("d5_1h30days.mp4", 720, 30)]
)
def test_time_lapses_of_days_keep_their_times(name: str, count: int, days: int) -> None:
    frames = whole(TRIALS / name, 0, count, days * 86_400)
    assert frames.timestamps_s == pytest.approx(np.arange(count) * days * 86_400 / count)
    assert not any("timestamps" in note for note in frames.notes)


# Seeks are made sure of, and what cannot be decoded is counted.


@pytest.mark.parametrize("name", ["d3_ps.mpg", "d3_ps_low.mpg"])
def test_program_streams_give_the_frame_that_stands_at_that_time(name: str) -> None:
    asked = read_frames(TRIALS / name, Sampling(fps=25 / 3))
    assert shown_numbers(asked) == asked.indices.tolist() == list(range(1, 300, 3))
    assert asked.timestamps_s == pytest.approx(asked.indices / 25, abs=1e-6)
    file = ClipFile(check_source(TRIALS / name))
    index = index_clip(file)
    with file.stream(0) as (container, stream):
        cursor = Cursor(container, stream, index, unwatched)
        for place in range(299, -1, -7):  # backwards: a seek for each
            frame = cursor.frame_at(place)
            assert frame is not None
            assert shown_number(frame.to_ndarray(format="rgb24")) == place


def test_a_recording_that_begins_in_the_middle_of_a_group_of_pictures_says_what_is_lost() -> None:
    clip = TRIALS / "d4_midgop.ts"
    for asked in (EVERY, EIGHT):
        frames = read_frames(clip, asked)
        assert frames.info.frames_lost == 12
        assert frames.timestamps_s[0] >= 1.2 - 1e-6
        assert shown_numbers(frames) == (18 + frames.indices).tolist()
        assert any("its first 12 frames, to 1.20 s, cannot be decoded" in n for n in frames.notes)
    error = failure(clip, Sampling(frames=4, end_s=1.0))
    assert "nothing before 1.20 s can be decoded" in error.message
    # What is asked for is what counts: half of these two seconds is there.
    assert len(read_frames(clip, Sampling(frames=8, end_s=2.0))) == 8


def test_joined_recordings_that_lack_frames_keep_the_times_of_the_others() -> None:
    twice = (TRIALS / "d4_midgop.ts").read_bytes() * 2
    frames = read_frames(twice, EVERY)
    first = frames.timestamps_s < 8.15
    assert frames.timestamps_s[0] == pytest.approx(1.2)
    clear = np.array(shown_numbers(frames))[first]
    assert frames.timestamps_s[first] == pytest.approx((clear - 18) / 10)
    # The second one's beginning is decoded from the wrong frames, or not at all.
    late = frames.timestamps_s > 8.2 + 1.2 - 1e-6
    assert (np.array(shown_numbers(frames))[late] == np.arange(30, 100)).all()


def test_a_refusal_counts_the_frames_asked_for_and_not_those_of_the_file(tmp_path: Path) -> None:
    write_clip(tmp_path / "intra.mp4", 60, options={"g": "1", "preset": "ultrafast"})
    damaged = wipe(tmp_path / "intra.mp4", range(30, 38))
    error = failure(damaged, Sampling(frames=10, start_s=1.0, end_s=1.3), decoder="pyav")
    assert "1 of the 9 frames asked for can be decoded, at least 5 are needed" in error.message
    assert "--start and --end" in error.hint
    # One frame that is there stands for no range of which nine tenths are gone.
    error = failure(damaged, Sampling(frames=1, start_s=1.0, end_s=1.3), decoder="pyav")
    assert "frames of 0.03 of the 0.30 s asked for can be decoded" in error.message
    again = read_frames(damaged, Sampling(frames=1, start_s=1.27, end_s=1.3), decoder="pyav")
    assert len(again) == 1


# Encrypted files are named as such.


def test_an_encrypted_file_says_so(tmp_path: Path) -> None:
    error = failure(TRIALS / "g1_cenc.mp4")
    assert error.kind == "encrypted"
    assert "it is encrypted" in error.message
    write_clip(tmp_path / "clip.ts")
    scrambled = bytearray((tmp_path / "clip.ts").read_bytes())
    for start in range(0, len(scrambled), 188):
        if int.from_bytes(scrambled[start + 1 : start + 3], "big") & 0x1FFF == 0x100:
            scrambled[start + 3] |= 0x80
            for place in range(start + 12, start + 188):
                scrambled[place] ^= 0x5A
    assert failure(bytes(scrambled)).kind == "encrypted"


# Pixels that are not square, and half pictures.


@pytest.mark.parametrize(
    ("shape", "turn", "size"),
    [((2, 1), None, (256, 64)), ((2, 3), None, (128, 96)), ((2, 1), 90, (64, 256))],
)
def test_frames_are_shown_with_square_pixels(
    tmp_path: Path, shape: tuple[int, int], turn: int | None, size: tuple[int, int]
) -> None:
    options = {"x264-params": f"keyint=12:log-level=-1:sar={shape[0]}/{shape[1]}"}
    write_clip(tmp_path / "wide.mp4", 24, options=options, rotate=turn)
    frames = read_frames(tmp_path / "wide.mp4", Sampling(frames=3))
    assert (frames.info.width, frames.info.height) == size
    assert frames.pixels.shape[1:3] == size[::-1]
    assert frames.info.sample_aspect_ratio == f"{shape[0]}:{shape[1]}"
    assert frames.indices.tolist() == [4, 12, 20]
    if turn is None:
        assert numbers(Frames(frames.pixels[:, :, :: size[0] // 128], *rest(frames))) == [4, 12, 20]


def rest(frames: Frames) -> tuple[np.ndarray, np.ndarray, VideoInfo]:
    return frames.timestamps_s, frames.indices, frames.info


def combs(frames: Frames) -> float:
    """How much each line differs from those above and below it, as in woven half pictures."""
    lines = frames.pixels.astype(int)
    return float(np.abs(2 * lines[:, 1:-1] - lines[:, :-2] - lines[:, 2:]).mean())


@pytest.mark.parametrize("name", ["woven.mp4", "woven.ts"])
def test_interlaced_frames_are_deinterlaced_with_a_note(tmp_path: Path, name: str) -> None:
    def moved(half: int) -> np.ndarray:
        image = np.full((96, 256, 3), 60, np.uint8)
        image[24:72, 4 * half : 4 * half + 64] = 220
        return image

    def write(path: Path, params: str, step: int) -> None:
        with av.open(path, "w") as out:
            stream = out.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 256, 96, "yuv420p"
            stream.options = {"crf": "10", "x264-params": f"{params}keyint=6:log-level=-1"}
            for number in range(20):
                woven = moved(2 * number)
                woven[1::2] = moved(2 * number + step)[1::2]
                out.mux(stream.encode(av.VideoFrame.from_ndarray(woven, format="rgb24")))
            out.mux(stream.encode(None))

    write(tmp_path / name, "tff=1:", 1)
    write(tmp_path / f"plain_{name}", "", 0)
    write(tmp_path / f"untold_{name}", "", 1)
    woven = read_frames(tmp_path / name, EIGHT)
    assert combs(read_frames(tmp_path / f"untold_{name}", EIGHT)) > 4
    assert combs(woven) < 1.5 * combs(read_frames(tmp_path / f"plain_{name}", EIGHT))
    assert "its frames are interlaced, and deinterlaced one by one" in woven.notes
    assert woven.info.decoder == "pyav"
