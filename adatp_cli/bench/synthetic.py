"""Visual tokens that no tower made, to measure the language model by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from adatp_cli.answering.encode import EncodedClip

if TYPE_CHECKING:
    from adatp_cli.model.load import LoadedModel
    from adatp_cli.pruning.method import SignalNeeds


def noise_encoding(loaded: LoadedModel, frames: int, needs: SignalNeeds) -> EncodedClip:
    """What encoding a clip would give, in normal numbers, the same every time.

    Parameters
    ----------
    frames
        T.
    needs
        What there is beside the tokens.
    """
    shape, encoder = loaded.shape, loaded.relevance
    generator = torch.Generator().manual_seed(0)

    def noise(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    tokens = noise(frames * shape.tokens_per_frame + 1, shape.language.hidden)
    width = encoder.shape.head_hidden if encoder is not None else shape.vision.hidden
    per_head = shape.vision.hidden // shape.vision.heads
    return EncodedClip(
        frames=frames,
        visual=tokens.to(loaded.device, getattr(torch, loaded.dtype)),
        tower_vectors=noise(frames, shape.vision.hidden),
        frame_vectors=F.normalize(noise(frames, width), dim=-1) if needs.encoder else None,
        vision_s=0.0,
        relevance_s=0.0,
        probe_attention=noise(frames, shape.tokens_per_frame).softmax(-1)
        if needs.encoder
        else None,
        tower_keys=noise(frames, shape.tokens_per_frame, per_head) if needs.tower_keys else None,
    )
