"""Several questions about one clip: a pruned prefill for each, or one unpruned prefill for all.

Arithmetic on plain numbers, in the end-to-end count of `adatp_cli.cost`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from adatp_cli.cost import LanguageShape, prefill_cost

# How several questions about a clip get their prefills: one for each, as the profile prunes; one
# without pruning that all share; or which of the two costs less.
PrefillMode = Literal["cheaper", "each", "shared"]


@dataclass(frozen=True, slots=True)
class Prefills:
    """FLOP of the prefills of several questions, done in either way.

    Parameters
    ----------
    pruned
        Pruned for each.
    shared
        Unpruned: whole for the first question, and behind what that left for the others.
    """

    pruned: int
    shared: int


def compare_prefills(
    visual_per_layer: Sequence[int],
    visual: int,
    text_before: int,
    text_behind: Sequence[int],
    shape: LanguageShape,
) -> Prefills:
    """Both ways to ask these questions; the prefills alone, choosing and answers left out.

    Parameters
    ----------
    visual_per_layer
        Visual tokens that enter each layer of a pruned prefill.
    visual
        Those of the clip.
    text_before, text_behind
        Tokens of text before the clip, and behind its newline, one number per question.
    """
    front = text_before + visual + 1
    text = [text_before + 1 + behind for behind in text_behind]
    pruned = sum(prefill_cost([one + kept for kept in visual_per_layer], shape) for one in text)
    shared = sum(
        prefill_cost([front + behind] * shape.layers, shape, front if number else 0)
        for number, behind in enumerate(text_behind)
    )
    return Prefills(pruned, shared)


def shared_prefill_cost(prefix: int, questions: Sequence[int], shape: LanguageShape) -> int:
    """FLOP of one unpruned pass over the clip, and of each question on top of its caches.

    What stands before the question is the same for all of them, so its keys and values can be kept.
    Pruning looks at the question, so a pruned prefill cannot be shared.

    Parameters
    ----------
    prefix
        Tokens up to and with the clip's newline.
    questions
        Tokens behind it, one number per question.
    """
    head = 2 * shape.hidden * shape.vocab  # which nothing asks of the prefix
    first = prefill_cost([prefix] * shape.layers, shape) - head
    return first + sum(
        prefill_cost([prefix + tokens] * shape.layers, shape, prefix) for tokens in questions
    )


def questions_to_share(
    visual_per_layer: Sequence[int], text_before: int, text_behind: int, shape: LanguageShape
) -> int | None:
    """From how many questions on one shared unpruned prefill is cheaper than pruning for each.

    Counts the prefill alone: each answer's own tokens then look at full caches, which is more.

    Parameters
    ----------
    visual_per_layer
        Visual tokens that enter each layer of a pruned prefill; layer 0 sees them all.
    text_before, text_behind
        Tokens of text before the clip, and behind it with its newline.

    Returns
    -------
    int or None
        None where sharing is never cheaper.
    """
    text = text_before + text_behind
    pruned = prefill_cost([text + visual for visual in visual_per_layer], shape)
    prefix = text_before + visual_per_layer[0] + 1
    first = shared_prefill_cost(prefix, [], shape)
    each = shared_prefill_cost(prefix, [text_behind - 1], shape) - first
    if each >= pruned:
        return None
    return -(-first // (pruned - each))
