"""Models, clips and visual tokens made on the spot: for time and memory alone.

The time of a matrix product does not depend on the numbers in the matrices, so speed can be
measured without a checkpoint. The answers are noise, and every figure of such a model says so.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from adatp_cli.answering.encode import EncodedClip
from adatp_cli.cost import KNOWN_SHAPES, SO400M_RELEVANCE, ModelShape, RelevanceShape
from adatp_cli.model.checkpoints import RANDOM, bundled_folder
from adatp_cli.model.device import choose_device, choose_dtype, is_cuda, verify_quantization
from adatp_cli.model.hub import Progress
from adatp_cli.model.layout import DEFAULT_FRAMES, count_weights
from adatp_cli.model.load import LoadedModel, LoadRequest
from adatp_cli.model.memory import fitting_quantization, memory_errors
from adatp_cli.model.preprocess import Preprocessor
from adatp_cli.model.relevance import QuestionTokenizer, RelevanceEncoder
from adatp_cli.pruning.knobs import NO_ENCODER

if TYPE_CHECKING:
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

    from adatp_cli.pruning.method import SignalNeeds

# Of Qwen2; neither is part of what a cost is computed from.
_CONTEXT, _ROPE_THETA = 32768, 1_000_000.0
_BLOCK = 1_048_573
# The clip: 1080p H.264 as cameras write it.
WIDTH, HEIGHT, RATE = 1920, 1080, 24
SECONDS = 8
_SCENES = 4


def load_random(
    request: LoadRequest,
    progress: Progress,
    *,
    shape: ModelShape | None = None,
    relevance: RelevanceShape = SO400M_RELEVANCE,
) -> LoadedModel:
    """Build a model where it will run, in its number type, layer by layer, with no second copy.

    Tokenizer and chat template are the bundled model's, whose few hundred ids are a part of the
    vocabulary. Answers never end by themselves, as nothing was trained to end them. `request` is as
    for `load_model`, with a model of `RANDOM`; any encoder that is asked for is a random one.
    `shape` and `relevance` are dimensions in place of the published ones. Errors are those of
    `load_model`.
    """
    from transformers import AutoTokenizer

    device = choose_device(request.device)
    dtype = choose_dtype(request.dtype, device)
    shape = shape or KNOWN_SHAPES[RANDOM[request.model.lower()]]
    folder = bundled_folder()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.chat_template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    video = int(tokenizer.convert_tokens_to_ids("<video>"))
    config = _config(shape, video)
    quantization = fitting_quantization(
        request.quantization,
        count_weights(shape).nbytes(dtype),
        device=device,
        model=request.model,
        progress=progress,
    )
    progress(f"building {request.model}: random weights, {dtype}, {quantization} quantization")
    chance = torch.random.fork_rng(devices=[device] if is_cuda(device) else [])
    with memory_errors(f"building {request.model}"), chance:
        torch.manual_seed(0)  # the same weights every time
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
        folder=folder,
        quantization=quantization,
        dtype=dtype,
        device=device,
        relevance=encoder,
        default_frames=DEFAULT_FRAMES,
        video_token_id=video,
        context_length=_CONTEXT,
    )


def _config(shape: ModelShape, video_token: int) -> LlavaOnevisionConfig:
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    language, vision = shape.language, shape.vision
    return LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=vision.hidden,
            intermediate_size=vision.intermediate,
            num_hidden_layers=vision.layers,
            num_attention_heads=vision.heads,
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            vocab_size=language.vocab,
            hidden_size=language.hidden,
            intermediate_size=language.intermediate,
            num_hidden_layers=language.layers,
            num_attention_heads=language.heads,
            num_key_value_heads=language.kv_heads,
            max_position_embeddings=_CONTEXT,
            rope_parameters={"rope_type": "default", "rope_theta": _ROPE_THETA},
            tie_word_embeddings=language.tied,
        ),
        image_token_index=video_token + 1,
        video_token_index=video_token,
        image_grid_pinpoints=[[vision.image_size, vision.image_size]],
        tie_word_embeddings=language.tied,
    )


def _build(
    config: LlavaOnevisionConfig, layers: int, quantization: str, dtype: torch.dtype, device: str
) -> LlavaOnevisionForConditionalGeneration:
    """Everything but the decoder's layers, and then these one by one, each quantized at once."""
    from transformers import LlavaOnevisionForConditionalGeneration
    from transformers.initialization import no_init_weights
    from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

    whole: Any = LlavaOnevisionForConditionalGeneration
    text: Any = config.text_config
    text.num_hidden_layers = 0
    with torch.device(device), no_init_weights():
        model: Any = whole._from_config(config, dtype=dtype, attn_implementation="sdpa")
    text.num_hidden_layers = layers
    decoder = model.model.language_model
    decoder.config.num_hidden_layers = layers
    model.tie_weights()
    _fill(model)
    for index in range(layers):
        with torch.device("meta"):
            layer: nn.Module = Qwen2DecoderLayer(decoder.config, index)
        layer = layer.to(dtype).to_empty(device=device)
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
        size = linear.in_features, linear.out_features, linear.bias is not None
        if quantization == "int8":
            made = kinds.Linear8bitLt(*size, has_fp16_weights=False, threshold=6.0)
            made.weight = kinds.Int8Params(
                linear.weight.data.cpu(), requires_grad=False, has_fp16_weights=False
            )
        else:
            made = kinds.Linear4bit(
                *size, compute_dtype=dtype, quant_type=quantization, device="meta"
            )
            made.weight = kinds.Params4bit(
                linear.weight.data, requires_grad=False, quant_type=quantization, module=made
            )
        made.bias = linear.bias
        parent, _, name = path.rpartition(".")
        setattr(layer.get_submodule(parent), name, made.to(device))


