"""Models of random weights: dimensions as published, quantized as asked for, able to answer."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from adatp_cli.answering.decoding import GenerationSettings
from adatp_cli.answering.session import Session
from adatp_cli.bench.synthetic import load_random
from adatp_cli.cost import KNOWN_SHAPES, ModelShape, RelevanceShape
from adatp_cli.errors import MemoryLimitError, ModelError, UsageError
from adatp_cli.model import memory as memory_module
from adatp_cli.model.device import LAYERS, count_quantized
from adatp_cli.model.layout import model_shape
from adatp_cli.model.load import LoadedModel, LoadRequest
from adatp_cli.profiles import load_profile
from tests.session_case import ask, noisy_clip

PUBLISHED = KNOWN_SHAPES["0.5b"]
# The 0.5B with everything cut down but what makes it what it is: its heads and its pooling.
SMALL = ModelShape(
    dataclasses.replace(
        PUBLISHED.language, layers=4, hidden=64, heads=4, kv_heads=2, head_dim=16,
        intermediate=128, vocab=600,
    ),
    dataclasses.replace(
        PUBLISHED.vision, layers=2, hidden=64, heads=4, intermediate=96, image_size=42
    ),
)  # fmt: skip
ENCODER = RelevanceShape(64, 96, 4, 2, 64, 96, 64, 64)


def small(quantization: str = "none", relevance: str = "none", **more: Any) -> LoadedModel:
    request = LoadRequest("0.5b-random", quantization, "cpu", relevance=relevance, **more)
    return load_random(request, lambda _text: None, shape=SMALL, relevance=ENCODER)


def test_the_dimensions_are_those_asked_for() -> None:
    loaded = small(dtype="bfloat16")
    config: Any = loaded.model.config
    assert model_shape(config) == SMALL
    assert len(loaded.model.model.language_model.layers) == SMALL.language.layers
    assert {value.dtype for value in loaded.model.parameters()} == {torch.bfloat16}
    assert not loaded.model.training
    assert not any(value.requires_grad for value in loaded.model.parameters())
    tied: Any = loaded.model.lm_head
    assert tied.weight is loaded.model.get_input_embeddings().weight


def test_published_dimensions_count_their_published_parameters() -> None:
    """Built without memory: 0.89 and 8.0 thousand million, which the names round."""
    from transformers import LlavaOnevisionForConditionalGeneration

    from adatp_cli.bench.synthetic import _config

    for alias, expected in (("0.5b", 0.894e9), ("7b", 8.03e9)):
        with torch.device("meta"):
            config = _config(KNOWN_SHAPES[alias], video_token=5)
            model = LlavaOnevisionForConditionalGeneration(config)
        assert sum(value.numel() for value in model.parameters()) == pytest.approx(
            expected, rel=0.01
        )


def test_the_same_weights_every_time_and_no_two_rows_alike() -> None:
    one, other = (dict(small().model.named_parameters()) for _ in range(2))
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
        assert value.isfinite().all(), name
        if value.ndim == 2:
            assert len(value.unique(dim=0)) == len(value), name


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_only_the_decoder_is_quantized(quantization: str) -> None:
    counts = count_quantized(small(quantization).model)
    assert counts.pop(LAYERS)[1] == 7 * SMALL.language.layers
    assert {quantized for _, quantized in counts.values()} == {0}


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_it_answers_under_pruning(quantization: str) -> None:
    loaded = small(quantization, relevance="auto", dtype="float32")
    profile = load_profile("adatp").with_budget(0.7)
    session = Session(loaded, profile, GenerationSettings(max_new_tokens=5))
    clip = session.encode("noise", noisy_clip(4))
    record = ask(session, clip).record
    assert record.tokens.generated == 5  # nothing ends an answer but its length
    assert record.finish_reason == "length"
    assert record.flops.paper.ratio < 0.75
    assert record.flops.end_to_end.relevance > 0


def test_weights_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "available_memory", lambda _device: 1000)
    with pytest.raises(MemoryLimitError, match="needs"):
        small()


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UsageError, match="--quantize"):
        small("half")
    with pytest.raises((ModelError, UsageError)):
        load_random(LoadRequest("0.5b-random", device="cuda:99"), lambda _text: None)
