"""Frames to pixel values, with the checkpoint's own preprocessor values and torch alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adatp_cli.errors import ModelError
from adatp_cli.model.layout import COPY_WHOLE, read_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Pillow's numbers for resampling filters, which preprocessor files use.
_FILTERS = {2: "bilinear", 3: "bicubic"}
# The library's defaults for what a file leaves out (its LLaVA-OneVision video processor's values).
_DEFAULT_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEFAULT_STD = (0.26862954, 0.26130258, 0.27577711)
_DEFAULT_SIZE = 384
# Source pixels that are copied at a time: three bytes of each make about 100 MB.
_PIXELS_AT_ONCE = 33_000_000


@dataclass(frozen=True, slots=True)
class Preprocessor:
    """Resize, rescale, normalise: what the checkpoint's video processor does to a frame.

    A frame is resized to a square whatever its shape, without padding or cropping, by an
    antialiased filter; the result is rounded to whole grey levels, as it was in training.
    """

    size: int  # side of the square in pixels
    resample: str  # bicubic or bilinear
    rescale_factor: float  # of the levels 0..255
    # Per colour channel, after rescaling; None where nothing is normalised.
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None

    @classmethod
    def from_folder(cls, folder: Path) -> Preprocessor:
        """Read the checkpoint's preprocessor file; steps that are not done here are refused."""
        path, values = _find(folder)
        for step in ("do_center_crop", "do_sample_frames"):
            if values.get(step):
                raise ModelError(f"{path}: {step} is not supported", "use another checkpoint")
        if values.get("do_resize") is False:
            raise ModelError(f"{path}: do_resize must not be off", "use another checkpoint")
        try:
            normalises = values.get("do_normalize") is not False
            return cls(
                size=_side(values.get("size", _DEFAULT_SIZE)),
                resample=_FILTERS[int(values.get("resample", 3))],
                rescale_factor=_factor(values),
                mean=_triple(values, "image_mean", _DEFAULT_MEAN) if normalises else None,
                std=_triple(values, "image_std", _DEFAULT_STD) if normalises else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{path}: unsupported preprocessor values ({error})", "use another checkpoint"
            ) from error

    def __call__(self, pixels: NDArray[np.uint8]) -> Tensor:
        """uint8 RGB (frames, height, width, 3) to the tower's float32 (frames, 3, size, size)."""
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
            raise ValueError(
                f"frames must be uint8 (T, H, W, 3), not {pixels.dtype} {pixels.shape}"
            )
        frames, height, width, _ = pixels.shape
        result = torch.empty(frames, 3, self.size, self.size)
        at_once = max(1, _PIXELS_AT_ONCE // (height * width))
        for first in range(0, frames, at_once):
            # A copy, as torch does not take read-only or negatively strided arrays.
            chunk = torch.from_numpy(pixels[first : first + at_once].copy())
            result[first : first + at_once] = self._resize(chunk.permute(0, 3, 1, 2))
        if self.mean is None or self.std is None:
            return result.mul_(self.rescale_factor)
        # As transformers does it, in one step on the levels: rescaled first, level 127 comes out a
        # little lower, and in bfloat16 as another number.
        levels = 1.0 / self.rescale_factor
        mean = (torch.tensor(self.mean) * levels).view(1, 3, 1, 1)
        std = (torch.tensor(self.std) * levels).view(1, 3, 1, 1)
        return result.sub_(mean).div_(std)

    def _resize(self, chunk: Tensor) -> Tensor:
        """uint8 (n, 3, H, W) to uint8 (n, 3, size, size).

        Kept in bytes throughout: torch's byte kernel rounds between its two passes as Pillow does,
        is the one that torchvision calls, and is ten times as fast as the one for floats.
        """
        if chunk.shape[-2:] == (self.size, self.size):
            return chunk
        return F.interpolate(
            chunk, (self.size, self.size), mode=self.resample, align_corners=False, antialias=True
        )


def _find(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file that transformers would take, and its values."""
    nested = folder / "processor_config.json"
    if nested.is_file():
        values = read_json(nested).get("video_processor")
        if isinstance(values, dict):
            return nested, values
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            return folder / name, read_json(folder / name)
    raise ModelError(f"{folder} has no preprocessor_config.json", COPY_WHOLE)


def _side(size: Any) -> int:
    """The square's side from any of the forms that preprocessor files use."""
    if isinstance(size, dict):
        if "shortest_edge" in size:
            size = size["shortest_edge"]
        elif size["height"] != size["width"]:
            raise ValueError(f"size {size['height']}x{size['width']} is not square")
        else:
            size = size["height"]
    side = int(size)
    if not 1 <= side <= 4096:
        raise ValueError(f"size {side}")
    return side


def _factor(values: dict[str, Any]) -> float:
    if not values.get("do_rescale", True):
        return 1.0
    factor = float(values.get("rescale_factor", 1 / 255))
    if not 0 < factor < math.inf:
        raise ValueError(f"rescale_factor {factor}")
    return factor


def _triple(
    values: dict[str, Any], key: str, default: tuple[float, float, float]
) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values.get(key, default))
    if not all(map(math.isfinite, (red, green, blue))):
        raise ValueError(f"{key} holds a value that is not finite")
    if key == "image_std" and 0.0 in (red, green, blue):
        raise ValueError("image_std holds a zero")
    return red, green, blue
