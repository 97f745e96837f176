"""Devices, number types and quantization: which there are, and what `auto` means."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from adatp_cli.errors import ModelError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import BitsAndBytesConfig

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_DEVICE = re.compile(r"auto|cpu|cuda(?::(\d{1,3}))?")
_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

QUANTIZATIONS = ("none", "int8", "nf4", "fp4")
# Full paths: transformers matches these against whole module names, and a bare `vision_tower` would
# leave the tower quantized without a word.
KEPT_WHOLE = ("model.vision_tower", "model.multi_modal_projector", "lm_head")
LAYERS = "model.language_model.layers"
# Bytes per quantized weight, block scales included: nf4/fp4 hold one float32 scale per 64 weights.
BYTES_PER_WEIGHT = {"int8": 1.0, "nf4": 0.5 + 4 / 64, "fp4": 0.5 + 4 / 64}


def is_cuda(device: str) -> bool:
    return device.startswith("cuda")


def check_device(requested: str) -> re.Match[str]:
    """Refuse a device that no machine has; imports no PyTorch."""
    match = _DEVICE.fullmatch(requested)
    if match is None:
        raise UsageError(
            f"--device {requested!r} is not known", "use auto, cpu, cuda or cuda:N (N from 0)"
        )
    return match


def choose_device(requested: str) -> str:
    """Resolve `auto` (the first CUDA device, else the CPU) and check what was asked for."""
    match = check_device(requested)
    import torch

    if requested == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if requested == "cpu":
        return "cpu"
    index, count = int(match[1] or 0), torch.cuda.device_count()
    if index >= count:
        raise ModelError(
            f"--device {requested}: this machine has {count} CUDA devices that PyTorch can use",
            "use --device cpu, or install a CUDA build of PyTorch and its driver",
        )
    return f"cuda:{index}"


def choose_dtype(requested: str, device: str) -> str:
    """Resolve `auto`: bfloat16 where the device is fast at it, else float16 (CUDA) or float32."""
    name = _SHORT.get(requested, requested)
    if name in DTYPE_BYTES:
        return name
    if name != "auto":
        raise UsageError(
            f"--dtype {requested!r} is not known", f"use auto, {', '.join(DTYPE_BYTES)}"
        )
    import torch

    if is_cuda(device):
        with torch.cuda.device(torch.device(device).index):
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if fast else "float16"
    return "bfloat16" if cpu_is_fast_at_bfloat16() else "float32"


def cpu_is_fast_at_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware; emulated it is slower than float32."""
    import torch

    can = torch.cpu.get_capabilities()
    return any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16", "bf16"))


def quantization_config(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """The library's settings for one of `QUANTIZATIONS`; None for `none`."""
    if quantization == "none":
        return None
    import transformers

    kind: dict[str, Any] = {"load_in_8bit": True}
    if quantization != "int8":
        kind = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": quantization,
            "bnb_4bit_compute_dtype": dtype,
        }
    settings: Any = transformers.BitsAndBytesConfig  # its constructor is not annotated
    return cast("BitsAndBytesConfig", settings(**kind, llm_int8_skip_modules=list(KEPT_WHOLE)))


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
