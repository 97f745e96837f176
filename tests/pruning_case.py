"""A small decoder of noise, pruned and unpruned, for the tests of the pruning methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb, repeat_kv

from adatp_cli.cost import LanguageShape
from adatp_cli.pruning.hooks import PrunedPrefill, PruneReport
from adatp_cli.pruning.method import LayerStep, PruningPlan, ScoreRequest, VisualLayout

LAYERS = 8
SHAPE = LanguageShape(LAYERS, 48, 6, 2, 8, 96, 100)
LAYOUT = VisualLayout(start=5, frames=4, rows=3, cols=3)
LENGTH = LAYOUT.start + LAYOUT.visual + 1 + 7


def build_model() -> Qwen2ForCausalLM:
    """A decoder of noise whose attention is far from flat."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=SHAPE.vocab,
        hidden_size=SHAPE.hidden,
        intermediate_size=SHAPE.intermediate,
        num_hidden_layers=LAYERS,
        num_attention_heads=SHAPE.heads,
        num_key_value_heads=SHAPE.kv_heads,
        attn_implementation="sdpa",
        eos_token_id=None,
    )
    model = Qwen2ForCausalLM(config).eval()
    for name, value in model.named_parameters():  # flat attention would hide every mistake
        if value.ndim == 2:
            torch.nn.init.normal_(value, std=1.2 / value.shape[1] ** 0.5)
        elif name.endswith("bias"):
            torch.nn.init.normal_(value, std=0.5)
    model.generation_config.eos_token_id = None
    return model


def build_prompt(layout: VisualLayout = LAYOUT) -> Tensor:
    """(1, L, D) noise: text, the clip's tokens, newline and seven tokens of question."""
    length = layout.start + layout.visual + 1 + 7
    return torch.randn(1, length, SHAPE.hidden, generator=torch.Generator().manual_seed(1))


class Fixed(PruningPlan):
    """Keeps what the test says."""

    def __init__(self, kept: Mapping[int, list[int]], rows: ScoreRequest | None = None) -> None:
        super().__init__(dict.fromkeys(kept, 10**6))
        self.kept = kept
        self.rows = rows or ScoreRequest()
        self.steps: list[LayerStep] = []

    def request(self, layer: int) -> ScoreRequest:  # noqa: ARG002
        return self.rows

    def choose(self, step: LayerStep) -> Tensor:
        self.steps.append(step)
        return torch.tensor(self.kept[step.layer], dtype=torch.int64)


def prefill(
    model: Qwen2ForCausalLM,
    plan: PruningPlan,
    prompt: Tensor,
    layout: VisualLayout = LAYOUT,
    **arguments: Any,
) -> tuple[Tensor, DynamicCache, PruneReport]:
    """Last logits, caches and report of the pruned prefill of an unpruned prompt."""
    cache = DynamicCache()
    with torch.inference_mode(), PrunedPrefill(model.model, plan, layout) as run:
        entered = enter(plan, prompt, layout)
        output = model(inputs_embeds=entered, past_key_values=cache, use_cache=True, **arguments)
    return output.logits[0, -1], cache, run.report


def enter(plan: PruningPlan, prompt: Tensor, layout: VisualLayout) -> Tensor:
    """The prompt as it enters layer 0 under a plan; line breaks are rows of ones."""
    if plan.entry is None:
        return prompt
    made = plan.entry.embeddings.clone()
    made[plan.entry.breaks] = 1.0
    behind = layout.start + layout.visual
    return torch.cat((prompt[:, : layout.start], made[None], prompt[:, behind:]), dim=1)


def masked_run(
    model: Qwen2ForCausalLM,
    prompt: Tensor,
    kept: Mapping[int, list[int]],
    layout: VisualLayout = LAYOUT,
    *,
    compact: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """Logits of a run at full length in which dropped tokens are invisible from their layer on.

    Also the attention of every layer, mean over heads, as the library's eager code computes it.
    With `compact` positions survivors are numbered anew at every layer.
    """
    decoder, length = model.model, prompt.shape[1]
    everything = torch.ones(length, dtype=torch.bool)
    visible = everything
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    hidden = prompt
    attentions = []
    with torch.inference_mode():
        for index, layer in enumerate(decoder.layers):
            if index in kept:
                visible = everything.clone()
                visible[layout.start : layout.start + layout.visual] = False
                visible[layout.start + torch.tensor(kept[index])] = True
            ids = visible.long().cumsum(0) - 1 if compact else torch.arange(length)
            positions = decoder.rotary_emb(prompt, ids.clamp_min(0)[None])
            # A dropped token's own row must see something; what it computes reaches nobody.
            mask = (causal & visible[None]) | torch.eye(length, dtype=torch.bool)
            bias = torch.zeros(length, length).masked_fill(~mask, float("-inf"))[None, None]
            attention = layer.self_attn
            normed = layer.input_layernorm(hidden)
            query = attention.q_proj(normed).view(1, length, -1, 8).transpose(1, 2)
            key = attention.k_proj(normed).view(1, length, -1, 8).transpose(1, 2)
            query, key = apply_rotary_pos_emb(query, key, *positions)
            products = query @ repeat_kv(key, 3).transpose(2, 3) * 8**-0.5 + bias
            attentions.append(products.softmax(-1).mean(1)[0])
            hidden = layer(hidden, attention_mask=bias, position_embeddings=positions)
        return model.lm_head(decoder.norm(hidden))[0, -1], attentions
