"""What a run leaves behind: the answer record, as typed data and as one line of JSON.

The dataclasses mirror `answer_record.schema.json`, which ships with the package and is what
programs may rely on; a change to either is a change of the public interface.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from adatp_cli.pruning.knobs import profile_schema

SCHEMA_VERSION = 2
READ_VERSIONS = (1, 2)  # of rows in files; those of version 1 lack keys where nothing is known
_SCHEMA_FILE = "answer_record.schema.json"

# In JSON's ASCII: an escaped backslash, a pair of surrogates, or (the group) a lone one.
_ESCAPES = re.compile(r"\\\\|\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}|(\\ud[89a-f][0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which weights answered, and where; `layers` counts the language model's."""

    name: str
    revision: str | None
    quantization: str
    dtype: str
    device: str
    layers: int


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """The clip as it was decoded: sizes in square pixels after rotation, times in seconds.

    `sample_aspect_ratio` is the shape of the pixels as they are stored, such as ``64:45``;
    `frames_lost` counts frames that were found not to decode or that a cut file lacks;
    `frames_copied` those used that took over the tokens of a near copy before them.
    """

    decoder: str
    codec: str
    width: int
    height: int
    fps: float
    duration_s: float
    frames_total: int
    frames_lost: int
    frames_used: int
    timestamps_s: list[float]
    frames_copied: int = 0
    sample_aspect_ratio: str | None = None


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """A run of alike frames (both ends included) and the visual tokens kept of it to the last
    layer.

    `relevance` is the mean similarity to the question, None where it was not measured; `salient`
    says whether the segment got the larger weight.
    """

    first_frame: int
    last_frame: int
    start_s: float
    end_s: float
    relevance: float | None
    salient: bool
    kept: int


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Prompt and answer in tokens.

    `text` counts everything in the prompt that is never pruned, the newline token among it;
    `kept_per_layer` is measured: the visual tokens that entered each layer. `shared` are those
    prompt tokens, at its front, that did not run because an earlier question about the clip had
    left their keys and values.
    """

    text: int
    visual: int
    kept_per_layer: list[int]
    kept_final: int
    kept_mean_ratio: float
    generated: int
    shared: int = 0


@dataclass(frozen=True, slots=True)
class PaperFlops:
    """Visual tokens in the language model, multiply-accumulates (see `adatp_cli.cost`)."""

    vanilla: int
    pruned: int
    ratio: float


@dataclass(frozen=True, slots=True)
class EndToEndFlops:
    """The whole way from pixels to the answer, FLOP; the parts are those of the pruned run."""

    vanilla: int
    pruned: int
    ratio: float
    vision: int
    relevance: int
    prefill: int
    scoring: int
    generate: int


@dataclass(frozen=True, slots=True)
class Flops:
    paper: PaperFlops
    end_to_end: EndToEndFlops


@dataclass(frozen=True, slots=True)
class Seconds:
    """Wall-clock time per stage.

    `first_token` runs from opening the clip to the first token; `total` covers this question, with
    the shared loading, decoding and encoding.
    """

    load: float
    decode: float
    vision: float
    relevance: float
    prefill: float
    first_token: float
    generate: float
    total: float


@dataclass(frozen=True, slots=True)
class Versions:
    adatp: str
    torch: str
    transformers: str


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """One question about one video, answered. `profile` is `Profile.to_dict()`, resolved."""

    video: str
    question: str
    answer: str
    finish_reason: Literal["eos", "length", "stop"]
    model: ModelInfo
    profile: dict[str, Any]
    video_info: VideoFacts
    segments: list[SegmentFacts]
    tokens: TokenCounts
    flops: Flops
    seconds: Seconds
    peak_memory_bytes: int | None
    versions: Versions

    def to_dict(self) -> dict[str, Any]:
        """The record as plain nested data, with every key that records have."""
        return _whole({"ok": True, **dataclasses.asdict(self)})

    def to_json(self) -> str:
        """The record as one line of JSON."""
        return json_line(self.to_dict())


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """`kind` is for programs, `message` and `hint` are one line each for people."""

    kind: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """One question about one video that got no answer, with what was known when it failed."""

    video: str
    question: str
    error: ErrorInfo
    model: ModelInfo | None = None
    profile: dict[str, Any] | None = None
    video_info: VideoFacts | None = None
    versions: Versions | None = None

    def to_dict(self) -> dict[str, Any]:
        """The record as plain nested data, with every key that records have."""
        return _whole({"ok": False, **dataclasses.asdict(self)})

    def to_json(self) -> str:
        """The record as one line of JSON."""
        return json_line(self.to_dict())


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a run knows so far, for the record of whatever fails."""

    video: str = ""
    model: ModelInfo | None = None
    profile: dict[str, Any] | None = None
    video_info: VideoFacts | None = None
    versions: Versions | None = None

    def failure(self, question: str, error: ErrorInfo) -> FailureRecord:
        """The record of a question that got no answer."""
        return FailureRecord(
            self.video, question, error, self.model, self.profile, self.video_info, self.versions
        )


def read_answer(data: Mapping[str, Any]) -> AnswerRecord:
    """The record of an answer from what its `to_dict` gave; else a KeyError or TypeError.

    Keys that records do not have are passed over.
    """
    flops = data["flops"]
    return AnswerRecord(
        video=data["video"],
        question=data["question"],
        answer=data["answer"],
        finish_reason=data["finish_reason"],
        model=ModelInfo(**data["model"]),
        profile=data["profile"],
        video_info=VideoFacts(**data["video_info"]),
        segments=[SegmentFacts(**one) for one in data["segments"]],
        tokens=TokenCounts(**data["tokens"]),
        flops=Flops(PaperFlops(**flops["paper"]), EndToEndFlops(**flops["end_to_end"])),
        seconds=Seconds(**data["seconds"]),
        peak_memory_bytes=data["peak_memory_bytes"],
        versions=Versions(**data["versions"]),
    )


def _whole(known: dict[str, Any]) -> dict[str, Any]:
    """A row with every key, in the schema's order, and None where nothing is known.

    Readers that make a table of rows take the columns from the first ones: a key that came later
    would be dropped in silence.
    """
    data = dict.fromkeys(_keys("answer_record")) | {"schema_version": SCHEMA_VERSION} | known
    if data["profile"] is not None:
        data["profile"] = dict.fromkeys(_keys("profile")) | data["profile"]
    return data


@cache
def _keys(part: str) -> tuple[str, ...]:
    """The keys that every object of that kind has."""
    return tuple(json.loads(schema_text())["$defs"][part]["required"])


def schema_text() -> str:
    """The JSON Schema (draft 2020-12) that every record fits."""
    text = resources.files("adatp_cli").joinpath(_SCHEMA_FILE).read_text(encoding="utf-8")
    schema = json.loads(text)
    schema["$defs"]["profile"] = profile_schema()  # as the methods' knobs have it
    return f"{json.dumps(schema, indent=2, ensure_ascii=False)}\n"


def json_line(data: Any) -> str:
    """Any record, with what was added to it, as one line of JSON that every reader takes.

    Half of a surrogate pair, as in a file name that is no UTF-8, is no Unicode and stops jq and
    others; it is written out, with the backslash itself in the text.
    """
    # ASCII alone: a line separator inside an answer can then neither break the line nor the
    # output's encoding. NaN is not JSON and raises.
    line = json.dumps(data, ensure_ascii=True, allow_nan=False)
    return _ESCAPES.sub(lambda found: f"\\{found[1]}" if found[1] else found[0], line)
