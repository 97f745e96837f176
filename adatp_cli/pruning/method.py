"""What a pruning method is: knobs, a plan for one question, and choices at single layers.

A method never touches the model. `PruningMethod` holds knobs; its `plan` says, before the forward
pass, at which layers tokens go and how many may stay; `PruningPlan.choose` then returns indices.
What holds for every method (text stays, order, limits, positions) is the business of
`adatp_cli.pruning.base`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from adatp_cli.cost import LanguageShape
from adatp_cli.pruning.segments import SegmentTable


@dataclass(frozen=True, slots=True)
class VisualLayout:
    """Where a clip's tokens stand in the prompt.

    Parameters
    ----------
    start
        Place of the first visual token in the sequence.
    frames, rows, cols
        T frames of rows x cols tokens. Token t*P + p is position p of frame t. The newline
        embedding stands right behind the last one; it counts as text and is never pruned.
    """

    start: int
    frames: int
    rows: int
    cols: int

    @property
    def per_frame(self) -> int:
        """P, the tokens of one frame."""
        return self.rows * self.cols

    @property
    def visual(self) -> int:
        """n_v, the visual tokens of the clip."""
        return self.frames * self.per_frame


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
    """

    tower_vectors: Tensor
    frame_vectors: Tensor | None = None
    question_vector: Tensor | None = None


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Which attention rows of layer l-1 a method needs before layer l.

    Parameters
    ----------
    last
        Rows of the last prompt tokens, averaged into `LayerStep.scores`.
    context
        When above 0, also the newline's row and those of up to so many text tokens behind it.
    """

    last: int = 1
    context: int = 0


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
        (n,) int64, ascending: the visual tokens that entered layer l-1.
    scores
        (n,) float32: attention of the last prompt tokens to each alive token at layer l-1, softmax
        over all alive tokens, text included.
    question, baseline
        (n,) float32: the same for the text behind the video (mean over rows) and for the newline,
        where asked for.
    """

    layer: int
    keep: int
    alive: Tensor
    scores: Tensor
    question: Tensor | None = None
    baseline: Tensor | None = None


class PruningPlan(ABC):
    """One question's plan. It may hold state and serves for one prefill only."""

    @property
    @abstractmethod
    def keep_counts(self) -> Mapping[int, int]:
        """Layer l -> the most visual tokens that may enter it. No layer, no pruning, no scores.

        Layer 0 is never among them: the cache of layer 0 is what tells `generate` the next
        position.
        """

    @property
    def segments(self) -> SegmentTable | None:
        """The segments as known by now; None for a method that makes none."""
        return None

    def request(self, layer: int) -> ScoreRequest:  # noqa: ARG002 - for subclasses
        """The rows needed before layer `layer`."""
        return ScoreRequest()

    @abstractmethod
    def choose(self, step: LayerStep) -> Tensor:
        """Ascending int64 indices of original visual tokens: 1 to `step.keep` of `step.alive`."""


class PruningMethod(ABC):
    """A method with its knobs."""

    @property
    def needs_encoder(self) -> bool:
        """Whether it wants `frame_vectors` and `question_vector` from a relevance encoder."""
        return False

    @abstractmethod
    def layer_limits(self, visual: int, shape: LanguageShape) -> tuple[int, ...]:
        """The most visual tokens that will enter each layer, known before anything runs.

        Parameters
        ----------
        visual
            Visual tokens of the clip.

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
