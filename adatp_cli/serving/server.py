"""Running the server: it listens while the model loads, and ends when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from adatp_cli.errors import UsageError
from adatp_cli.serving.app import Serving, build_app
from adatp_cli.serving.engine import Engine

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections; a UsageError where the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"cannot listen on {host} port {port}: {reason}", "give another --port or --host"
        ) from None


def run(
    serving: Serving,
    listening: socket.socket,
    load: Callable[[], Engine],
    ready: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT, and finish the answer that runs; raises what `load` raises.

    `ready` is called once requests are answered.

    A second signal does not wait for the answer.
    """
    config = uvicorn.Config(
        build_app(serving), log_config=None, access_log=False, lifespan="off", server_header=False
    )
    server = _Server(config, serving)
    failed: list[BaseException] = []

    def begin() -> None:
        try:
            serving.engine = load()
            ready()
        except BaseException as error:
            failed.append(error)
            server.should_exit = True

    # A daemon: a signal must not wait for gigabytes of weights.
    threading.Thread(target=begin, name="adatp-load", daemon=True).start()
    asyncio.run(server.serve(sockets=[listening]))
    if failed:
        raise failed[0]
    if serving.engine is not None and not server.force_exit:
        serving.engine.close()


class _Server(uvicorn.Server):
    """As it is, but that signals end it as a program's end, and waiting requests with it."""

    def __init__(self, config: uvicorn.Config, serving: Serving) -> None:
        super().__init__(config)
        self._serving = serving

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving, and do not send them again at the end."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """End after the running answer; at once the second time."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
        if self._serving.engine is not None:
            self._serving.engine.stop()
