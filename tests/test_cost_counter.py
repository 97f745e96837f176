"""The end-to-end formulas against PyTorch's own counter, part by part, on the real classes.

The counter sees nothing of the CPU's fused attention; under the MATH backend it counts attention in
full, as the formulas do.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
)

from adatp_cli import cost
from adatp_cli.model.relevance import Pooling

FRAMES = 3
TEXT = 21
VOCAB = 640


def counted(run: Callable[[], object]) -> int:
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


@pytest.fixture(scope="module")
def model() -> LlavaOnevisionForConditionalGeneration:
    vision = SiglipVisionConfig(
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=56,
        patch_size=8,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=96,
        intermediate_size=224,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        video_token_index=VOCAB - 1,
        image_token_index=VOCAB - 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        attn_implementation="sdpa",
    )
    return LlavaOnevisionForConditionalGeneration(config).eval()


@pytest.fixture(scope="module")
def shape() -> cost.ModelShape:
    return cost.ModelShape(
        cost.LanguageShape(5, 96, 6, 2, 16, 224, VOCAB), cost.VisionShape(3, 64, 4, 160, 56, 8)
    )


def test_vision_tower_and_projector(
    model: LlavaOnevisionForConditionalGeneration, shape: cost.ModelShape
) -> None:
    pixels = torch.zeros(1, FRAMES, 3, 56, 56)
    flops = counted(lambda: model.model.get_video_features(pixels))
    assert cost.vision_cost(FRAMES, shape) == flops


def test_prefill_and_generated_tokens(
    model: LlavaOnevisionForConditionalGeneration, shape: cost.ModelShape
) -> None:
    visual = FRAMES * shape.tokens_per_frame
    ids = torch.randint(0, VOCAB - 2, (1, TEXT + visual))

    def generate(tokens: int) -> int:
        return counted(
            lambda: model.generate(
                input_ids=ids, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False
            )
        )

    tokens = [TEXT + visual] * 5
    prefill = cost.prefill_cost(tokens, shape.language)
    # All that is off is the rotary frequencies, which the model multiplies out as a matrix product.
    assert prefill == pytest.approx(generate(1), rel=1e-4)
    further = cost.generate_cost(tokens, 6, shape.language)
    assert further == pytest.approx(generate(6) - generate(1), rel=1e-4)


def test_relevance_encoder() -> None:
    config = SiglipConfig(
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "image_size": 56,
            "patch_size": 8,
        },
        text_config={
            "hidden_size": 48,
            "intermediate_size": 112,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": 100,
            "max_position_embeddings": 16,
            "projection_size": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    )
    siglip = SiglipModel(config).eval()
    pooling = Pooling(siglip.vision_model.head)
    hidden = torch.zeros(FRAMES, 49, 64)
    ids = torch.zeros(1, 16, dtype=torch.long)

    def encode() -> None:
        pooling.vectors(pooling.look(hidden)[0])
        siglip.text_model(input_ids=ids)

    shape = cost.RelevanceShape(64, 160, 4, 2, 48, 112, 16, 64)
    assert cost.relevance_cost(FRAMES, 49, shape) == counted(encode)
