"""Loads a model by name, quantized and verified, with everything that belongs to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adatp_cli.cost import ModelShape
from adatp_cli.errors import ModelError
from adatp_cli.model.checkpoints import (
    AUTO,
    DEFAULT_ENCODER,
    Checkpoint,
    choose_auto,
    encoder_config,
    find,
    find_relevance,
)
from adatp_cli.model.device import (
    choose_device,
    choose_dtype,
    quantization_config,
    verify_quantization,
)
from adatp_cli.model.hub import Progress, fetch
from adatp_cli.model.layout import (
    COPY_AGAIN,
    COPY_WHOLE,
    check_layout,
    configured_shape,
    count_weights,
    encoder_bytes,
    read_chat_template,
    read_description,
    relevance_shape,
    weight_bytes,
)
from adatp_cli.model.memory import fitting_quantization, large_blocks_apart
from adatp_cli.model.preprocess import Preprocessor
from adatp_cli.model.prompt import try_template
from adatp_cli.model.quiet import readable_failures, weights_progress
from adatp_cli.model.relevance import RelevanceEncoder, load_relevance
from adatp_cli.pruning.knobs import NO_ENCODER
from adatp_cli.text import readable_bytes

if TYPE_CHECKING:
    from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerBase

Accepts = Callable[[ModelShape, int], None]

_BELONGS = "use a LLaVA-OneVision checkpoint whose config.json belongs to its weights"


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What to load, as the options say it."""

    model: str = "auto"  # or tiny, 0.5b, 7b, 72b, a hub id, a folder
    quantization: str = "auto"  # or none, int8, nf4, fp4
    device: str = "auto"  # or cpu, cuda, cuda:N
    dtype: str = "auto"  # or bfloat16, float16, float32
    offline: bool = False  # look in the cache alone
    # auto: what the checkpoint names, else SigLIP so400m; none or attention: no encoder; a hub id;
    # a folder.
    relevance: str = "auto"
    # Gets the model's dimensions and its usual number of frames before anything large is fetched or
    # read, and raises what makes the run impossible on it.
    accepts: Accepts | None = None


@dataclass(slots=True)
class LoadedModel:
    """A model that is ready to answer; nothing in it is `auto`."""

    model: LlavaOnevisionForConditionalGeneration  # in evaluation mode, without gradients
    tokenizer: PreTrainedTokenizerBase  # with the checkpoint's chat template for a video
    preprocess: Preprocessor
    shape: ModelShape
    name: str  # tiny, hub id or path
    revision: str | None  # the hub's commit
    folder: Path
    quantization: str
    dtype: str
    device: str
    relevance: RelevanceEncoder | None
    default_frames: int  # to sample where nothing else says how many
    video_token_id: int  # the placeholder of a visual token
    context_length: int  # the most positions that the language model was trained for
    # Held by whoever runs the model: hooks on its modules watch a pass, and all threads share them.
    turn: AbstractContextManager[Any] = field(
        default_factory=threading.RLock, repr=False, compare=False
    )


def load_model(request: LoadRequest, progress: Progress) -> LoadedModel:
    """Find, check, fetch, load and verify a model; `progress` gets a line for each step."""
    device = choose_device(request.device)
    dtype = choose_dtype(request.dtype, device)
    name = request.model
    if name.lower() == AUTO:
        name = choose_auto(device)
        progress(f"model auto: {name}, as the device is {device}")
    found = find(name, offline=request.offline)
    folder = found.folder
    description = read_description(folder)
    shape = configured_shape(folder)
    if request.accepts is not None:
        request.accepts(shape, description.default_frames)
    own = description.relevance_encoder
    place, encoder_name = _wanted_encoder(request.relevance, own, found.name, folder)
    encoder, beside = None, 0
    if place not in NO_ENCODER:
        unasked = place == own != DEFAULT_ENCODER and request.relevance == "auto"
        named_by = folder if unasked and found.revision is None else None
        encoder = find_relevance(place, offline=request.offline, named_by=named_by)
        beside = encoder_bytes(relevance_shape(encoder_config(encoder.folder)), dtype)
    described = count_weights(shape).nbytes(dtype)
    weights = described if found.missing else weight_bytes(folder, dtype)
    quantization = fitting_quantization(
        request.quantization,
        {kind: count + beside for kind, count in weights.items()},
        device=device,
        model=found.name,
        progress=progress,
    )
    # All of it was looked up and judged; now it is announced together, and fetched.
    fetch([found.missing, encoder.missing if encoder else None], progress)
    if found.missing:
        weights = weight_bytes(check_layout(folder), dtype)
    if not 0.8 < weights["none"] / described["none"] < 1.25:  # transformers would invent the rest
        raise ModelError(
            f"{found.name}'s config.json describes {readable_bytes(described['none'])} of weights, "
            f"and its files hold {readable_bytes(weights['none'])}",
            _BELONGS,
        )
    progress(f"loading {found.name} ({dtype}, {quantization} quantization) on {device}")
    model = _load_weights(found, quantization, dtype, device, progress)
    config: Any = model.config
    preprocess = Preprocessor.from_folder(folder)
    if preprocess.size != shape.vision.image_size:
        raise ModelError(
            f"{folder}'s preprocessor makes frames of {preprocess.size} pixels, and its vision "
            f"tower takes {shape.vision.image_size}",
            "use a checkpoint whose files belong together",
        )
    tokenizer = _tokenizer(folder, model)
    relevance = None
    if encoder is not None:
        with readable_failures(f"the relevance encoder {encoder_name}"):
            relevance = load_relevance(
                encoder_name,
                encoder,
                width=shape.vision.hidden,
                device=device,
                dtype=getattr(torch, dtype),
            )
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        preprocess=preprocess,
        shape=shape,
        name=found.name,
        revision=found.revision,
        folder=folder,
        quantization=quantization,
        dtype=dtype,
        device=device,
        relevance=relevance,
        default_frames=description.default_frames,
        video_token_id=config.video_token_id,
        context_length=config.text_config.max_position_embeddings,
    )


