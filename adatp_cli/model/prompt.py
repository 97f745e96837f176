"""The prompt: the checkpoint's chat template, with the video's placeholder expanded.

What the user types is text and nothing else. The template is rendered with a stand-in for the
question, so that a question cannot end its turn, open another, or bring a second video, whatever
special tokens it spells out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adatp_cli.errors import ModelError, UsageError
from adatp_cli.model.template import STAND_IN, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of one question about one clip.

    Parameters
    ----------
    input_ids
        int64, (1, L).
    visual_start
        Position of the first visual token.
    n_visual
        Visual tokens, frames x rows x columns. The newline token follows them and is not counted.
    text_tokens
        All other tokens but the newline.
    """

    input_ids: Tensor
    visual_start: int
    n_visual: int
    text_tokens: int

    @property
    def length(self) -> int:
        """All tokens, L."""
        return self.text_tokens + self.n_visual + 1


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

    Parameters
    ----------
    tokenizer
        With the checkpoint's template.
    question
        What the user asks.
    frames, grid
        Frames of the clip, and rows and columns of visual tokens in each.
    video_token_id
        The placeholder's id.

    Raises
    ------
    UsageError
        The question is empty or cannot be encoded.
    ModelError
        The template does not place exactly one video and the question after it.
    """
    _check_question(question)
    before, after = render(tokenizer)
    placeholder = tokenizer.convert_ids_to_tokens(video_token_id)
    head, tail = _split_at_special(tokenizer, before, last=True)
    next_text, rest = _split_at_special(tokenizer, after, last=False)
    ids = _encode(tokenizer, head)
    # One piece, as a tokenizer may merge characters across the question's edges.
    ids += _encode_as_text(tokenizer, tail + question + next_text, video_token_id)
    ids += _encode(tokenizer, rest)
    if ids.count(video_token_id) != 1:
        raise ModelError(
            f"the checkpoint's chat template gives {ids.count(video_token_id)} {placeholder} "
            "tokens for one video",
            "use a LLaVA-OneVision checkpoint with its own chat template",
        )
    start, n_visual = ids.index(video_token_id), frames * grid[0] * grid[1]
    expanded = ids[:start] + [video_token_id] * (n_visual + 1) + ids[start + 1 :]
    prompt = Prompt(torch.tensor([expanded]), start, n_visual, len(ids) - 1)
    if prompt.input_ids.shape != (1, prompt.length):
        raise ModelError("the prompt's tokens do not add up to frames x grid + 1 newline + text")
    return prompt


def _check_question(question: str) -> None:
    if not question.strip():
        raise UsageError("the question is empty", "ask something about the video")
    if STAND_IN in question:
        raise UsageError("the question holds private-use characters", "remove them")
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise UsageError("the question is not valid text (UTF-8)", "type it again") from error


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


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False)) if text else []


def _encode_as_text(
    tokenizer: PreTrainedTokenizerBase, text: str, video_token_id: int
) -> list[int]:
    ids = list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
    forbidden = {key for key, token in tokenizer.added_tokens_decoder.items() if token.special} | {
        video_token_id
    }
    if forbidden & set(ids):
        raise UsageError(
            "the question spells a special token of this model's tokenizer", "rephrase the question"
        )
    return ids
