"""Frames resized as they are decoded are the frames that the model would have seen anyway."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adatp_cli.errors import MemoryLimitError
from adatp_cli.model.preprocess import Preprocessor
from adatp_cli.video import decode as decode_module
from adatp_cli.video import decord_decoder
from adatp_cli.video.decode import read_frames
from adatp_cli.video.frames import FILTERS, Resize
from adatp_cli.video.sampling import Sampling

DATA = Path(__file__).parent / "data"
PANCAKE = DATA / "flipping_a_pancake.mkv"
FOUR = Sampling(frames=4)


def preprocessor(resize: Resize) -> Preprocessor:
    """Whose values are levels: no scaling, no normalising."""
    return Preprocessor(resize.size, resize.resample, 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def pictures(kind: str) -> np.ndarray:
    """Frames (4, H, W, 3) of a real clip, or of noise, in which every pixel is an edge."""
    if kind == "pancake":
        return read_frames(PANCAKE, FOUR).pixels
    random = np.random.default_rng(0)
    if kind == "noise":
        return random.integers(0, 256, (4, 270, 480, 3), dtype=np.uint8)
    shape = (4, 480, 270, 3) if kind == "tall" else (4, 120, 150, 3)
    return random.integers(0, 2, shape, dtype=np.uint8) * np.uint8(255)


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("size", [96, 120, 224])
@pytest.mark.parametrize("kind", ["pancake", "noise", "tall", "black or white"])
def test_the_model_sees_the_same_to_a_level(kind: str, size: int, resample: str) -> None:
    resize = Resize(size, resample)
    frames = pictures(kind)
    preprocess = preprocessor(resize)
    early = np.stack([resize(frame) for frame in frames])
    off = (preprocess(early) - preprocess(frames)).abs()
    assert off.max() <= 2
    assert (off > 1).float().mean() < 1e-4
    assert off.mean() < 0.05
    # What would be off if the filter were another one, to see that this test could tell.
    other = Resize(size, FILTERS[resample == FILTERS[0]])
    if resize.shrinks(*frames.shape[1:3]):
        wrong = np.stack([other(frame) for frame in frames])
        assert (preprocess(wrong) - preprocess(frames)).abs().mean() > 0.1


def test_the_preprocessor_passes_resized_frames_through() -> None:
    resize = Resize(96, "bicubic")
    early = np.stack([resize(frame) for frame in pictures("noise")])
    levels = preprocessor(resize)(early).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(levels, early)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("name", ["flipping_a_pancake.mkv", "video_90.mov"])
def test_each_frame_is_resized_upright(name: str, decoder: str) -> None:
    if decoder == "decord" and not decord_decoder.installed():
        pytest.skip("decord has no wheel for this platform")
    whole = read_frames(DATA / name, FOUR, decoder=decoder)
    for resample in FILTERS:
        resize = Resize(64, resample)
        small = read_frames(DATA / name, FOUR, decoder=decoder, resize=resize)
        assert small.pixels.shape == (len(whole), 64, 64, 3)
        assert np.array_equal(small.pixels, [resize(frame) for frame in whole.pixels])
        # What is said about the clip is about the clip.
        assert (small.info, small.notes) == (whole.info, whole.notes)
        assert small.indices.tolist() == whole.indices.tolist()


def test_frames_decoded_in_a_row_are_resized_too() -> None:
    resize = Resize(64, "bicubic")
    whole = read_frames(DATA / "corrupted.mp4", FOUR)
    small = read_frames(DATA / "corrupted.mp4", FOUR, resize=resize)
    assert whole.info.frames_lost == 1
    assert np.array_equal(small.pixels, [resize(frame) for frame in whole.pixels])


def test_smaller_frames_are_left_alone() -> None:
    whole = read_frames(PANCAKE, FOUR)  # 426 x 240: wider than the square, and smaller.
    assert np.array_equal(
        read_frames(PANCAKE, FOUR, resize=Resize(320, "bicubic")).pixels, whole.pixels
    )
    assert read_frames(PANCAKE, FOUR, resize=Resize(319, "bicubic")).pixels.shape[1] == 319


def test_the_memory_is_counted_by_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module, "MAX_PIXEL_BYTES", 4 * 64 * 64 * 3)
    assert len(read_frames(PANCAKE, FOUR, resize=Resize(64, "bicubic"))) == 4
    with pytest.raises(MemoryLimitError, match="4 frames of 426x240 would take"):
        read_frames(PANCAKE, FOUR)
    with pytest.raises(MemoryLimitError, match="5 frames of 64x64 would take") as caught:
        read_frames(PANCAKE, Sampling(frames=5), resize=Resize(64, "bicubic"))
    assert "--frames 4 or fewer" in caught.value.hint


@pytest.mark.parametrize(("size", "resample"), [(0, "bicubic"), (-1, "bicubic"), (8, "nearest")])
def test_a_resize_that_means_nothing_is_refused(size: int, resample: str) -> None:
    with pytest.raises(ValueError, match=r"size|resample"):
        Resize(size, resample)
