"""What a run costs: the paper's count and the machine's, from shapes and token counts alone.

Two conventions, never mixed:

- **paper**: multiply-accumulates (MAC) of the visual tokens in the decoder layers, the count that
  the FastVID paper and its like report, for FastV too; FastV's own code counts text as well.
- **end to end**: floating-point operations (FLOP = 2 x MAC) of every matrix product and convolution
  that answering one question runs, from pixels to the last answer token. Element-wise work is left
  out, as `torch.utils.flop_counter` leaves it out. Attention is counted in full, without the saving
  that a causal kernel may make on half of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

COLOUR_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class LanguageShape:
    """Dimensions of a Qwen2-style decoder (grouped-query attention, gated MLP)."""

    layers: int  # N
    hidden: int  # D
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int  # D'
    vocab: int  # rows of the language-model head
    tied: bool = False  # whether the head's matrix is the input embedding's


@dataclass(frozen=True, slots=True)
class VisionShape:
    """Dimensions of a SigLIP tower without a pooling head, and of its square input in pixels."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    image_size: int
    patch_size: int

    @property
    def side(self) -> int:
        """Patches along one side of a frame."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Patches in one frame."""
        return self.side * self.side


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A whole LLaVA-OneVision model: decoder and tower; projector and pooling follow from both."""

    language: LanguageShape
    vision: VisionShape

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of visual tokens per frame after the 2x pooling, which rounds up."""
        pooled = (self.vision.side + 1) // 2
        return pooled, pooled

    @property
    def tokens_per_frame(self) -> int:
        """Visual tokens per frame, P; the newline token that ends a video is not among them."""
        rows, cols = self.grid
        return rows * cols


@dataclass(frozen=True, slots=True)
class RelevanceShape:
    """Dimensions of what the relevance encoder runs: SigLIP's pooling head and text tower."""

    head_hidden: int
    head_intermediate: int
    head_heads: int
    text_layers: int
    text_hidden: int
    text_intermediate: int
    text_tokens: int  # length that every question is padded to
    projection: int  # width of the shared embedding space
    text_vocab: int = 32_000

    def without_text(self) -> RelevanceShape:
        """The pooling head alone, for a method that compares frames and reads no question."""
        return replace(self, text_layers=0, projection=0)


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """FLOP per part of one answered question, and their sum."""

    vision: int  # tower and projector
    relevance: int  # pooling head on every frame and text tower on the question
    prefill: int  # with the head on the position that yields the first token
    scoring: int  # what choosing tokens takes, in the layers and before
    generate: int  # every further answer token

    @property
    def total(self) -> int:
        return self.vision + self.relevance + self.prefill + self.scoring + self.generate


def paper_cost(visual_per_layer: Sequence[int], shape: LanguageShape) -> int:
    """MAC of the visual tokens that enter each decoder layer, as the FastVID paper counts it.

    Per layer with n visual tokens: ``2 n D (h_kv d) + 2 n D^2 + 2 n^2 D + 3 n D D'``.
    """
    _check_layers(visual_per_layer, shape)
    return sum(paper_layer_cost(count, shape) for count in visual_per_layer)


def paper_layer_cost(visual: int, shape: LanguageShape) -> int:
    """One layer's term of `paper_cost`, for `visual` tokens."""
    width = shape.hidden
    projections = 2 * visual * width * shape.kv_heads * shape.head_dim + 2 * visual * width**2
    attention = 2 * visual**2 * width
    return projections + attention + 3 * visual * width * shape.intermediate


def vision_cost(frames: int, shape: ModelShape) -> int:
    """FLOP of the vision tower and the projector on `frames` frames.

    Attention inside a frame is full by nature. The projector runs before the pooling, so it sees
    every patch and not just the tokens that the language model gets.
    """
    tower, patches = shape.vision, shape.vision.patches
    embedding = patches * COLOUR_CHANNELS * tower.patch_size**2 * tower.hidden
    layers = tower.layers * _encoder_layer(patches, tower.hidden, tower.intermediate)
    projector = patches * shape.language.hidden * (tower.hidden + shape.language.hidden)
    return 2 * frames * (embedding + layers + projector)


def relevance_cost(frames: int, patches: int, shape: RelevanceShape) -> int:
    """FLOP of scoring `frames` frames of `patches` patches against one question.

    The pooling head has one fixed query, so it multiplies every patch with one row per head and
    projects nothing but the weighted means (`model.relevance`); the text tower runs on its
    padded length. The cosines themselves (frames x width) are left out.
    """
    width = shape.head_hidden
    head = (
        2 * patches * width * shape.head_heads  # scores and the means weighted by them
        + 2 * width**2  # value and output projection of the means
        + 2 * width * shape.head_intermediate
    )
    text = shape.text_layers * _encoder_layer(
        shape.text_tokens, shape.text_hidden, shape.text_intermediate
    )
    return 2 * (frames * head + text + shape.text_hidden * shape.projection)


