"""How the C library hands out large blocks, where it is glibc.

It serves blocks of up to 32 MiB from heaps that grow, one for each thread, and gives back nothing
but a heap's end: what lies before a block that stays is kept, though it is free. A model's run
leaves keys and values among the blocks of every layer, loading leaves quantized weights among the
blocks that they were made from; a process then holds up to twice its tensors and more. Blocks that
are mapped one by one are given back at once. The kernel's work for that is some tenth of a run's
time, so it is done only while loading and where memory is short.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # mallopt(3)
_APART = 2**20
# What glibc comes to by itself once large blocks have been freed.
_USUAL = 32 * 2**20


def keep_large_blocks_apart() -> None:
    """From now on map blocks of a mebibyte and more one by one; nothing elsewhere than on glibc."""
    _set_threshold(_APART)


@contextlib.contextmanager
def large_blocks_apart() -> Iterator[None]:
    """Map them one by one for the time of a block of work, and then as usual."""
    _set_threshold(_APART)
    try:
        yield
    finally:
        _set_threshold(_USUAL)


def _set_threshold(size: int) -> None:
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, size)
        library.mallopt(_TRIM_THRESHOLD, 2 * size)