def _wanted_encoder(wanted: str, own: str | None, called: str, folder: Path) -> tuple[str, str]:
    """Where the relevance encoder is, and what it is called; `own` is what the checkpoint names.

    One in the checkpoint's own folder is called after the checkpoint, as `tiny/relevance`: a path
    of the package or a cache differs from machine to machine. The profile of a record, which says
    so, can be used again.
    """
    if own is None:
        place = DEFAULT_ENCODER if wanted == "auto" else wanted
        return place, place
    name = f"{called}/{Path(own).name}" if Path(own).parent == folder else own
    return (own, name) if wanted in ("auto", name) else (wanted, wanted)


def _load_weights(
    checkpoint: Checkpoint, quantization: str, dtype: str, device: str, progress: Progress
) -> LlavaOnevisionForConditionalGeneration:
    import transformers

    loader: Any = transformers.LlavaOnevisionForConditionalGeneration
    torch_dtype: torch.dtype = getattr(torch, dtype)
    with (
        readable_failures(checkpoint.name),
        weights_progress(checkpoint.name, progress),
        large_blocks_apart(),
    ):
        model, info = loader.from_pretrained(
            checkpoint.folder,
            dtype=torch_dtype,
            device_map={"": device},
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they come back in the loading info, and are refused
            quantization_config=quantization_config(quantization, torch_dtype),
        )
    # An absent weight would be random, one that is left over was meant for another model.
    for key, what in (
        ("missing_keys", "lacks"),
        ("mismatched_keys", "has the wrong size of"),
        ("unexpected_keys", "has no place for"),
    ):
        found = info.get(key) or ()
        names = sorted(str(item[0] if isinstance(item, tuple) else item) for item in found)
        if names:
            raise ModelError(
                f"{checkpoint.name} {what} {len(names)} weights, {names[0]} among them", _BELONGS
            )
    verify_quantization(model, quantization)
    _keep_only_token_ids(model, checkpoint.name)
    result: LlavaOnevisionForConditionalGeneration = model.eval().requires_grad_(False)
    return result


def _keep_only_token_ids(model: LlavaOnevisionForConditionalGeneration, called: str) -> None:
    """Drop a checkpoint's sampling preferences: decoding is greedy unless the user asks."""
    import transformers

    settings: Any = transformers.GenerationConfig
    given: Any = model.generation_config
    text: Any = model.config.text_config
    kept = {name: getattr(given, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for name, value in kept.items():
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(number, int) and 0 <= number < text.vocab_size for number in ids):
            raise ModelError(
                f"{called}'s generation_config.json has the {name} {value!r}, which is no token's",
                COPY_AGAIN,
            )
    model.generation_config = settings(**kept)


def _tokenizer(
    folder: Path, model: LlavaOnevisionForConditionalGeneration
) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    with readable_failures(f"{folder}'s tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    template = read_chat_template(folder)
    if template is not None:
        tokenizer.chat_template = template
    if not tokenizer.chat_template:
        raise ModelError(f"{folder} has no chat template", COPY_WHOLE)
    try_template(tokenizer)
    if model.config.video_token_id not in tokenizer.added_tokens_decoder:
        raise ModelError(
            f"{folder}'s tokenizer has no token for videos (id {model.config.video_token_id})",
            COPY_WHOLE,
        )
    if model.generation_config.eos_token_id is None:
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return tokenizer
