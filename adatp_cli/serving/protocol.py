"""OpenAI's chat completions with clips: what requests may hold, and what answers look like.

Every key of a clip that decides which frames are looked at is honoured or refused: a setting that
is taken and ignored gives answers about other frames than the client believes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from adatp_cli.answering.decoding import GenerationSettings
from adatp_cli.errors import UsageError
from adatp_cli.model.prompt import Message
from adatp_cli.record import AnswerRecord
from adatp_cli.video.sampling import Sampling

# More frames, or frames a second, than any model reads; beyond them no arithmetic is done.
MOST_FRAMES, MOST_FPS = 4096, 1000.0
Frames = Annotated[int, Field(gt=0, le=MOST_FRAMES)]
Rate = Annotated[float, Field(gt=0, le=MOST_FPS, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def _as_address(value: object) -> object:
    """Older clients send the address alone."""
    return {"url": value} if isinstance(value, str) else value


class _Address(_Strict):
    url: str
    fps: Rate | None = None
    max_frames: Frames | None = None


class _Data(_Strict):
    data: str | None = None
    url: str | None = None


class _Text(_Strict):
    type: Literal["text"]
    text: str


class _VideoUrl(_Strict):
    type: Literal["video_url"]
    video_url: Annotated[_Address, BeforeValidator(_as_address)]
    uuid: str | None = None


class _InputVideo(_Strict):
    type: Literal["input_video"]
    input_video: _Data
    uuid: str | None = None


class _Video(_Strict):
    type: Literal["video"]
    video: str
    fps: Rate | None = None
    max_frames: Frames | None = None
    uuid: str | None = None


_Part = Annotated[_Text | _VideoUrl | _InputVideo | _Video, Field(discriminator="type")]


class _Message(BaseModel):
    model_config = ConfigDict(strict=True)  # clients send names and ids along

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part] | None = None


class _FrameSettings(_Strict):
    num_frames: Frames | None = None
    fps: Rate | None = None


class _MediaSettings(_Strict):
    video: _FrameSettings | None = None


class _ProcessorSettings(_Strict):
    fps: Rate | None = None


class Own(_Strict):
    """Our own settings, under the key ``adatp``."""

    profile: str | None = None
    budget: Annotated[float, Field(gt=0, le=1)] | None = None
    frames: Frames | Literal["auto"] | None = None
    fps: Rate | None = None
    start: NonNegativeFloat | None = None
    end: PositiveFloat | None = None


class _StreamOptions(BaseModel):
    include_usage: bool = False


class Completion(BaseModel):
    """The body of ``POST /v1/chat/completions``; keys that decide nothing are ignored."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    messages: Annotated[list[_Message], Field(min_length=1, max_length=1000)]
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    n: Literal[1] | None = None
    media_io_kwargs: _MediaSettings | None = None
    mm_processor_kwargs: _ProcessorSettings | None = None
    adatp: Own = Own()
    # They would change the answer, and nothing here could.
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: Literal[False] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    response_format: dict[str, Any] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    top_k: None = None
    # Which frames are looked at is said elsewhere.
    frames: None = None
    fps: None = None
    num_frames: None = None
    max_frames: None = None
    repetition_penalty: Annotated[float, Field(ge=1, le=1)] | None = None


@dataclass(frozen=True, slots=True)
class ClipPart:
    """The clip of a request: an address or path, base64, or the name it was sent under before."""

    text: str
    is_data: bool
    uuid: str | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks, checked."""

    model: str | None
    question: str
    history: tuple[Message, ...]
    clip: ClipPart
    sampling: Sampling
    frames_auto: bool
    settings: GenerationSettings
    own: Own
    stream: bool
    include_usage: bool


class RefusedError(UsageError):
    """A request that cannot be answered as it is; `param` names the key that is wrong."""

    def __init__(self, message: str, param: str | None = None, hint: str = "") -> None:
        super().__init__(message, hint)
        self.param = param


def read_completion(body: bytes, *, max_tokens: int) -> Asked:
    """The body of a chat completion; a `RefusedError` says which key is wrong."""
    try:
        asked = Completion.model_validate_json(body)
    except ValidationError as error:
        raise _refused(error) from None
    if asked.response_format not in (None, {"type": "text"}):
        raise RefusedError("response_format can be text alone", "response_format")
    history, question, clip, from_part = _conversation(asked)
    sampling, auto = _sampling(asked, from_part)
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    if any(not text for text in stop):
        raise RefusedError("a stop text is empty", "stop")
    greedy = not asked.temperature
    wanted = asked.max_completion_tokens or asked.max_tokens or max_tokens
    settings = GenerationSettings(
        min(wanted, max_tokens),
        None if greedy else asked.temperature,
        None if greedy or asked.top_p == 1 else asked.top_p,
        asked.seed or 0,
        stop,
    )
    options = asked.stream_options
    return Asked(
        asked.model,
        question,
        history,
        clip,
        sampling,
        auto,
        settings,
        asked.adatp,
        asked.stream,
        options is not None and options.include_usage,
    )


def _refused(error: ValidationError) -> RefusedError:
    """The first mistake, in a line with the key's place."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    # What pydantic calls a part of a union is no key of the request.
    names = [str(part) for part in first["loc"] if part not in _UNION_NAMES]
    param = ".".join(names) or None
    kind, given = first["type"], error.errors()[0].get("input")
    if kind == "union_tag_invalid" and isinstance(given, Mapping):
        what = str(given.get("type"))[:40]
        if what == "image_url":
            return RefusedError("pictures are not looked at: send a clip as video_url", param)
        return RefusedError(f"there is no content part of type {what!r}", param)
    if kind == "json_invalid":
        return RefusedError("the body is no JSON")
    if kind == "extra_forbidden":
        return RefusedError("unknown key", param, "leave it out")
    return RefusedError(first["msg"].removeprefix("Value error, "), param)


