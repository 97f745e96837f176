"""The prompt: the checkpoint's chat template, with the video's placeholder expanded.

What the user types is text and nothing else. The template is rendered with a stand-in for the
question, so that a question cannot end its turn, open another, or bring a second video, whatever
special tokens it spells out.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adatp_cli.errors import ModelError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Private-use characters: no template and no vocabulary has them.
_STAND_IN = "\ue000adatp question\ue001"
_HINT = "use a LLaVA-OneVision checkpoint with its own chat template"
# The published one takes a millisecond and gives 60 characters.
_CPU_SECONDS, _MORE_BYTES, _LONGEST = 2, 2**29, 100_000
_WALL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of one question about one clip."""

    input_ids: Tensor  # int64, (1, L)
    visual_start: int  # position of the first visual token
    n_visual: int  # frames x rows x columns; the newline token behind them is not counted
    text_tokens: int  # all others but the newline

    @property
    def length(self) -> int:
        """All tokens, L."""
        return self.text_tokens + self.n_visual + 1

    def with_visual(self, n_visual: int) -> Prompt:
        """The same prompt about a clip of so many visual tokens."""
        start, end = self.visual_start, self.visual_start + self.n_visual + 1
        ids, placeholder = self.input_ids, self.input_ids[:, self.visual_start, None]
        parts = (ids[:, :start], placeholder.expand(1, n_visual + 1), ids[:, end:])
        return Prompt(torch.cat(parts, dim=1), start, n_visual, self.text_tokens)


def build_prompt(
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    *,
    frames: int,
    grid: tuple[int, int],
    video_token_id: int,
) -> Prompt:
    """Render the chat template around one video and the question, and encode it.

    The ids are those of LLaVA-OneVision's processor for the same conversation, which repeats the
    placeholder frames x rows x columns times and once more for the newline token. They differ only
    where the question spells a special token, which stays text here.
    """
    if not question.strip():
        raise UsageError("the question is empty", "ask something about the video")
    if _STAND_IN in question:
        raise UsageError("the question holds private-use characters", "remove them")
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise UsageError("the question is not valid text (UTF-8)", "type it again") from error
    before, after = _render(tokenizer)
    head, tail = _split_at_special(tokenizer, before, last=True)
    next_text, rest = _split_at_special(tokenizer, after, last=False)
    # The question in one piece with the text around it, as a tokenizer may merge characters across
    # its edges; its special tokens stay text.
    typed = tokenizer.encode(
        tail + question + next_text, add_special_tokens=False, split_special_tokens=True
    )
    special = {key for key, token in tokenizer.added_tokens_decoder.items() if token.special}
    if (special | {video_token_id}) & set(typed):
        raise UsageError(
            "the question spells a special token of this model's tokenizer", "rephrase the question"
        )
    ids = [
        *(tokenizer.encode(head, add_special_tokens=False) if head else []),
        *typed,
        *(tokenizer.encode(rest, add_special_tokens=False) if rest else []),
    ]
    if ids.count(video_token_id) != 1:
        raise ModelError(
            f"the checkpoint's chat template gives {ids.count(video_token_id)} "
            f"{tokenizer.convert_ids_to_tokens(video_token_id)} tokens for one video",
            _HINT,
        )
    start, n_visual = ids.index(video_token_id), frames * grid[0] * grid[1]
    expanded = ids[:start] + [video_token_id] * (n_visual + 1) + ids[start + 1 :]
    return Prompt(torch.tensor([expanded]), start, n_visual, len(ids) - 1)


def _split_at_special(
    tokenizer: PreTrainedTokenizerBase, text: str, *, last: bool
) -> tuple[str, str]:
    """Split after the last special token of the text, or before its first one.

    A tokenizer cuts its input at special tokens before anything else, so encoding the pieces apart
    gives the ids of the whole.
    """
    ends, starts = [0], [len(text)]
    for token in (str(added) for added in tokenizer.added_tokens_decoder.values()):
        position = text.rfind(token) if last else text.find(token)
        if position >= 0:
            ends.append(position + len(token))
            starts.append(position)
    at = max(ends) if last else min(starts)
    return text[:at], text[at:]


def _render(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The template's text before and after the question, for one video and one question."""
    content: Any = [{"type": "video"}, {"type": "text", "text": _STAND_IN}]
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
    before, found, after = rendered.partition(_STAND_IN)
    if not found or _STAND_IN in after:
        raise ModelError("the checkpoint's chat template does not hold the question once", _HINT)
    return before, after


def try_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Render the template once in a process of its own, which may take seconds and some memory.

    A template is a program. Where processes cannot be forked it is not tried.
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
        raise ModelError(told or "the checkpoint's chat template does not end", _HINT)


def _try_in_child(tokenizer: PreTrainedTokenizerBase, writing: int) -> None:
    """Never returns: the parent's threads and files must not be ended twice."""
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
        _render(tokenizer)
        told = "fine"
    except ModelError as error:
        told = error.message
    finally:
        os.write(writing, told.encode("utf-8", "replace"))
        os._exit(0)
