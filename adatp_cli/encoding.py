"""From frames to visual tokens and frame vectors, in one pass of the vision tower."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from adatp_cli.model.load import LoadedModel

# Frames per pass of the tower (our choice): the default clip in one pass, long ones in bounded
# memory.
FRAMES_AT_ONCE = 32


@dataclass(frozen=True, slots=True, eq=False)
class EncodedClip:
    """A clip as the language model and the pruning see it; kept for every question about it.

    Parameters
    ----------
    frames
        T.
    visual
        (n_v + 1, D) in the model's type: T x P tokens frame by frame, then the newline embedding.
    tower_vectors
        (T, Dv) float32: mean of each frame's vision-tower tokens.
    frame_vectors
        (T, De) float32 of the relevance encoder; None without one.
    vision_s, relevance_s
        Seconds that tokens and frame vectors took.
    """

    frames: int
    visual: Tensor
    tower_vectors: Tensor
    frame_vectors: Tensor | None
    vision_s: float
    relevance_s: float


@torch.inference_mode()
def encode_clip(
    loaded: LoadedModel, pixels: npt.NDArray[np.uint8], *, with_relevance: bool
) -> EncodedClip:
    """Run vision tower, projector and pooling once over a clip.

    The tokens are those of the model's own `get_video_features`, bit for bit; each frame is encoded
    on its own, so passes over parts of the clip give the same.

    Parameters
    ----------
    pixels
        (T, H, W, 3) uint8, RGB.
    with_relevance
        Also pool each frame with the relevance encoder, which must be loaded.
    """
    inner: Any = loaded.model.model
    started = time.perf_counter()
    relevance_s = 0.0
    features = loaded.preprocess(pixels)
    tokens: list[Tensor] = []
    means: list[Tensor] = []
    pooled: list[Tensor] = []
    newline = features.new_empty(0)
    for chunk in torch.split(features, FRAMES_AT_ONCE):
        with _ProjectorInput(inner.multi_modal_projector) as tower:
            output = inner.get_video_features(chunk[None].to(loaded.device), return_dict=True)
        encoded = output.pooler_output[0]
        tokens.append(encoded[:-1])
        newline = encoded[-1:]
        means.append(tower.hidden.float().mean(1).cpu())
        if with_relevance and loaded.relevance is not None:
            synchronize(loaded.device)
            pooling = time.perf_counter()
            pooled.append(loaded.relevance.frame_vectors(tower.hidden).cpu())
            relevance_s += time.perf_counter() - pooling
    visual = torch.cat((*tokens, newline))
    synchronize(loaded.device)
    return EncodedClip(
        frames=len(pixels),
        visual=visual,
        tower_vectors=torch.cat(means),
        frame_vectors=torch.cat(pooled) if pooled else None,
        vision_s=time.perf_counter() - started - relevance_s,
        relevance_s=relevance_s,
    )


def synchronize(device: str) -> None:
    """Wait for queued work, so that a clock read next is right; nothing to wait for on a CPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device.startswith("mps"):
        torch.mps.synchronize()


class _ProjectorInput:
    """Sees what goes into the projector: the tower's hidden states before any post-layernorm.

    Everything the pruning wants to know of a frame is made of it, so the tower runs once.
    """

    def __init__(self, projector: nn.Module) -> None:
        self._projector = projector
        self.hidden = torch.empty(0)

    def __enter__(self) -> _ProjectorInput:
        self._handle = self._projector.register_forward_pre_hook(self._see)
        return self

    def _see(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        self.hidden = args[0]

    def __exit__(self, *_: object) -> None:
        self._handle.remove()
