"""A random-weight LLaVA-OneVision folder in the Hugging Face layout, small enough for every test.

It has the classes, files, tensor names, tokenizer kind and chat template of the published
checkpoints and the dimensions of the bundled `tiny`, so that whatever reads it reads those too.
Its answers are noise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    Qwen2Tokenizer,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
)

M = TypeVar("M", bound=torch.nn.Module)

IMAGE_SIZE = 96
PATCH_SIZE = 8
GRID = (6, 6)
VOCAB_SIZE = 512  # rows of the embedding; like the published ones it is larger than the tokenizer

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

SENTENCES = (
    "what colour is the circle ? a red circle moves to the left",
    "what shape is blue ? the square , the triangle , the star",
    "where does the green cross move ? up , down , left , right",
    "what happens in the video ? first a yellow square moves up , then a red star moves down",
    "how many scenes are there ? one , two , three , four",
    "What happens first? What happens last? Which shape is in the middle?",
)


def write_random_checkpoint(
    folder: str | Path, seed: int = 0, layers: int = 12, *, relevance: bool = True
) -> Path:
    """Write the folder and return its path; the same seed gives the same bytes of weights."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _qwen2_tokenizer()
    tokenizer.save_pretrained(folder)
    _write_model(folder, tokenizer, seed, layers)
    _write_preprocessors(folder)
    described: dict[str, object] = {"default_frames": 16}
    if relevance:
        described["relevance_encoder"] = "relevance"
        write_random_relevance(folder / "relevance", seed=seed)
    _write_json(folder / "adatp.json", described)
    return folder


def write_random_relevance(folder: str | Path, seed: int = 0, *, whole: bool = False) -> Path:
    """Write a SigLIP-layout folder: text tower, pooling head and post-layernorm.

    `whole` writes every tensor of the `SiglipModel`, vision tower included, as the hub's
    repositories do.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _siglip_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>", "model_max_length": 64},
    )
    text = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": 64,
        "pad_token_id": 1,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    config = SiglipConfig(
        text_config=text, vision_config=_tower_settings() | {"vision_use_head": True}
    )
    torch.manual_seed(seed + 1)
    state = _spread(SiglipModel(config)).state_dict()
    wanted = ("text_model.", "vision_model.head.", "vision_model.post_layernorm.")
    kept = {k: v.contiguous() for k, v in state.items() if whole or k.startswith(wanted)}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    config.architectures = ["SiglipModel"]
    config.save_pretrained(folder)
    return folder


def _tower_settings() -> dict[str, int]:
    return {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
    }


def _write_model(folder: Path, tokenizer: Qwen2Tokenizer, seed: int, layers: int) -> None:
    text = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
    )
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**_tower_settings(), vision_use_head=False),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[IMAGE_SIZE, IMAGE_SIZE]],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = _spread(LlavaOnevisionForConditionalGeneration(config)).to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        eos_token_id=[
            tokenizer.convert_tokens_to_ids("<|im_end|>"),
            tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        ],
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    )
    model.save_pretrained(folder)


def _spread(model: M) -> M:
    """Scale the matrices up so that attention, and with it pruning, has something to choose from.

    The initial 0.02 of the library leaves every attention row flat and every answer the same.
    """
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 2 and "embed" not in name:
                value.normal_(0.0, 1.5 / value.shape[1] ** 0.5)
            elif "embed_tokens" in name or "token_embedding" in name:
                value.normal_(0.0, 0.5)
    return model


def _qwen2_tokenizer() -> Qwen2Tokenizer:
    empty = Qwen2Tokenizer()
    trained: Tokenizer = empty.backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(SENTENCES, trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        additional_special_tokens=["<|im_start|>", "<image>", "<video>"],
        model_max_length=32768,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _siglip_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",  # noqa: S106
        show_progress=False,
    )
    tokenizer.train_from_iterator([s.lower() for s in SENTENCES], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return tokenizer


def _write_preprocessors(folder: Path) -> None:
    common = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    }
    _write_json(
        folder / "preprocessor_config.json",
        common
        | {
            "do_pad": True,
            "image_grid_pinpoints": [[IMAGE_SIZE, IMAGE_SIZE]],
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "processor_class": "LlavaOnevisionProcessor",
        },
    )
    _write_json(
        folder / "video_preprocessor_config.json",
        common
        | {
            "processor_class": "LlavaOnevisionProcessor",
            "video_processor_type": "LlavaOnevisionVideoProcessor",
        },
    )
    _write_json(
        folder / "processor_config.json",
        {
            "image_token": "<image>",
            "num_image_tokens": (IMAGE_SIZE // PATCH_SIZE) ** 2,
            "processor_class": "LlavaOnevisionProcessor",
            "video_token": "<video>",
            "vision_aspect_ratio": "anyres_max_9",
            "vision_feature_select_strategy": "full",
        },
    )


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
