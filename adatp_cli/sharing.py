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


def questions_to_share(
    visual_per_layer: Sequence[int],
    visual: int,
    text_before: int,
    text_behind: int,
    shape: LanguageShape,
) -> int | None:
    """From how many questions of one length on one shared unpruned prefill costs less.

    Parameters
    ----------
    visual_per_layer, visual, text_before
        As for `compare_prefills`.
    text_behind
        Tokens of text behind the clip's newline, of every question.

    Returns
    -------
    int or None
        None where sharing never costs less.
    """
    one, two = (
        compare_prefills(visual_per_layer, visual, text_before, [text_behind] * count, shape)
        for count in (1, 2)
    )
    later = two.shared - one.shared
    if later >= one.pruned:
        return None
    return (one.shared - later) // (one.pruned - later) + 1
