"""What is measured, and what follows from it: medians, spreads, ratios, growth with the frames."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from adatp_cli.record import Flops, TokenCounts

PLAIN = "plain transformers"

# What is timed, in the order in which tables show it, and what they call it.
STAGES = {
    "decode": "decode",
    "vision": "vision",
    "relevance": "relevance encoder",
    "prefill": "prefill",
    "choosing": "choosing, in prefill",
    "first_token": "first token",
    "next_first_token": "first token, next question",
    "generate": "further tokens",
    "total": "total",
}
# With fewer points any curve fits.
_LEAST_POINTS = 3

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measuring:
    """What is run now; turn 0 is the one to warm up."""

    contender: str
    frames: int
    turn: int


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """A contender that could not be run at so many frames, and why."""

    contender: str
    frames: int
    reason: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One contender's answer to the first question about a clip, and what followed."""

    contender: str  # `PLAIN`, or a profile's name
    frames: int
    # By `STAGES`; a stage that the contender does not have is left out. `choosing` is a part of
    # `prefill`; `first_token` runs from opening the clip, `next_first_token` from asking the second
    # question; `total` ends with the answer, loading the model left out.
    seconds: dict[str, float]
    # As in an answer record. For plain transformers, which no code of ours watches, what follows
    # from the shapes.
    tokens: TokenCounts
    flops: Flops
    peak_bytes: int | None  # most memory held, above what was held before; None if not measured
    cache_bytes: int  # keys and values of prompt and answer at the end


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing: the median, the extremes, and each in its order."""

    median: float
    low: float
    high: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values), tuple(values))


@dataclass(frozen=True, slots=True)
class Row:
    """One contender at one number of frames, as a result's JSON has it."""

    contender: str
    frames: int
    not_measured: str | None  # why there are no figures: all that follows is then empty or None
    seconds: Mapping[str, Spread] = field(default_factory=dict)  # by stage, as in `Sample`
    # By stage and for `peak_bytes`: the median over rounds of this contender's figure over that of
    # plain transformers in the same round. Empty for plain transformers.
    ratio: Mapping[str, float] = field(default_factory=dict)
    # Relevance encoder and choosing together, over the prefill of plain transformers in the same
    # round: what pruning costs, as a share of what there is to save.
    overhead: float | None = None
    tokens_per_second: Spread | None = None  # of the tokens after the first
    # Achieved in `vision` and in `prefill`.
    flop_per_second: Mapping[str, float] = field(default_factory=dict)
    peak_bytes: Spread | None = None
    # As in `Sample`; the same in every round.
    cache_bytes: int | None = None
    tokens: TokenCounts | None = None
    flops: Flops | None = None


def summarise(
    names: Sequence[str], samples: Sequence[Sample], missing: Sequence[NotMeasured]
) -> list[Row]:
    """One row for each contender at each number of frames, plain transformers first.

    Samples stand round by round; the profiles' rows stand in the order of `names`.
    """
    rows = []
    failed = {(one.frames, one.contender): one.reason for one in missing}
    measured: dict[tuple[int, str], list[Sample]] = {}
    for sample in samples:
        measured.setdefault((sample.frames, sample.contender), []).append(sample)
    for frames in sorted({frames for frames, _ in (*measured, *failed)}):
        plain = measured.get((frames, PLAIN), [])
        for name in (PLAIN, *names):
            if (frames, name) in failed:
                rows.append(Row(name, frames, failed[frames, name]))
            elif (frames, name) in measured:
                rows.append(_row(measured[frames, name], plain if name != PLAIN else []))
    return rows


