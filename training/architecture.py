"""What `tiny` is made of.

A LLaVA-OneVision of the published classes, in the published files, at a hundredth of the size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers, trainers
from torch import nn
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    Qwen2Tokenizer,
    SiglipVisionConfig,
)

IMAGE_SIZE = 96
PATCH_SIZE = 8
PATCHES = IMAGE_SIZE // PATCH_SIZE
GRID = PATCHES // 2
DEFAULT_FRAMES = 16
RELEVANCE_FOLDER = "relevance"  # inside the checkpoint's
TOWER_WIDTH = 128
VOCAB_SIZE = 512  # rows of the embedding; as in the published ones, more than the tokenizer has
DECODER_LAYERS = 16
DECODER_WIDTH = 192

_PADDING, _END_OF_TURN = "<|endoftext|>", "<|im_end|>"

# The published checkpoints' template: images, then videos, then a newline and the text.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>' }}{% endfor %}"
    "{# Render all video then #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}"
    "{{ '<video>' }}{% endfor %}"
    "{# Render all text next #}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\\n' + content['text'] }}{% endfor %}"
    "{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ '\\n' + content['text'] }}{% endgeneration %}{% endfor %}"
    "{% endif %}{{'<|im_end|>'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def tower_settings() -> dict[str, Any]:
    """Dimensions of the SigLIP vision tower, which the relevance encoder's files repeat."""
    return {
        "hidden_size": TOWER_WIDTH,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
    }


def build_tokenizer(sentences: list[str]) -> Qwen2Tokenizer:
    """A byte-level BPE of Qwen2's kind: the words of `sentences` whole, any other text in bytes."""
    trained: Tokenizer = Qwen2Tokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 8,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(sentences, trainer)
    model = json.loads(trained.to_str())["model"]
    merges: Any = [tuple(pair) for pair in model["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=merges,
        eos_token=_END_OF_TURN,
        pad_token=_PADDING,
        additional_special_tokens=["<|im_start|>", "<image>", "<video>"],
        model_max_length=32768,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(
    tokenizer: Qwen2Tokenizer, layers: int = DECODER_LAYERS
) -> LlavaOnevisionForConditionalGeneration:
    """The untrained model, in float32, initialised from torch's global generator."""
    ids = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    text = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=DECODER_WIDTH,
        intermediate_size=384,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=ids[_PADDING],
        eos_token_id=ids[_END_OF_TURN],
    )
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**tower_settings(), vision_use_head=False),
        text_config=text,
        image_token_index=ids["<image>"],
        video_token_index=ids["<video>"],
        image_grid_pinpoints=[[IMAGE_SIZE, IMAGE_SIZE]],
        tie_word_embeddings=True,
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=ids[_PADDING],
        eos_token_id=[ids[_END_OF_TURN], ids[_PADDING]],
        pad_token_id=ids[_PADDING],
    )
    return model


def write_checkpoint(
    folder: Path,
    model: LlavaOnevisionForConditionalGeneration,
    tokenizer: Qwen2Tokenizer,
    *,
    relevance: str | None = RELEVANCE_FOLDER,
) -> None:
    """Write the files that the hub's LLaVA-OneVision repositories have, and `adatp.json`.

    The model is written in bfloat16, and left in it. `relevance` is where in the folder the
    relevance encoder will be; None where it has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    module: nn.Module = model
    module.to(torch.bfloat16)
    model.save_pretrained(folder)
    _write_preprocessors(folder)
    described: dict[str, object] = {"default_frames": DEFAULT_FRAMES}
    if relevance is not None:
        described["relevance_encoder"] = relevance
    write_json(folder / "adatp.json", described)


def _write_preprocessors(folder: Path) -> None:
    common: dict[str, object] = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "processor_class": "LlavaOnevisionProcessor",
    }
    image = {
        "do_pad": True,
        "image_grid_pinpoints": [[IMAGE_SIZE, IMAGE_SIZE]],
        "image_processor_type": "LlavaOnevisionImageProcessor",
    }
    write_json(folder / "preprocessor_config.json", common | image)
    write_json(
        folder / "video_preprocessor_config.json",
        common | {"video_processor_type": "LlavaOnevisionVideoProcessor"},
    )
    processor: dict[str, object] = {
        "image_token": "<image>",
        "num_image_tokens": PATCHES**2,
        "processor_class": "LlavaOnevisionProcessor",
        "video_token": "<video>",
        "vision_aspect_ratio": "anyres_max_9",
        "vision_feature_select_strategy": "full",
    }
    write_json(folder / "processor_config.json", processor)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write one of a checkpoint's small files."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
