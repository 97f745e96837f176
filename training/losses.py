"""Losses of `tiny`'s training.

Dense labels on every patch for the tower; packed questions, and dense labels on the visual tokens,
for the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, LlavaOnevisionForConditionalGeneration, Qwen2Tokenizer
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from adatp_cli.tiny.world import COLOURS, MAX_SCENES, MOTIONS, SHAPES
from training.architecture import DECODER_WIDTH, GRID, PATCHES, TOWER_WIDTH
from training.batches import ClipBatch, TowerBatch, packed_bias
from training.labels import Labels

# After so many decoder layers the visual tokens are asked for what only earlier frames can tell.
DENSE_DEPTH = 2


def _readers(width: int, **classes: int) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(width, count) for name, count in classes.items()})


class TowerHeads(nn.Module):
    """Linear readers of every patch, thrown away after training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(TOWER_WIDTH, elementwise_affine=False)
        self.classes = _readers(
            TOWER_WIDTH,
            shape=1 + len(SHAPES),
            colour=1 + len(COLOURS),
            large=3,
            count=4,
            flash=2,
            row=PATCHES,
            column=PATCHES,
        )
        self.offset = nn.Linear(TOWER_WIDTH, 2)


class DecoderHeads(nn.Module):
    """Linear readers of the visual tokens at the decoder's entrance and after some layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(DECODER_WIDTH, elementwise_affine=False)
        self.entrance = _readers(
            DECODER_WIDTH,
            shape=1 + len(SHAPES),
            colour=1 + len(COLOURS),
            large=3,
        )
        self.depth = _readers(
            DECODER_WIDTH,
            shape=1 + len(SHAPES),
            colour=1 + len(COLOURS),
            motion=1 + len(MOTIONS),
            scene=MAX_SCENES,
        )


@dataclass(frozen=True, slots=True)
class Losses:
    """What a step is taken along, and the parts that are reported."""

    total: Tensor
    parts: dict[str, float]


def tower_features(model: LlavaOnevisionForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Run the vision tower: (F, 3, S, S) to (F, patches, D).

    The hidden state *before* the post-layernorm, which is what the decoder is given.
    """
    inputs = pixels.to(model.device, model.dtype)
    hidden: Tensor = model.model.vision_tower(inputs, output_hidden_states=True).hidden_states[-1]
    return hidden


def tower_loss(
    model: LlavaOnevisionForConditionalGeneration, heads: TowerHeads, batch: TowerBatch
) -> Losses:
    """Cross-entropy of every reader on every patch, and the miss of the things' centres."""
    features = heads.norm(tower_features(model, batch.pixels).float())
    labels = batch.labels
    frames = features.shape[0]
    place = np.arange(PATCHES)
    shape = (frames, PATCHES, PATCHES)
    targets: dict[str, NDArray[np.int64]] = {
        "shape": labels.shape,
        "colour": labels.colour,
        "large": labels.large,
        "count": np.broadcast_to(labels.count[:, None, None], shape),
        "flash": np.broadcast_to(labels.flash[:, None, None], shape),
        "row": np.broadcast_to(place[None, :, None], shape),
        "column": np.broadcast_to(place[None, None, :], shape),
    }
    device = features.device
    losses: dict[str, Tensor] = {}
    busy = torch.from_numpy(labels.shape > 0).flatten(1).to(device)
    for name, target in targets.items():
        wanted = torch.from_numpy(np.ascontiguousarray(target)).flatten(1).to(device)
        losses[name] = _balanced(heads.classes[name](features), wanted, busy)
    offset = torch.from_numpy(labels.offset).flatten(1, 2).to(device)
    miss = functional.smooth_l1_loss(heads.offset(features)[busy], offset[busy], beta=0.02)
    losses["offset"] = 5.0 * miss
    total = torch.stack(list(losses.values())).sum()
    return Losses(total, {name: float(value.detach()) for name, value in losses.items()})


def _balanced(logits: Tensor, target: Tensor, busy: Tensor) -> Tensor:
    """Cross-entropy in which the cells with a thing and the empty ones weigh the same."""
    loss = functional.cross_entropy(
        logits.flatten(0, 1).float(), target.flatten(), reduction="none"
    )
    weight = torch.where(
        busy.flatten(), 0.5 / busy.sum().clamp(min=1), 0.5 / (~busy).sum().clamp(min=1)
    )
    return (loss * weight).sum()