def _row(samples: Sequence[Sample], plain: Sequence[Sample]) -> Row:
    first = samples[0]
    stages = [stage for stage in STAGES if stage in first.seconds]
    seconds = {stage: Spread.of([one.seconds[stage] for one in samples]) for stage in stages}
    # Plain transformers may have failed in the middle.
    pairs = list(zip(samples, plain, strict=False))
    ratio = {
        stage: statistics.median(one.seconds[stage] / base.seconds[stage] for one, base in pairs)
        for stage in stages
        if pairs and stage in pairs[0][1].seconds
    }
    peaks = [one.peak_bytes for one in samples if one.peak_bytes is not None]
    held = [
        one.peak_bytes / base.peak_bytes
        for one, base in pairs
        if one.peak_bytes and base.peak_bytes
    ]
    if held:
        ratio["peak_bytes"] = statistics.median(held)
    overheads = [
        (one.seconds["relevance"] + one.seconds["choosing"]) / base.seconds["prefill"]
        for one, base in pairs
    ]
    more = first.tokens.generated - 1
    cost = first.flops.end_to_end
    work = {"vision": cost.vision, "prefill": cost.prefill + cost.scoring}
    return Row(
        contender=first.contender,
        frames=first.frames,
        not_measured=None,
        seconds=seconds,
        ratio=ratio,
        overhead=statistics.median(overheads) if overheads else None,
        tokens_per_second=Spread.of([more / one.seconds["generate"] for one in samples])
        if more
        else None,
        flop_per_second={
            name: work[name] / seconds[name].median for name in work if name in seconds
        },
        peak_bytes=Spread.of(peaks) if peaks else None,
        cache_bytes=first.cache_bytes,
        tokens=first.tokens,
        flops=first.flops,
    )


@dataclass(frozen=True, slots=True)
class Curve:
    """A polynomial in the number of frames: coefficients in ascending powers, none negative."""

    coefficients: tuple[float, ...]
    # The largest distance of a point from the curve, as a share of the point. None where the curve
    # has a term for every point: it then goes through all of them, which shows nothing.
    worst_residual: float | None

    def at(self, frames: float) -> float:
        return sum(value * frames**power for power, value in enumerate(self.coefficients))


@dataclass(frozen=True, slots=True)
class Growth:
    """How one contender grows with the frames n: curves through the medians.

    Time is a + b n + c n^2: a constant, what every token takes by itself, and what every pair of
    tokens takes in attention. Memory is a + b n.
    """

    contender: str
    frames: tuple[int, ...]
    prefill_s: Curve
    peak_bytes: Curve | None  # None where memory was not measured


def growth(rows: Sequence[Row]) -> list[Growth]:
    """The growth of every contender that was measured at three numbers of frames or more."""
    found = []
    for name in dict.fromkeys(row.contender for row in rows):
        own = [row for row in rows if row.contender == name and "prefill" in row.seconds]
        frames = [row.frames for row in own]
        seconds = fit(frames, [row.seconds["prefill"].median for row in own], terms=3)
        if seconds is None:
            continue
        held = [row.peak_bytes.median for row in own if row.peak_bytes is not None]
        memory = fit(frames, held, terms=2) if len(held) == len(own) else None
        found.append(Growth(name, tuple(frames), seconds, memory))
    return found


def fit(frames: Sequence[int], values: Sequence[float], terms: int) -> Curve | None:
    """The polynomial without a negative coefficient that is nearest to points.

    Nearest is the least sum of squares of distances, each as a share of its point: a clock's error
    grows with what it measures, and the few frames count as much as the many. None where there are
    fewer than three points, or one that is not positive.
    """
    measured = np.asarray(values, dtype=np.float64)
    if len(measured) < _LEAST_POINTS or not (measured > 0).all():
        return None
    most = max(frames)  # in shares of it, so that no column dwarfs another
    powers = np.vander(np.asarray(frames, dtype=np.float64) / most, terms, increasing=True)
    best = _least_squares(powers / measured[:, None])
    distances = np.abs(powers @ best / measured - 1)
    scaled = best / float(most) ** np.arange(terms)
    free = len(measured) > np.count_nonzero(best)
    return Curve(tuple(scaled.tolist()), float(distances.max()) if free else None)


def _least_squares(columns: Floats) -> Floats:
    """The non-negative weights of columns, whose weighted sum is nearest to ones.

    The best weights are the plain least squares of those columns that get any, and with so few
    columns every choice of them can be tried.
    """
    count = columns.shape[1]
    best, least = np.zeros(count), np.inf
    for size in range(1, count + 1):
        for chosen in itertools.combinations(range(count), size):
            found = np.linalg.lstsq(columns[:, chosen], np.ones(len(columns)), rcond=None)[0]
            distance = float(((columns[:, chosen] @ found - 1) ** 2).sum())
            if (found >= 0).all() and distance < least:
                best, least = np.zeros(count), distance
                best[list(chosen)] = found
    return best
