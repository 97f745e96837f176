"""Where a model runs and in which number type."""

from __future__ import annotations

import re

from adatp_cli.errors import ModelError, UsageError

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
DTYPES = tuple(DTYPE_BYTES)
_DEVICE = re.compile(r"auto|cpu|cuda(?::(\d{1,3}))?")
_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def is_cuda(device: str) -> bool:
    return device.startswith("cuda")


def check_device(requested: str) -> re.Match[str]:
    """Refuse what no machine has; PyTorch is not asked."""
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
    if name in DTYPES:
        return name
    if name != "auto":
        raise UsageError(f"--dtype {requested!r} is not known", f"use auto, {', '.join(DTYPES)}")
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
