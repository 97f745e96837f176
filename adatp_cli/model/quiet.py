"""Warnings, progress bars and exceptions of libraries: silenced, or told in a line."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, cast

from adatp_cli.errors import AdatpError, ModelError
from adatp_cli.model.memory import is_out_of_memory, out_of_memory

_SLOW_S = 1.0
# What libraries raise over a file's content.
_FAILURES = (
    *(OSError, ValueError, LookupError, TypeError),
    *(AttributeError, RuntimeError, ArithmeticError, ImportError),
)


@contextmanager
def quiet_libraries(*, verbose: bool = False) -> Iterator[None]:
    """Drop log records below ERROR and Python warnings inside the block, unless `verbose`."""
    if verbose:
        yield
        return
    # Some libraries set their own loggers' levels when they are imported; this switch is above all
    # loggers, and needs no library to be imported first.
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(max(before, logging.WARNING))
        try:
            yield
        finally:
            logging.disable(before)


@contextmanager
def readable_failures(name: str) -> Iterator[None]:
    """One line for what libraries raise while they read a model's files."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except AdatpError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise out_of_memory(
                f"while loading {name}",
                "--quantize nf4 or a smaller model (-m 0.5b, -m tiny) needs less",
            ) from error
        if not isinstance(error, (*_FAILURES, SafetensorError, StrictDataclassError)):
            raise
        first = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(
            f"{name} cannot be loaded: {first}", "--verbose shows where it failed"
        ) from error


@contextmanager
def weights_progress(name: str, progress: Callable[[str], None]) -> Iterator[None]:
    """Turn the bar that transformers draws while it loads weights into progress lines."""
    from transformers.utils import logging

    def watched(items: Sized) -> Iterator[Any]:
        begun, told = time.monotonic(), 0
        for done, item in enumerate(cast("Iterable[Any]", items), start=1):
            yield item
            quarters = 4 * done // len(items)
            if quarters > told and time.monotonic() - begun > _SLOW_S:
                progress(f"loading {name}: {25 * quarters} %")
            told = quarters

    def bar(factory: Callable[..., Any], args: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        if args and isinstance(args[0], Sized):
            return watched(args[0])
        return factory(*args, **settings | {"disable": True})

    before = logging.set_tqdm_hook(bar)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)
