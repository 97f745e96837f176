"""What does not fit the memory is refused, with what would."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adatp_cli.cost import ModelShape
from adatp_cli.errors import MemoryLimitError
from adatp_cli.model import memory as memory_module
from adatp_cli.model.checkpoints import encoder_config
from adatp_cli.model.layout import encoder_bytes, relevance_shape, weight_bytes
from adatp_cli.model.load import LoadRequest, load_model
from adatp_cli.model.memory import check_run, estimate_run, fitting_quantization
from tests.checkpoint import write_random_checkpoint, write_random_relevance
from tests.test_model_memory import SEVEN, SO400M

GIB = 2**30


def free(patch: pytest.MonkeyPatch, available: int | None) -> None:
    patch.setattr(memory_module, "available_memory", lambda _device: available)


@dataclass
class Loaded:
    """As a loaded model is known to the estimate."""

    device: str = "cuda:0"
    quantization: str = "none"
    name: str = "7b"
    dtype: str = "bfloat16"
    shape: ModelShape = SEVEN

    def bytes(self, frames: int) -> int:
        return estimate_run(
            self.shape, dtype=self.dtype, frames=frames, text_tokens=40, new_tokens=128,
            relevance=SO400M, quantization=self.quantization, device=self.device,
        ).total  # fmt: skip

    def check(self, frames: int) -> None:
        check_run(self, frames=frames, text_tokens=40, new_tokens=128, relevance=SO400M)


def test_a_run_that_fits_passes_and_so_does_one_of_unknown_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for available in (200 * GIB, None):
        free(monkeypatch, available)
        Loaded().check(32)


@pytest.mark.parametrize(
    ("room", "device", "quantization", "told"),
    [
        (1.1, "cpu", "none", True),
        (1.1, "cuda:0", "none", False),
        (9, "cpu", "none", False),
        (9, "cpu", "int8", True),
        (11, "cpu", "int8", False),
    ],
)
def test_where_memory_is_short_the_heap_keeps_no_holes(
    room: float, device: str, quantization: str, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(memory_module, "_map_apart_from", calls.append)
    loaded = Loaded(device, quantization)
    free(monkeypatch, int(room * loaded.bytes(32)))
    loaded.check(32)
    assert calls == [2**20] * told


@pytest.mark.parametrize(("available", "frames"), [(8 * GIB, 512), (2 * GIB, 100), (4 * GIB, 128)])
def test_a_run_that_does_not_fit_says_what_would(
    available: int, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, available)
    with pytest.raises(MemoryLimitError) as caught:
        Loaded().check(frames)
    error = caught.value
    assert error.exit_code == 5
    assert f"{frames} frames" in error.message
    assert f"{available // GIB}.0 GiB" in error.message
    told = re.match(r"--frames (\d+) would fit; ", error.hint)
    assert told is not None
    fitting = int(told[1])
    assert Loaded().bytes(fitting) <= available < Loaded().bytes(fitting + 1)
    assert "nf4" in error.hint
    assert "0.5b" in error.hint


def test_no_useless_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 1000)
    with pytest.raises(MemoryLimitError) as caught:
        Loaded("cpu", "nf4", "tiny").check(4)
    assert "--frames" not in caught.value.hint
    assert "nf4" not in caught.value.hint
    assert "tiny" not in caught.value.hint


def _fit(requested: str, sizes: dict[str, int], told: list[str]) -> str:
    return fitting_quantization(requested, sizes, device="cuda:0", model="7b", progress=told.append)


def test_weights_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, told = {"none": 16 * GIB, "nf4": 6 * GIB}, list[str]()
    free(monkeypatch, 16 * GIB)
    assert _fit("none", sizes, told) == "none"
    assert _fit("auto", sizes, told) == "nf4"  # whole, no run would fit beside them
    assert len(told) == 1
    free(monkeypatch, 8 * GIB)
    with pytest.raises(MemoryLimitError, match=r"16\.0 GiB") as caught:
        _fit("none", sizes, told)
    assert "--quantize nf4 needs 6.0 GiB" in caught.value.hint
    free(monkeypatch, 5 * GIB)
    for requested in ("none", "auto"):
        with pytest.raises(MemoryLimitError) as caught:
            _fit(requested, sizes, told)
        assert "nf4 needs" not in caught.value.hint
    free(monkeypatch, None)
    assert _fit("auto", sizes, told) == "none"


def test_the_relevance_encoder_counts_among_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_random_checkpoint(tmp_path / "model", layers=3)
    encoder = write_random_relevance(tmp_path / "encoder")
    sizes = weight_bytes(model, "float32")
    beside = encoder_bytes(relevance_shape(encoder_config(encoder)), "float32")
    assert beside > 0

    def load(relevance: str) -> Any:
        request = LoadRequest(str(model), "none", "cpu", "float32", relevance=relevance)
        return load_model(request, lambda _: None)

    free(monkeypatch, sizes["none"] + beside)
    loaded = load(str(encoder)).relevance
    parts = (loaded.text_tower, loaded.norm, loaded.head)
    assert beside == sum(one.nbytes for part in parts for one in part.parameters())
    free(monkeypatch, sizes["none"] + beside - 1)
    with pytest.raises(MemoryLimitError, match="for its weights"):
        load(str(encoder))
    assert load("none").relevance is None
