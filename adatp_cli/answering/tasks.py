"""What a run has to do: clips, and the questions about each for every profile. Needs no PyTorch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from adatp_cli.record import RunContext

if TYPE_CHECKING:
    from adatp_cli.answering.session import Session
    from adatp_cli.model.load import LoadedModel
    from adatp_cli.model.prompt import Message
    from adatp_cli.video.frames import FrameReader, Frames, Resize
    from adatp_cli.video.sampling import Sampling

Item = TypeVar("Item")


class ClipSource(Protocol):
    """Where a clip's frames come from. Equal sources are one clip, decoded and encoded once."""

    @property
    def name(self) -> str:
        """What records call it: the path of a file."""

    @property
    def key(self) -> str:
        """What the keys of its rows hold of it; results of earlier runs hold the same."""

    def exists(self) -> bool:
        """Whether it is there."""

    def stamp(self) -> tuple[int, int] | tuple[None, None]:
        """Size in bytes and time of change in nanoseconds; None for both where there are none."""

    def read(self, reader: FrameReader, sampling: Sampling, resize: Resize) -> Frames:
        """The frames that `sampling` asks for, or an `AdatpError`."""


@dataclass(frozen=True, slots=True)
class FileClip:
    """A video file, or the part of it from `start_s` to `end_s`, in seconds."""

    path: str
    start_s: float | None = None
    end_s: float | None = None

    @property
    def name(self) -> str:
        return self.path

    @property
    def key(self) -> str:
        return f"FileClip(path={self.path!r}, start_s={self.start_s}, end_s={self.end_s})"

    def exists(self) -> bool:
        return os.path.isfile(self.path)

    def stamp(self) -> tuple[int, int] | tuple[None, None]:
        return file_stamp(self.path)

    def read(self, reader: FrameReader, sampling: Sampling, resize: Resize) -> Frames:
        if self.start_s is not None or self.end_s is not None:
            sampling = dataclasses.replace(sampling, start_s=self.start_s, end_s=self.end_s)
        return reader.read(self.path, sampling, name=self.path, resize=resize)


def file_stamp(path: str) -> tuple[int, int] | tuple[None, None]:
    """Size in bytes and time of the last change in nanoseconds; None for both where unknown."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None, None
    return found.st_size, found.st_mtime_ns


@dataclass(frozen=True, slots=True)
class ProfileRun:
    """A profile that answers: its name, which no other in the run has, and its session."""

    name: str
    session: Session
    context: RunContext

    @classmethod
    def of(cls, session: Session, loaded: LoadedModel) -> ProfileRun:
        """With what every row of it holds."""
        from adatp_cli.answering.records import model_info, versions

        context = RunContext(
            model=model_info(loaded), profile=session.profile.to_dict(), versions=versions()
        )
        return cls(session.profile.name, session, context)


@dataclass(frozen=True, slots=True)
class Ask:
    """One question to one profile."""

    text: str  # as the model gets it
    run: ProfileRun
    key: str = ""  # names the row, where rows have keys
    names: Mapping[str, object] = field(default_factory=dict)  # part of the key, beside the text
    about: Any = None  # what else the asker knows of the question
    history: tuple[Message, ...] = ()  # what was said about the clip before


@dataclass(frozen=True, slots=True)
class ClipTask:
    """A clip with what is to be asked about it, question by question.

    `size_bytes` and `mtime_ns` are those of the file when the run was planned; None where there is
    none.
    """

    clip: ClipSource
    asks: tuple[Ask, ...]
    size_bytes: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Decoded(Generic[Item]):
    """One clip's frames, or what kept it from having any, and the seconds that this took."""

    item: Item
    frames: Frames | Exception
    seconds: float
