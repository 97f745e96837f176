"""Damaged and cut clips: used where enough of the frames come out, with a word on what is lost."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from adatp_cli.errors import UsageError
from adatp_cli.video.decode import read_frames
from adatp_cli.video.sampling import Sampling
from tests.decode_case import DATA, EVERY, failure, numbers, wipe, write_clip

# Damaged: some of the frames do not decode.


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
        assert (
            "19 of the 40 frames asked for can be decoded, at least 20 are needed" in error.message
        )
        assert "--frames 19 or fewer" in error.hint
    assert numbers(read_frames(less, Sampling(frames=19), decoder="pyav")) == list(range(19))
    # Nothing of what was asked about is left, and what came before stands in for none of it.
    assert failure(less, Sampling(frames=1, start_s=1.0), decoder="pyav").kind == "truncated"


def test_frames_that_all_fail_to_decode_are_one_line(tmp_path: Path, clips: Path) -> None:
    whole = bytearray((clips / "start.mp4").read_bytes())
    begin = whole.index(b"mdat") + 4
    whole[begin:] = bytes(len(whole) - begin)
    (tmp_path / "blank.mp4").write_bytes(whole)
    error = failure(tmp_path / "blank.mp4")
    assert error.kind == "unreadable"
    assert "none of its 60 frames can be decoded (h264)" in error.message


# Cut short: the file ends too early.


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
        note.startswith(f"the file is cut short: {left} of 60 frames,") for note in frames.notes
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
    assert "of the 60 frames asked for can be decoded, at least 30 are needed" in error.message
    late = failure(tmp_path / "cut.mp4", Sampling(frames=2, start_s=1.8))
    assert late.kind == "truncated"
    assert "before --start 1.8 s" in late.message
    header = whole.index(b"mdat") + 8
    (tmp_path / "none.mp4").write_bytes(whole[:header])
    error = failure(tmp_path / "none.mp4")
    assert error.kind == "truncated"
    assert "0 of the 4 frames asked for can be decoded" in error.message


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
