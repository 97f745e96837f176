"""What a checkpoint's folder must hold, and the dimensions and weights that it describes.

All of it is known before PyTorch is imported and before anything large is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adatp_cli.cost import COLOUR_CHANNELS, LanguageShape, ModelShape, RelevanceShape, VisionShape
from adatp_cli.errors import ModelError
from adatp_cli.model.device import BYTES_PER_WEIGHT, DTYPE_BYTES
from adatp_cli.model.quiet import readable_failures
from adatp_cli.model.tensors import DAMAGED, Header, check_file

if TYPE_CHECKING:
    from transformers import LlavaOnevisionConfig, SiglipConfig

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_EXPECTED = "llava_onevision"
_HINT = "name a LLaVA-OneVision checkpoint in Hugging Face layout, such as 0.5b or 7b"
COPY_WHOLE = "download or copy the whole checkpoint"
COPY_AGAIN = "download or copy it again"
DESCRIPTION = "adatp.json"
DEFAULT_FRAMES = 32  # what LLaVA-OneVision's own evaluations sample
PREPROCESSORS = (
    "video_preprocessor_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)
# The decoder's matrices, in the tensor names of both the published files and of the classes.
_QUANTIZED = re.compile(r"language_model\.(model\.)?layers\.\d+\..*\.weight$")
_HEAD = re.compile(r"(^|\.)lm_head\.weight$")
_LARGEST_JSON = 64 * 2**20  # the longest that is read, the index of a large model, has 10 MB
# Values of a configuration beyond which no such model is, far from the largest published ones.
_LARGEST = {
    "num_hidden_layers": 2_000,
    "hidden_size": 200_000,
    "intermediate_size": 1_000_000,
    "num_attention_heads": 2_000,
    "num_key_value_heads": 2_000,
    "head_dim": 20_000,
    "vocab_size": 10_000_000,
    "max_position_embeddings": 100_000_000,
    "image_size": 4_096,
    "patch_size": 4_096,
    "num_channels": 64,
}


@dataclass(frozen=True, slots=True)
class Description:
    """What a checkpoint says about itself in its `adatp.json`; all of it is optional."""

    default_frames: int = DEFAULT_FRAMES  # where neither an option nor the profile says how many
    relevance_encoder: str | None = None  # the one made for its vision tower: a folder or a hub id


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that must hold a JSON object."""
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ModelError(f"{path} is too large to be what its name says", _HINT)
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except RecursionError as error:
        raise ModelError(f"{path} is nested too deeply", _HINT) from error
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}", COPY_AGAIN, kind=DAMAGED) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} must hold a JSON object", COPY_AGAIN)
    return content


def is_json(path: Path) -> bool:
    """Whether the file is there and holds a JSON object."""
    try:
        read_json(path)
    except ModelError:
        return False
    return True


def _no_number(name: str) -> float:
    raise ValueError(f"it holds {name}")


def lacking(folder: Path) -> list[str]:
    """What a checkpoint's folder lacks, in words."""
    if not (folder / "config.json").is_file():
        return ["config.json"]
    own_template = folder / "tokenizer_config.json"
    needed = {
        "weights": any((folder / name).is_file() for name in (_INDEX, _SINGLE))
        and all((folder / name).is_file() for name in weight_files(folder)),
        "tokenizer": _has_tokenizer(folder),
        "preprocessor": any((folder / name).is_file() for name in PREPROCESSORS),
        "chat template": (own_template.is_file() and "chat_template" in read_json(own_template))
        or read_chat_template(folder) is not None,
    }
    return [what for what, present in needed.items() if not present]


def check_layout(folder: Path) -> Path:
    """Refuse a folder that is no LLaVA-OneVision checkpoint that can be loaded; return it."""
    if not (folder / "config.json").is_file():
        raise no_model(str(folder), [path.name for path in folder.iterdir()])
    check_config(folder)
    if not _has_tokenizer(folder):
        raise ModelError(
            f"{folder} has no tokenizer (tokenizer.json, or vocab.json with merges.txt)",
            COPY_WHOLE,
        )
    weight_headers(folder)
    return folder


def weight_files(folder: Path) -> list[str]:
    """Names of the weight files that the folder must have."""
    if (folder / _INDEX).is_file():
        mapping = read_json(folder / _INDEX).get("weight_map")
        if not isinstance(mapping, dict) or not mapping:
            raise ModelError(f"{folder / _INDEX} lists no weights", COPY_AGAIN)
        names = sorted({str(name) for name in mapping.values()})
        if any(Path(name).name != name for name in names):
            raise ModelError(
                f"{folder / _INDEX} points outside its folder", "do not use this model"
            )
        return names
    if (folder / _SINGLE).is_file():
        return [_SINGLE]
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise ModelError(
            f"{folder} has weights only in a format that can run code when it is read (*.bin)",
            "take a checkpoint with safetensors weights, or convert this one to safetensors",
        )
    raise ModelError(f"{folder} has no weights ({_SINGLE})", COPY_WHOLE)


