"""Frames to pixel values: Pillow's resize, the checkpoint's values, little memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adatp_cli.errors import ModelError
from adatp_cli.model.preprocess import Preprocessor
from tests.checkpoint import IMAGE_SIZE, write_random_checkpoint

# Pictures and their 48 x 48 resizes by Pillow 13, `Image.resize` with BICUBIC and BILINEAR.
PILLOW = Path(__file__).parent / "data" / "pillow_resize.npz"
SIGLIP = {
    "size": {"height": 48, "width": 48},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
    "rescale_factor": 1 / 255,
}


def _write(folder: Path, name: str = "preprocessor_config.json", **changes: Any) -> Path:
    values = {key: value for key, value in (SIGLIP | changes).items() if value is not ...}
    (folder / name).write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("picture", ["wide", "tall", "small"])
@pytest.mark.parametrize(("resample", "filter_name"), [(3, "bicubic"), (2, "bilinear")])
def test_resize_is_pillows(tmp_path: Path, picture: str, resample: int, filter_name: str) -> None:
    reference = np.load(PILLOW)
    preprocess = Preprocessor.from_folder(_write(tmp_path, resample=resample))
    values = preprocess(reference[picture][None])
    levels = ((values * 0.5 + 0.5) * 255).round()[0].permute(1, 2, 0)
    off = (levels - torch.from_numpy(reference[f"{picture}_{filter_name}"]).float()).abs()
    # Both round between the two passes; which edge a pass overshoots first depends on their order.
    assert off.max() <= 8
    assert off.mean() < 0.25


def test_values_are_the_checkpoints(tmp_path: Path) -> None:
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.25, 2.0]
    preprocess = Preprocessor.from_folder(_write(tmp_path, image_mean=mean, image_std=std))
    pixels = np.zeros((1, 48, 48, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = 255, 51, 0
    expected = [(1 - 0.1) / 0.5, (0.2 - 0.2) / 0.25, (0 - 0.3) / 2.0]
    assert torch.allclose(preprocess(pixels)[0, :, 0, 0], torch.tensor(expected), atol=1e-6)


def test_steps_that_are_off_are_left_out(tmp_path: Path) -> None:
    folder = _write(tmp_path, do_rescale=False, do_normalize=False)
    pixels = np.full((2, 48, 48, 3), 200, np.uint8)
    assert (Preprocessor.from_folder(folder)(pixels) == 200).all()


def test_no_frame_depends_on_another_or_on_the_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 60, 80, 3), np.uint8)
    preprocess = Preprocessor.from_folder(_write(tmp_path))
    whole = preprocess(pixels)
    monkeypatch.setattr("adatp_cli.model.preprocess._PIXELS_AT_ONCE", 2 * 60 * 80)
    assert torch.equal(preprocess(pixels), whole)
    assert torch.equal(torch.cat([preprocess(frame[None]) for frame in pixels]), whole)


def test_reads_strided_and_read_only_frames(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    mirrored = pixels[:, :, ::-1]
    mirrored.flags.writeable = False
    preprocess = Preprocessor.from_folder(_write(tmp_path))
    assert torch.equal(preprocess(mirrored), preprocess(pixels).flip(-1))


def test_order_of_precedence_is_transformers(tmp_path: Path) -> None:
    _write(tmp_path, size=32)
    assert Preprocessor.from_folder(tmp_path).size == 32
    _write(tmp_path, "video_preprocessor_config.json", size={"shortest_edge": 40})
    assert Preprocessor.from_folder(tmp_path).size == 40
    (tmp_path / "processor_config.json").write_text(json.dumps({"video_processor": SIGLIP}))
    assert Preprocessor.from_folder(tmp_path).size == 48


def test_reads_a_checkpoints_own_files(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path, layers=1, relevance=False)
    values = Preprocessor.from_folder(folder)(np.zeros((3, 30, 40, 3), np.uint8))
    assert values.shape == (3, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert values.dtype == torch.float32
    assert (values == -1).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"resample": 1},
        {"resample": "bicubic"},
        {"size": {"height": 48, "width": 40}},
        {"size": 0},
        {"size": {"edge": 3}},
        {"image_mean": [0.5]},
        {"image_mean": 0.5},
        {"image_std": [0.5, 0.0, 0.5]},
        {"image_mean": [0.5, float("nan"), 0.5]},
        {"rescale_factor": 0},
        {"rescale_factor": float("inf")},
        {"do_center_crop": True},
        {"do_resize": False},
    ],
)
def test_unsupported_values_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"preprocessor_config\.json"):
        Preprocessor.from_folder(_write(tmp_path, **changes))


def test_a_folder_without_values_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no preprocessor_config\.json"):
        Preprocessor.from_folder(tmp_path)


@pytest.mark.parametrize("shape", [(48, 48, 3), (1, 48, 48, 4)])
def test_something_else_than_frames_is_a_programming_error(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="uint8"):
        Preprocessor.from_folder(_write(tmp_path))(np.zeros(shape, np.uint8))
