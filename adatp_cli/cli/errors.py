"""The one map from what went wrong to a line on stderr and an exit code."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from adatp_cli.cli.output import Output
from adatp_cli.cli.parsing import refusal
from adatp_cli.cli.streams import OutputClosedError
from adatp_cli.errors import AdatpError, UsageError
from adatp_cli.machine import import_problem
from adatp_cli.model.memory import is_out_of_memory, out_of_memory
from adatp_cli.record import ErrorInfo
from adatp_cli.text import one_line

INTERRUPTED = 130
SOME_FAILED = 6  # the run came to its end


def failure_of(error: BaseException) -> tuple[ErrorInfo, int]:
    """What to tell of an exception, whichever it is, and the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return ErrorInfo("interrupted", "interrupted", ""), INTERRUPTED
    if isinstance(error, typer.TyperException):
        error = refusal(error)
    elif not isinstance(error, AdatpError):
        if is_out_of_memory(error):
            error = out_of_memory("", "use fewer --frames, a smaller --model, or --quantize nf4")
        elif (broken := import_problem(error)) is not None:
            error = broken
    if isinstance(error, AdatpError):
        told = ErrorInfo(error.kind, one_line(error.message), one_line(error.hint))
        return told, error.exit_code
    name, text = type(error).__name__, one_line(str(error))
    message = f"unexpected {name}: {text}" if text else f"unexpected {name}"
    return ErrorInfo("unexpected", message, "run it again with --verbose to see where"), 1


def info_of(error: BaseException) -> ErrorInfo:
    """What to tell of an exception."""
    return failure_of(error)[0]


@contextmanager
def telling(output: Output) -> Iterator[None]:
    """Turn whatever the block raises into its line on stderr and a typer.Exit with its code.

    A reader that closed stdout early has had all it wanted, which is no failure.
    """
    try:
        yield
    except (typer.Exit, SystemExit, GeneratorExit):
        raise
    except OutputClosedError:
        raise typer.Exit(0) from None
    except BaseException as error:
        if output.verbose and not isinstance(error, KeyboardInterrupt | UsageError):
            output.trouble("".join(traceback.format_exception(error)).rstrip())
        info, code = failure_of(error)
        if info.message:  # there is none where the help was the answer
            output.error(info)
        raise typer.Exit(code) from None


@contextmanager
def interrupts(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed in the block; a second one raises KeyboardInterrupt at once."""
    count = 0

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise KeyboardInterrupt
        say("finishing this row; Ctrl-C again stops at once")

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield lambda: count > 0
    finally:
        signal.signal(signal.SIGINT, before)
