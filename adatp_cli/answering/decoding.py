"""How answers are decoded; apart from what decodes them, as the options need no PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from adatp_cli.errors import UsageError

DEFAULT_NEW_TOKENS = 128
# How several questions about a clip get their prefills: one for each, as the profile prunes; one
# without pruning that all share; or which of the two costs less.
PrefillMode = Literal["cheaper", "each", "shared"]


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How answers are decoded.

    Parameters
    ----------
    max_new_tokens
        Longest answer, in tokens.
    temperature
        None for greedy decoding, else sampling at this temperature.
    top_p
        With a temperature: sample from the likeliest tokens that hold this probability.
    seed
        With a temperature: the same seed gives the same answer on the same machine, whatever was
        asked before.
    stop
        Texts at which an answer ends; they are left out of it.

    Raises
    ------
    UsageError
        For a value out of range, or `top_p` without a temperature.
    """

    max_new_tokens: int = DEFAULT_NEW_TOKENS
    temperature: float | None = None
    top_p: float | None = None
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UsageError("an answer needs at least one new token", "raise --max-new-tokens")
        temperature, top_p = self.temperature, self.top_p
        if temperature is not None and not (temperature > 0 and math.isfinite(temperature)):
            raise UsageError(
                f"the temperature {temperature:g} is not above 0",
                "give a number above 0, or leave it out for greedy decoding",
            )
        if top_p is not None and not 0 < top_p <= 1:
            raise UsageError(f"top-p is {top_p:g}", "give a probability above 0 and at most 1")
        if top_p is not None and temperature is None:
            raise UsageError("top-p does nothing in greedy decoding", "give a temperature as well")
