"""One unpruned prefill for several questions about a clip: what stands before them is kept.

Text before the clip, the clip and its newline are the same for every question, and in a causal
model nothing behind them changes their keys and values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import DynamicCache


class SharedPrefix:
    """Keys and values of a clip, which its first question leaves and later ones begin behind.

    The first question is an ordinary prefill. Later ones run only what stands behind the clip; by
    arithmetic their answers are those of whole prefills, with other sizes of matrix products and so
    other rounding. Serves one clip, one question at a time, and only where nothing is pruned.
    """

    def __init__(self) -> None:
        self._cache: DynamicCache | None = None
        self._ids = torch.empty(1, 0, dtype=torch.int64)
        self._visual: Tensor | None = None

    def take(self, input_ids: Tensor, visual: Tensor, config: Any) -> tuple[DynamicCache, int]:
        """A cache for one run, and how many tokens of this prompt it holds already.

        What was kept is out of here until `keep`: a run that fails leaves nothing half done behind.

        Parameters
        ----------
        input_ids
            (1, L) int64, on the CPU.
        visual
            What takes the place of the placeholders; the same object for every question.
        config
            The model's.
        """
        from transformers import DynamicCache

        cache, held = self._cache, self._ids.shape[1]
        self._cache = None
        fits = visual is self._visual and torch.equal(input_ids[:, :held], self._ids)
        if cache is None or not fits or held >= input_ids.shape[1]:
            return DynamicCache(config=config), 0
        return cache, held

    def keep(self, cache: DynamicCache, input_ids: Tensor, visual: Tensor, length: int) -> None:
        """Keep the first `length` tokens of a cache that has run to its end."""
        if any(cache.is_sliding):  # has forgotten them
            return
        cache.crop(length - cache.get_seq_length())
        self._cache, self._ids, self._visual = cache, input_ids[:, :length], visual