def packed_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    scaling: float,
    **_options: object,
) -> tuple[Tensor, None]:
    """Attention of a packed batch, in the library's interface for attention functions.

    The clip's rows are causal; `attention_mask` is the bias of the text's rows (`packed_bias`).
    Plain matrix products in the values' type: on a CPU they take less than half the time of the
    fused kernel, which pays for a mask over the whole square.
    """
    dtype = value.dtype
    repeat = query.shape[1] // key.shape[1]
    query = query.to(dtype) * scaling
    key, value = (part.to(dtype).repeat_interleave(repeat, 1) for part in (key, value))
    prefix = query.shape[2] - attention_mask.shape[2]
    hidden = torch.full((prefix, prefix), float("-inf"), dtype=dtype, device=query.device).triu(1)
    with torch.autocast(query.device.type, enabled=False):
        clip = _attend(query[:, :, :prefix], key[:, :, :prefix], value[:, :, :prefix], hidden)
        text = _attend(query[:, :, prefix:], key, value, attention_mask.to(dtype))
    return torch.cat([clip, text], 2).transpose(1, 2), None


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    return torch.softmax(query @ key.transpose(-1, -2) + bias, -1) @ value


def use_packed_attention(model: LlavaOnevisionForConditionalGeneration) -> None:
    """Give the decoder `packed_attention`; it then takes packed batches only."""
    AttentionInterface.register("packed", packed_attention)
    model.model.language_model.set_attn_implementation("packed")


def decode(
    model: LlavaOnevisionForConditionalGeneration, features: Tensor, batch: ClipBatch
) -> tuple[Tensor, Tensor, tuple[Tensor, ...], int]:
    """Run clip and packed questions through projector and decoder, from the tower's features.

    Returns logits of the answer tokens (n, V), their targets (n,), all hidden states, each
    (B, prefix + L, D), and the index of the first visual token. The model must have been given to
    `use_packed_attention`.
    """
    core = model.model
    device = features.device
    clips, length = batch.text_ids.shape
    visual = core.apply_pooling(core.multi_modal_projector(features)).reshape(
        clips, -1, DECODER_WIDTH
    )
    embed = core.language_model.embed_tokens
    head = embed(batch.head_ids.to(device))[None].expand(clips, -1, -1)
    newline = core.image_newline[None, None].expand(clips, -1, -1)
    inputs = torch.cat([head, visual, newline, embed(batch.text_ids.to(device))], 1)
    prefix = inputs.shape[1] - length
    positions = torch.cat([torch.arange(prefix).expand(clips, -1), prefix + batch.offset], 1).to(
        device
    )
    result = core.language_model(
        inputs_embeds=inputs,
        attention_mask={"full_attention": packed_bias(batch.owner, prefix).to(device)},
        position_ids=positions,
        use_cache=False,
        output_hidden_states=True,
    )
    clip, token = batch.is_answer.nonzero(as_tuple=True)
    states = result.last_hidden_state[clip.to(device), (prefix + token - 1).to(device)]
    return (
        model.lm_head(states),
        batch.text_ids[clip, token].to(device),
        result.hidden_states,
        len(batch.head_ids),
    )


def _label_tensor(labels: list[Labels], name: str) -> Tensor:
    """(B, T * cells) from per-clip arrays; per-frame ones are repeated over the cells."""
    rows = []
    for row in labels:
        value = getattr(row, name)
        if value.ndim == 1:
            value = np.broadcast_to(value[:, None, None], (len(value), GRID, GRID))
        rows.append(torch.from_numpy(np.ascontiguousarray(value)).flatten())
    return torch.stack(rows)


