"""What a run gives out: its stages, pieces of text, answers; and an encoded clip."""

from __future__ import annotations

from dataclasses import dataclass

from adatp_cli.answering.encode import EncodedClip
from adatp_cli.answering.plan import Prefills
from adatp_cli.answering.trace import Trace
from adatp_cli.profiles import Profile
from adatp_cli.record import AnswerRecord, Seconds, VideoFacts
from adatp_cli.text import plural
from adatp_cli.video.frames import Frames


@dataclass(frozen=True, slots=True)
class Stage:
    """What begins now: `decode`, `vision`, `relevance` or `prefill`, and on what."""

    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class ClipReady:
    """The clip is decoded: what it is, and what the reader should know about how it was read."""

    video_info: VideoFacts
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TurnsLeftOut:
    """The oldest of what was said before does not fit, and is not in the prompt."""

    messages: int

    @property
    def note(self) -> str:
        """What to tell of it."""
        left_out = plural(self.messages, "message is", "messages are")
        return f"the context is full: the oldest {left_out} left out"


@dataclass(frozen=True, slots=True)
class PrefillChosen:
    """Several questions could be pruned for or could share a prefill: which is done."""

    profile: Profile  # under which they are answered: `vanilla` where they share
    cost: Prefills  # of both ways
    shared: bool
    fits: bool = True  # False where sharing was wanted and does not fit the memory


@dataclass(frozen=True, slots=True)
class TextChunk:
    """A piece of an answer; the pieces add up to it."""

    question_index: int
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """The end of one answer.

    Parameters
    ----------
    record, trace
        What it was and cost; every choice of the pruning, if asked for.
    selection_s
        Seconds of the record's `prefill` that went into choosing tokens. Embedding the question,
        and planning where it is embedded, are the record's `relevance` and not in here.
    own
        What a later question about an encoded clip takes: the record's seconds without loading,
        decoding and encoding.
    """

    record: AnswerRecord
    trace: Trace | None
    selection_s: float
    own: Seconds


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A decoded and encoded clip, ready for any number of questions."""

    name: str  # what records call it
    frames: Frames
    encoded: EncodedClip
    decode_s: float
    peak_memory_bytes: int | None  # until here
