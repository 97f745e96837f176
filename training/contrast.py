"""The relevance encoder: what it is made of, and SigLIP's loss between frames and questions.

The vision tower is finished and frozen; what learns are the text tower and the pooling head with
its layer norm. Which frames a question is about is known exactly, so that no accidental match is
taken for a mismatch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import SiglipTextConfig, SiglipTextModel, SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

from adatp_cli.model.relevance import QuestionTokenizer, canonical
from adatp_cli.tiny.clips import Pixels, render, shown_at
from adatp_cli.tiny.questions import draw_questions
from adatp_cli.tiny.world import Thing, random_clip
from training.architecture import IMAGE_SIZE, TOWER_WIDTH, tower_settings, write_json
from training.batches import normalise
from training.labels import is_called, mentions

TEXT_TOKENS = 64
_END, _UNKNOWN = "</s>", "<unk>"


@dataclass(frozen=True, slots=True)
class PairBatch:
    """F frames, Q questions, and which question is about which frame."""

    pixels: Tensor  # (F, 3, S, S)
    token_ids: Tensor  # (Q, TEXT_TOKENS)
    matches: Tensor  # (Q, F) bool


def match_matrix(texts: Sequence[str], things: Sequence[Sequence[Thing]]) -> Tensor:
    """Which question speaks of something that is in view in which frame: (Q, F) bool."""

    def in_view(text: str, shown: Sequence[Thing]) -> bool:
        return any(is_called(thing, mention) for mention in mentions(text) for thing in shown)

    return torch.tensor([[in_view(text, shown) for shown in things] for text in texts])


def build_text_tokenizer(sentences: list[str]) -> Tokenizer:
    """A unigram tokenizer of SigLIP's kind over canonical text."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=160,
        special_tokens=["<pad>", _END, _UNKNOWN],
        unk_token=_UNKNOWN,
        show_progress=False,
    )
    tokenizer.train_from_iterator([canonical(sentence) for sentence in sentences], trainer)
    # The trainer adds in no fixed order: the last digits of its scores differ from run to run.
    trained = json.loads(tokenizer.to_str())
    trained["model"]["vocab"] = [
        [piece, round(score, 6)] for piece, score in trained["model"]["vocab"]
    ]
    tokenizer = Tokenizer.from_str(json.dumps(trained))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {_END}", special_tokens=[(_END, _end_id(tokenizer))]
    )
    return tokenizer


def _end_id(tokenizer: Tokenizer) -> int:
    number = tokenizer.token_to_id(_END)
    if number is None:
        raise ValueError(f"the tokenizer has no {_END}")
    return number


def relevance_settings(tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    """The `SiglipConfig` of the encoder: `text_config` and `vision_config`."""
    # As in the published SigLIP, whose questions are padded with the token that ends them.
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), _end_id(tokenizer))
    text = {
        "hidden_size": TOWER_WIDTH,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": TEXT_TOKENS,
    }
    return {
        "text_config": text | ids,
        "vision_config": tower_settings() | {"vision_use_head": True},
    }


def write_relevance(folder: Path, tokenizer: Tokenizer, state: Mapping[str, Tensor]) -> None:
    """Write the folder that `model.relevance.load_relevance` reads.

    `state` has the tensors by their names in a `SiglipModel`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {
        "eos_token": _END,
        "pad_token": _END,
        "unk_token": _UNKNOWN,
        "model_max_length": TEXT_TOKENS,
    }
    write_json(folder / "tokenizer_config.json", names)
    save_file(dict(state), folder / "model.safetensors", metadata={"format": "pt"})
    # `SiglipConfig.save_pretrained` compares with the library's defaults, and warns about those.
    described: dict[str, object] = {"architectures": ["SiglipModel"], "model_type": "siglip"}
    write_json(folder / "config.json", described | relevance_settings(tokenizer))


class Contrast(nn.Module):
    """The trainable parts, named as in a `SiglipModel`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.raw_tokenizer = tokenizer
        end = _end_id(tokenizer)
        self.tokenizer = QuestionTokenizer(tokenizer, eos=end, pad=end, length=TEXT_TOKENS)
        settings = relevance_settings(tokenizer)
        vision = SiglipVisionConfig(**settings["vision_config"])
        self.text_tower = SiglipTextModel(SiglipTextConfig(**settings["text_config"]))
        self.norm = nn.LayerNorm(TOWER_WIDTH, eps=vision.layer_norm_eps)
        self.head = SiglipMultiheadAttentionPoolingHead(vision)
        self.scale = nn.Parameter(torch.tensor(10.0).log())
        self.bias = nn.Parameter(torch.tensor(-5.0))

    def frame_vectors(self, features: Tensor) -> Tensor:
        """Pool the tower's features (F, patches, D) to vectors of unit length, (F, D)."""
        return functional.normalize(self.head(self.norm(features)), dim=-1)

    def text_vectors(self, token_ids: Tensor) -> Tensor:
        """Embed questions, (Q, TEXT_TOKENS), as vectors of unit length, (Q, D)."""
        return functional.normalize(self.text_tower(input_ids=token_ids).pooler_output, dim=-1)

    def loss(self, features: Tensor, batch: PairBatch) -> Tensor:
        """Sigmoid loss over all pairs (SigLIP, arXiv 2303.15343).

        Matches are few; together they weigh as much as the mismatches (our choice).
        """
        frames = self.frame_vectors(features)
        texts = self.text_vectors(batch.token_ids.to(features.device))
        logits = self.scale.exp() * texts @ frames.T + self.bias
        matches = batch.matches.to(features.device)
        loss = functional.binary_cross_entropy_with_logits(
            logits, matches.float(), reduction="none"
        )
        return 0.5 * (loss[matches].mean() + loss[~matches].mean())

    def save(self, folder: Path) -> None:
        """Write the folder that `model.relevance.load_relevance` reads, in bfloat16."""
        # The text tower's own names lack the prefix, or have it: that is up to the library.
        text = {
            f"text_model.{k.removeprefix('text_model.')}": v
            for k, v in self.text_tower.state_dict().items()
        }
        norm = {f"vision_model.post_layernorm.{k}": v for k, v in self.norm.state_dict().items()}
        head = {f"vision_model.head.{k}": v for k, v in self.head.state_dict().items()}
        state = {
            k: v.to(torch.bfloat16).cpu().contiguous() for k, v in (text | norm | head).items()
        }
        write_relevance(folder, self.raw_tokenizer, state)


def pair_batch(
    tokenizer: QuestionTokenizer, seed: int, step: int, *, clips: int, per_clip: int = 4
) -> PairBatch:
    """Frames of fresh clips, and questions about things; matches are over the whole batch."""
    pixels: list[Pixels] = []
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
    ids = torch.cat([tokenizer(text) for text in texts])
    return PairBatch(normalise(np.concatenate(pixels)), ids, match_matrix(texts, things))
