"""`--frames auto`: how many frames a pruned run can look at for what fewer cost unpruned.

Arithmetic on shapes, known before a clip is opened.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adatp_cli.cost import ModelShape, paper_cost, prefill_cost, vision_cost

if TYPE_CHECKING:
    from adatp_cli.pruning.method import Outlook

# Tokens of text that the context keeps room for beside the frames (our choice): a multiple-choice
# question of ordinary length with its chat template.
TEXT_ROOM = 256


@dataclass(frozen=True, slots=True)
class FrameBudget:
    """The most frames whose cost stays within that of `default` frames unpruned.

    Parameters
    ----------
    frames, default
        The answer, and the unpruned number that it is set against.
    context_bound
        Whether the model's context, not the cost, allows no more.
    language
        Cost of the pruned frames in the language model over that of `default` frames unpruned,
        paper convention; at most 1.
    encoding
        The same of vision tower and projector, which pruning inside the language model spares
        nothing: ``frames / default``.
    both
        FLOP of tower, projector and the visual tokens' prefill, over the same unpruned: what the
        choice does to the work as a whole. Text, answer, relevance encoder and decoding are left
        out.
    """

    frames: int
    default: int
    context_bound: bool
    language: float
    encoding: float
    both: float


def frame_budget(
    outlook: Callable[[int], Outlook], shape: ModelShape, *, default: int, most: int
) -> FrameBudget:
    """Spend what pruning saves on frames.

    A budget is a share of what the same frames cost unpruned, so cost grows faster than frames do
    and 27.3 % of it does not buy 1 / 0.273 times as many. Found by bisection.

    Parameters
    ----------
    outlook
        Frames to what they come to under the profile; its cost must grow with the frames.
    shape
        The model.
    default
        Frames that an unpruned run would look at, at least 1.
    most
        Frames that fit the model's context. Where that is less than `default` it is the answer, but
        never less than 1.

    Raises
    ------
    UsageError
        The profile cannot reach its budget.
    """
    language, per_frame = shape.language, shape.tokens_per_frame

    def cost(frames: int) -> int:
        return paper_cost(outlook(frames).visual_per_layer, language)

    def both(frames: int, visual_per_layer: Sequence[int]) -> int:
        return vision_cost(frames, shape) + prefill_cost(visual_per_layer, language)

    unpruned = (default * per_frame,) * language.layers
    limit = paper_cost(unpruned, language)
    most = max(most, 1)
    least = min(default, most)
    # `least` frames fit whatever the profile saves.
    frames = bisect_right(range(least + 1, most + 1), limit, key=cost) + least
    kept = outlook(frames).visual_per_layer
    return FrameBudget(
        frames,
        default,
        frames == most and (most < default or paper_cost(kept, language) < limit),
        paper_cost(kept, language) / limit,
        frames / default,
        both(frames, kept) / both(default, unpruned),
    )


def frames_in_context(context: int, text_tokens: int, shape: ModelShape) -> int:
    """Frames whose tokens fit a context beside text, an answer's among it, and the newline."""
    return max(context - text_tokens - 1, 0) // shape.tokens_per_frame
