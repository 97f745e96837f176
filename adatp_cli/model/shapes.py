"""A configuration as the dimensions that everything else computes with, and what weights take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adatp_cli.cost import COLOUR_CHANNELS, LanguageShape, ModelShape, RelevanceShape, VisionShape
from adatp_cli.errors import ModelError
from adatp_cli.model.device import DTYPE_BYTES
from adatp_cli.model.quantize import BYTES_PER_WEIGHT
from adatp_cli.model.quiet import readable_failures

if TYPE_CHECKING:
    from transformers import LlavaOnevisionConfig, SiglipConfig


def model_shape(config: LlavaOnevisionConfig) -> ModelShape:
    """Dimensions of a LLaVA-OneVision model; features and attention of another kind are refused."""
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


def configured_shape(folder: Path) -> ModelShape:
    """The dimensions that a folder's config.json gives."""
    from transformers import LlavaOnevisionConfig

    with readable_failures(f"{folder}'s configuration"):
        config: Any = LlavaOnevisionConfig.from_pretrained(folder, local_files_only=True)
        return model_shape(config)


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


@dataclass(frozen=True, slots=True)
class WeightCount:
    """Parameters of a model: those of the decoder's matrices, which are quantized, and the rest."""

    decoder: int
    rest: int

    @property
    def total(self) -> int:
        return self.decoder + self.rest

    def nbytes(self, dtype: str) -> dict[str, int]:
        """Bytes once loaded, for each kind of quantization."""
        whole = self.total * DTYPE_BYTES[dtype]
        rest = self.rest * DTYPE_BYTES[dtype]
        sizes = {kind: rest + int(self.decoder * width) for kind, width in BYTES_PER_WEIGHT.items()}
        return {"none": whole, **sizes}


def count_weights(shape: ModelShape) -> WeightCount:
    """Parameters of vision tower, projector and language model."""
    text, tower = shape.language, shape.vision
    queries, keys = text.heads * text.head_dim, text.kv_heads * text.head_dim
    matrices = 2 * text.hidden * (queries + keys) + 3 * text.hidden * text.intermediate
    small = queries + 2 * keys + 2 * text.hidden  # biases, two norms
    embeddings = text.vocab * text.hidden * (1 if text.tied else 2)
    projector = text.hidden * (tower.hidden + text.hidden + 2)
    newline, last_norm = text.hidden, text.hidden
    rest = text.layers * small + embeddings + last_norm + projector + newline
    return WeightCount(text.layers * matrices, rest + _tower(tower))


def encoder_bytes(shape: RelevanceShape, dtype: str) -> int:
    """Bytes of a loaded relevance encoder: the text tower in the model's type, the rest float32."""
    width, wide = shape.text_hidden, shape.text_intermediate
    embeddings = (shape.text_vocab + shape.text_tokens) * width
    projection = (width + 1) * shape.projection
    text = shape.text_layers * _layer(width, wide) + embeddings + 2 * width + projection
    pooling = shape.head_hidden + _layer(shape.head_hidden, shape.head_intermediate)
    return text * DTYPE_BYTES[dtype] + pooling * 4


def _tower(shape: VisionShape) -> int:
    patch = COLOUR_CHANNELS * shape.patch_size**2
    embedding = (patch + 1 + shape.patches) * shape.hidden
    return embedding + shape.layers * _layer(shape.hidden, shape.intermediate) + 2 * shape.hidden


def _layer(hidden: int, intermediate: int) -> int:
    """SigLIP's: four projections, two matrices, all with biases, and two norms.

    Its pooling head with the norm before it has as many.
    """
    attention = 4 * (hidden + 1) * hidden
    return attention + 2 * hidden * intermediate + intermediate + hidden + 4 * hidden
