"""What a measurement was made on."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from adatp_cli.machine import usable_cores
from adatp_cli.model.device import is_cuda


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """The machine, as far as it decides how fast something is.

    Parameters
    ----------
    device
        The accelerator's name, or the processor's.
    processor, cpus, memory_bytes, system
        Processor, the CPUs that this process may use, all memory, operating system.
    threads
        What PyTorch computes with on the CPU.
    """

    device: str
    processor: str
    cpus: int
    threads: int
    memory_bytes: int
    system: str


def machine_facts(device: str) -> MachineFacts:
    """This machine, for a model on `device`."""
    processor = _processor()
    return MachineFacts(
        device=torch.cuda.get_device_name(device) if is_cuda(device) else processor,
        processor=processor,
        cpus=usable_cores(),
        threads=torch.get_num_threads(),
        memory_bytes=int(psutil.virtual_memory().total),
        system=f"{platform.system()} {platform.machine()}",
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