def _relevance(shape: RelevanceShape, dtype: torch.dtype, device: str) -> RelevanceEncoder:
    from transformers import SiglipTextConfig, SiglipTextModel, SiglipVisionConfig
    from transformers.initialization import no_init_weights
    from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

    folder = bundled_folder() / "relevance"
    tokenizer = QuestionTokenizer.from_folder(folder, length=shape.text_tokens)
    width = shape.head_hidden
    text = SiglipTextConfig(
        vocab_size=shape.text_vocab,
        hidden_size=shape.text_hidden,
        intermediate_size=shape.text_intermediate,
        num_hidden_layers=shape.text_layers,
        # SigLIP's 16, where they divide the width.
        num_attention_heads=math.gcd(shape.text_hidden, 16),
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
    with torch.device(device), no_init_weights():
        tower = tower_class._from_config(text, dtype=dtype, attn_implementation="sdpa")
        norm = nn.LayerNorm(width, eps=vision.layer_norm_eps)
        head = SiglipMultiheadAttentionPoolingHead(vision)
    for module in (tower, norm, head):
        _fill(module)
        module.eval().requires_grad_(False)
    return RelevanceEncoder(tower, norm, head, tokenizer, shape, "random weights")


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


def write_clip(path: Path, seconds: int = SECONDS) -> None:
    """Write scenes of a moving texture, cut hard; the same every time."""
    import av

    random = np.random.default_rng(0)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "28", "x264-params": "log-level=-1"}
        for numbers in np.array_split(np.arange(seconds * RATE), _SCENES):
            coarse = random.integers(0, 256, (HEIGHT // 8 + 32, WIDTH // 8 + 32, 3), dtype=np.uint8)
            scene = np.kron(coarse, np.ones((8, 8, 1), dtype=np.uint8))
            for step in range(len(numbers)):
                top, left = 2 * step % 256, 3 * step % 256
                view = np.ascontiguousarray(scene[top : top + HEIGHT, left : left + WIDTH])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode(None))


def noise_encoding(loaded: LoadedModel, frames: int, needs: SignalNeeds) -> EncodedClip:
    """What encoding so many frames would give, in normal numbers, the same every time."""
    shape, encoder = loaded.shape, loaded.relevance
    generator = torch.Generator().manual_seed(0)

    def noise(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    tokens = noise(frames * shape.tokens_per_frame + 1, shape.language.hidden)
    width = encoder.shape.head_hidden if encoder is not None else shape.vision.hidden
    per_head = shape.vision.hidden // shape.vision.heads
    return EncodedClip(
        frames=frames,
        visual=tokens.to(loaded.device, getattr(torch, loaded.dtype)),
        tower_vectors=noise(frames, shape.vision.hidden),
        frame_vectors=functional.normalize(noise(frames, width), dim=-1) if needs.encoder else None,
        vision_s=0.0,
        relevance_s=0.0,
        probe_attention=noise(frames, shape.tokens_per_frame).softmax(-1)
        if needs.encoder
        else None,
        tower_keys=noise(frames, shape.tokens_per_frame, per_head) if needs.tower_keys else None,
    )
