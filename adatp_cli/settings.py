"""The sections of a profile, every method's knobs with their defaults; and how answers are decoded.

What a method's paper does not publish is our choice and marked so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from adatp_cli.errors import UsageError

AUTO: Literal["auto"] = "auto"

# Values of `relevance.encoder` for which no encoder is loaded.
NO_ENCODER = frozenset({"none", "attention"})

LayerOrAuto = int | Literal["auto"]
Positions = Literal["original", "compact"]


@dataclass(frozen=True, slots=True)
class ScheduleSettings:
    """In which decoder layers tokens are dropped.

    Parameters
    ----------
    first_layer
        First layer that sees fewer tokens; at least 1, as the first layer must see them all. `auto`
        is 2 (paper) for a model of N >= 24 layers and round(2/28 N) for a smaller one (our choice:
        the same relative depth).
    last_layer
        Last layer at which tokens are dropped. `auto` is N - 12 (paper) for a model of N >= 24
        layers and round(4/7 N) for a smaller one (our choice: the same relative depth).
    """

    first_layer: LayerOrAuto = AUTO
    last_layer: LayerOrAuto = AUTO


@dataclass(frozen=True, slots=True)
class SegmentSettings:
    """How the clip is cut into segments.

    Parameters
    ----------
    signal
        What neighbouring frames are compared by: `relevance`, the relevance encoder's pooled frame
        vector; `tower`, the mean of the frame's vision-tower tokens (our choice); `auto`, the first
        where an encoder is loaded, else the second; `none`, nothing: one segment holds the clip.
    threshold
        A new segment starts where the cosine falls below it. Paper: 0.95.
    tower_threshold
        The same for `tower`, whose cosines lie elsewhere (our choice).
    """

    signal: Literal["auto", "relevance", "tower", "none"] = "auto"
    threshold: float = 0.95
    tower_threshold: float = 0.9


@dataclass(frozen=True, slots=True)
class RelevanceSettings:
    """How much more budget the segments that match the question get.

    Parameters
    ----------
    encoder
        `auto`, what the checkpoint names, else google/siglip-so400m-patch14-384; `none`, equal
        weights; `attention`, the language model's own text-to-visual attention; a hub id or a
        folder.
    weight
        lambda: a matching segment weighs 1 + lambda, any other 1 (our choice).
    text_tokens
        Longest question that the encoder reads, in its tokens (our choice: SigLIP's own 64).
    """

    encoder: str = AUTO
    weight: float = 0.5
    text_tokens: int = 64


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """Local debiasing: one representative per spatial position and segment.

    Parameters
    ----------
    mode
        `strict` keeps no more than the representatives; `refill` goes on with the next best tokens
        when the segment's budget is larger than their number; `off` leaves the step out (all our
        reading).
    representative
        Which of a position's alive tokens stands for it: the one of highest `score`, the `first` or
        the `middle` one in time (our choice).
    first_layer, last_layer
        Layers in which the step acts, both included; `auto` is the schedule's own (our choice).
    """

    mode: Literal["strict", "refill", "off"] = "refill"
    representative: Literal["score", "first", "middle"] = "score"
    first_layer: LayerOrAuto = AUTO
    last_layer: LayerOrAuto = AUTO


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """Where the attention scores come from.

    Parameters
    ----------
    rows
        How many of the last prompt tokens' attention rows are averaged (our choice: 1).
    """

    rows: int = 1


@dataclass(frozen=True, slots=True)
class FastVSettings:
    """FastV (arXiv 2403.06764), which drops tokens once.

    Parameters
    ----------
    layer
        K, the first layer that sees fewer tokens; at least 1. `auto` is 2 (paper) for a model of
        N >= 24 layers and round(2/28 N) for a smaller one (our choice).
    """

    layer: LayerOrAuto = AUTO


@dataclass(frozen=True, slots=True)
class PyramidDropSettings:
    """PyramidDrop (arXiv 2410.17247), which keeps lambda, lambda^2 and lambda^3 of the tokens.

    Parameters
    ----------
    stages
        Before which layers tokens are dropped: `quarters`, N/4, N/2 and 3N/4 (published); `early`,
        the first, the middle and the last of the layers that AdaTP prunes in (our choice: budgets
        below a quarter need it). lambda follows from the budget; published: 0.5.
    """

    stages: Literal["quarters", "early"] = "quarters"


@dataclass(frozen=True, slots=True)
class RandomSettings:
    """A control: FastV's schedule with tokens drawn at random.

    Parameters
    ----------
    layer
        As FastV's.
    seed
        The same seed keeps the same tokens of every clip of a size. `auto` is the run's seed.
    """

    layer: LayerOrAuto = AUTO
    seed: int | Literal["auto"] = AUTO


@dataclass(frozen=True, slots=True)
class UniformSettings:
    """A control: FastV's schedule with tokens evenly spaced in time and space.

    Parameters
    ----------
    layer
        As FastV's.
    """

    layer: LayerOrAuto = AUTO


@dataclass(frozen=True, slots=True)
class VidCom2Settings:
    """VidCom2 (arXiv 2505.14454), which keeps the tokens most unlike frame and clip.

    Parameters
    ----------
    count
        `exact`, as many tokens as the budget allows, as vLLM's rewrite repairs them; `release`,
        the released rounding per frame, at the largest ratio whose total fits.
    """

    count: Literal["exact", "release"] = "exact"


@dataclass(frozen=True, slots=True)
class MergeSettings:
    """FastVID's merging by density (arXiv 2503.11187); all defaults published.

    Parameters
    ----------
    context
        d, share of the kept tokens that are merged ones.
    anchor_step
        p: in a segment, every p-th frame counted from its end takes merged tokens, of the whole
        segment's rest; at 1 every frame, of its own, as the release for LLaVA-OneVision has it.
    merge
        beta, least share of the centre in a merged token.
    neighbours
        k of the density.
    """

    context: float = 0.4
    anchor_step: int = 4
    merge: float = 0.6
    neighbours: int = 4


@dataclass(frozen=True, slots=True)
class EntrySettings(MergeSettings):
    """What enters layer 0 under `adatp-plus`, merged as `MergeSettings` says. All our choice.

    Parameters
    ----------
    left
        Share of the entering tokens that is left after the last layer at which tokens are dropped.
        More of them enter when fewer are left.
    """

    context: float = 0.2
    left: float = 0.4


@dataclass(frozen=True, slots=True)
class FastVIDSettings(MergeSettings):
    """FastVID (arXiv 2503.11187); all defaults published.

    Parameters
    ----------
    encoder
        Whose pooling head compares frames and finds salient tokens: `auto`, what the checkpoint
        names, else google/siglip-so400m-patch14-384; a hub id or a folder.
    segments
        c, fewest segments, as far as there are frames.
    threshold
        tau: a segment also ends where the cosine of neighbouring frames falls below it.
    """

    encoder: str = AUTO
    segments: int = 8
    threshold: float = 0.9


@dataclass(frozen=True, slots=True)
class UniCompSettings:
    """UniComp (arXiv 2512.03575); all defaults published.

    Parameters
    ----------
    encoder
        Whose pooling head compares frames; as FastVID's.
    frame_threshold
        Uf: frames whose mean tokens differ by at most that (one less cosine) are averaged.
    token_threshold
        Uc: a token stands for those whose keys differ by less than that.
    """

    encoder: str = AUTO
    frame_threshold: float = 0.005
    token_threshold: float = 0.2


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

    Raises
    ------
    UsageError
        For a value out of range, or `top_p` without a temperature.
    """

    max_new_tokens: int = 128
    temperature: float | None = None
    top_p: float | None = None
    seed: int = 0

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
