"""A random-weight LLaVA-OneVision folder in the Hugging Face layout, small enough for every test.

It is the bundled `tiny` before its training, with the classes, files, tensor names, tokenizer kind
and chat template of the published checkpoints, so that whatever reads it reads those too. Its
answers are noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from transformers import SiglipConfig, SiglipModel

from training import architecture, contrast

M = TypeVar("M", bound=torch.nn.Module)

IMAGE_SIZE = architecture.IMAGE_SIZE
GRID = (architecture.GRID, architecture.GRID)

SENTENCES = [
    "what colour is the circle ? a red circle moves to the left",
    "what shape is blue ? the square , the triangle , the star",
    "where does the green cross move ? up , down , left , right",
    "what happens in the video ? first a yellow square moves up , then a red star moves down",
    "how many scenes are there ? one , two , three , four",
    "What happens first? What happens last? Which shape is in the middle?",
]


def write_random_checkpoint(
    folder: str | Path, seed: int = 0, layers: int = 12, *, relevance: bool = True
) -> Path:
    """Write the folder and return its path; the same seed gives the same bytes of weights."""
    folder = Path(folder)
    tokenizer = architecture.build_tokenizer(SENTENCES)
    torch.manual_seed(seed)
    model = spread(architecture.build_model(tokenizer, layers))
    encoder = architecture.RELEVANCE_FOLDER if relevance else None
    architecture.write_checkpoint(folder, model, tokenizer, relevance=encoder)
    if encoder:
        write_random_relevance(folder / encoder, seed=seed)
    return folder


def write_random_relevance(folder: str | Path, seed: int = 0, *, whole: bool = False) -> Path:
    """Write a SigLIP-layout folder: text tower, pooling head and post-layernorm.

    `whole` writes every tensor of the `SiglipModel`, vision tower included, as the hub's
    repositories do.
    """
    folder = Path(folder)
    tokenizer = contrast.build_text_tokenizer(SENTENCES)
    torch.manual_seed(seed + 1)
    model = SiglipModel(SiglipConfig(**contrast.relevance_settings(tokenizer)))
    wanted = ("text_model.", "vision_model.head.", "vision_model.post_layernorm.")
    state = {
        name: value.contiguous()
        for name, value in spread(model).state_dict().items()
        if whole or name.startswith(wanted)
    }
    contrast.write_relevance(folder, tokenizer, state)
    return folder


def spread(model: M) -> M:
    """Scale the matrices up so that attention, and with it pruning, has something to choose from.

    The initial 0.02 of the library leaves every attention row flat and every answer the same.
    """
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 2 and "embed" not in name:
                value.normal_(0.0, 1.5 / value.shape[1] ** 0.5)
            elif "embed_tokens" in name or "token_embedding" in name:
                value.normal_(0.0, 0.5)
    return model
