"""What `tiny` is made of: a LLaVA-OneVision of the published classes and files at a hundredth of the size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, pre_tokenizers, trainers
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
VOCAB_SIZE = 512
DECODER_LAYERS = 12
DECODER_WIDTH = 192

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


def tower_settings() -> dict[str, int]:
    """Dimensions of the SigLIP vision tower, shared with the relevance encoder's description of it."""
    return {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
    }


def build_tokenizer(sentences: list[str]) -> Qwen2Tokenizer:
    """A byte-level BPE of Qwen2's kind that knows the words of `sentences` whole and any text in bytes."""
    trained: Tokenizer = Qwen2Tokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 8,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(sentences, trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<image>", "<video>"],
        model_max_length=32768,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(
    tokenizer: Qwen2Tokenizer, layers: int = DECODER_LAYERS
) -> LlavaOnevisionForConditionalGeneration:
    """The untrained model, in float32, initialised from torch's global generator."""
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in tokenizer.all_special_tokens}
    text = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=DECODER_WIDTH,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|im_end|>"],
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
    model.generation_config = GenerationConfig(
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]],
        pad_token_id=ids["<|endoftext|>"],
    )
    return model


def write_checkpoint(
    folder: Path, model: LlavaOnevisionForConditionalGeneration, tokenizer: Qwen2Tokenizer
) -> None:
    """Write model, tokenizer and preprocessors in the layout of the hub's LLaVA-OneVision repositories."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model.to(torch.bfloat16).save_pretrained(folder)
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
