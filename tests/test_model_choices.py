"""Device, number type, quantization and model: what `auto` comes to, and which names are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adatp_cli.errors import ModelError, UsageError
from adatp_cli.model import checkpoints, memory
from adatp_cli.model.device import choose_device, choose_dtype, cpu_is_fast_at_bfloat16
from adatp_cli.model.load import LoadRequest, load_model


@pytest.mark.parametrize(
    ("requested", "cuda", "free", "expected"),
    [
        ("auto", False, 17, "none"),
        ("auto", True, 100, "none"),
        ("auto", True, 17, "nf4"),
        ("auto", True, None, "none"),
        ("int8", True, 100, "int8"),
        ("none", True, 16, "none"),
    ],
)
def test_auto_quantization(
    requested: str, cuda: bool, free: int | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda _: free)
    device, sizes = "cuda:0" if cuda else "cpu", {"none": 16, "int8": 8, "nf4": 5}
    assert expected == memory.fitting_quantization(
        requested, sizes, device=device, model="7b", progress=lambda _: None
    )


def test_auto_dtype_on_the_cpu_follows_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, expected in (
        ({"avx2": True, "avx512_f": True}, "float32"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"neon": True}, "float32"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert choose_dtype("auto", "cpu") == expected
        assert cpu_is_fast_at_bfloat16() == (expected == "bfloat16")


@pytest.mark.parametrize(("short", "long"), [("bf16", "bfloat16"), ("float32", "float32")])
def test_dtype_names(short: str, long: str) -> None:
    assert choose_dtype(short, "cpu") == long


@pytest.mark.parametrize("name", ["cpu:0", "gpu", "cuda:x", "", "mps", "cuda:-1"])
def test_unknown_devices(name: str) -> None:
    with pytest.raises(UsageError, match="--device"):
        choose_device(name)


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ModelError, match="this machine has") as caught:
        choose_device("cuda:99")
    assert caught.value.exit_code == 4


def test_auto_without_cuda_is_the_half_billion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(checkpoints, "ALIASES", {"0.5b": "no-one/has-this"})
    with pytest.raises(ModelError, match="no-one/has-this"):
        load_model(LoadRequest(offline=True), said.append)
    assert said == ["model auto: 0.5b, as the device is cpu"]
