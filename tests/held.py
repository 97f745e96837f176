"""The most bytes of tensors that a block of work held, as PyTorch's allocator counts them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch.profiler import ProfilerActivity, profile


@dataclass
class Held:
    """Bytes above what was there at the beginning; filled in at the block's end."""

    most: int = 0


@contextmanager
def watch_tensors() -> Iterator[Held]:
    """Watch the CPU's tensors; memory that libraries take past PyTorch is not among them."""
    held = Held()
    gc.collect()  # what earlier tests left in circles is not given back meanwhile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield held
    internals: Any = profiler.profiler
    events = [one for one in internals.kineto_results.events() if one.name() == "[memory]"]
    now = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        now += event.nbytes()
        held.most = max(held.most, now)
