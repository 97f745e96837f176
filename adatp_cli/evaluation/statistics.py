"""Intervals and tests for shares of right answers; every function is exact or says what it is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

# The two-sided 95 % quantile of the normal distribution.
Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Share:
    """Right answers among all, with Wilson's 95 % interval; the bounds are None without answers."""

    right: int
    of: int

    @property
    def value(self) -> float | None:
        return self.right / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float] | None:
        return wilson(self.right, self.of) if self.of else None

    @classmethod
    def count(cls, verdicts: Iterable[bool]) -> Share:
        listed = list(verdicts)
        return cls(sum(listed), len(listed))


@dataclass(frozen=True, slots=True)
class Paired:
    """Two runs over the same questions."""

    questions: int  # that both have answered
    gained: int  # right in the second run alone
    lost: int  # right in the first run alone

    @property
    def difference(self) -> float | None:
        """Share right in the second run less that in the first; None without questions."""
        return (self.gained - self.lost) / self.questions if self.questions else None

    @property
    def p_value(self) -> float:
        return mcnemar(self.gained, self.lost)

    @classmethod
    def count(cls, pairs: Iterable[tuple[bool, bool]]) -> Paired:
        """From the verdicts of both runs on each question, (first, second)."""
        listed = list(pairs)
        gained = sum(second and not first for first, second in listed)
        lost = sum(first and not second for first, second in listed)
        return cls(len(listed), gained, lost)


def wilson(right: int, of: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a share, within [0, 1] and around the share itself."""
    if not 0 <= right <= of or of == 0:
        raise ValueError(f"{right} of {of} is no share")
    share, spread = right / of, z * z / of
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / of + spread / (4 * of)) / (1 + spread)
    # At the ends the bound is 0 or 1 exactly, which floating point may miss by a hair.
    low = 0.0 if right == 0 else max(centre - half, 0.0)
    high = 1.0 if right == of else min(centre + half, 1.0)
    return low, high


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact two-sided p-value: is a discordant pair as likely one way as the other?

    Twice the tail of Binomial(gained + lost, 1/2), 1 at most and where there is no such pair.
    """
    if gained < 0 or lost < 0:
        raise ValueError(f"{gained} and {lost} are no counts")
    pairs, fewer = gained + lost, min(gained, lost)
    if pairs == 0:
        return 1.0
    # In whole numbers, so that thousands of pairs neither overflow nor round to nothing.
    term = tail = 1
    for number in range(fewer):
        term = term * (pairs - number) // (number + 1)
        tail += term
    return min(1.0, float(2 * tail / (1 << pairs)))


def mean(values: Iterable[float]) -> float | None:
    """The arithmetic mean; None of nothing."""
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else None
