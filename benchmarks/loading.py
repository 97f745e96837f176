"""How much memory loading takes: ``python benchmarks/loading.py``.

Writes a checkpoint of the 0.5B's dimensions with random weights (1.8 GB, in --folder, kept for the
next run), then loads it on the CPU, in bfloat16, once for each kind of quantization, each time in a
fresh process. Linux alone: figures are the kernel's account of that process.

- *peak resident*: the most that was resident at once, exactly; pages of the mapped checkpoint are
  among it, which the kernel drops when memory is short.
- *peak private*: the most that was the process's own, looked at every five milliseconds.
- *left private*: what is the process's own when the model is loaded.

All above what the process held before, libraries imported. Writes Markdown to stdout.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

QUANTIZATIONS = ("none", "int8", "nf4")
_EVERY_S = 0.005
_RESET_PEAK = "5"  # proc(5)


def write_checkpoint(folder: Path) -> None:
    """A folder in the published layout, whose answers are noise."""
    from adatp_cli.bench.synthetic import load_random
    from adatp_cli.model.load import LoadRequest

    loaded = load_random(
        LoadRequest("0.5b-random", "none", "cpu", "bfloat16", relevance="none"),
        lambda _text: None,
    )
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    preprocess = loaded.preprocess
    settings = {
        "size": {"height": preprocess.size, "width": preprocess.size},
        "rescale_factor": preprocess.rescale_factor,
        "image_mean": preprocess.mean,
        "image_std": preprocess.std,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


class Account(threading.Thread):
    """Resident memory of this process by kind, and the most that was private."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
        self.before = self.now()
        self.private = self.before["RssAnon"]
        self._ended = threading.Event()

    @staticmethod
    def now() -> dict[str, int]:
        """The kernel's lines about this process's memory, in bytes."""
        lines = Path("/proc/self/status").read_text().splitlines()
        pairs = [line.split() for line in lines if line.startswith(("VmHWM", "VmRSS", "Rss"))]
        return {name.rstrip(":"): int(count) * 1024 for name, count, _ in pairs}

    def run(self) -> None:
        while not self._ended.wait(_EVERY_S):
            self.private = max(self.private, self.now()["RssAnon"])

    def end(self) -> dict[str, int]:
        """Bytes above what there was at the beginning."""
        self._ended.set()
        self.join()
        after = self.now()
        return {
            "peak": after["VmHWM"] - self.before["VmRSS"],
            "peak_private": max(self.private, after["RssAnon"]) - self.before["RssAnon"],
            "private": after["RssAnon"] - self.before["RssAnon"],
            "mapped": after["RssFile"] - self.before["RssFile"],
        }


def load(folder: Path, quantization: str) -> dict[str, int]:
    """Load in this process; what it took, and the bytes of weights that were counted before."""
    from adatp_cli.model.checkpoints import bundled_folder
    from adatp_cli.model.layout import weight_bytes
    from adatp_cli.model.load import LoadRequest, load_model

    def request(model: Path) -> LoadRequest:
        return LoadRequest(str(model), quantization, "cpu", "bfloat16", True, "none")

    load_model(request(bundled_folder()), lambda _text: None)  # imports, caches, thread pools
    account = Account()
    account.start()
    loaded = load_model(request(folder), lambda _text: None)
    taken = account.end()
    held = sum(value.nbytes for value in loaded.model.parameters())
    return taken | {"counted": weight_bytes(folder, "bfloat16")[quantization], "held": held}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "adatp-loading"
    )
    parser.add_argument("--only", choices=QUANTIZATIONS, help="load in this process, write JSON")
    options = parser.parse_args()
    folder: Path = options.folder
    if options.only:
        sys.stdout.write(json.dumps(load(folder, options.only)) + "\n")
        return
    if not (folder / "config.json").exists():
        unfinished = folder.with_name(f"unfinished-{folder.name}")
        write_checkpoint(unfinished)
        unfinished.rename(folder)

    machine = f"{os.cpu_count()} CPUs, {platform.machine()}"
    lines = [
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {machine}; random weights, 0.5B, MB:",
        "",
        "| quantization | counted before loading | peak resident | peak private | left private "
        "| left mapped |",
        "|---|---|---|---|---|---|",
    ]
    for quantization in QUANTIZATIONS:
        command = [sys.executable, __file__, "--folder", str(folder), "--only", quantization]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
        found = json.loads(done.stdout.splitlines()[-1])
        keys = ("counted", "peak", "peak_private", "private", "mapped")
        lines.append(f"| {quantization} | {' | '.join(f'{found[k] / 1e6:.0f}' for k in keys)} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
