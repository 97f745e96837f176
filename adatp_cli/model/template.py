"""A checkpoint's chat template: a program of somebody else's, tried with limits before it is used.

transformers renders it in jinja's sandbox, which opens nothing but may loop or grow without end.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from typing import TYPE_CHECKING, Any

from adatp_cli.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Private-use characters: no template and no vocabulary has them.
STAND_IN = "\ue000adatp question\ue001"
_HINT = "use a LLaVA-OneVision checkpoint with its own chat template"
# The published one takes a millisecond and gives 60 characters.
_CPU_SECONDS, _MORE_BYTES, _LONGEST = 2, 2**29, 100_000
_WALL_SECONDS = 30.0


def render(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The template's text before and after the question, for one video and one question.

    Raises
    ------
    ModelError
        It fails, or does not hold the question once.
    """
    content: Any = [{"type": "video"}, {"type": "text", "text": STAND_IN}]
    try:
        rendered = str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
        )
    except Exception as error:  # whatever a program may raise
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"the checkpoint's chat template cannot be used: {text}", _HINT) from error
    if len(rendered) > _LONGEST:
        raise ModelError(
            f"the checkpoint's chat template gives {len(rendered)} characters around a question",
            _HINT,
        )
    before, found, after = rendered.partition(STAND_IN)
    if not found or STAND_IN in after:
        raise ModelError("the checkpoint's chat template does not hold the question once", _HINT)
    return before, after


def try_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Render the template once in a process of its own, which may take seconds and some memory.

    Where processes cannot be forked it is not tried.

    Raises
    ------
    ModelError
        As `render`, or it came to no end within the limits.
    """
    if not hasattr(os, "fork"):
        return
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _try_in_child(tokenizer, writing)
    os.close(writing)
    try:
        ended = bool(select.select([reading], [], [], _WALL_SECONDS)[0])
        told = os.read(reading, 65536).decode() if ended else ""
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if told != "fine":
        message = told or "the checkpoint's chat template comes to no end"
        raise ModelError(message, _HINT)


def _try_in_child(tokenizer: PreTrainedTokenizerBase, writing: int) -> None:
    """Never returns: what is of the parent's, its threads and files, must not be ended twice."""
    told = "the checkpoint's chat template takes too much memory"
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
        with open("/proc/self/statm", encoding="ascii") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + _MORE_BYTES, held + _MORE_BYTES))
    except (ImportError, OSError, ValueError):
        pass  # a system that keeps no such account
    try:
        render(tokenizer)
        told = "fine"
    except ModelError as error:
        told = error.message
    finally:
        os.write(writing, told.encode("utf-8", "replace"))
        os._exit(0)
