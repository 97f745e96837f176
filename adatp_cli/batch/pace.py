"""Where the time of a run went: what the model waited for, and what it did meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

# More readers than this wait for the disk, and for the model, more than they decode.
MOST_READERS = 4


@dataclass(slots=True)
class Pace:
    """Seconds of a run, added up as it goes on.

    Parameters
    ----------
    first_s
        Until the first clip was decoded, which no decoding ahead can spare.
    waited_s
        In which the model stood still because a later clip was not decoded yet.
    answering_s
        In which somebody had a clip: encoding, answers, rows written.
    decoding_s
        All readers' together, for the clips that were taken.
    clips
        Taken, the ones that could not be read among them.
    """

    first_s: float = 0.0
    waited_s: float = 0.0
    answering_s: float = 0.0
    decoding_s: float = 0.0
    clips: int = 0

    @property
    def waited_share(self) -> float:
        """The share of the time since the first clip in which the model waited for frames."""
        whole = self.waited_s + self.answering_s
        return self.waited_s / whole if whole > 0 else 0.0


def default_readers(*, on_gpu: bool, cores: int) -> int:
    """How many clips to decode at the same time.

    On a CPU one: the model computes with every core, and a decoder has threads of its own besides.
    A GPU leaves the cores to decoding, all but the one that drives it.
    """
    return max(1, min(MOST_READERS, cores - 1)) if on_gpu else 1
