"""From a layer's inputs to rows of its attention, without running the layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adatp_cli.errors import PruningError
from adatp_cli.pruning.method import ScoreRequest

Rotary = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class QueryRows:
    """Inputs of one layer at the rows whose attention will be computed from them."""

    hidden: Tensor  # (1, rows, D)
    cos: Tensor  # (rows, head_dim)
    sin: Tensor
    seen: Tensor  # (rows,) int64: keys that each row may see
    last: int  # rows of the last tokens
    context: int  # rows of the text behind the newline

    def __len__(self) -> int:
        return len(self.seen)

    @classmethod
    def of(
        cls,
        request: ScoreRequest,
        hidden: Tensor,
        rotary: Rotary,
        newline: int,
        question_start: int,
    ) -> QueryRows:
        """Copy what is asked for; `newline` is its place in the sequence.

        Copies, because a view would keep the whole hidden state of the layer in memory.
        """
        length = hidden.shape[1]
        last = min(request.last, length - newline)
        places = list(range(length - last, length))
        question = newline + 1 + question_start
        context = min(request.context, length - question)
        if context:
            places += [newline, *range(question, question + context)]
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
        """(rows, n) float32 on the CPU: attention of these rows of `layer` to n keys, over heads.

        `keys` (kv_heads, n, head_dim) have their rotary embedding. A PruningError where the scores
        are not finite.
        """
        attention, normed = _normed(layer, self.hidden)
        query = project_query(attention, normed, (self.cos, self.sin))
        table = attention_rows(query.to(keys.device), keys, self.seen, attention.scaling).cpu()
        if not bool(torch.isfinite(table).all()):
            raise PruningError(
                f"the attention scores of layer {name} are not finite numbers",
                "load the model with --dtype bfloat16 or float32",
            )
        return table


def project_query(attention: Any, normed: Tensor, rotary: Rotary) -> Tensor:
    """(heads, rows, head_dim) float32: queries of a layer's attention for its input (1, rows, D).

    `rotary` are cosines and sines of the rows, (rows, head_dim) each.
    """
    return _turned(attention.q_proj(normed), attention, rotary)


def project_keys(layer: nn.Module, hidden: Tensor, rotary: Rotary) -> Tensor:
    """(kv_heads, n, head_dim): keys that a layer will compute from its input (1, n, D)."""
    attention, normed = _normed(layer, hidden)
    keys = attention.k_proj(normed)
    return _turned(keys, attention, (rotary[0][0], rotary[1][0])).to(keys.dtype)


def _normed(layer: nn.Module, hidden: Tensor) -> tuple[Any, Tensor]:
    part: Any = layer
    return part.self_attn, part.input_layernorm(hidden)


def _turned(made: Tensor, attention: Any, rotary: Rotary) -> Tensor:
    """(heads, rows, head_dim) float32 of (1, rows, D): rotary embedding in Qwen2's halves."""
    vectors = made.view(*made.shape[:-1], -1, attention.head_dim).transpose(1, 2)[0].float()
    cos, sin = (part.to(made).float() for part in rotary)
    half = vectors.shape[-1] // 2
    turned = torch.cat((-vectors[..., half:], vectors[..., :half]), dim=-1)
    return vectors * cos + turned * sin


def attention_rows(query: Tensor, keys: Tensor, seen: Tensor, scaling: float) -> Tensor:
    """(rows, n) float32: attention probabilities of a few queries to n keys, mean over heads.

    `query` is (heads, rows, head_dim) and `keys` (kv_heads, n, head_dim), rotary embedding applied
    to both; `seen` (rows,) int64 on the CPU: how many keys, from the first on, each query may see.
    Every row sums to 1, and is 0 where the query must not look.
    """
    # Query heads that share a key head are folded into rows: keys are never repeated in memory.
    heads, rows, width = query.shape
    kv_heads, count, _ = keys.shape
    folded = query.float().reshape(kv_heads, (heads // kv_heads) * rows, width)
    products = torch.matmul(folded, keys.float().transpose(1, 2)) * scaling
    products = products.view(heads, rows, count)
    if int(seen.min()) < count:
        hidden = torch.arange(count) >= seen[:, None]
        products = products.masked_fill(hidden.to(products.device), float("-inf"))
    return products.softmax(dim=-1).mean(dim=0)
