"""`adatp ask --server URL`: the same answers from a server, without PyTorch here."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adatp_cli import __version__
from adatp_cli.cli.errors import info_of
from adatp_cli.cli.options import AUTO_FRAMES, RunOptions
from adatp_cli.cli.output import Output
from adatp_cli.cli.streams import OutputClosedError
from adatp_cli.errors import AdatpError, MemoryLimitError, ModelError, UsageError, VideoError
from adatp_cli.profiles import builtin_names
from adatp_cli.record import RunContext, read_answer
from adatp_cli.text import one_line, printable
from adatp_cli.video.source import check_source

if TYPE_CHECKING:
    import httpx2

# Errors that are nobody's clip: by the code that the server gives them.
_KINDS = {
    kind.default_kind: kind for kind in (UsageError, ModelError, MemoryLimitError)
} | {"profile": UsageError, "queue_full": ModelError, "timeout": ModelError}  # fmt: skip
_ABSENT = "missing"
# Connecting is quick or never; an answer may wait for others.
_CONNECT_S, _ANSWER_S = 10.0, 900.0


def ask_server(
    url: str,
    source: str | bytes,
    questions: Sequence[str],
    options: RunOptions,
    output: Output,
    *,
    video_name: str,
) -> None:
    """Ask a server everything about a clip, and write the answers as `ask` does.

    A file that the server may read is named to it; else its bytes are sent, once.
    """
    import httpx2

    _check(options)
    key = os.environ.get("ADATP_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    done, said = 0, False
    try:
        check_source(source, video_name)
        client = httpx2.Client(
            base_url=url.rstrip("/"),
            headers=headers,
            timeout=httpx2.Timeout(_ANSWER_S, connect=_CONNECT_S),
            trust_env=False,  # a proxy is for other machines
        )
        with client, output.running():
            for number, question in enumerate(questions):
                output.stage(f"asking {url}")
                facts = _answer(client, source, question, options, output, number, len(questions))
                facts |= {"video": video_name, "question": question}
                record = read_answer(facts)
                if not said:
                    _tell(record.versions.adatp, f"{record.model.name} on {url}", facts, output)
                    said = True
                output.note(*facts.get("notes", ()))
                output.answered(record)
                done += 1
    except (OutputClosedError, KeyboardInterrupt):
        raise
    except Exception as error:
        told = _readable(error, url, video_name)
        for question in questions[done:]:
            output.failed(RunContext(video_name).failure(question, info_of(told)))
        raise told from None


def _check(options: RunOptions) -> None:
    """Refuse what a server does not do."""
    if options.trace is not None:
        raise UsageError("a server writes no --trace", "leave out --server")
    if options.profile is not None and options.profile not in builtin_names():
        raise UsageError(
            f"a server knows the bundled profiles alone, and {options.profile!r} is none",
            "leave out --server, or start the server with it",
        )


def _tell(version: str, where: str, facts: Mapping[str, Any], output: Output) -> None:
    output.note(f"{where}, profile {facts['profile']['name']}")
    if version != __version__:
        output.note(f"the server runs adatp {version}, and this is {__version__}")


def _answer(
    client: httpx2.Client,
    source: str | bytes,
    question: str,
    options: RunOptions,
    output: Output,
    number: int,
    count: int,
) -> dict[str, Any]:
    """What the server tells of one answer, whose text is written as it comes."""
    for part in _parts(source):
        try:
            text, facts = "", None
            for chunk in _events(client, _body(part, question, options)):
                if "error" in chunk:
                    raise _RefusedError(chunk["error"])
                for choice in chunk["choices"]:
                    piece = choice["delta"].get("content") or ""
                    if piece:
                        if count > 1 and not text:
                            output.question(number, question)
                        output.text_chunk(piece)
                    text += piece
                facts = chunk.get("adatp", facts)
            if facts is None:
                raise ModelError("the server broke off its answer", "ask again")
            return {**facts, "answer": text}
        except _RefusedError as refused:
            # Not known by its path, or its hash: the next way of naming it.
            if refused.error.get("code") != _ABSENT and refused.error.get("param") != "uuid":
                raise
            last = refused
    raise last


def _parts(source: str | bytes) -> Iterator[dict[str, Any]]:
    """Ways to name a clip, the cheapest first."""
    if isinstance(source, str):
        yield {"type": "video", "video": os.path.abspath(source)}
        source = Path(source).read_bytes()
    name = hashlib.sha256(source).hexdigest()
    yield {"type": "input_video", "input_video": {}, "uuid": name}
    data = base64.b64encode(source).decode("ascii")
    yield {"type": "input_video", "input_video": {"data": data}, "uuid": name}


def _body(part: Mapping[str, Any], question: str, options: RunOptions) -> dict[str, Any]:
    sampling, generation = options.sampling(), options.generation()
    frames = AUTO_FRAMES if options.frames_auto else sampling.frames
    own = {
        "profile": options.profile, "budget": options.budget, "frames": frames,
        "fps": sampling.fps, "start": sampling.start_s, "end": sampling.end_s,
    }  # fmt: skip
    return {
        "model": None if options.model == "auto" else options.model,
        "messages": [{"role": "user", "content": [part, {"type": "text", "text": question}]}],
        "stream": True,
        "max_tokens": generation.max_new_tokens,
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "seed": generation.seed,
        "adatp": {name: value for name, value in own.items() if value is not None},
    }


def _events(client: httpx2.Client, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The data of each server-sent event up to the end."""
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            answer.read()
            with contextlib.suppress(ValueError, KeyError, TypeError):
                raise _RefusedError(dict(answer.json()["error"]))
            raise ModelError(
                f"what answers at {client.base_url} is no adatp server "
                f"(status {answer.status_code})",
                "start one with adatp serve",
            )
        for line in answer.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                yield json.loads(line[6:])


class _RefusedError(Exception):
    """The server's `error`."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error)
        self.error = error


def _readable(error: Exception, url: str, video: str) -> AdatpError:
    """The error as a command without a server would have it."""
    import httpx2

    if isinstance(error, AdatpError):
        return error
    if isinstance(error, _RefusedError):
        code = str(error.error.get("code"))
        message = one_line(printable(str(error.error.get("message"))))
        if code in _KINDS:
            return _KINDS[code](message, kind=code if code in ("profile", "timeout") else None)
        if error.error.get("type") == "authentication_error":
            return ModelError(message, "set ADATP_API_KEY")
        if error.error.get("type") in ("server_error", "rate_limit_error"):
            return ModelError(f"{url}: {message}", "ask again later")
        return VideoError(f"{video}: {message}", kind=code)
    if isinstance(error, httpx2.HTTPError | httpx2.InvalidURL):
        reason = one_line(str(error)) or type(error).__name__
        return ModelError(f"no server answers at {url} ({reason})", "start one with adatp serve")
    if isinstance(error, ValueError | KeyError | TypeError):
        return ModelError(f"what answers at {url} is no adatp server", "start one with adatp serve")
    raise error
