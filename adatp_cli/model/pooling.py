"""SigLIP's pooling head, computed in the order in which a single query makes it cheap.

The head asks all patches of a frame one learned question, the probe. As the query never changes,
its product with the key projection is made once; and as there is one weight per patch and head, the
patches are averaged before the value projection and not after it. In exact arithmetic the result is
the head's own. Instead of two products of width x width per patch it takes two rows per head: at
SigLIP so400m's size a fiftieth.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Pooling:
    """A pooling head ready to look at frames.

    Parameters
    ----------
    head
        `SiglipMultiheadAttentionPoolingHead`; its weights must not change afterwards.
    """

    @torch.no_grad()
    def __init__(self, head: nn.Module) -> None:
        part: Any = head
        attention, width = part.attention, part.probe.shape[-1]
        heads = int(attention.num_heads)
        query, key, value = attention.in_proj_weight.split(width)
        query_bias, _, value_bias = attention.in_proj_bias.split(width)
        probe = nn.functional.linear(part.probe[0, 0], query, query_bias).view(heads, -1)
        scaled = probe * probe.shape[1] ** -0.5
        # The bias of the keys is the same for every patch, and the softmax takes it out.
        self._asked = torch.einsum("hd,hdw->hw", scaled, key.view(heads, -1, width))
        self._value = value.view(heads, -1, width)
        self._value_bias = value_bias
        self._out = attention.out_proj
        self._norm, self._mlp = part.layernorm, part.mlp

    def look(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Look at frames.

        Parameters
        ----------
        hidden
            (T, patches, D), normed, in the type of the head's weights.

        Returns
        -------
        Tensor, Tensor
            (T, heads, D), what each head sees, for `vectors`; (T, patches), where they look, mean
            over heads.
        """
        weights = (hidden @ self._asked.T).softmax(1)  # (T, patches, heads)
        return weights.transpose(1, 2) @ hidden, weights.mean(-1)

    def vectors(self, means: Tensor) -> Tensor:
        """(T, D), what the head gives for what its heads see.

        One pass over all frames of a clip reads the weights once: at so400m's size 50 MB, which
        takes longer than the arithmetic for a frame.
        """
        values = torch.einsum("thw,hdw->thd", means, self._value).flatten(1) + self._value_bias
        pooled: Tensor = self._out(values)
        given: Tensor = pooled + self._mlp(self._norm(pooled))
        return given
