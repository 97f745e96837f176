"""`adatp serve`: answers for programs over HTTP, from a model that stays loaded."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from adatp_cli.cli.errors import info_of
from adatp_cli.cli.open_model import load_profiles, open_model
from adatp_cli.cli.options import RunOptions, option
from adatp_cli.cli.output import Output
from adatp_cli.errors import ModelError, UsageError
from adatp_cli.files import read_whole
from adatp_cli.text import read_bytes, readable_bytes

if TYPE_CHECKING:
    from adatp_cli.serving.engine import Engine

AUTO_CACHE = "auto"
# Of the memory that is free when the model is loaded.
_CACHE_SHARE = 0.25
CLIP_CACHE = option(
    "Server",
    "--clip-cache SIZE",
    "Most bytes of encoded clips to keep for further questions, such as 2GB; 0: none. auto: a "
    "quarter of the memory that is free once the model is loaded.",
    default=AUTO_CACHE,
)


@dataclass(frozen=True, kw_only=True)
class ServeOptions(RunOptions):
    WITHOUT: ClassVar[tuple[str, ...]] = (
        "frames", "fps", "start", "end", "temperature", "top_p", "seed", "json", "trace",
        "overwrite",
    )  # fmt: skip

    host: str = option(
        "Server",
        "--host ADDRESS",
        "The address to listen on; another than this machine's own needs a key.",
        default="127.0.0.1",
    )
    port: int = option(
        "Server", "--port PORT", "The port; 0: any that is free.", default=8484, min=0, max=65535
    )
    media_root: list[Path] | None = option(
        "Server",
        "--media-root DIR",
        "Clients may name clips below this folder; may be given several times. Without it they "
        "send the bytes.",
    )
    api_key_file: Path | None = option(
        "Server",
        "--api-key-file FILE",
        "Only who sends the key in this file is answered. The environment's ADATP_API_KEY does the "
        "same.",
    )
    api_key: str | None = option(None, "--api-key", "", envvar="ADATP_API_KEY", hidden=True)
    clip_cache: str = CLIP_CACHE
    queue: int = option(
        "Server", "--queue N", "Requests that may wait; more are refused.", default=8, min=0
    )
    timeout: float = option(
        "Server",
        "--timeout SECONDS",
        "Most time that a request may take, waiting included.",
        default=600.0,
        min=1.0,
    )
    max_body: str = option(
        "Server", "--max-body SIZE", "The largest request, its clip included.", default="256MB"
    )

    def check(self) -> None:
        super().check()
        cache_bytes(self.clip_cache)
        size_of("--max-body", self.max_body)


def size_of(name: str, text: str) -> int:
    """The bytes that an option names."""
    try:
        return read_bytes(text)
    except ValueError:
        raise UsageError(f"{name} {text!r} is no size", "as in 2GB or 500MB") from None


def cache_bytes(text: str) -> int | None:
    """The bytes that `--clip-cache` names; None for auto."""
    return None if text == AUTO_CACHE else size_of("--clip-cache", text)


def cache_for(text: str, device: str) -> int:
    """The bytes of the clip cache once the model is loaded."""
    from adatp_cli.model.memory import available_memory

    asked = cache_bytes(text)
    return int((available_memory(device) or 0) * _CACHE_SHARE) if asked is None else asked


def serve(options: ServeOptions, output: Output) -> None:
    """Answer questions over HTTP, as OpenAI's chat completions with clips; the model stays loaded.

    One request is answered at a time, the others wait. Clips stay encoded for further questions.
    SIGTERM and Ctrl-C end it after the answer that it is at.

    Examples:
    adatp serve -m 7b --media-root ~/clips
    adatp serve -m tiny --port 0
    """
    if not (importlib.util.find_spec("starlette") and importlib.util.find_spec("uvicorn")):
        raise ModelError("adatp serve needs two packages more", "pip install 'adatp-cli[serve]'")
    from adatp_cli.answering.clips import ClipStore
    from adatp_cli.model.quiet import quiet_libraries
    from adatp_cli.serving.app import Serving
    from adatp_cli.serving.engine import Engine
    from adatp_cli.serving.media import MediaRoots
    from adatp_cli.serving.server import LOOPBACK, listen, run

    (profile,) = load_profiles([options.profile_name], options.budget)
    key = _key(options)
    if options.host not in LOOPBACK and key is None:
        raise UsageError(
            f"--host {options.host} lets other machines ask, and there is no key",
            "give --api-key-file FILE",
        )
    roots = MediaRoots(options.media_root or ())
    listening = listen(options.host, options.port)
    port = listening.getsockname()[1]

    def load() -> Engine:
        opened = open_model([profile], options, output)
        store = ClipStore(cache_for(options.clip_cache, opened.model.device))
        output.note(f"keeping up to {readable_bytes(store.limit)} of encoded clips")
        return Engine(
            opened.loaded, store, info_of, limits=options.limits(), most_waiting=options.queue
        )

    def ready() -> None:
        shown = f"[{options.host}]" if ":" in options.host else options.host
        output.note(f"ready on http://{shown}:{port}; Ctrl-C ends it")

    serving = Serving(
        roots=roots,
        profile=profile,
        hosts=LOOPBACK if options.host in LOOPBACK else frozenset(),
        log=output.note,
        key=key,
        most_bytes=size_of("--max-body", options.max_body),
        timeout_s=options.timeout,
        max_tokens=options.max_new_tokens,
    )
    with listening, output.running(), quiet_libraries(verbose=options.verbose):
        run(serving, listening, load, ready)
    output.note("ended")


def _key(options: ServeOptions) -> str | None:
    key = options.api_key
    if options.api_key_file is not None:
        try:
            with options.api_key_file.open("rb") as file:
                key = read_whole(file, "the key", "write a key into it", most=4096).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise UsageError(f"--api-key-file {options.api_key_file}: {reason}") from None
    if key is not None and not key:
        raise UsageError("the API key is empty", "write one into the file")
    return key
