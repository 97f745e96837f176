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
    """What `watch_peak` saw: bytes held at the beginning, and the most at any moment.

    None where the system does not tell.
    """

    before: int | None = None
    most: int | None = None

    @property
    def above(self) -> int | None:
        """The most that was held at once beside what was there before."""
        return None if self.most is None or self.before is None else self.most - self.before


class PeakWatch:
    """Measures peaks on one device.

    On CUDA by the allocator's own account; on the CPU by the kernel's account of the process's
    resident memory, whose peak Linux can set back. Nothing is sampled. Elsewhere nothing is
    measured.

    Parameters
    ----------
    device
        Where the model is.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self.method = self._choose()

    @contextlib.contextmanager
    def watch(self) -> Iterator[Peak]:
        """Measure a block; the result is filled in at its end."""
        peak = Peak()
        if self.method is None:
            yield peak
            return
        peak.before = self._begin()
        yield peak
        peak.most = self._most()

    def _choose(self) -> str | None:
        if is_cuda(self._device):
            return "bytes that PyTorch's CUDA allocator gave out"
        if self._device == "cpu" and _STATUS.is_file():
            try:
                _CLEAR.write_text(_RESET_PEAK)
            except OSError:
                return None
            return "resident bytes of the process, as the kernel counts them"
        return None

    def _begin(self) -> int:
        if is_cuda(self._device):
            torch.cuda.reset_peak_memory_stats(self._device)
            return int(torch.cuda.memory_allocated(self._device))
        _give_back()
        _CLEAR.write_text(_RESET_PEAK)
        return _status("VmRSS")

    def _most(self) -> int:
        if is_cuda(self._device):
            return int(torch.cuda.max_memory_allocated(self._device))
        return _status("VmHWM")


def _give_back() -> None:
    """Let the C library return what it keeps of earlier work, so that no run has it for nothing."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # another library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _status(field: str) -> int:
    """A line of the kernel's account of this process, in bytes."""
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")
