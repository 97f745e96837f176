"""What a model's weights take, from its dimensions alone."""

from __future__ import annotations

from dataclasses import dataclass

from adatp_cli.cost import COLOUR_CHANNELS, ModelShape, RelevanceShape, VisionShape
from adatp_cli.model.memory import DTYPE_BYTES
from adatp_cli.model.quantize import BYTES_PER_WEIGHT


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

    Its pooling head with the norm before it comes to the same.
    """
    attention = 4 * (hidden + 1) * hidden
    return attention + 2 * hidden * intermediate + intermediate + hidden + 4 * hidden
