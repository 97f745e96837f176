"""Words that every room's messages are made of."""

from __future__ import annotations


def plural(count: int, noun: str, many: str | None = None) -> str:
    """'1 frame', '3 frames'; `many` where the plural takes more than an s."""
    return f"{count} {noun if count == 1 else many or noun + 's'}"
