"""What one run of one contender came to."""

from __future__ import annotations

from dataclasses import dataclass

from adatp_cli.cost import LanguageShape
from adatp_cli.model.device import DTYPE_BYTES
from adatp_cli.record import Flops, TokenCounts

PLAIN = "plain transformers"

# In the order in which tables show them.
STAGES = (
    "decode",
    "vision",
    "relevance",
    "prefill",
    "choosing",
    "first_token",
    "next_first_token",
    "generate",
    "total",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One contender's answer to the first question about a clip, and what followed.

    Parameters
    ----------
    contender
        `PLAIN`, or a profile's name.
    frames
        Frames of the clip.
    seconds
        By `STAGES`; a stage that the contender does not have is left out. `choosing` is a part of
        `prefill`; `first_token` runs from opening the clip, `next_first_token` from asking the
        second question; `total` ends with the answer, loading the model left out.
    tokens, flops
        As in an answer record. For plain transformers, whose run nothing of ours watches, what
        follows from the shapes.
    peak_bytes
        Most memory that was held, above what was held before; None where it is not measured.
    cache_bytes
        Keys and values of prompt and answer at the end.
    """

    contender: str
    frames: int
    seconds: dict[str, float]
    tokens: TokenCounts
    flops: Flops
    peak_bytes: int | None
    cache_bytes: int


def cache_bytes(tokens: TokenCounts, shape: LanguageShape, dtype: str) -> int:
    """Bytes of the keys and values that the layers hold once an answer is generated.

    From the measured lengths after the prefill; each layer grows by every generated token but the
    last, which is never fed back.
    """
    behind = tokens.text + tokens.generated - 1
    held = sum(kept + behind for kept in tokens.kept_per_layer)
    return 2 * held * shape.kv_heads * shape.head_dim * DTYPE_BYTES[dtype]
