"""From frames to visual tokens and frame vectors, in one pass of the vision tower."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adatp_cli.errors import ModelError
from adatp_cli.pruning.method import ClipSignals

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
    probe_attention
        (T, P) float32: attention of the encoder's pooling head, pooled as the tokens are; None
        without an encoder.
    tower_keys
        (T, P, dh) float32: keys of the tower's last layer, mean over heads, pooled as the tokens
        are; None where not asked for.
    vision_s, relevance_s
        Seconds that tokens and frame vectors took.
    """

    frames: int
    visual: Tensor
    tower_vectors: Tensor
    frame_vectors: Tensor | None
    vision_s: float
    relevance_s: float
    probe_attention: Tensor | None = None
    tower_keys: Tensor | None = None

    def signals(self, question_vector: Tensor | None) -> ClipSignals:
        """What a method may know before the language model runs, with the embedded question."""
        return ClipSignals(
            self.tower_vectors,
            self.frame_vectors,
            question_vector,
            self.visual[:-1],
            self.probe_attention,
            self.tower_keys,
        )


@torch.inference_mode()
def encode_clip(
    loaded: LoadedModel,
    pixels: npt.NDArray[np.uint8],
    *,
    with_relevance: bool,
    with_keys: bool = False,
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
    with_keys
        Also keep the keys of the tower's last layer.
    """
    inner: Any = loaded.model.model
    started = time.perf_counter()
    relevance_s = 0.0
    features = loaded.preprocess(pixels)
    tokens: list[Tensor] = []
    means: list[Tensor] = []
    pooled: list[Tensor] = []
    probed: list[Tensor] = []
    keys: list[Tensor] = []
    newline = features.new_empty(0)
    for chunk in torch.split(features, FRAMES_AT_ONCE):
        with _TowerWatch(inner, with_keys=with_keys) as tower:
            output = inner.get_video_features(chunk[None].to(loaded.device), return_dict=True)
        encoded = output.pooler_output[0]
        tokens.append(encoded[:-1])
        newline = encoded[-1:]
        means.append(tower.hidden.float().mean(1).cpu())
        if with_keys:
            keys.append(inner.apply_pooling(tower.mean_keys()).cpu())
        if with_relevance and loaded.relevance is not None:
            synchronize(loaded.device)
            pooling = time.perf_counter()
            vectors, attention = loaded.relevance.look(tower.hidden)
            pooled.append(vectors.cpu())
            probed.append(inner.apply_pooling(attention[..., None])[..., 0].cpu())
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
        probe_attention=torch.cat(probed) if probed else None,
        tower_keys=torch.cat(keys) if keys else None,
    )


def synchronize(device: str) -> None:
    """Wait for queued work, so that a clock read next is right; nothing to wait for on a CPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device.startswith("mps"):
        torch.mps.synchronize()


class _TowerWatch:
    """Sees what leaves the tower, before any post-layernorm, and if asked its last layer's keys.

    Everything that the pruning wants to know of a frame is made of it, so the tower runs once.
    """

    def __init__(self, inner: Any, *, with_keys: bool) -> None:
        self._projector: nn.Module = inner.multi_modal_projector
        self._heads = int(inner.config.vision_config.num_attention_heads)
        self._last: nn.Module | None = _last_keys(inner.vision_tower) if with_keys else None
        self.hidden = torch.empty(0)
        self.keys = torch.empty(0)

    def __enter__(self) -> _TowerWatch:
        self._handles = [self._projector.register_forward_pre_hook(self._see)]
        if self._last is not None:
            self._handles.append(self._last.register_forward_hook(self._see_keys))
        return self

    def mean_keys(self) -> Tensor:
        """(T, patches, dh) float32, mean over heads."""
        per_head = self.keys.view(*self.keys.shape[:-1], self._heads, -1)
        return per_head.float().mean(-2)

    def _see(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        self.hidden = args[0]

    def _see_keys(self, _module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        self.keys = output

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def _last_keys(tower: nn.Module) -> nn.Module:
    """The key projection of the last layer; features are taken from there (`model_shape`)."""
    named: list[nn.Module] = [
        part for name, part in tower.named_modules() if name.endswith("self_attn.k_proj")
    ]
    if not named:
        raise ModelError(
            "the vision tower of this checkpoint has no key projections",
            "use a published LLaVA-OneVision checkpoint",
        )
    return named[-1]