def weight_headers(folder: Path) -> list[Header]:
    """Headers of all weight files, each checked to be whole and to hold what the index promises."""
    headers = []
    for name in weight_files(folder):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} lacks the weight file {name}", COPY_WHOLE)
        headers.append(check_file(folder / name))
    if (folder / _INDEX).is_file():
        promised = set(read_json(folder / _INDEX)["weight_map"])
        lacking = promised - {name for header in headers for name in header.tensors}
        if lacking:
            raise ModelError(
                f"{folder}'s weight files lack {len(lacking)} tensors of the index, "
                f"{min(lacking)} among them",
                COPY_WHOLE,
            )
    return headers


def read_description(folder: Path) -> Description:
    """Read the folder's `adatp.json`, if it has one."""
    path = folder / DESCRIPTION
    if not path.is_file():
        return Description()
    content = read_json(path)
    unknown = sorted(set(content) - {"default_frames", "relevance_encoder"})
    if unknown:
        raise ModelError(f"{path} has an unknown key {unknown[0]!r}", "correct or remove the file")
    frames, encoder = content.get("default_frames"), content.get("relevance_encoder")
    frames = DEFAULT_FRAMES if frames is None else frames
    if not isinstance(frames, int) or isinstance(frames, bool) or frames < 1:
        raise ModelError(f"{path}: default_frames must be a positive whole number", "correct it")
    if encoder is not None and not isinstance(encoder, str):
        raise ModelError(f"{path}: relevance_encoder must be a folder or a hub id", "correct it")
    if encoder is not None and (folder / encoder).is_dir():
        encoder = str(folder / encoder)
    return Description(frames, encoder)


def read_chat_template(folder: Path) -> str | None:
    """The checkpoint's template for prompts with a video; None where only the tokenizer has one.

    The processor's comes before the tokenizer's own, which for the published checkpoints is the
    text-only one of the language model that they were made from.
    """
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        try:
            return jinja.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ModelError(f"{jinja} cannot be read: {error}", "copy it again") from error
    for name in ("chat_template.json", "processor_config.json"):
        if (folder / name).is_file():
            template = read_json(folder / name).get("chat_template")
            if isinstance(template, str):
                return template
    return None


