"""Intervals and the paired test, against the textbook's definitions computed the slow way."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adatp_cli.evaluation.statistics import Z_95, Paired, Share, mcnemar, mean, wilson

COUNTS = st.integers(0, 60)


@given(COUNTS, COUNTS)
def test_mcnemar_is_the_two_sided_binomial_test(gained: int, lost: int) -> None:
    pairs = gained + lost
    chances = [Fraction(math.comb(pairs, k), 2**pairs) for k in range(pairs + 1)]
    # Every outcome that is no likelier than the one seen.
    slow = sum((chance for chance in chances if chance <= chances[gained]), Fraction(0))
    assert mcnemar(gained, lost) == pytest.approx(float(slow), rel=1e-12)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1, 0) == 1.0
    assert mcnemar(0, 6) == 2 / 64
    assert mcnemar(2, 8) == 2 * (1 + 10 + 45) / 1024
    assert mcnemar(7, 7) == 1.0


def test_mcnemar_of_thousands_of_pairs() -> None:
    # By the normal approximation with continuity correction, good to a few per cent here.
    z = (abs(2600 - 2400) - 1) / math.sqrt(5000)
    assert mcnemar(2600, 2400) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.02)
    assert 0.0 <= mcnemar(0, 8564) < 1e-300


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_bounds_solve_its_equation(counts: tuple[int, int]) -> None:
    right, of = counts
    share = right / of
    low, high = wilson(right, of)
    assert 0.0 <= low <= share <= high <= 1.0
    for bound in (low, high):
        # The bounds are where the share lies z standard errors of the bound away.
        assert (share - bound) ** 2 == pytest.approx(Z_95**2 * bound * (1 - bound) / of, abs=1e-9)
    mirrored = wilson(of - right, of)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilson_by_hand() -> None:
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0


@pytest.mark.parametrize(("right", "of"), [(1, 0), (0, 0), (-1, 3), (4, 3)])
def test_wilson_refuses_what_is_no_share(right: int, of: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        wilson(right, of)


def test_mcnemar_refuses_what_is_no_count() -> None:
    with pytest.raises(ValueError, match="no counts"):
        mcnemar(-1, 2)


def test_shares_and_pairs_are_counted() -> None:
    share = Share.count([True, False, True, True])
    assert (share.right, share.of, share.value) == (3, 4, 0.75)
    assert Share.count([]).value is None
    assert Share.count([]).interval is None
    pairs = [(True, True), (False, True), (True, False), (True, False), (False, False)]
    paired = Paired.count(pairs)
    assert (paired.questions, paired.gained, paired.lost) == (5, 1, 2)
    assert paired.difference == pytest.approx(-0.2)
    assert paired.p_value == 1.0
    assert Paired.count([]).difference is None
    assert Paired.count([]).p_value == 1.0


def test_mean() -> None:
    assert mean([1.0, 2.0, 6.0]) == 3.0
    assert mean([]) is None
