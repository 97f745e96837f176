"""The prompt: the checkpoint's chat template, with the video's placeholder expanded.

What the user types is text and nothing else. The template is rendered with a stand-in for the
question, so that a question cannot end its turn, open another, or bring a second video, whatever
special tokens it spells out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import select
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from adatp_cli.errors import ModelError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Private-use characters: no template and no vocabulary has them.
_OPEN, _CLOSE = "\ue000adatp text ", "\ue001"
_STAND_IN = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
_HINT = "use a LLaVA-OneVision checkpoint with its own chat template"
# The published one takes a millisecond and gives 60 characters.
_CPU_SECONDS, _MORE_BYTES, _LONGEST = 2, 2**29, 100_000
_WALL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Message:
    """Something said before the question: an earlier one, what was answered, or a system text.

    `clip` says that the clip was shown with it; where none says so, it goes with the first of the
    user's.
    """

    role: Literal["system", "user", "assistant"]
    text: str
    clip: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of one question about one clip."""

    input_ids: Tensor  # int64, (1, L)
    visual_start: int  # position of the first visual token
    n_visual: int  # frames x rows x columns; the newline token behind them is not counted
    text_tokens: int  # all others but the newline
    # Text tokens between the newline and the piece of text that holds the newest question.
    question_start: int = 0

    @property
    def length(self) -> int:
        """All tokens, L."""
        return self.text_tokens + self.n_visual + 1

    def with_visual(self, n_visual: int) -> Prompt:
        """The same prompt about a clip of so many visual tokens."""
        start, end = self.visual_start, self.visual_start + self.n_visual + 1
        ids, placeholder = self.input_ids, self.input_ids[:, self.visual_start, None]
        parts = (ids[:, :start], placeholder.expand(1, n_visual + 1), ids[:, end:])
        return dataclasses.replace(self, input_ids=torch.cat(parts, dim=1), n_visual=n_visual)


def build_prompt(
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    *,
    frames: int,
    grid: tuple[int, int],
    video_token_id: int,
    history: Sequence[Message] = (),
) -> Prompt:
    """Render the chat template around one video and the question, and encode it.

    The ids are those of LLaVA-OneVision's processor
    for the same conversation, which repeats the placeholder frames x rows x columns times and once
    more for the newline token. They differ only where a text spells a special token, which stays
    text here.
    """
    if not question.strip():
        raise UsageError("the question is empty", "ask something about the video")
    messages = [*history, Message("user", question)]
    for message in messages:
        _check_text(message.text)
    special = {key for key, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids: list[int] = []
    question_start = 0

    def encode(text: str, *, typed: bool) -> None:
        # Where it is of the template alone, its special tokens are tokens.
        new = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=typed)
        if typed and (special | {video_token_id}) & set(new):
            raise UsageError(
                "the question spells a special token of this model's tokenizer",
                "rephrase the question",
            )
        ids.extend(new)

    # What is typed is encoded in one piece with the text around it, as a tokenizer may merge
    # characters across its edges, from the special token before it to the one behind it.
    piece = ""
    for number, between in enumerate(_render(tokenizer, messages)):
        if number:
            piece += messages[number - 1].text
            question_start = len(ids)
        span = _special_span(tokenizer, between)
        if span is None:
            piece += between
            continue
        if number:
            encode(piece + between[: span[0]], typed=True)
            encode(between[slice(*span)], typed=False)
        else:
            encode(between[: span[1]], typed=False)
        piece = between[span[1] :]
    if piece:
        encode(piece, typed=True)
    if ids.count(video_token_id) != 1:
        raise ModelError(
            f"the checkpoint's chat template gives {ids.count(video_token_id)} "
            f"{tokenizer.convert_ids_to_tokens(video_token_id)} tokens for one video",
            _HINT,
        )
    start, n_visual = ids.index(video_token_id), frames * grid[0] * grid[1]
    expanded = ids[:start] + [video_token_id] * (n_visual + 1) + ids[start + 1 :]
    before_question = max(question_start - start - 1, 0)
    return Prompt(torch.tensor([expanded]), start, n_visual, len(ids) - 1, before_question)


def _check_text(text: str) -> None:
    if _OPEN in text:
        raise UsageError("the question holds private-use characters", "remove them")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError("the question is not valid text (UTF-8)", "type it again") from error


def _special_span(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, int] | None:
    """From the first special token of a text to the end of the last one; None without any.

    A tokenizer cuts its input at special tokens before anything else, so encoding the pieces apart
    gives the ids of the whole.
    """
    found = [token for token in map(str, tokenizer.added_tokens_decoder.values()) if token in text]
    if not found:
        return None
    return min(map(text.find, found)), max(text.rfind(token) + len(token) for token in found)


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[str]:
    """The template's text before, between and after the texts of messages about one video."""
    users = [number for number, message in enumerate(messages) if message.role == "user"]
    shown = next((number for number in users if messages[number].clip), users[0])
    asked: list[Any] = []
    for number, message in enumerate(messages):
        content = [{"type": "text", "text": f"{_OPEN}{number}{_CLOSE}"}]
        video = [{"type": "video"}] if number == shown else []
        asked.append({"role": message.role, "content": [*video, *content]})
    try:
        rendered = str(
            tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        )
    except Exception as error:  # whatever a program may raise
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"the checkpoint's chat template cannot be used: {text}", _HINT) from error
    if len(rendered) > _LONGEST:
        raise ModelError(
            f"the checkpoint's chat template gives {len(rendered)} characters around a question",
            _HINT,
        )
    pieces = _STAND_IN.split(rendered)  # text and numbers by turns
    if pieces[1::2] != [str(number) for number in range(len(messages))]:
        what = "every message once, in order" if len(messages) > 1 else "the question once"
        raise ModelError(f"the checkpoint's chat template does not hold {what}", _HINT)
    return pieces[::2]


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
        user = Message("user", "")
        _render(tokenizer, [user])
        with contextlib.suppress(ModelError):  # told where a conversation needs it
            _render(tokenizer, [Message("system", ""), user, Message("assistant", ""), user])
        told = "fine"
    except ModelError as error:
        told = error.message
    finally:
        os.write(writing, told.encode("utf-8", "replace"))
        os._exit(0)
