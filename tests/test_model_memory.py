"""The memory of a run: what it takes, what there is, what would fit."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adatp_cli.cost import KNOWN_SHAPES, RelevanceShape
from adatp_cli.model.memory import (
    available_memory,
    cgroup_available,
    estimate_run,
    is_out_of_memory,
)

SEVEN = KNOWN_SHAPES["7b"]
SO400M = RelevanceShape(1152, 4304, 16, 27, 1152, 4304, 64, 1152)
GIB = 2**30


def whole_bytes(frames: int, text: int = 40, new: int = 128) -> int:
    return estimate_run(
        SEVEN, dtype="bfloat16", frames=frames, text_tokens=text, new_tokens=new, relevance=SO400M
    ).total


def test_kv_cache_of_the_7b_is_56_kib_a_token() -> None:
    # 28 layers x (key + value) x 4 heads x 128 wide x 2 bytes = 57,344
    estimate = estimate_run(SEVEN, dtype="bfloat16", frames=32, text_tokens=0, new_tokens=0)
    assert estimate.kv_cache == 57_344 * 32 * 196


def test_pruned_layers_hold_less() -> None:
    counts = [6272] * 2 + [1000] * 26
    pruned = estimate_run(
        SEVEN, dtype="bfloat16", frames=32, text_tokens=10, new_tokens=5, visual_per_layer=counts
    )
    assert pruned.kv_cache == 57_344 // 28 * sum(count + 15 for count in counts)


def test_what_was_pruned_does_not_count_against_the_layer_before() -> None:
    def prefill(counts: list[int]) -> int:
        return estimate_run(
            SEVEN, dtype="bfloat16", frames=32, text_tokens=9, new_tokens=9, visual_per_layer=counts
        ).prefill

    whole, late, early = ([6272] * full + [100] * (28 - full) for full in (28, 20, 2))
    assert prefill(early) < prefill(late) < prefill(whole)
    assert prefill(late) - prefill(early) == 57_344 // 28 * 18 * (6272 + 9)


def test_frames_take_the_cpus_memory_and_not_a_gpus() -> None:
    def frames(device: str) -> int:
        return estimate_run(
            SEVEN, dtype="bfloat16", frames=10, text_tokens=9, new_tokens=9, device=device
        ).frames

    assert frames("cuda:0") == 0
    assert frames("cpu") == 10 * 384 * 384 * 3


@pytest.mark.parametrize(("quantization", "more"), [("int8", True), ("nf4", False)])
def test_products_with_quantized_matrices_need_room(quantization: str, more: bool) -> None:
    def total(kind: str, frames: int) -> int:
        return estimate_run(
            SEVEN, dtype="bfloat16", frames=frames, text_tokens=9, new_tokens=9, quantization=kind,
            frames_at_once=1,
        ).total  # fmt: skip

    # Of a long prompt the activations hide the one matrix that nf4 unpacks.
    assert (total(quantization, 64) > total("none", 64)) == more
    assert total(quantization, 1) > total("none", 1)


def test_encoding_a_few_frames_at_a_time_needs_less() -> None:
    def vision(at_once: int) -> int:
        return estimate_run(
            SEVEN, dtype="bfloat16", frames=64, text_tokens=9, new_tokens=9, frames_at_once=at_once
        ).vision

    assert vision(8) < vision(32) < vision(64) == vision(1000)


@given(
    frames=st.integers(1, 500),
    more=st.integers(1, 50),
    text=st.integers(1, 999),
    new=st.integers(1, 999),
)
def test_more_of_anything_never_needs_less(frames: int, more: int, text: int, new: int) -> None:
    base = whole_bytes(frames, text, new)
    assert base < whole_bytes(frames + more, text, new)
    assert base <= whole_bytes(frames, text + more, new)
    assert base <= whole_bytes(frames, text, new + more)


_HOLES = """
from adatp_cli.model.memory import large_blocks_apart
def private():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
def left():
    before, stays = private(), []
    for _ in range(20):
        goes = bytearray(b"x") * (4 * 2**20)
        stays.append(bytearray(b"x") * (2**19))
        del goes
        stays.append(bytearray(b"x") * (3 * 2**20 // 2))
    return private() - before - sum(map(len, stays))
with large_blocks_apart():
    apart = left()
print(left(), apart)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not the GNU C library")
def test_blocks_that_lie_apart_leave_no_holes() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _HOLES], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    usual, apart = map(int, run.stdout.split())
    assert apart < 2**20 < usual


def _group(folder: Path, limit: str, used: int, cache: int, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cache}\n")


def test_the_tightest_control_group_counts(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    _group(tmp_path, "max", 0, 0)
    _group(tmp_path / "a", "1000", 700, 100)
    _group(tmp_path / "a/b", "5000", 100, 0)
    assert cgroup_available(tmp_path, own) == 400


def test_control_groups_of_version_one(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("3:cpu,cpuacct:/x\n2:memory:/x\n")
    _group(tmp_path / "memory", str(2**63 - 4096), 5, 0, version=1)
    _group(tmp_path / "memory/x", "900", 300, 50, version=1)
    assert cgroup_available(tmp_path, own) == 650


def test_no_limit_no_number(tmp_path: Path) -> None:
    assert cgroup_available(tmp_path, tmp_path / "missing") is None
    (tmp_path / "own").write_text("0::/\n")
    assert cgroup_available(tmp_path, tmp_path / "own") is None
    _group(tmp_path, "max", 5, 0)
    assert cgroup_available(tmp_path, tmp_path / "own") is None


def test_this_machine_has_memory() -> None:
    assert (available_memory("cpu") or 0) > 100 * 2**20


def test_failed_allocations_are_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))
