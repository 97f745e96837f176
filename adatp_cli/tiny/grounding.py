"""Losses that tie words to what is seen, without which look-ups by shape are not learned in time.

From the answers alone, although every patch's shape and colour can be read, the decoder soon finds
a thing by its colour, but asked "what colour is the circle?" it still names the colour of any thing
in view after 1,000 steps. Drawing visual tokens to the embeddings of the words for what they show
did not change that in 400 steps; making the last prompt token look at the thing that the question
names did in 200.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlavaOnevisionForConditionalGeneration, Qwen2Tokenizer
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from adatp_cli.tiny.batches import ClipBatch
from adatp_cli.tiny.world import COLOURS, SHAPES

# Layers whose last prompt token is made to look: at what is to be found (0), where most of the
# pruning is done, then at what answers (1).
LOOK_LAYERS = {1: 0, 3: 0, 5: 1, 8: 1}
# Query heads that are made to look, all of the first key/value head; the others stay free.
LOOK_HEADS = 2
_SHARPNESS = 16.0


@dataclass(frozen=True, slots=True)
class Words:
    """Token ids of the world's words, in the order of its tables."""

    colour: Tensor
    shape: Tensor


def words_of(tokenizer: Qwen2Tokenizer) -> Words:
    """The words as they stand inside a sentence, each one token."""

    def ids(names: list[str]) -> Tensor:
        return torch.tensor(
            [tokenizer.encode(f" {name}", add_special_tokens=False)[0] for name in names]
        )

    return Words(ids(list(COLOURS)), ids(list(SHAPES)))


def word_loss(seen: Tensor, wanted: Tensor, embeddings: Tensor) -> Tensor:
    """Cross-entropy of the cosines between visual tokens and words.

    Parameters
    ----------
    seen
        (n, D), visual tokens that show a thing.
    wanted
        (n,), int64 index of the right word.
    embeddings
        (words, D).
    """
    cosines = functional.normalize(seen, dim=-1) @ functional.normalize(embeddings, dim=-1).T
    return functional.cross_entropy(_SHARPNESS * cosines, wanted)


def look_loss(
    model: LlavaOnevisionForConditionalGeneration,
    hidden: Tensor,
    layer: int,
    batch: ClipBatch,
    targets: Tensor,
) -> Tensor:
    """How little of the last prompt token's attention falls on the thing that is asked for.

    Minus the log of the share that the tokens showing the thing have of the attention to head, clip
    and newline; mean over questions and `LOOK_HEADS`.

    Parameters
    ----------
    hidden
        (B, prefix + L, D): what enters the layer.
    targets
        (number of `batch.asked`, n_v) bool: the visual tokens that show each question's thing.
    """
    core = model.model.language_model
    block = core.layers[layer]
    attention = block.self_attn
    width, device = attention.head_dim, hidden.device
    prefix = hidden.shape[1] - batch.text_ids.shape[1]
    seen = targets.any(1)  # a flash may fall between two frames
    clip, row = (part[seen] for part in (batch.asked[:, 0], batch.asked[:, 1]))
    last = hidden[clip.to(device), (prefix + row).to(device)]
    query = attention.q_proj(block.input_layernorm(last))[:, : LOOK_HEADS * width]
    query = query.view(-1, LOOK_HEADS, 1, width)
    key = attention.k_proj(block.input_layernorm(hidden[:, :prefix]))[:, None, :, :width]
    place = (prefix + batch.offset[clip, row])[:, None].to(device)
    query = apply_rotary_pos_emb(query, query, *core.rotary_emb(query, place))[0]
    places = torch.arange(prefix, device=device)[None]
    key = apply_rotary_pos_emb(key, key, *core.rotary_emb(key, places))[0]
    scores = query.float() @ key[clip.to(device)].float().transpose(-1, -2) * attention.scaling
    start = len(batch.head_ids)
    shares = torch.log_softmax(scores[:, :, 0], -1)[:, :, start : start + targets.shape[1]]
    hits = targets[seen][:, None].to(device)
    return -shares.masked_fill(~hits, float("-inf")).logsumexp(-1).mean()
