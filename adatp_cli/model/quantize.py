"""Quantization with bitsandbytes: what is quantized, when `auto` does it, and proof that it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from adatp_cli.errors import ModelError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import BitsAndBytesConfig

QUANTIZATIONS = ("none", "int8", "nf4", "fp4")

# Full paths: transformers matches these against whole module names, and a bare `vision_tower` would
# leave the tower quantized without a word.
VISION_TOWER = "model.vision_tower"
PROJECTOR = "model.multi_modal_projector"
LM_HEAD = "lm_head"
LAYERS = "model.language_model.layers"
KEPT_WHOLE = (VISION_TOWER, PROJECTOR, LM_HEAD)

# Bytes per quantized weight, block scales included: nf4/fp4 hold one float32 scale per 64 weights.
BYTES_PER_WEIGHT = {"int8": 1.0, "nf4": 0.5 + 4 / 64, "fp4": 0.5 + 4 / 64}

# Share of the free memory that `auto` lets unquantized weights take, so that a run fits beside them
# (our choice).
_SHARE_FOR_WEIGHTS = 0.8


def choose_quantization(requested: str, *, cuda: bool, weights: int, free: int | None) -> str:
    """Resolve `auto`: nf4 on CUDA where 16-bit weights do not leave room for a run, else none.

    `weights` and `free` are bytes of the unquantized weights and of free memory, None when unknown.
    On the CPU `auto` never chooses it: the prefill is slower there, though further tokens are
    faster in nf4 (docs/memory.md), and whole weights give the answers of the model as it is.
    """
    if requested in QUANTIZATIONS:
        return requested
    if requested != "auto":
        raise UsageError(
            f"--quantize {requested!r} is not known", f"use auto, {', '.join(QUANTIZATIONS)}"
        )
    if not cuda or free is None or weights <= _SHARE_FOR_WEIGHTS * free:
        return "none"
    return "nf4"


def quantization_config(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """The library's settings for one of `QUANTIZATIONS`; None for `none`."""
    if quantization == "none":
        return None
    import transformers

    settings: Any = transformers.BitsAndBytesConfig  # its constructor is not annotated
    if quantization == "int8":
        config = settings(load_in_8bit=True, llm_int8_skip_modules=list(KEPT_WHOLE))
    else:
        config = settings(
            load_in_4bit=True,
            bnb_4bit_quant_type=quantization,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=list(KEPT_WHOLE),
        )
    return cast("BitsAndBytesConfig", config)


def count_quantized(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Linear layers and quantized ones of vision tower, projector, LM head and decoder layers."""
    from torch import nn

    counts = {}
    for part in (*KEPT_WHOLE, LAYERS):
        linears = [
            module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and (name == part or name.startswith(f"{part}."))
        ]
        # Quantized layers of bitsandbytes are subclasses of nn.Linear; anything but the class
        # itself is counted, so that an unknown kind is not taken for a whole layer.
        counts[part] = len(linears), sum(type(module) is not nn.Linear for module in linears)
    return counts


def verify_quantization(model: nn.Module, quantization: str) -> None:
    """Refuse a model unless every linear layer of the decoder is quantized and no other is."""
    for part, (linear, quantized) in count_quantized(model).items():
        expected = linear if part == LAYERS and quantization != "none" else 0
        if linear == 0 or quantized != expected:
            raise ModelError(
                f"{quantization} quantization went wrong: {quantized} of {linear} linear layers of "
                f"{part} are quantized, not {expected}",
                "load with --quantize none",
            )
