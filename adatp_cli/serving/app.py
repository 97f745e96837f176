"""The HTTP side: who may ask, what they get, and when."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import math
import os
import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from adatp_cli.answering.events import ClipReady, TextChunk, TurnsLeftOut
from adatp_cli.answering.run import Row
from adatp_cli.errors import AdatpError, PruningError, VideoError
from adatp_cli.profiles import Profile, builtin_names, load_profile
from adatp_cli.record import AnswerRecord
from adatp_cli.serving import protocol
from adatp_cli.serving.engine import Engine, QueueFullError, StoppingError, TooLateError
from adatp_cli.serving.engine import Request as Work
from adatp_cli.serving.media import MediaRoots, decoded_bytes
from adatp_cli.text import printable
from adatp_cli.video.source import Source

# A comment this often keeps proxies from taking a long prefill for a dead connection.
_PING_S = 10.0
# Between two looks at whether a client that waits for a whole answer is still there.
_LOOK_S = 0.25
# Between two pieces of a body.
_SENDING_S = 30.0
# The decoder's own words stay here: they may hold addresses of memory, or of files.
_CLIP_ERRORS = {
    "missing": "there is no such clip below the server's media roots",
    "empty": "the clip has no bytes",
    "not_a_video": "the clip is no video that can be read",
    "no_video_stream": "the clip has no video stream",
    "truncated": "the clip is cut off, and nothing of it can be read",
    "no_frames": "no frame of the clip can be decoded",
    "encrypted": "the clip is encrypted",
    "decoder_crashed": "the decoder crashed over this clip",
    "timeout": "decoding the clip takes too long",
}


@dataclass(slots=True, kw_only=True)
class Serving:
    """How a server answers, and what it counts."""

    engine: Engine | None = None  # None while the model loads
    roots: MediaRoots
    profile: Profile
    hosts: frozenset[str]  # names that the Host header may have, without the port; empty: any
    log: Callable[[str], None]
    key: str | None = None
    most_bytes: int = 256 << 20  # of a body
    timeout_s: float = 600.0  # for a request, waiting included
    max_tokens: int = 128
    requests: Counter[str] = field(default_factory=Counter)  # by route
    refusals: Counter[str] = field(default_factory=Counter)  # by code
    sent: OrderedDict[str, bytes] = field(default_factory=OrderedDict)  # clips by their uuid


def build_app(serving: Serving) -> Starlette:
    """The application; `serving.engine` answers for it."""
    handlers = _Handlers(serving)

    async def absent(request: Request, _error: Exception) -> Response:
        serving.requests["other"] += 1
        return handlers.refused(
            404, f"there is no {request.method} {request.url.path}", "not_found"
        )

    async def unexpected(_request: Request, error: Exception) -> Response:
        return handlers.failed(error)

    return Starlette(
        routes=[
            Route("/health", handlers.health),
            Route("/metrics", handlers.metrics),
            Route("/v1/models", handlers.models),
            Route("/v1/chat/completions", handlers.complete, methods=["POST"]),
        ],
        middleware=[Middleware(Gate, handlers=handlers)],
        exception_handlers={404: absent, 405: absent, Exception: unexpected},
    )


class Gate:
    """Lets in who may ask: the right host, no foreign page, the key, and JSON.

    Pages of other sites can send requests to this machine's own addresses; a wrong Host or Origin
    gives them away, and JSON is a kind of content that they may not send without being allowed to.
    """

    def __init__(self, app: ASGIApp, handlers: _Handlers) -> None:
        self._app = app
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refused(Request(scope)) if scope["type"] == "http" else None
        await (refused or self._app)(scope, receive, send)

    def _refused(self, request: Request) -> Response | None:
        serving, refused, headers = self._handlers.serving, self._handlers.refused, request.headers
        host = headers.get("host", "")
        if serving.hosts and _hostname(host) not in serving.hosts:
            return refused(403, "this server does not go by that name", "invalid_host")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return refused(403, "pages of other sites may not ask", "invalid_origin")
        if serving.key is not None and request.url.path != "/health":
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode("utf-8", "replace"), serving.key.encode()):
                return refused(401, "the key is missing or wrong", "invalid_api_key")
        if serving.engine is None:
            return refused(503, "the model is loading", "loading", headers={"Retry-After": "5"})
        if request.method == "POST":
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return refused(415, "send application/json", "invalid_content_type")
        return None


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


class _Handlers:
    """What each route does."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self._guard = threading.Lock()  # of `serving.sent`, which several threads use

    @property
    def engine(self) -> Engine:
        """The engine; before there is one, nobody comes past the gate."""
        if self.serving.engine is None:
            raise StoppingError
        return self.serving.engine

    async def health(self, _request: Request) -> Response:
        """Whether it answers; 503 while the model loads."""
        return JSONResponse({"status": "ok"})

    async def models(self, _request: Request) -> Response:
        """The one model, and the profiles that a request may name."""
        self.serving.requests["models"] += 1
        loaded = self.engine.loaded
        model = {
            "id": loaded.name,
            "object": "model",
            "created": 0,
            "owned_by": "adatp",
            "max_model_len": loaded.context_length,
            "input_modalities": ["text", "video"],
            "output_modalities": ["text"],
            "adatp": {"profile": self.serving.profile.name, "profiles": builtin_names()},
        }
        return JSONResponse({"object": "list", "data": [model]})

    async def metrics(self, _request: Request) -> Response:
        """Prometheus's text format."""
        return PlainTextResponse(
            metrics_text(self.serving, self.engine), media_type="text/plain; version=0.0.4"
        )

    async def complete(self, request: Request) -> Response:
        """OpenAI's chat completions."""
        serving = self.serving
        serving.requests["chat"] += 1
        answers = _Answers(asyncio.get_running_loop())
        try:
            body = await _body(request, serving.most_bytes)
            if body is None:
                most = f"{serving.most_bytes >> 20} MiB"
                return self.refused(413, f"the body is larger than {most}", "too_large")
            asked = await asyncio.to_thread(self._submit, body, answers)
        except ClientDisconnect:
            return Response(status_code=499)
        except TimeoutError:
            return self.refused(408, "the body did not come to its end", "slow_body")
        except Exception as error:
            return self.failed(error)
        answering = protocol.Answering(
            f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), self.engine.loaded.name
        )
        try:
            # Most refusals come at once, and get a status of their own.
            await answers.settled(_PING_S if asked.stream else None, request)
        except ClientDisconnect:
            answers.leave()
            return Response(status_code=499)
        if answers.error is not None:
            return self.failed(answers.error)
        if not asked.stream:
            record, own = answers.result()
            return JSONResponse(answering.whole(record, own))
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        events = self._stream(answers, answering, include_usage=asked.include_usage)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    def _submit(self, body: bytes, answers: _Answers) -> protocol.Asked:
        """Read a request and give it to the engine."""
        serving = self.serving
        engine, loaded = self.engine, self.engine.loaded
        asked = protocol.read_completion(body, max_tokens=serving.max_tokens)
        if asked.model not in (None, "auto", "adatp", loaded.name):
            raise protocol.RefusedError(f"this server has {loaded.name} alone", "model")
        profile = serving.profile
        if asked.own.profile is not None:
            if asked.own.profile not in builtin_names():
                raise protocol.RefusedError("there is no such profile", "adatp.profile")
            profile = load_profile(asked.own.profile)
        if asked.own.budget is not None:
            profile = profile.with_budget(asked.own.budget)
        engine.run_for(profile, asked.settings)  # one that cannot be is told now
        source = self._source(asked.clip)
        try:
            engine.submit(
                Work(
                    source=source,
                    name="clip" if isinstance(source, bytes) else printable(source.name),
                    questions=[asked.question],
                    profile=profile,
                    settings=asked.settings,
                    sampling=asked.sampling,
                    emit=answers.emit,
                    frames_auto=asked.frames_auto,
                    history=asked.history,
                    whole=not asked.stream,
                    deadline=time.monotonic() + serving.timeout_s,
                    cancelled=answers.cancelled,
                )
            )
        except BaseException:
            if not isinstance(source, bytes) and source.file is not None:
                os.close(source.file)
            raise
        return asked

    def _source(self, clip: protocol.ClipPart) -> bytes | Source:
        if clip.text and not clip.is_data:
            return self.serving.roots.open(clip.text)
        sent = self.serving.sent
        data = decoded_bytes(clip.text) if clip.text else b""
        with self._guard:
            if clip.uuid is None:
                return data
            if not data:
                if clip.uuid not in sent:
                    raise protocol.RefusedError(
                        "no clip is known by this uuid", "uuid", "send it again"
                    )
                return sent[clip.uuid]
            sent[clip.uuid] = data
            sent.move_to_end(clip.uuid)
            while len(sent) > 1 and sum(map(len, sent.values())) > self.serving.most_bytes:
                sent.popitem(last=False)
            return data

    async def _stream(
        self, answers: _Answers, answering: protocol.Answering, *, include_usage: bool
    ) -> AsyncIterator[bytes]:
        """The events of a streamed answer; left early, it stops the answer."""
        try:
            yield protocol.sse(answering.chunk({"role": "assistant", "content": ""}))
            while True:
                try:
                    event = await answers.next(_PING_S)
                except TimeoutError:
                    yield b": ping\n\n"
                    continue
                if isinstance(event, TextChunk):
                    yield protocol.sse(answering.chunk({"content": event.text}))
                elif event is None:
                    break
            if answers.error is not None:
                status, error, _ = self._told(answers.error)
                self.serving.refusals[str(error["code"])] += 1
                yield protocol.sse({"error": error, "status": status})
                return
            record, own = answers.result()
            last = answering.chunk({}, protocol.finish_reason(record))
            yield protocol.sse({**last, "adatp": own})
            if include_usage:
                yield protocol.sse(answering.usage_chunk(record))
            yield protocol.sse("[DONE]")
        finally:
            answers.leave()

    def refused(
        self,
        status: int,
        message: str,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """An error in OpenAI's form, counted."""
        self.serving.refusals[code] += 1
        error = {"message": message, "type": _type_of(status), "param": param, "code": code}
        return JSONResponse({"error": error}, status, headers)

    def failed(self, error: Exception) -> Response:
        """What a client is told of an exception."""
        status, told, headers = self._told(error)
        return self.refused(status, told["message"], told["code"], told["param"], headers)

    def _told(self, error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status, error and headers; what a client may not see goes to the log."""
        status, headers, param = 400, {}, None
        if isinstance(error, QueueFullError):
            status, message, code = 429, "too many requests wait", "queue_full"
            headers = {"Retry-After": "5"}
        elif isinstance(error, StoppingError):
            status, message, code = 503, "the server ends", "stopping"
        elif isinstance(error, TooLateError):
            # A client that asked again would wait as long.
            message, code = "the answer took longer than a request may", "timeout"
            status, headers = 504, {"x-should-retry": "false"}
        elif isinstance(error, VideoError):
            message, code = _CLIP_ERRORS.get(error.kind, "the clip cannot be read"), error.kind
            self.serving.log(f"{error.message}")
        elif isinstance(error, AdatpError) and not isinstance(error, PruningError):
            hint = f": {error.hint}" if error.hint else ""
            message, code = f"{error.message}{hint}", error.kind
            param = getattr(error, "param", None)
        else:
            status, message, code = 500, "something unexpected went wrong", "unexpected"
            headers = {"x-should-retry": "false"}
            self.serving.log(f"unexpected: {type(error).__name__}: {error}")
        told = {"message": message, "type": _type_of(status), "param": param, "code": code}
        return status, told, headers


_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


def _type_of(status: int) -> str:
    return _TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")


async def _body(request: Request, most: int) -> bytes | None:
    """The body, or None where it is larger than it may be."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > most:
        return None
    parts: list[bytes] = []
    size = 0
    stream = request.stream().__aiter__()
    while True:
        try:
            part = await asyncio.wait_for(anext(stream), _SENDING_S)
        except StopAsyncIteration:
            return b"".join(parts)
        size += len(part)
        if size > most:
            return None
        parts.append(part)


class _Answers:
    """What the engine's threads give out for a request, taken in the server's loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[object] = asyncio.Queue()
        self._held: list[object] = []  # taken out to look at, and not given on yet
        self._notes: list[str] = []
        self._record: AnswerRecord | None = None
        self.cancelled = threading.Event()
        self.error: Exception | None = None

    def emit(self, event: object) -> None:
        """Called by the engine."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to hear it
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    def leave(self) -> None:
        """Nobody wants the answer any more."""
        self.cancelled.set()

    async def next(self, timeout_s: float) -> object:
        """The next event; None at the end. A TimeoutError where none comes for so long."""
        if self._held:
            return self._held.pop(0)
        event = await asyncio.wait_for(self._queue.get(), timeout_s)
        if isinstance(event, Exception):
            self.error = event
        elif isinstance(event, ClipReady):
            self._notes += event.notes
        elif isinstance(event, TurnsLeftOut):
            self._notes.append(event.note)
        elif isinstance(event, Row):
            if isinstance(event.record, AnswerRecord):
                self._record = event.record
            else:
                self.error = event.error
        return event

    async def settled(self, patience_s: float | None, request: Request) -> None:
        """Wait for the end, or with `patience_s` for the first text, and no longer than that.

        A ClientDisconnect where the client does not wait.
        """
        latest = math.inf if patience_s is None else time.monotonic() + patience_s
        while time.monotonic() < latest:
            try:
                event = await self.next(_LOOK_S)
            except TimeoutError:
                if await request.is_disconnected():
                    raise ClientDisconnect from None
                continue
            if event is None or (patience_s is not None and isinstance(event, TextChunk)):
                self._held.append(event)
                return

    def result(self) -> tuple[AnswerRecord, dict[str, Any]]:
        """The record, and what stands under ``adatp``."""
        if self._record is None:
            raise RuntimeError("a request ended without an answer or an error")
        return self._record, protocol.own_facts(self._record, self._notes)


def metrics_text(serving: Serving, engine: Engine) -> str:
    """Counts since the start, and what is held now."""
    lines: list[str] = []

    def add(name: str, kind: str, about: str, values: Mapping[str, float], label: str = "") -> None:
        lines.extend((f"# HELP adatp_{name} {about}", f"# TYPE adatp_{name} {kind}"))
        lines.extend(
            f'adatp_{name}{{{label}="{key}"}} {value:g}' if label else f"adatp_{name} {value:g}"
            for key, value in sorted(values.items())
        )

    store = engine.store
    add("requests_total", "counter", "Requests by route.", serving.requests, "route")
    add("refusals_total", "counter", "Errors by code.", serving.refusals, "code")
    add("requests_waiting", "gauge", "Requests not at their end.", {"": engine.waiting})
    add("tokens_total", "counter", "Tokens by kind.", engine.tokens, "kind")
    add("seconds_total", "counter", "Seconds by stage.", engine.seconds, "stage")
    add("clip_cache_bytes", "gauge", "Bytes of encoded clips.", {"": store.bytes})
    add("clip_cache_clips", "gauge", "Encoded clips.", {"": len(store)})
    counts = {"hit": store.hits, "miss": store.misses}
    add("clip_cache_lookups_total", "counter", "Lookups of encoded clips.", counts, "result")
    return "\n".join(lines) + "\n"
