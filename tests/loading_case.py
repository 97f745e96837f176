"""A checkpoint's folder loaded, and the first logits of an answer about noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from adatp_cli.model.load import LoadedModel, LoadRequest, load_model
from adatp_cli.model.prompt import build_prompt


def load_folder(folder: Path, **options: Any) -> LoadedModel:
    """The folder loaded as `options` of the request say, on the CPU where they say nothing."""
    request = LoadRequest(model=str(folder), **({"device": "cpu"} | options))
    return load_model(request, lambda _: None)


def answer_logits(loaded: LoadedModel) -> torch.Tensor:
    """(V,) float32: the logits of an answer's first token, about two frames of noise."""
    prompt = build_prompt(
        loaded.tokenizer,
        "What colour is the circle?",
        frames=2,
        grid=loaded.shape.grid,
        video_token_id=loaded.video_token_id,
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, 70, 90, 3), np.uint8)
    values = loaded.preprocess(pixels)[None].to(loaded.model.dtype)
    with torch.inference_mode():
        output = loaded.model(input_ids=prompt.input_ids, pixel_values_videos=values)
    return output.logits[0, -1].float()
