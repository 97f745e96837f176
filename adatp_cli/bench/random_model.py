"""LLaVA-OneVision in its published dimensions with random weights: for time and memory alone.

What a matrix product takes does not depend on what stands in the matrices, so speed can be measured
where no checkpoint is at hand. The answers are noise, and every place that shows a figure of such a
model says what it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from adatp_cli.cost import KNOWN_SHAPES, SO400M_RELEVANCE, ModelShape, RelevanceShape, VisionShape
from adatp_cli.model.checkpoints import RANDOM, bundled_folder
from adatp_cli.model.device import choose_device, choose_dtype, is_cuda
from adatp_cli.model.hub import Progress
from adatp_cli.model.load import DEFAULT_FRAMES, LoadedModel, LoadRequest
from adatp_cli.model.memory import fitting_quantization, memory_errors
from adatp_cli.model.preprocess import Preprocessor
from adatp_cli.model.quantize import verify_quantization
from adatp_cli.model.relevance import QuestionTokenizer, RelevanceEncoder
from adatp_cli.model.shapes import count_weights
from adatp_cli.settings import NO_ENCODER

if TYPE_CHECKING:
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

# Of Qwen2; neither is part of what a cost is computed from.
_CONTEXT, _ROPE_THETA = 32768, 1_000_000.0
_SEED = 0
_BLOCK = 1_048_573


def load_random(
    request: LoadRequest,
    progress: Progress,
    *,
    shape: ModelShape | None = None,
    relevance: RelevanceShape = SO400M_RELEVANCE,
) -> LoadedModel:
    """Build a model where it will run, in its number type, layer by layer, with no second copy.

    Tokenizer and chat template are the bundled model's, whose few hundred ids are a part of the
    vocabulary. Answers never end by themselves, as nothing was trained to end them.

    Parameters
    ----------
    request
        As for `load_model`; `model` is one of `RANDOM`. Any encoder
        that is asked for is a random one.
    shape, relevance
        Dimensions in place of the published ones.

    Raises
    ------
    ModelError, UsageError
        An option has no such value, or this machine has no such device.
    MemoryLimitError
        The weights do not fit.
    """
    device = choose_device(request.device)
    dtype = choose_dtype(request.dtype, device)
    shape = shape or KNOWN_SHAPES[RANDOM[request.model.lower()]]
    tokenizer = _tokenizer()
    video = int(tokenizer.convert_tokens_to_ids("<video>"))
    config = _config(shape, tied=shape.language.tied, video_token=video)
    quantization = fitting_quantization(
        request.quantization,
        count_weights(shape).nbytes(dtype),
        device=device,
        model=request.model,
        progress=progress,
    )
    progress(f"building {request.model}: random weights, {dtype}, {quantization} quantization")
    with memory_errors(f"building {request.model}"), _reproducible(device):
        model = _build(config, shape.language.layers, quantization, getattr(torch, dtype), device)
        encoder = None
        if request.relevance not in NO_ENCODER:
            encoder = _relevance(relevance, getattr(torch, dtype), device)
    verify_quantization(model, quantization)
    settings: Any = model.generation_config
    settings.pad_token_id = tokenizer.pad_token_id
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        preprocess=Preprocessor(
            shape.vision.image_size, "bicubic", 1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        ),
        shape=shape,
        name=request.model.lower(),
        revision=None,
        folder=bundled_folder(),
        quantization=quantization,
        dtype=dtype,
        device=device,
        relevance=encoder,
        default_frames=DEFAULT_FRAMES,
        video_token_id=video,
        context_length=_CONTEXT,
    )


def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    folder = bundled_folder()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.chat_template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return tokenizer


def _config(shape: ModelShape, *, tied: bool, video_token: int) -> LlavaOnevisionConfig:
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    language, vision = shape.language, shape.vision
    return LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**_tower_settings(vision), vision_use_head=False),
        text_config=Qwen2Config(
            vocab_size=language.vocab,
            hidden_size=language.hidden,
            intermediate_size=language.intermediate,
            num_hidden_layers=language.layers,
            num_attention_heads=language.heads,
            num_key_value_heads=language.kv_heads,
            max_position_embeddings=_CONTEXT,
            rope_parameters={"rope_type": "default", "rope_theta": _ROPE_THETA},
            tie_word_embeddings=tied,
        ),
        image_token_index=video_token + 1,
        video_token_index=video_token,
        image_grid_pinpoints=[[vision.image_size, vision.image_size]],
        tie_word_embeddings=tied,
    )


def _tower_settings(vision: VisionShape) -> dict[str, Any]:
    return {
        "hidden_size": vision.hidden,
        "intermediate_size": vision.intermediate,
        "num_hidden_layers": vision.layers,
        "num_attention_heads": vision.heads,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
    }


def _build(
    config: LlavaOnevisionConfig, layers: int, quantization: str, dtype: torch.dtype, device: str
) -> LlavaOnevisionForConditionalGeneration:
    """Everything but the decoder's layers, and then these one by one, each quantized at once."""
    from transformers import LlavaOnevisionForConditionalGeneration
    from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

    whole: Any = LlavaOnevisionForConditionalGeneration
    text: Any = config.text_config
    text.num_hidden_layers = 0
    with torch.device(device), _no_init():
        model: Any = whole._from_config(config, dtype=dtype, attn_implementation="sdpa")
    text.num_hidden_layers = layers
    decoder = model.model.language_model
    decoder.config.num_hidden_layers = layers
    model.tie_weights()
    _fill(model)
    for index in range(layers):
        with torch.device(device), _no_init(), _default(dtype):
            layer: nn.Module = Qwen2DecoderLayer(decoder.config, index)
        _fill(layer)
        _quantize(layer, quantization, dtype, device)
        decoder.layers.append(layer)
    result: LlavaOnevisionForConditionalGeneration = model.eval().requires_grad_(False)
    return result