def _has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file() or (
        (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    )


def no_model(called: str, names: Sequence[str]) -> ModelError:
    """The error for a folder or repository without config.json, by the names of its files."""
    if "adapter_config.json" in names:
        return ModelError(
            f"{called} is an adapter (LoRA) and no whole model",
            "merge it into its model (`merge_and_unload` of peft), save that, and name its folder",
        )
    if any(name.endswith(".gguf") for name in names):
        return ModelError(f"{called} has its weights as GGUF, which is not read", _HINT)
    return ModelError(f"{called} is no model: it has no config.json", _HINT)


def check_config(folder: Path, called: str | None = None) -> None:
    """Refuse a config.json of another kind, with code of its own or with impossible values."""
    config = read_json(folder / "config.json")
    called = called or str(folder)
    found = config.get("model_type")
    if "auto_map" in config:
        raise ModelError(f"{called} brings code of its own (auto_map), which is never run", _HINT)
    if found != _EXPECTED:
        owner, _, name = called.partition("/")
        hint = _HINT
        if owner == "lmms-lab" and name.startswith("llava-onevision-qwen2-"):
            hint = f"the same weights in Hugging Face layout are -m llava-hf/{name}-hf"
        raise ModelError(f"{called} is a {found!r} model, not {_EXPECTED!r}", hint)
    if "quantization_config" in config:
        raise ModelError(
            f"{called} is already quantized",
            "take the unquantized checkpoint and quantize on load (--quantize nf4)",
        )
    for part, expected in (("text_config", "qwen2"), ("vision_config", "siglip_vision_model")):
        section = config.get(part)
        kind = section.get("model_type") if isinstance(section, dict) else None
        if kind != expected or not isinstance(section, dict):
            raise ModelError(f"{called}'s {part} is {kind!r}, not {expected!r}", _HINT)
        for key, largest in _LARGEST.items():
            value = section.get(key)
            if isinstance(value, int | float) and not 1 <= value <= largest:
                raise ModelError(f"{called}'s {part} has {key} {value}, which cannot be", _HINT)


def weight_bytes(folder: Path, dtype: str) -> dict[str, int]:
    """Bytes of a checkpoint's weights once loaded, for each kind of quantization.

    Counted in the headers of its files. A head that a file holds beside the embedding that it is
    tied to, as the published 0.5B's does, is not loaded a second time.
    """
    config = read_json(folder / "config.json")
    text = config.get("text_config")
    inner = text.get("tie_word_embeddings") if isinstance(text, dict) else None
    tied = config.get("tie_word_embeddings") or inner
    decoder = rest = 0
    for header in weight_headers(folder):
        for entry in header.tensors.values():
            if len(entry.shape) == 2 and _QUANTIZED.search(entry.name):
                decoder += entry.elements
            elif not (tied and _HEAD.search(entry.name)):
                rest += entry.elements
    return WeightCount(decoder, rest).nbytes(dtype)


def model_shape(config: LlavaOnevisionConfig) -> ModelShape:
    """Dimensions of a LLaVA-OneVision model; features and attention of another kind are refused."""
    text: Any = config.text_config
    vision: Any = config.vision_config
    if config.vision_feature_layer != -1 or config.vision_feature_select_strategy != "full":
        raise ModelError(
            "this checkpoint takes its visual features from another layer than the last, or not "
            "from all patches, which is not supported",
            "use a published LLaVA-OneVision checkpoint",
        )
    if getattr(text, "use_sliding_window", False):
        raise ModelError(
            "this checkpoint's language model uses a sliding attention window, which is not "
            "supported",
            "use a published LLaVA-OneVision checkpoint",
        )
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return ModelShape(
        LanguageShape(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            head_dim=head_dim,
            intermediate=text.intermediate_size,
            vocab=text.vocab_size,
            tied=bool(config.tie_word_embeddings),
        ),
        VisionShape(
            layers=vision.num_hidden_layers,
            hidden=vision.hidden_size,
            heads=vision.num_attention_heads,
            intermediate=vision.intermediate_size,
            image_size=_side(vision.image_size),
            patch_size=_side(vision.patch_size),
        ),
    )


def configured_shape(folder: Path) -> ModelShape:
    """The dimensions that a folder's config.json gives."""
    from transformers import LlavaOnevisionConfig

    with readable_failures(f"{folder}'s configuration"):
        config: Any = LlavaOnevisionConfig.from_pretrained(folder, local_files_only=True)
        return model_shape(config)


def relevance_shape(config: SiglipConfig) -> RelevanceShape:
    """Dimensions of what is used of a SigLIP model: text tower and pooling head."""
    text: Any = config.text_config
    vision: Any = config.vision_config
    return RelevanceShape(
        head_hidden=vision.hidden_size,
        head_intermediate=vision.intermediate_size,
        head_heads=vision.num_attention_heads,
        text_layers=text.num_hidden_layers,
        text_hidden=text.hidden_size,
        text_intermediate=text.intermediate_size,
        text_tokens=text.max_position_embeddings,
        projection=text.projection_size,
        text_vocab=text.vocab_size,
    )


def _side(value: int | list[int] | tuple[int, ...]) -> int:
    sides = {value} if isinstance(value, int) else set(value)
    if len(sides) != 1:
        raise ModelError(
            f"this checkpoint's vision tower is not square ({value})", "use another one"
        )
    return sides.pop()


@dataclass(frozen=True, slots=True)
class WeightCount:
    """Parameters of a model."""

    decoder: int  # of the decoder's matrices, which are quantized
    rest: int

    def nbytes(self, dtype: str) -> dict[str, int]:
        """Bytes once loaded, for each kind of quantization."""
        size = DTYPE_BYTES[dtype]
        widths = {"none": size, **BYTES_PER_WEIGHT}
        return {kind: self.rest * size + int(self.decoder * n) for kind, n in widths.items()}


def count_weights(shape: ModelShape) -> WeightCount:
    """Parameters of vision tower, projector and language model."""
    text, tower = shape.language, shape.vision
    queries, keys = text.heads * text.head_dim, text.kv_heads * text.head_dim
    matrices = 2 * text.hidden * (queries + keys) + 3 * text.hidden * text.intermediate
    small = queries + 2 * keys + 2 * text.hidden  # biases, two norms
    embeddings = text.vocab * text.hidden * (1 if text.tied else 2)
    projector = text.hidden * (tower.hidden + text.hidden + 2)
    newline, last_norm = text.hidden, text.hidden
    rest = text.layers * small + embeddings + last_norm + projector + newline
    patch = COLOUR_CHANNELS * tower.patch_size**2
    embedding = (patch + 1 + tower.patches) * tower.hidden
    layers = tower.layers * _layer(tower.hidden, tower.intermediate)
    vision = embedding + layers + 2 * tower.hidden
    return WeightCount(text.layers * matrices, rest + vision)


def encoder_bytes(shape: RelevanceShape, dtype: str) -> int:
    """Bytes of a loaded relevance encoder: the text tower in the model's type, the rest float32."""
    width, wide = shape.text_hidden, shape.text_intermediate
    embeddings = (shape.text_vocab + shape.text_tokens) * width
    projection = (width + 1) * shape.projection
    text = shape.text_layers * _layer(width, wide) + embeddings + 2 * width + projection
    pooling = shape.head_hidden + _layer(shape.head_hidden, shape.head_intermediate)
    return text * DTYPE_BYTES[dtype] + pooling * 4


def _layer(hidden: int, intermediate: int) -> int:
    """SigLIP's: four projections, two matrices, all with biases, and two norms.

    Its pooling head with the norm before it has as many.
    """
    attention = 4 * (hidden + 1) * hidden
    return attention + 2 * hidden * intermediate + intermediate + hidden + 4 * hidden
