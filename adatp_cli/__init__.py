"""Ask questions about local video; prune a LLaVA-OneVision model's video tokens.

The public API: `prune`, `load`, `load_encoder`, `load_profile`, `Profile`, `AnswerRecord` and the
errors. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adatp_cli.answering.api import load, load_encoder, prune
    from adatp_cli.errors import (
        AdatpError,
        MemoryLimitError,
        ModelError,
        ProfileError,
        UsageError,
        VideoError,
    )
    from adatp_cli.profiles import Profile, load_profile
    from adatp_cli.record import AnswerRecord

__version__ = "0.1.0"

_HOMES = {
    "adatp_cli.answering.api": ("load", "load_encoder", "prune"),
    "adatp_cli.errors": (
        "AdatpError",
        "MemoryLimitError",
        "ModelError",
        "ProfileError",
        "UsageError",
        "VideoError",
    ),
    "adatp_cli.profiles": ("Profile", "load_profile"),
    "adatp_cli.record": ("AnswerRecord",),
}

__all__ = [
    "AdatpError",
    "AnswerRecord",
    "MemoryLimitError",
    "ModelError",
    "Profile",
    "ProfileError",
    "UsageError",
    "VideoError",
    "load",
    "load_encoder",
    "load_profile",
    "prune",
]


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
