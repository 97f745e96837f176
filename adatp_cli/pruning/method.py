"""What a pruning method is: knobs, a plan for one question, and choices at single layers.

A method never touches the model; `adatp_cli.pruning.hooks` does, and holds every method to the same
rules: text stays, order, limits, positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Any

import torch
from torch import Tensor

from adatp_cli.cost import LanguageShape
from adatp_cli.pruning.knobs import Positions
from adatp_cli.pruning.segments import SegmentTable


@dataclass(frozen=True, slots=True)
class VisualLayout:
    """Where a clip's tokens stand in the prompt.

    Token t*P + p is position p of frame t. The newline embedding stands right behind the last one;
    it counts as text and is never pruned.
    """

    start: int  # position of the first visual token in the sequence
    frames: int  # T
    rows: int
    cols: int
    question_start: int = 0  # text tokens between the newline and the newest question

    @property
    def per_frame(self) -> int:
        """P, the tokens of one frame."""
        return self.rows * self.cols

    @property
    def visual(self) -> int:
        """n_v, the visual tokens of the clip."""
        return self.frames * self.per_frame

    def places(self, chosen: Tensor, length: int, visual: int | None = None) -> Tensor:
        """(m,) int64: places, in a sequence of `length`, of all text and of these visual tokens.

        `visual` is how many there are in that sequence, where it is not the whole clip any more.
        """
        behind = self.start + (self.visual if visual is None else visual)
        text = torch.arange(self.start), torch.arange(behind, length)
        return torch.cat((text[0], self.start + chosen, text[1]))


@dataclass(frozen=True, slots=True)
class ClipSignals:
    """What is known about the clip and the question before the language model runs.

    Parameters
    ----------
    tower_vectors
        (T, Dv) mean of each frame's vision-tower tokens.
    frame_vectors
        (T, De) pooled frame vectors of the relevance encoder; None without one.
    question_vector
        (De,) the question in the same space; None without an encoder.
    tokens
        (n_v, D) visual tokens as they would enter, in the model's type and on its device.
    probe_attention
        (T, P) float32: where the encoder's pooling head looks in each frame, mean over heads.
    tower_keys
        (T, P, dh) float32: keys of the vision tower's last layer, mean over heads.

    What takes computing is None unless the method's `SignalNeeds` name it.
    """

    tower_vectors: Tensor
    frame_vectors: Tensor | None = None
    question_vector: Tensor | None = None
    tokens: Tensor | None = None
    probe_attention: Tensor | None = None
    tower_keys: Tensor | None = None


@dataclass(frozen=True, slots=True)
class SignalNeeds:
    """Which of those `ClipSignals` that take computing a method wants, by their names."""

    frame_vectors: bool = False
    question_vector: bool = False
    probe_attention: bool = False
    tower_keys: bool = False

    @property
    def encoder(self) -> bool:
        """Whether a relevance encoder has to be loaded for it."""
        return self.frame_vectors or self.question_vector or self.probe_attention

    def __or__(self, other: SignalNeeds) -> SignalNeeds:
        """What either wants, for a clip that several methods look at."""
        both = zip(astuple(self), astuple(other), strict=True)
        return SignalNeeds(*(one or another for one, another in both))


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Which attention rows a method needs before layer l.

    Parameters
    ----------
    last
        Rows of the last prompt tokens, averaged into `LayerStep.scores`; 0 for a method that looks
        at no attention.
    context
        When above 0, also the newline's row and those of up to so many text tokens behind it.
    own_layer
        The attention is layer l's own, on what is about to enter it, instead of layer l-1's. Its
        keys are not in any cache yet and are projected for it.
    """

    last: int = 1
    context: int = 0
    own_layer: bool = False


