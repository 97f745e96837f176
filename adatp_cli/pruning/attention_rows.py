"""From a layer's inputs to rows of its attention, without running the layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adatp_cli.pruning.method import ScoreRequest
from adatp_cli.pruning.report import PruningError
from adatp_cli.pruning.selection import attention_rows, rotate

Rotary = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class QueryRows:
    """Inputs of one layer at the rows whose attention will be computed from them.

    Parameters
    ----------
    hidden
        (1, rows, D).
    cos, sin
        (rows, head_dim).
    seen
        (rows,) int64: keys that each row may see.
    last, context
        How many rows are those of the last tokens, and of the text behind the newline.
    """

    hidden: Tensor
    cos: Tensor
    sin: Tensor
    seen: Tensor
    last: int
    context: int

    def __len__(self) -> int:
        return len(self.seen)

    @classmethod
    def of(cls, request: ScoreRequest, hidden: Tensor, rotary: Rotary, newline: int) -> QueryRows:
        """Copy what is asked for; `newline` is its place in the sequence.

        Copies, because a view would keep the whole hidden state of the layer in memory.
        """
        length = hidden.shape[1]
        last = min(request.last, length - newline)
        places = list(range(length - last, length))
        context = min(request.context, length - newline - 1)
        if context:
            places += range(newline, newline + 1 + context)
        index = torch.tensor(places)
        cos, sin = rotary
        return cls(
            hidden.index_select(1, index.to(hidden.device)),
            cos[0].index_select(0, index.to(cos.device)),
            sin[0].index_select(0, index.to(sin.device)),
            index + 1,
            last,
            context,
        )

    def attention(self, layer: nn.Module, keys: Tensor, name: str) -> Tensor:
        """(rows, n) float32 on the CPU: attention of the rows to n keys, mean over heads.

        Parameters
        ----------
        layer
            The decoder layer whose inputs these are.
        keys
            (kv_heads, n, head_dim), rotary embedding applied.
        name
            Of the layer, for the error.

        Raises
        ------
        PruningError
            The scores are not finite.
        """
        part: Any = layer
        attention = part.self_attn
        query = project_query(attention, part.input_layernorm(self.hidden), (self.cos, self.sin))
        table = attention_rows(query.to(keys.device), keys, self.seen, attention.scaling).cpu()
        if not bool(torch.isfinite(table).all()):
            raise PruningError(
                f"the attention scores of layer {name} are not finite numbers",
                "load the model with --dtype bfloat16 or float32",
            )
        return table


def project_query(attention: Any, normed: Tensor, rotary: Rotary) -> Tensor:
    """(heads, rows, head_dim) float32: queries of a layer's attention for its input (1, rows, D).

    Parameters
    ----------
    rotary
        Cosines and sines of the rows, (rows, head_dim) each.
    """
    query = attention.q_proj(normed)
    query = query.view(*query.shape[:-1], -1, attention.head_dim).transpose(1, 2)[0]
    cos, sin = rotary
    return rotate(query.float(), cos.to(query).float(), sin.to(query).float())


def project_keys(layer: nn.Module, hidden: Tensor, rotary: Rotary) -> Tensor:
    """(kv_heads, n, head_dim): keys that a layer will compute from its input (1, n, D)."""
    part: Any = layer
    attention = part.self_attn
    keys = attention.k_proj(part.input_layernorm(hidden))
    keys = keys.view(*keys.shape[:-1], -1, attention.head_dim).transpose(1, 2)[0]
    cos, sin = rotary
    turned = rotate(keys.float(), cos[0].to(keys).float(), sin[0].to(keys).float())
    return turned.to(keys.dtype)