def prefill_cost(
    tokens_per_layer: Sequence[int], shape: LanguageShape, cached_tokens: int = 0
) -> int:
    """FLOP of the prompt's pass through the decoder, and of the head on its last position.

    All tokens count, text and visual. `cached_tokens` of them, at the front, have keys and values
    in the layers' caches already: they are looked at and do not run.
    """
    _check_layers(tokens_per_layer, shape)
    attention_width = shape.heads * shape.head_dim
    macs = shape.hidden * shape.vocab
    for tokens in tokens_per_layer:
        running = tokens - cached_tokens
        macs += running * _decoder_token_cost(shape) + 2 * running * tokens * attention_width
    return 2 * macs


def scoring_cost(
    tokens_per_layer: Sequence[int],
    rows_per_layer: Mapping[int, int],
    shape: LanguageShape,
    keys_per_layer: Mapping[int, int] | None = None,
) -> int:
    """FLOP of the score rows that pruning computes: by layer, how many rows and projected keys.

    Each row takes one query projection and products with all keys that layer l-1 holds; keys count
    where they were projected for these rows alone and are no other layer's.
    """
    _check_layers(tokens_per_layer, shape)
    attention_width = shape.heads * shape.head_dim
    macs = sum(
        rows * attention_width * (shape.hidden + tokens_per_layer[layer - 1])
        for layer, rows in rows_per_layer.items()
    )
    macs += sum((keys_per_layer or {}).values()) * shape.hidden * shape.kv_heads * shape.head_dim
    return 2 * macs


def generate_cost(tokens_per_layer: Sequence[int], generated: int, shape: LanguageShape) -> int:
    """FLOP of the answer tokens after the first, each one position through the layers' caches.

    The end-of-sequence token is among those `generated`. The first one comes from the prefill; the
    last one is never fed back.
    """
    _check_layers(tokens_per_layer, shape)
    steps = max(generated - 1, 0)
    attention_width = shape.heads * shape.head_dim
    # Step j (from 1) attends to the prompt and to j tokens, its own among them.
    keys = steps * sum(tokens_per_layer) + shape.layers * steps * (steps + 1) // 2
    per_step = shape.layers * _decoder_token_cost(shape) + shape.hidden * shape.vocab
    return 2 * (steps * per_step + 2 * keys * attention_width)


def end_to_end_cost(
    shape: ModelShape,
    *,
    frames: int,
    text_tokens: int,
    visual_per_layer: Sequence[int],
    generated: int,
    score_rows: Mapping[int, int] | None = None,
    score_keys: Mapping[int, int] | None = None,
    choosing_macs: int = 0,
    relevance: RelevanceShape | None = None,
    cached_tokens: int = 0,
) -> EndToEnd:
    """FLOP of one answered question, asked on its own: clip encoding included, video decoding not.

    `frames` are those that the vision tower encoded; the newline token is among the `text_tokens`;
    `choosing_macs` were spent on choosing and merging tokens before the language model; the others
    are as the functions above have them.
    """
    tokens = [text_tokens + visual for visual in visual_per_layer]
    patches = shape.vision.patches
    return EndToEnd(
        vision=vision_cost(frames, shape),
        relevance=relevance_cost(frames, patches, relevance) if relevance else 0,
        prefill=prefill_cost(tokens, shape.language, cached_tokens),
        scoring=scoring_cost(tokens, score_rows or {}, shape.language, score_keys)
        + 2 * choosing_macs,
        generate=generate_cost(tokens, generated, shape.language),
    )


def _encoder_layer(tokens: int, hidden: int, intermediate: int) -> int:
    """MAC of one bidirectional transformer layer: four projections, attention, two-matrix MLP."""
    return 4 * tokens * hidden**2 + 2 * tokens**2 * hidden + 2 * tokens * hidden * intermediate


def _decoder_token_cost(shape: LanguageShape) -> int:
    """MAC of one token in one decoder layer: q, k, v, o, gate, up, down, without attention."""
    queries = 2 * shape.hidden * shape.heads * shape.head_dim
    keys_values = 2 * shape.hidden * shape.kv_heads * shape.head_dim
    return queries + keys_values + 3 * shape.hidden * shape.intermediate


def _check_layers(counts: Sequence[int], shape: LanguageShape) -> None:
    if len(counts) != shape.layers:
        raise ValueError(f"{len(counts)} token counts for a model of {shape.layers} layers")


_SO400M = VisionShape(
    layers=26, hidden=1152, heads=16, intermediate=4304, image_size=384, patch_size=14
)

# The published LLaVA-OneVision checkpoints by alias, so that a profile's cost can be told before
# anything is downloaded.
KNOWN_SHAPES: Mapping[str, ModelShape] = {
    "0.5b": ModelShape(LanguageShape(24, 896, 14, 2, 64, 4864, 152_000, tied=True), _SO400M),
    "7b": ModelShape(LanguageShape(28, 3584, 28, 4, 128, 18944, 152_000), _SO400M),
    "72b": ModelShape(LanguageShape(80, 8192, 64, 8, 128, 29568, 152_000), _SO400M),
}

# google/siglip-so400m-patch14-384: the pooling head and the text tower.
SO400M_RELEVANCE = RelevanceShape(
    head_hidden=1152,
    head_intermediate=4304,
    head_heads=16,
    text_layers=27,
    text_hidden=1152,
    text_intermediate=4304,
    text_tokens=64,
    projection=1152,
)