@dataclass(frozen=True, slots=True)
class LayerStep:
    """What a method sees when it chooses the tokens that enter one layer. Everything is on the CPU.

    Parameters
    ----------
    layer
        l, the layer that the survivors enter.
    keep
        The most tokens that may stay.
    alive
        (n,) int64, ascending: the visual tokens that entered layer l-1, numbered as they entered
        layer 0.
    owners
        (n,) int64: which visual tokens of the clip these are, or stand for: the same as `alive`
        where the clip entered as it is.
    scores
        (n,) float32: attention of the last prompt tokens to each alive token, softmax over all
        alive tokens, text included; empty where no rows were asked for.
    question, baseline
        (n,) float32: the same for the text behind the video (mean over rows) and for the newline,
        where asked for.
    """

    layer: int
    keep: int
    alive: Tensor
    owners: Tensor
    scores: Tensor
    question: Tensor | None = None
    baseline: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class VisualEntry:
    """What enters the language model in the place of the clip's visual tokens.

    Parameters
    ----------
    embeddings
        (m, D).
    owners
        (m,) int64, never falling, on the CPU: the visual token that each one is, or into which
        others were merged. A line break has the owner of the token before it.
    breaks
        (m,) bool, on the CPU: places where the embedding of a line break of text is put instead of
        the row given. They count as the method's visual tokens.
    macs
        Multiply-accumulates that choosing and merging took.
    """

    embeddings: Tensor
    owners: Tensor
    breaks: Tensor
    macs: int = 0


@dataclass(frozen=True, slots=True)
class TokenSchedule:
    """How many tokens will enter each layer, known from shapes alone before anything runs.

    Parameters
    ----------
    visual_per_layer
        The most visual tokens that will enter each layer.
    drops
        The layers before which tokens go; layer 0 stands for what goes before the language model.
    score_rows
        Layer l -> rows of attention that will be computed for the choice before it.
    own_layer
        Whether those rows are of layer l itself, which projects keys of their own.
    """

    visual_per_layer: tuple[int, ...]
    drops: tuple[int, ...] = ()
    score_rows: Mapping[int, int] = field(default_factory=dict)
    own_layer: bool = False


@dataclass(frozen=True, slots=True)
class ModelContext:
    """What replaces every `auto` of a profile."""

    layers: int  # of the decoder, N
    encoder: str | None = None  # name of the relevance encoder in use
    seed: int = 0  # of the run


@dataclass(eq=False)
class PruningPlan:
    """One question's plan. It may hold state and serves for one prefill only.

    Parameters
    ----------
    keep_counts
        Layer l -> the most visual tokens that may enter it. No layer, no pruning, no scores.
    positions
        Position ids of the survivors: those of the unpruned sequence, or 0, 1, 2, ...
    entry
        What enters layer 0, at most `keep_counts[0]` tokens; None for the clip as it is.
    segments
        The segments as known by now; None for a method that makes none.
    """

    keep_counts: Mapping[int, int]
    positions: Positions = "original"
    entry: VisualEntry | None = None
    segments: SegmentTable | None = None

    def request(self, layer: int) -> ScoreRequest:  # noqa: ARG002 - for subclasses
        """The rows needed before layer `layer`."""
        return ScoreRequest()

    def choose(self, step: LayerStep) -> Tensor:
        """Ascending int64: 1 to `step.keep` of `step.alive`."""
        return step.alive


class PruningMethod(ABC):
    """A method with the knobs of a profile, which is of the method's own class."""

    def __init__(self, profile: Any) -> None:
        self.profile = profile
        self.positions: Positions = profile.positions_or_published

    @classmethod
    def resolve(cls, profile: Any, context: ModelContext) -> Any:  # noqa: ARG003 - for subclasses
        """The profile with every `auto` replaced by what it stands for in a model.

        Raises
        ------
        UsageError
            Its layers do not exist in the model.
        """
        return profile.replace(positions=profile.positions_or_published)

    @property
    def budget(self) -> float:
        """Share of the vanilla cost, in the paper's convention, of a method that prunes."""
        return float(self.profile.budget)

    @property
    def needs(self) -> SignalNeeds:
        """What it wants to know of the clip before the language model runs."""
        return SignalNeeds()

    @abstractmethod
    def token_schedule(self, frames: int, per_frame: int, shape: LanguageShape) -> TokenSchedule:
        """For a clip of `frames` frames with `per_frame` visual tokens each.

        Raises
        ------
        UsageError
            As for `plan`.
        """

    @abstractmethod
    def plan(self, layout: VisualLayout, signals: ClipSignals, shape: LanguageShape) -> PruningPlan:
        """The plan for one question about one clip.

        Raises
        ------
        UsageError
            When knobs and model do not go together, a budget that cannot be reached among them.
        """
