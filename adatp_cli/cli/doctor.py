"""`adatp doctor`: what this machine can run."""

from __future__ import annotations


def doctor() -> None:
    """What this machine can run; exit 0 only when ask would work."""
