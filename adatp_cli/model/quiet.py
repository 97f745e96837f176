"""What libraries say, brought into form: their warnings, their load bars, their exceptions."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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
    """Drop log records below ERROR and Python warnings inside the block, unless `verbose`.

    transformers, huggingface_hub, bitsandbytes and accelerate all warn through these two channels,
    and some set their own loggers' levels the moment they are imported; one switch above all
    loggers needs no library to be imported first. Errors still come through, and adatp itself
    reports through its progress callback.
    """
    if verbose:
        yield
        return
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

    class Bar:
        """The little of tqdm that the loader uses; what is quickly loaded is not reported."""

        def __init__(self, iterable: Any = None, total: float | None = None, **_: Any) -> None:
            self._iterable, self._done, self._told = iterable, 0.0, 0
            self._begun = time.monotonic()
            self._total = (
                total if total is not None else len(iterable) if iterable is not None else 0
            )

        def update(self, count: float = 1) -> None:
            self._done += count
            quarters = int(4 * self._done / self._total) if self._total else 0
            if quarters > self._told:
                self._told = quarters
                if time.monotonic() - self._begun > _SLOW_S:
                    progress(f"loading {name}: {25 * quarters} %")

        def __iter__(self) -> Iterator[Any]:
            for item in self._iterable:
                yield item
                self.update()

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def __getattr__(self, _: str) -> Callable[..., None]:
            return lambda *_, **__: None

    before = logging.set_tqdm_hook(lambda _factory, args, settings: Bar(*args, **settings))
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)
