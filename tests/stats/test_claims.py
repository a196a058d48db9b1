"""A claimed difference is reported as large as it is, not as large as it had to look."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf.stats.claims import given_claim
from rys_gguf.stats.looks import LOOKS, spent
from rys_gguf.stats.paired import Interval

NORMAL = NormalDist()
LEVEL = 0.05 / 6


def p_of(z: float) -> float:
    """The two-sided p-value of a difference, in standard errors."""
    return math.erfc(abs(z) / math.sqrt(2))


def around(z: float, unit: float = 1.0) -> Interval:
    """The 95 % interval of a difference whose standard error is 1."""
    return Interval(z - 1.96 * unit, z + 1.96 * unit)


@given(st.floats(0.01, 8), st.floats(0.3, 3), st.sampled_from([(1.0,), LOOKS]), st.booleans())
def test_an_estimate_has_the_sign_that_was_called(
    above: float, unit: float, looks: tuple[float, ...], gain: bool
) -> None:
    """It lies in its interval, which does not reach 0, and no further out than was measured."""
    z = (-NORMAL.inv_cdf(LEVEL * spent(looks)[-1] / 2) + above) * (1 if gain else -1)
    p_values = [*[1.0] * (len(looks) - 1), p_of(z)]
    estimate, ends = given_claim(z, around(z, unit), p_values, looks, LEVEL)
    assert ends.low < estimate < ends.high
    assert ends.low > 0 if gain else ends.high < 0
    assert abs(estimate) <= abs(z) + 1e-3


def test_a_difference_far_above_its_bar_is_what_was_measured() -> None:
    """So is one without a spread, of which nothing is known."""
    estimate, ends = given_claim(9.0, around(9.0), [p_of(9.0)], (1.0,), LEVEL)
    assert estimate == pytest.approx(9, abs=1e-3)
    assert (ends.low, ends.high) == pytest.approx((7.04, 10.96), abs=1e-3)
    for same in (Interval(0.1, 0.1), Interval(-math.inf, math.inf)):
        assert given_claim(0.1, same, [0.001], (1.0,), LEVEL) == (0.1, same)


@pytest.mark.parametrize("looks", [(1.0,), LOOKS])
@pytest.mark.parametrize("power", [0.3, 0.6, 0.95])
def test_claims_are_neither_too_large_nor_too_sure(looks: tuple[float, ...], power: float) -> None:
    """Reported gains are true gains on average, within a tenth; intervals hold 95 of 100."""
    rng = np.random.default_rng(5)
    true = -NORMAL.inv_cdf(LEVEL / 2) + NORMAL.inv_cdf(power)
    steps = rng.normal(size=(400, len(looks))) * np.sqrt(np.diff([0, *looks]))
    z = (steps.cumsum(axis=1) + true * np.array(looks)) / np.sqrt(looks)
    bars = np.array([-NORMAL.inv_cdf(LEVEL * share / 2) for share in spent(looks)])
    claimed = z[(z > bars).any(axis=1)]
    found = [
        given_claim(row[-1], around(row[-1]), [p_of(x) for x in row], looks, LEVEL)
        for row in claimed.tolist()
    ]
    assert np.mean(claimed[:, -1]) > true
    assert 0.85 * true < np.mean([estimate for estimate, _ in found]) < 1.1 * true
    assert np.mean([ends.low <= true <= ends.high for _, ends in found]) > 0.93


def test_crossing_at_an_early_look_counts() -> None:
    """Whoever looks more often calls more, and what was called is corrected for all of it."""
    z = 3.2
    once = given_claim(z, around(z), [p_of(z)], (1.0,), LEVEL)[0]
    early = given_claim(z, around(z), [1.0, p_of(z)], LOOKS, LEVEL)[0]
    assert early < once, "at the second look the bar is higher"


def test_the_interval_stays_as_wide_as_it_was() -> None:
    """Where clusters are few the test knows less of errors than the interval does."""
    z = 8.0
    estimate, ends = given_claim(z, around(z, 1.5), [p_of(z)], (1.0,), LEVEL)
    assert estimate == pytest.approx(z, abs=0.05)
    assert ends.high - ends.low == pytest.approx(2 * 1.96 * 1.5, rel=0.1)
