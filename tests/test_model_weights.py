"""Weights counted from dimensions alone: as many as the library builds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlavaOnevisionForConditionalGeneration, SiglipConfig

from adatp_cli.bench.synthetic import _config
from adatp_cli.cost import KNOWN_SHAPES, SO400M_RELEVANCE
from adatp_cli.model.checkpoints import bundled_folder
from adatp_cli.model.layout import (
    WeightCount,
    count_weights,
    encoder_bytes,
    model_shape,
    relevance_shape,
    weight_bytes,
)
from tests.checkpoint import write_random_relevance


@pytest.mark.parametrize("alias", ["0.5b", "7b"])
def test_as_many_as_the_library_builds(alias: str) -> None:
    shape = KNOWN_SHAPES[alias]
    assert shape.language.tied == (alias == "0.5b")
    config = _config(shape, video_token=5)
    with torch.device("meta"):
        model = LlavaOnevisionForConditionalGeneration(config)
    matrices = sum(
        value.numel()
        for name, value in model.named_parameters()
        if ".language_model.layers." in name and value.ndim == 2
    )
    count = count_weights(shape)
    assert count.decoder == matrices
    assert count.decoder + count.rest == sum(value.numel() for value in model.parameters())
    assert model_shape(config) == shape


def test_as_many_as_the_files_hold() -> None:
    from transformers import LlavaOnevisionConfig

    config: Any = LlavaOnevisionConfig.from_pretrained(bundled_folder())
    told = count_weights(model_shape(config)).nbytes("bfloat16")
    assert told == weight_bytes(bundled_folder(), "bfloat16")


def test_bytes_by_quantization() -> None:
    sizes = WeightCount(decoder=6400, rest=100).nbytes("float32")
    assert sizes == {"none": 26_000, "int8": 6800, "nf4": 4000, "fp4": 4000}


def test_as_many_as_the_encoder_holds(tmp_path: Any) -> None:
    folder = write_random_relevance(tmp_path / "encoder")
    state = load_file(folder / "model.safetensors")
    text = sum(value.numel() for name, value in state.items() if name.startswith("text_model."))
    seen = sum(value.numel() for name, value in state.items() if name.startswith("vision_model."))
    shape = relevance_shape(SiglipConfig.from_pretrained(folder))
    assert encoder_bytes(shape, "bfloat16") == 2 * text + 4 * seen
    assert encoder_bytes(SO400M_RELEVANCE, "bfloat16") == pytest.approx(0.96e9, rel=0.01)
