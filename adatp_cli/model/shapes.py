"""A Hugging Face configuration as the dimensions that everything else computes with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adatp_cli.cost import LanguageShape, ModelShape, RelevanceShape, VisionShape
from adatp_cli.errors import ModelError

if TYPE_CHECKING:
    from transformers import LlavaOnevisionConfig, SiglipConfig


def model_shape(config: LlavaOnevisionConfig) -> ModelShape:
    """Dimensions of a LLaVA-OneVision model.

    Raises
    ------
    ModelError
        The configuration takes other visual features than the published checkpoints: not the last
        layer's, or not all patches.
    """
    text: Any = config.text_config
    vision: Any = config.vision_config
    if config.vision_feature_layer != -1 or config.vision_feature_select_strategy != "full":
        raise ModelError(
            "this checkpoint takes its visual features from another layer than the last, or not "
            "from all patches, which is not supported",
            "use a published LLaVA-OneVision checkpoint",
        )
    if getattr(text, "use_sliding_window", False):
        raise ModelError(
            "this checkpoint's language model uses a sliding attention window, which is not "
            "supported",
            "use a published LLaVA-OneVision checkpoint",
        )
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return ModelShape(
        LanguageShape(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            head_dim=head_dim,
            intermediate=text.intermediate_size,
            vocab=text.vocab_size,
            tied=bool(config.tie_word_embeddings),
        ),
        VisionShape(
            layers=vision.num_hidden_layers,
            hidden=vision.hidden_size,
            heads=vision.num_attention_heads,
            intermediate=vision.intermediate_size,
            image_size=_side(vision.image_size),
            patch_size=_side(vision.patch_size),
        ),
    )


def relevance_shape(config: SiglipConfig) -> RelevanceShape:
    """Dimensions of what is used of a SigLIP model: text tower and pooling head."""
    text: Any = config.text_config
    vision: Any = config.vision_config
    return RelevanceShape(
        head_hidden=vision.hidden_size,
        head_intermediate=vision.intermediate_size,
        head_heads=vision.num_attention_heads,
        text_layers=text.num_hidden_layers,
        text_hidden=text.hidden_size,
        text_intermediate=text.intermediate_size,
        text_tokens=text.max_position_embeddings,
        projection=text.projection_size,
        text_vocab=text.vocab_size,
    )


def _side(value: int | list[int] | tuple[int, ...]) -> int:
    sides = {value} if isinstance(value, int) else set(value)
    if len(sides) != 1:
        raise ModelError(
            f"this checkpoint's vision tower is not square ({value})", "use another one"
        )
    return sides.pop()