def _reading_losses(
    model: LlavaOnevisionForConditionalGeneration,
    heads: DecoderHeads,
    hidden: tuple[Tensor, ...],
    batch: ClipBatch,
    words: dict[str, Tensor],
    start: int,
) -> dict[str, Tensor]:
    """How badly the labels are read off the visual tokens, which stand from `start` on."""
    device = hidden[0].device
    count = batch.labels[0].shape.size
    labels = {name: _label_tensor(batch.labels, name) for name in ("shape", "colour")}
    busy = (labels["shape"] > 0).to(device)
    settled = _label_tensor(batch.labels, "settled").to(device)
    dense: dict[str, Tensor] = {}
    for level, state in (("entrance", hidden[0]), ("depth", hidden[DENSE_DEPTH])):
        seen = heads.norm(state[:, start : start + count].float())
        for name, reader in getattr(heads, level).items():
            wanted = _label_tensor(batch.labels, name).to(device)
            if name == "motion":
                # Only things, and only where the frames so far can tell.
                told = busy & settled
                dense[f"{level}.{name}"] = functional.cross_entropy(
                    reader(seen[told]).float(), wanted[told]
                )
            else:
                dense[f"{level}.{name}"] = _balanced(reader(seen), wanted, busy)
        for name, ids in words.items():
            table: Tensor = model.lm_head.weight  # tied to the embeddings
            embeddings = table[ids.to(device)]
            wanted = labels[name].to(device)[busy] - 1
            dense[f"{level}.word-{name}"] = word_loss(seen[busy], wanted, embeddings.float())
    return dense


def decoder_loss(
    model: LlavaOnevisionForConditionalGeneration,
    heads: DecoderHeads | None,
    features: Tensor,
    batch: ClipBatch,
    words: dict[str, Tensor],
    dense_weight: float,
) -> Losses:
    """Cross-entropy on the answers, plus `dense_weight` times all that the labels teach.

    Without `heads` the labels teach only where to look.
    """
    logits, targets, hidden, start = decode(model, features, batch)
    language = functional.cross_entropy(logits.float(), targets)
    dense: dict[str, Tensor] = {}
    if heads is not None:
        dense = _reading_losses(model, heads, hidden, batch, words, start)
    codes = _label_tensor(batch.labels, "look")[batch.asked[:, 0]]
    for layer, part in LOOK_LAYERS.items():
        shown = batch.evidence[:, part].gather(1, codes)
        dense[f"look-{layer}"] = look_loss(model, hidden[layer], layer, batch, shown)
    extra = torch.stack(list(dense.values())).sum()
    parts = {"language": float(language.detach())} | {
        k: float(v.detach()) for k, v in dense.items()
    }
    return Losses(language + dense_weight * extra, parts)


@torch.no_grad()
def exact_answers(
    model: LlavaOnevisionForConditionalGeneration, features: Tensor, batch: ClipBatch
) -> dict[str, list[bool]]:
    """Per question kind, whether greedy decoding would give each answer word for word.

    With the true answer fed in, the greedy answer is the true one exactly when every token is
    predicted.
    """
    logits, targets, _, _ = decode(model, features, batch)
    right = (logits.argmax(-1) == targets).cpu()
    clip, token = batch.is_answer.nonzero(as_tuple=True)
    number = batch.owner[clip, token]
    verdicts: dict[str, list[bool]] = {}
    for b, asked in enumerate(batch.questions):
        for n, question in enumerate(asked, start=1):
            mine = (clip == b) & (number == n)
            verdicts.setdefault(question.kind, []).append(bool(right[mine].all()))
    return verdicts


# The answers alone do not teach look-ups by shape in time: although every patch's shape and colour
# can be read, the decoder, asked "what colour is the circle?", still names the colour of any thing
# in view after 1,000 steps. Drawing visual tokens to the embeddings of the words for what they show
# did not change that in 400 steps; making the last prompt token look at the thing that the question
# names did in 200.

# Layers whose last prompt token is made to look: at what is to be found (0), where most of the
# pruning is done, then at what answers (1).
LOOK_LAYERS = {1: 0, 3: 0, 5: 1, 8: 1}
# Query heads that are made to look, all of the first key/value head; the others stay free.
LOOK_HEADS = 2
_SHARPNESS = 16.0


def words_of(tokenizer: Qwen2Tokenizer) -> dict[str, Tensor]:
    """Token ids of the world's shapes and colours as they stand inside a sentence, one for each."""
    return {
        kind: torch.tensor(
            [tokenizer.encode(f" {name}", add_special_tokens=False)[0] for name in names]
        )
        for kind, names in (("shape", SHAPES), ("colour", tuple(COLOURS)))
    }


def word_loss(seen: Tensor, wanted: Tensor, embeddings: Tensor) -> Tensor:
    """Cross-entropy of the cosines between visual tokens (n, D) and words (words, D).

    `wanted` is (n,), the index of each token's word.
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
    and newline; mean over questions and `LOOK_HEADS`. `hidden` is what enters the layer, (B, prefix
    + L, D); `targets` the visual tokens that show each question's thing, (rows of `batch.asked`,
    n_v) bool.
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
