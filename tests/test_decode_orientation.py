"""Clips that ask to be turned or mirrored come out as a player shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adatp_cli.video.decode import read_frames
from adatp_cli.video.sampling import Sampling
from adatp_cli.video.shown import orientation_of
from tests.decode_case import DATA, EVERY, number_of, numbers, write_clip


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_rotation_is_honoured(decoder: str) -> None:
    frames = read_frames(DATA / "video_90.mov", Sampling(frames=3), decoder=decoder)
    assert frames.pixels.shape == (3, 568, 320, 3)
    assert (frames.info.width, frames.info.height, frames.info.rotation) == (320, 568, 90)


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
