"""The error family: everything that can go wrong in a way a user can act on, with its exit code."""

from __future__ import annotations

from typing import ClassVar


class AdatpError(Exception):
    """Base of all errors that adatp raises on purpose.

    Parameters
    ----------
    message
        One line: what failed, and on which file, option or model.
    hint
        One line: what to do next. May be empty.
    kind
        For the answer record's `error.kind`; the class's default when omitted.
    """

    exit_code: ClassVar[int] = 1
    default_kind: ClassVar[str] = "unexpected"

    def __init__(self, message: str, hint: str = "", *, kind: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.kind = kind or self.default_kind


class UsageError(AdatpError):
    """A wrong option, argument or combination of them."""

    exit_code = 2
    default_kind = "usage"


class ProfileError(UsageError):
    """A profile that cannot be found, read or validated."""

    default_kind = "profile"


class VideoError(AdatpError):
    """A video that cannot be read.

    `kind` is one of `missing`, `empty`, `not_a_video`, `no_video_stream`, `truncated`, `no_frames`,
    `encrypted`, `unreadable`, `decoder_crashed`, `timeout`.
    """

    exit_code = 3
    default_kind = "unreadable"


class ModelError(AdatpError):
    """A model or an environment that cannot be used: not found, not reachable, wrong layout."""

    exit_code = 4
    default_kind = "model"


class MemoryLimitError(AdatpError):
    """A run that does not fit the memory, by estimate or by a real allocation failure."""

    exit_code = 5
    default_kind = "out_of_memory"


class PruningError(AdatpError):
    """A model call that cannot be pruned, or a method that broke a rule of the base."""

    default_kind = "pruning"
