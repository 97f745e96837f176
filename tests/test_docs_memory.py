"""The table of docs/memory.md is what its command writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_what_fits_is_what_the_command_says() -> None:
    run = subprocess.run(
        [sys.executable, "benchmarks/fits.py"], cwd=ROOT, capture_output=True, text=True,
        check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    lines = run.stdout.splitlines()
    assert len(lines) > 20
    assert run.stdout in (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
