"""The relevance encoder's training: SigLIP's sigmoid loss between frames and questions about what they show.

The vision tower is finished and frozen; what learns are the text tower and the pooling head with its layer norm.
Which frames a question is about is known exactly, so that no accidental match is taken for a mismatch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import SiglipConfig, SiglipTextModel
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

from adatp_cli.model.relevance import QuestionTokenizer, canonical
from adatp_cli.tiny.architecture import IMAGE_SIZE, tower_settings, write_json
from adatp_cli.tiny.batches import normalise
from adatp_cli.tiny.questions import draw_questions
from adatp_cli.tiny.render import render, shown_at
from adatp_cli.tiny.world import COLOURS, SHAPES, Thing, random_clip

TEXT_TOKENS = 64
_EOS = "</s>"


@dataclass(frozen=True, slots=True)
class PairBatch:
    pixels: Tensor  # (F, 3, S, S)
    token_ids: Tensor  # (Q, TEXT_TOKENS)
    matches: Tensor  # (Q, F) bool


def mentions(text: str) -> list[tuple[str | None, str | None]]:
    """The things a question speaks of, as (colour, shape) with None for what it leaves open."""
    found: list[tuple[str | None, str | None]] = []
    colour: str | None = None
    for word in canonical(text).split():
        if word in SHAPES:
            found.append((colour, word))
            colour = None
        elif word in COLOURS:
            colour = word
    return [*found, (colour, None)] if colour else found


def _is_about(wanted: list[tuple[str | None, str | None]], things: list[Thing]) -> bool:
    return any(
        colour in (None, thing.colour) and shape in (None, thing.shape)
        for colour, shape in wanted
        for thing in things
    )


def build_text_tokenizer(sentences: list[str]) -> Tokenizer:
    """A unigram tokenizer of SigLIP's kind over canonical text."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=160,
        special_tokens=["<pad>", _EOS, "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator([canonical(sentence) for sentence in sentences], trainer)
    end = tokenizer.token_to_id(_EOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {_EOS}", special_tokens=[(_EOS, end)]
    )
    return tokenizer


class Contrast(nn.Module):
    """The trainable parts, named as in a `SiglipModel`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.raw_tokenizer = tokenizer
        end = tokenizer.token_to_id(_EOS)
        self.tokenizer = QuestionTokenizer(tokenizer, eos=end, pad=end, length=TEXT_TOKENS)
        text = {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": tokenizer.get_vocab_size(),
            "max_position_embeddings": TEXT_TOKENS,
            **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), end),
        }
        vision = tower_settings() | {"vision_use_head": True}
        self.config = SiglipConfig(text_config=text, vision_config=vision)
        self.text_tower = SiglipTextModel(self.config.text_config)
        self.norm = nn.LayerNorm(128, eps=self.config.vision_config.layer_norm_eps)
        self.head = SiglipMultiheadAttentionPoolingHead(self.config.vision_config)
        self.scale = nn.Parameter(torch.tensor(10.0).log())
        self.bias = nn.Parameter(torch.tensor(-5.0))

    def loss(self, features: Tensor, batch: PairBatch) -> Tensor:
        """Sigmoid loss over all pairs (SigLIP, arXiv 2303.15343), matches and mismatches weighing the same."""
        frames = functional.normalize(self.head(self.norm(features)), dim=-1)
        texts = functional.normalize(
            self.text_tower(input_ids=batch.token_ids.to(features.device)).pooler_output, dim=-1
        )
        logits = self.scale.exp() * texts @ frames.T + self.bias
        matches = batch.matches.to(features.device)
        loss = functional.binary_cross_entropy_with_logits(
            logits, matches.float(), reduction="none"
        )
        return 0.5 * (loss[matches].mean() + loss[~matches].mean())

    def save(self, folder: Path) -> None:
        """Write the folder that `model.relevance.load_relevance` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        self.raw_tokenizer.save(str(folder / "tokenizer.json"))
        names = {
            "eos_token": _EOS,
            "pad_token": _EOS,
            "unk_token": "<unk>",
            "model_max_length": TEXT_TOKENS,
        }
        write_json(folder / "tokenizer_config.json", names)
        # A text tower on its own names its tensors as inside a `SiglipModel`, or without the prefix.
        text = {
            f"text_model.{k.removeprefix('text_model.')}": v
            for k, v in self.text_tower.state_dict().items()
        }
        norm = {f"vision_model.post_layernorm.{k}": v for k, v in self.norm.state_dict().items()}
        head = {f"vision_model.head.{k}": v for k, v in self.head.state_dict().items()}
        state = {
            k: v.to(torch.bfloat16).cpu().contiguous() for k, v in (text | norm | head).items()
        }
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        self.config.architectures = ["SiglipModel"]
        self.config.save_pretrained(folder)


def pair_batch(
    tokenizer: QuestionTokenizer, seed: int, step: int, *, clips: int, per_clip: int = 4
) -> PairBatch:
    """Frames of fresh clips, and questions about things; matches are over the whole batch."""
    pixels: list[np.ndarray] = []
    things: list[list[Thing]] = []
    texts: list[str] = []
    for number in range(clips):
        rng = np.random.default_rng([seed, step, number])
        clip = random_clip(rng)
        times = rng.uniform(0.0, 1.0, per_clip)
        pixels.append(render(clip, times, IMAGE_SIZE))
        things.extend([thing for thing, _ in shown_at(clip, float(time))] for time in times)
        about = [q.text for q in draw_questions(clip, rng, 16) if mentions(q.text)]
        texts.extend(about[:per_clip])
    wanted = [mentions(text) for text in texts]
    matches = torch.tensor([[_is_about(row, column) for column in things] for row in wanted])
    ids = torch.cat([tokenizer(text) for text in texts])
    return PairBatch(normalise(np.concatenate(pixels)), ids, matches)
