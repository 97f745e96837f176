"""What fits which card: ``python benchmarks/fits.py``.

Arithmetic, nothing is loaded: for each model, quantization and profile the memory that
``adatp profiles show PROFILE -m MODEL -n FRAMES`` tells, and the smallest card that has it free.
Writes Markdown to stdout.
"""

from __future__ import annotations

import sys

from adatp_cli.answering.cost_estimate import estimate_cost, find_target
from adatp_cli.profiles import load_profile

WANTED = {"0.5b": ("none", "int8", "nf4"), "7b": ("none", "int8", "nf4"), "72b": ("nf4",)}
FRAMES = (32, 64, 128)
PROFILES = ("vanilla", "adatp", "adatp-light", "adatp-plus")
# A card of N GB has N GiB, as its maker counts, of which the driver and a process's CUDA context
# take this much before anything is loaded (our assumption; a desktop on the same card takes more).
CARDS = (8, 12, 16, 24)
TAKEN = 0.6


def smallest_card(needed: float) -> str:
    """The smallest card, in GB, that has `needed` GiB free; a dash where none has."""
    fitting = [card for card in CARDS if needed <= card - TAKEN]
    return f"{fitting[0]} GB" if fitting else "-"


def main() -> None:
    columns = " | ".join(f"{count} frames" for count in FRAMES)
    lines = [
        f"| model | quantization | profile | {columns} |",
        "|---|---|---|" + "---|" * len(FRAMES),
    ]
    for model, quantizations in WANTED.items():
        target = find_target(model)
        for quantization in quantizations:
            for name in PROFILES:
                cells = []
                for count in FRAMES:
                    held = estimate_cost(load_profile(name), target, count).memory[quantization]
                    needed = (held.weights + held.run) / 2**30
                    cells.append(f"{needed:.1f}: {smallest_card(needed)}")
                lines.append(f"| {model} | {quantization} | {name} | {' | '.join(cells)} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
