"""Small folders in the layout of the published checkpoints, as `llava-hf/llava-onevision-*` lie.

The values that the hub's files hold, and their form, but narrow: configuration keys of the time
when they were written, tensors under the names of the classes that they were saved from, float16,
shards with an index, the processor's template in `chat_template.json` alone, a tower of 26 layers,
no video processor's file, and no head where it is tied to the embedding.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from tests.checkpoint import SENTENCES, spread
from training import architecture
from training.architecture import write_json

IMAGE_SIZE = 56
SHARDS = 3
_QWEN = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def write_published(folder: Path, *, tied: bool) -> Path:
    """Write the folder: like the 0.5B's where the head is tied, else like the 7B's."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = architecture.build_tokenizer(SENTENCES)
    template = str(tokenizer.chat_template)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", settings | {"chat_template": _QWEN})
    write_json(folder / "chat_template.json", {"chat_template": template})
    ids = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    config = _config(ids, tied=tied)
    write_json(folder / "config.json", config)
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
         "pad_token_id": ids["<|im_end|>"], "transformers_version": "4.45.0.dev0"},
    )  # fmt: skip
    _write_processors(folder)
    torch.manual_seed(0)
    model: Any = spread(LlavaOnevisionForConditionalGeneration(LlavaOnevisionConfig(**config)))
    state = {
        _old_name(name): value.half().contiguous()
        for name, value in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    names = sorted(state)
    files = {
        f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors": names[shard::SHARDS]
        for shard in range(SHARDS)
    }
    for file, keys in files.items():
        save_file({key: state[key] for key in keys}, folder / file, metadata={"format": "pt"})
    size = sum(value.numel() * 2 for value in state.values())
    mapping = {key: file for file, keys in files.items() for key in keys}
    index = {"metadata": {"total_size": size}, "weight_map": mapping}
    write_json(folder / "model.safetensors.index.json", index)
    return folder


def _old_name(name: str) -> str:
    name = name.removeprefix("model.")
    if name.startswith("vision_tower.") and ".vision_model." not in name:
        name = name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    if name.startswith("lm_head."):
        return f"language_model.{name}"
    return name.replace("language_model.", "language_model.model.", 1)


def _config(ids: dict[str, int], *, tied: bool) -> dict[str, Any]:
    return {
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "ignore_index": -100,
        "image_grid_pinpoints": [[IMAGE_SIZE, IMAGE_SIZE], [IMAGE_SIZE, 2 * IMAGE_SIZE]],
        "image_token_index": ids["<image>"],
        "model_type": "llava_onevision",
        "projector_hidden_act": "gelu",
        "text_config": {
            "_name_or_path": "Qwen/Qwen2-0.5B-Instruct",
            "architectures": ["Qwen2ForCausalLM"],
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "hidden_size": 64,
            "intermediate_size": 128,
            "max_window_layers": 24,
            "model_type": "qwen2",
            "num_attention_heads": 4,
            "num_hidden_layers": 6,
            "num_key_value_heads": 2,
            "rope_theta": 1000000.0,
            "sliding_window": 131072,
            "tie_word_embeddings": tied,
            "torch_dtype": "bfloat16",
            "vocab_size": architecture.VOCAB_SIZE,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.45.0.dev0",
        "use_image_newline_parameter": True,
        "video_token_index": ids["<video>"],
        "vision_aspect_ratio": "anyres_max_9",
        "vision_config": {
            "hidden_size": 64,
            "image_size": IMAGE_SIZE,
            "intermediate_size": 128,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 4,
            "num_hidden_layers": 26,
            "patch_size": 14,
            "vision_use_head": False,
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }


def _write_processors(folder: Path) -> None:
    preprocessor = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_grid_pinpoints": [[IMAGE_SIZE, IMAGE_SIZE], [IMAGE_SIZE, 2 * IMAGE_SIZE]],
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "LlavaOnevisionProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    }
    write_json(folder / "preprocessor_config.json", preprocessor)
    processor = {
        "num_image_tokens": (IMAGE_SIZE // 14) ** 2,
        "processor_class": "LlavaOnevisionProcessor",
        "vision_feature_select_strategy": "full",
    }
    write_json(folder / "processor_config.json", processor)
