"""From samples to medians, spreads, and ratios to plain transformers in the same round."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adatp_cli.bench.runner import NotMeasured
from adatp_cli.bench.sample import PLAIN, STAGES, Sample
from adatp_cli.record import Flops, TokenCounts


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
    """One contender at one number of frames.

    Parameters
    ----------
    contender, frames
        Who, on what.
    not_measured
        Why there are no figures; None where there are. All that follows is then empty or None.
    seconds
        By stage, as in `Sample`.
    ratio
        By stage and for `peak_bytes`: the median over rounds of this contender's figure over that
        of plain transformers in the same round. Empty for plain transformers.
    overhead
        Relevance encoder and choosing together, over the prefill of plain transformers in the same
        round: what pruning costs, as a share of what there is to save.
    tokens_per_second
        Of the tokens after the first; None for answers of one token.
    flop_per_second
        Achieved in `vision` and in `prefill`, from `flops` and the seconds.
    peak_bytes
        None where memory is not measured.
    cache_bytes, tokens, flops
        As in `Sample`; the same in every round.
    """

    contender: str
    frames: int
    not_measured: str | None
    seconds: Mapping[str, Spread]
    ratio: Mapping[str, float]
    overhead: float | None
    tokens_per_second: Spread | None
    flop_per_second: Mapping[str, float]
    peak_bytes: Spread | None
    cache_bytes: int | None
    tokens: TokenCounts | None
    flops: Flops | None


def summarise(
    names: Sequence[str], samples: Sequence[Sample], missing: Sequence[NotMeasured]
) -> list[Row]:
    """One row for each contender at each number of frames, plain transformers first.

    Parameters
    ----------
    names
        The profiles, in the order in which they are to stand.
    samples
        Round by round; all contenders have the same number of rounds, unless one failed midway.
    missing
        Those that could not be run, or not to the end.
    """
    rows = []
    failed = {(one.frames, one.contender): one.reason for one in missing}
    places = dict.fromkeys((one.frames, one.contender) for one in samples) | dict.fromkeys(failed)
    order = sorted({frames for frames, _ in places})
    for frames in order:
        plain = [one for one in samples if one.frames == frames and one.contender == PLAIN]
        for name in (PLAIN, *names):
            if (frames, name) in failed:
                rows.append(_empty(name, frames, failed[frames, name]))
            elif (frames, name) in places:
                own = [one for one in samples if one.frames == frames and one.contender == name]
                rows.append(_row(own, plain if name != PLAIN else []))
    return rows


def _row(samples: Sequence[Sample], plain: Sequence[Sample]) -> Row:
    first = samples[0]
    stages = [stage for stage in STAGES if stage in first.seconds]
    seconds = {stage: Spread.of([one.seconds[stage] for one in samples]) for stage in stages}
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
    more = first.tokens.generated - 1
    cost = first.flops.end_to_end
    work = {"vision": cost.vision, "prefill": cost.prefill + cost.scoring}
    achieved = {name: work[name] / seconds[name].median for name in work if name in seconds}
    return Row(
        contender=first.contender,
        frames=first.frames,
        not_measured=None,
        seconds=seconds,
        ratio=ratio,
        overhead=statistics.median(
            (one.seconds["relevance"] + one.seconds["choosing"]) / base.seconds["prefill"]
            for one, base in pairs
        )
        if pairs
        else None,
        tokens_per_second=Spread.of([more / one.seconds["generate"] for one in samples])
        if more
        else None,
        flop_per_second=achieved,
        peak_bytes=Spread.of(peaks) if peaks else None,
        cache_bytes=first.cache_bytes,
        tokens=first.tokens,
        flops=first.flops,
    )


def _empty(name: str, frames: int, reason: str) -> Row:
    return Row(name, frames, reason, {}, {}, None, None, {}, None, None, None, None)