def _quantize(layer: nn.Module, quantization: str, dtype: torch.dtype, device: str) -> None:
    """Replace every linear layer inside by one that holds the same matrix quantized."""
    if quantization == "none":
        return
    from bitsandbytes import nn as quantized

    kinds: Any = quantized  # its stubs export nothing
    for path, linear in list(layer.named_modules()):
        if not isinstance(linear, nn.Linear):
            continue
        bias = linear.bias is not None
        made: Any
        if quantization == "int8":
            made = kinds.Linear8bitLt(
                linear.in_features, linear.out_features, bias, has_fp16_weights=False, threshold=6.0
            )
            made.weight = kinds.Int8Params(
                linear.weight.data.cpu(), requires_grad=False, has_fp16_weights=False
            )
        else:
            made = kinds.Linear4bit(
                linear.in_features,
                linear.out_features,
                bias,
                compute_dtype=dtype,
                quant_type=quantization,
                device="meta",
            )
            made.weight = kinds.Params4bit(
                linear.weight.data, requires_grad=False, quant_type=quantization, module=made
            )
        made.bias = linear.bias
        parent, _, name = path.rpartition(".")
        setattr(layer.get_submodule(parent), name, made.to(device))


def _relevance(shape: RelevanceShape, dtype: torch.dtype, device: str) -> RelevanceEncoder:
    from transformers import SiglipTextConfig, SiglipTextModel, SiglipVisionConfig
    from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

    tokenizer = QuestionTokenizer.from_folder(
        bundled_folder() / "relevance", length=shape.text_tokens
    )
    width = shape.head_hidden
    text = SiglipTextConfig(
        vocab_size=shape.text_vocab,
        hidden_size=shape.text_hidden,
        intermediate_size=shape.text_intermediate,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=_heads(shape.text_hidden),
        max_position_embeddings=shape.text_tokens,
        projection_size=shape.projection,
        bos_token_id=0,
        eos_token_id=1,
    )
    vision = SiglipVisionConfig(
        hidden_size=width,
        intermediate_size=shape.head_intermediate,
        num_attention_heads=shape.head_heads,
    )
    tower_class: Any = SiglipTextModel
    with torch.device(device), _no_init():
        tower = tower_class._from_config(text, dtype=dtype, attn_implementation="sdpa")
        norm = nn.LayerNorm(width, eps=vision.layer_norm_eps)
        head = SiglipMultiheadAttentionPoolingHead(vision)
    for module in (tower, norm, head):
        _fill(module)
        module.eval().requires_grad_(False)
    return RelevanceEncoder(tower, norm, head, tokenizer, shape, "random weights")


def _heads(width: int) -> int:
    """SigLIP's 16, where the width can be shared out among them."""
    return math.gcd(width, 16)


@torch.no_grad()
def _fill(module: nn.Module) -> None:
    """Give every parameter a value; matrices keep the size of what goes through them.

    One block of normal numbers is written over and over, as drawing a billion takes a minute on a
    CPU. Its length is prime, so that no two rows come out alike.
    """
    first = next(module.parameters())
    noise = torch.empty(_BLOCK, device=first.device).normal_()
    for name, value in module.named_parameters():
        if value.ndim > 1:
            block = (noise * value[0].numel() ** -0.5).to(value.dtype)
            for part in torch.split(value.view(-1), _BLOCK):
                part.copy_(block[: len(part)])
        elif "norm" in name.rpartition(".")[0] or name == "weight":
            value.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            value.copy_(0.02 * noise[: len(value)])


@contextmanager
def _reproducible(device: str) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if is_cuda(device) else []):
        torch.manual_seed(_SEED)
        yield


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _no_init() -> Iterator[None]:
    """The library's own way to leave values alone that will be set in any case."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        yield
