"""The estimate that guards a run, beside measured peaks: ``python benchmarks/estimates.py FILE``.

Reads results of ``adatp bench`` with a random model. Both columns are above what was held before:
the decoded frames are left out, and without vision the clip's tokens too. The estimate is shown
without the allowance of a tenth that the guard adds. Writes Markdown to stdout.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from adatp_cli.answering.encode import frames_at_once
from adatp_cli.bench.results import PLAIN
from adatp_cli.cost import KNOWN_SHAPES, SO400M_RELEVANCE
from adatp_cli.model.checkpoints import RANDOM
from adatp_cli.model.memory import estimate_run


def rows(result: dict[str, Any]) -> list[str]:
    """A line for each profile that was measured."""
    model, settings = result["model"], result["settings"]
    shape = KNOWN_SHAPES[RANDOM[model["name"]]]
    lines = []
    for row in result["rows"]:
        if row["contender"] == PLAIN or not row.get("peak_bytes"):
            continue
        encoder = result["profiles"][row["contender"]].get("relevance", {}).get("encoder")
        told = estimate_run(
            shape,
            dtype=model["dtype"],
            frames=row["frames"],
            text_tokens=settings["text_tokens"],
            new_tokens=settings["new_tokens"],
            frames_at_once=frames_at_once(model["device"], shape.vision),
            visual_per_layer=row["tokens"]["kept_per_layer"],
            relevance=SO400M_RELEVANCE if encoder not in (None, "none", "attention") else None,
            quantization=model["quantization"],
            device=model["device"],
        )
        held = max(told.prefill, told.kv_cache)
        if settings["vision"]:
            held = told.clip + max(held, told.vision, told.relevance, told.choosing)
        values = row["peak_bytes"]["values"]
        measured = " to ".join(f"{value / 1e6:.0f}" for value in sorted({min(values), max(values)}))
        ratio = max(values) / held
        lines.append(
            f"| {row['frames']} | {'yes' if settings['vision'] else 'no'} "
            f"| {model['quantization']} | {row['contender']} | {held / 1e6:.0f} | {measured} "
            f"| {ratio:.2f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    lines = [
        "| frames | vision | quantization | profile | estimate, MB | measured, MB | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for file in parser.parse_args().files:
        lines += rows(json.loads(file.read_text(encoding="utf-8")))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
