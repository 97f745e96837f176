"""What a pruned prefill did, and the error for what it cannot do."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adatp_cli.errors import AdatpError


class PruningError(AdatpError):
    """A model call that cannot be pruned, or a method that broke a rule of the base."""

    default_kind = "pruning"


@dataclass(frozen=True, slots=True)
class PruneStep:
    """One place where tokens went, as it happened.

    Parameters
    ----------
    layer
        The layer that the survivors entered; 0 for what was done before the language model.
    alive_before, kept
        Ascending int64 indices of original visual tokens, before and after.
    score
        (len(alive_before),) float32; empty where the method looked at no attention.
    rows, keys
        Attention rows that were computed for it, and tokens whose keys were projected for it alone.
    """

    layer: int
    alive_before: Tensor
    kept: Tensor
    score: Tensor
    rows: int
    keys: int = 0


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a prefill really did.

    Parameters
    ----------
    visual_per_layer
        Visual tokens that entered each layer, from the lengths of the layers' caches.
    text_tokens
        All other prompt tokens, the newline among them.
    steps
        One per place where tokens could go, in order.
    macs
        Multiply-accumulates that a method spent before the language model.
    """

    visual_per_layer: tuple[int, ...]
    text_tokens: int
    steps: tuple[PruneStep, ...]
    macs: int = 0

    @property
    def score_rows(self) -> Mapping[int, int]:
        """Pruning layer -> computed rows, as `cost.scoring_cost` takes it."""
        return {step.layer: step.rows for step in self.steps if step.rows}

    @property
    def score_keys(self) -> Mapping[int, int]:
        """Pruning layer -> keys projected for its rows, as `cost.scoring_cost` takes it."""
        return {step.layer: step.keys for step in self.steps if step.keys}


class Stopwatch:
    """Adds up the seconds of several blocks.

    On CUDA work is queued and a clock read on the CPU says little, so events are put into the queue
    around each block: what lies between two of them is the block's own work and the time that the
    device waited for it. On other devices the CPU's clock is read.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Count a block whose tensors are on `device`."""
        if device.type == "cuda":
            event: Any = torch.cuda.Event  # its constructor is not annotated
            first, last = event(enable_timing=True), event(enable_timing=True)
            stream = torch.cuda.current_stream(device)
            first.record(stream)
            yield
            last.record(stream)
            self._pairs.append((first, last))
            return
        started = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - started

    @property
    def seconds(self) -> float:
        """So far; waits for the device to reach the end of the last block."""
        for first, last in self._pairs:
            last.synchronize()
            self._seconds += first.elapsed_time(last) / 1000
        self._pairs.clear()
        return self._seconds
