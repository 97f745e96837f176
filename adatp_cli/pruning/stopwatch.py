"""How long the choosing of tokens takes inside a forward pass, without slowing that pass down."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


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