_UNION_NAMES = frozenset({
    "text", "video_url", "input_video", "video", "str", "function-before[_as_address(), _Address]",
    "list[tagged-union[_Text,_VideoUrl,_InputVideo,_Video]]", "int", "literal['auto']",
    "constrained-int", "constrained-list", "list[constrained-str]",
})  # fmt: skip

_Clip = _VideoUrl | _InputVideo | _Video


def _conversation(asked: Completion) -> tuple[tuple[Message, ...], str, ClipPart, _Clip]:
    said: list[Message] = []
    clips: list[tuple[ClipPart, _Clip]] = []
    for number, message in enumerate(asked.messages):
        where = f"messages.{number}.content"
        role: Any = "system" if message.role == "developer" else message.role
        content = message.content
        parts = [] if content is None or isinstance(content, str) else content
        texts = [content] if isinstance(content, str) else []
        texts += [part.text for part in parts if isinstance(part, _Text)]
        found = [part for part in parts if not isinstance(part, _Text)]
        if found and role != "user":
            raise RefusedError("a clip stands in a message of the user", where)
        clips += [(_clip_part(part, where), part) for part in found]
        said.append(Message(role, "\n".join(texts), clip=bool(found)))
    if not clips:
        raise RefusedError("no message holds a clip", "messages", "send one as a video_url")
    if any(clip != clips[0][0] for clip, _ in clips):
        raise RefusedError("one conversation is about one clip", "messages", "begin another")
    *history, last = said
    if last.role != "user":
        raise RefusedError("the last message is not the user's", "messages")
    if not last.text.strip():
        raise RefusedError("the last message asks nothing", "messages", "add a text")
    return tuple(history), last.text, *clips[-1]


def _clip_part(part: _Clip, where: str) -> ClipPart:
    if isinstance(part, _VideoUrl):
        text, is_data = part.video_url.url, part.video_url.url[:5].lower() == "data:"
    elif isinstance(part, _Video):
        text, is_data = part.video, part.video[:5].lower() == "data:"
    else:
        given = [one for one in (part.input_video.data, part.input_video.url) if one]
        if len(given) != 1 and not part.uuid:
            raise RefusedError("input_video takes data or url", where)
        text = given[0] if given else ""
        is_data = part.input_video.data is not None or text[:5].lower() == "data:"
    if text[:7].lower() in ("http://", "https:/"):
        raise RefusedError(
            "clips are not fetched from the network", where, "send the bytes, or a path"
        )
    if not text and not part.uuid:
        raise RefusedError("the clip has neither address nor data", where)
    return ClipPart(text, is_data, part.uuid)


def _sampling(asked: Completion, part: _Clip) -> tuple[Sampling, bool]:
    """Which frames are wanted, wherever the request says it; two that differ are refused."""
    own, video = asked.adatp, asked.media_io_kwargs and asked.media_io_kwargs.video
    holder = part.video_url if isinstance(part, _VideoUrl) else part
    frames = {
        "adatp.frames": own.frames,
        "max_frames": getattr(holder, "max_frames", None),
        "media_io_kwargs.video.num_frames": video.num_frames if video else None,
    }
    rates = {
        "adatp.fps": own.fps,
        "fps": getattr(holder, "fps", None),
        "media_io_kwargs.video.fps": video.fps if video else None,
        "mm_processor_kwargs.fps": asked.mm_processor_kwargs and asked.mm_processor_kwargs.fps,
    }
    count, rate = _one_of(frames), _one_of(rates)
    auto = count == "auto"
    return Sampling(None if auto else count, rate, own.start, own.end), auto


def _one_of(values: Mapping[str, Any]) -> Any:
    given = {name: value for name, value in values.items() if value is not None}
    if len(set(given.values())) > 1:
        told = " and ".join(f"{name} {value}" for name, value in given.items())
        raise RefusedError(f"{told} contradict each other", next(iter(given)))
    return next(iter(given.values()), None)


@dataclass(frozen=True, slots=True)
class Answering:
    """What the answers to one request have in common."""

    id: str
    created: int
    model: str

    def chunk(self, delta: Mapping[str, str], finish: str | None = None) -> dict[str, Any]:
        """A piece of a streamed answer."""
        choice = {"index": 0, "delta": dict(delta), "finish_reason": finish, "logprobs": None}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def usage_chunk(self, record: AnswerRecord) -> dict[str, Any]:
        """The end of a streamed answer, for those who asked for it."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(record)}

    def whole(self, record: AnswerRecord, own: Mapping[str, Any]) -> dict[str, Any]:
        """An answer that is not streamed."""
        message = {"role": "assistant", "content": record.answer}
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": finish_reason(record),
            "logprobs": None,
        }
        head = self._head("chat.completion")
        return {**head, "choices": [choice], "usage": usage(record), "adatp": own}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def finish_reason(record: AnswerRecord) -> str:
    """As OpenAI calls it."""
    return "length" if record.finish_reason == "length" else "stop"


def usage(record: AnswerRecord) -> dict[str, Any]:
    """Tokens of the prompt, all visual ones among them, and of the answer."""
    prompt, generated = record.tokens.text + record.tokens.visual, record.tokens.generated
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": record.tokens.shared},
    }


def own_facts(record: AnswerRecord, notes: Sequence[str]) -> dict[str, Any]:
    """What stands under ``adatp``: the answer record but for its texts, and what to know of it."""
    told = record.to_dict()
    facts = {key: told[key] for key in told if key not in ("question", "answer")}
    return {**facts, "notes": list(notes)}


def sse(data: Mapping[str, Any] | str) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    return f"data: {text}\n\n".encode()
