"""From a question to the tokens that SigLIP's text tower reads."""

from __future__ import annotations

import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adatp_cli.errors import ModelError, UsageError
from adatp_cli.model.layout import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class QuestionTokenizer:
    """SigLIP's text input: canonical text, an end token, padding to the length it was trained at.

    Parameters
    ----------
    tokenizer
        The vocabulary.
    eos, pad
        Ids of the end and the padding token.
    length
        Tokens that the tower is trained on.
    """

    def __init__(self, tokenizer: Tokenizer, *, eos: int, pad: int, length: int) -> None:
        self._tokenizer, self._eos, self._pad, self.length = tokenizer, eos, pad, length

    @classmethod
    def from_folder(cls, folder: Path, *, length: int) -> QuestionTokenizer:
        """Read `tokenizer.json` and, for the names of the end and padding tokens, its settings."""
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(
                f"{folder} has no tokenizer.json", "download or copy the whole relevance encoder"
            )
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises no narrower class
            raise ModelError(f"{path} cannot be read: {error}", "copy it again") from error
        settings = folder / "tokenizer_config.json"
        names = read_json(settings) if settings.is_file() else {}
        eos = _token_id(tokenizer, names.get("eos_token", "</s>"), path)
        pad = _token_id(tokenizer, names.get("pad_token", "</s>"), path)
        return cls(tokenizer, eos=eos, pad=pad, length=length)

    def __call__(self, question: str, text_tokens: int | None = None) -> Tensor:
        """Encode a question to int64 ids, (1, length); what is longer than `text_tokens` is cut."""
        limit = self.length if text_tokens is None else text_tokens
        if not 1 <= limit <= self.length:
            raise UsageError(
                f"relevance.text_tokens must be between 1 and {self.length}, not {limit}",
                "correct the profile",
            )
        encoded = self._tokenizer.encode(canonical(question), add_special_tokens=False)
        ids = [*encoded.ids[: limit - 1], self._eos]
        return torch.tensor([ids + [self._pad] * (self.length - len(ids))])


def canonical(question: str) -> str:
    """SigLIP's canonical text: lower case, no ASCII punctuation, single spaces."""
    kept = question.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(kept.split())


def _token_id(tokenizer: Tokenizer, token: Any, path: Path) -> int:
    name = token.get("content") if isinstance(token, dict) else token
    number = tokenizer.token_to_id(name) if isinstance(name, str) else None
    if number is None:
        raise ModelError(f"{path} has no token {name!r}", "copy the relevance encoder again")
    return number
