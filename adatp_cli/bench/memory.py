"""The most memory that a block of work held."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from adatp_cli.model.device import is_cuda

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): set the peak of the resident set to what is resident now


@dataclass(slots=True)
class Peak:
    """Bytes held at the beginning, and the most at any moment; None where it is not measured."""

    before: int | None = None
    most: int | None = None

    @property
    def above(self) -> int | None:
        """The most that was held at once beside what was there before."""
        return None if self.most is None or self.before is None else self.most - self.before


class PeakWatch:
    """Measures peaks on the device where the model is. Nothing is sampled.

    On CUDA the allocator counts; on the CPU the kernel counts the process's resident memory, and
    Linux can set the peak back. Elsewhere nothing is measured.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self.method: str | None = None  # how memory is measured, in words
        if is_cuda(device):
            self.method = "bytes that PyTorch's CUDA allocator gave out"
        elif device == "cpu" and _STATUS.is_file():
            with contextlib.suppress(OSError):
                _CLEAR.write_text(_RESET_PEAK)
                self.method = "resident bytes of the process, as the kernel counts them"

    @contextlib.contextmanager
    def watch(self) -> Iterator[Peak]:
        """Measure a block; the result is filled in at its end."""
        peak = Peak()
        if self.method is None:
            yield peak
        elif is_cuda(self._device):
            torch.cuda.reset_peak_memory_stats(self._device)
            peak.before = int(torch.cuda.memory_allocated(self._device))
            yield peak
            peak.most = int(torch.cuda.max_memory_allocated(self._device))
        else:
            gc.collect()
            # The C library gives back what it keeps of earlier work, which no run shall get free.
            with contextlib.suppress(AttributeError, OSError):  # another library than glibc
                ctypes.CDLL(None).malloc_trim(0)
            _CLEAR.write_text(_RESET_PEAK)
            peak.before = _status("VmRSS")
            yield peak
            peak.most = _status("VmHWM")


def _status(field: str) -> int:
    """A line of what the kernel tells of this process, in bytes."""
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")
