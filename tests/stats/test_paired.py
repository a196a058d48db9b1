"""Known values of the tests and intervals that verdicts are made of."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]

from rys_gguf import extras
from rys_gguf.errors import RysError
from rys_gguf.stats.clusters import Sample, estimate
from rys_gguf.stats.paired import (
    Interval,
    McNemar,
    NoiseLine,
    detectable,
    detectable_mean,
    flipped,
    holm,
    interval,
    mcnemar,
    noise_line,
    sign_flip_p,
    wilson,
)


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [(6, 0, 0.03125), (5, 0, 0.0625), (0, 6, 0.03125), (25, 14, 0.11), (6, 17, 0.035),
     (28, 31, 0.795), (1, 5, 0.22), (50, 75, 0.031), (25, 40, 0.08)],
)  # fmt: skip
def test_mcnemar_known(wins: int, losses: int, p: float) -> None:
    """Exact two-sided p-values of published pairs of counts."""
    assert mcnemar(wins, losses).p == pytest.approx(p, abs=0.005)


def test_mcnemar_needs_six_wins_against_none() -> None:
    """How many wins significance takes beside 0 to 6 losses; mid-p is smaller, never larger."""
    least = [
        next(w for w in range(50) if w > losses and mcnemar(w, losses).p <= 0.05)
        for losses in range(7)
    ]
    assert least == [6, 8, 10, 12, 13, 15, 17]
    assert mcnemar(6, 0).mid_p == pytest.approx(1 / 64)
    assert mcnemar(0, 0) == McNemar(0, 0, 1.0, 1.0)
    assert all(mcnemar(w, 9).mid_p <= mcnemar(w, 9).p for w in range(20))


def test_wilson_known() -> None:
    """Intervals of small fractions, one of them 0."""
    assert (wilson(9, 17).low, wilson(9, 17).high) == pytest.approx((0.310, 0.738), abs=5e-4)
    assert (wilson(0, 17).low, wilson(0, 17).high) == pytest.approx((0.0, 0.184), abs=5e-4)
    assert wilson(0, 0) == Interval(0.0, 1.0)


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_counts_are_judged_as_scipy_judges_them(wins: int, losses: int) -> None:
    """Both p-values, and the interval of the fraction."""
    n = max(1, wins + losses)
    known = stats.binomtest(wins, n)
    found, ends = mcnemar(wins, n - wins), known.proportion_ci(method="wilson")
    assert found.p == pytest.approx(known.pvalue, rel=1e-9)
    law, few = stats.binom(n, 0.5), min(wins, n - wins)
    assert found.mid_p == pytest.approx(found.p - law.pmf(few), rel=1e-6) or found.p == 1
    assert found.p <= 1
    assert found.mid_p <= 1
    assert (wilson(wins, n).low, wilson(wins, n).high) == pytest.approx((ends.low, ends.high))


def test_holm_known() -> None:
    """Step-down, monotone, at most 1, in the order given."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_properties(p_values: list[float]) -> None:
    """Never below the raw value, never above Bonferroni's, and the order is kept."""
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1.0, p * len(p_values)) + 1e-12 or q == max(adjusted[: len(p_values)])
    ranked = sorted(zip(p_values, adjusted, strict=True))
    assert [q for _, q in ranked] == sorted(adjusted)


def test_the_interval_of_a_mean_is_that_of_student() -> None:
    """Items that have nothing in common: scipy's one-sample t, also for a few."""
    x = np.random.default_rng(3).normal(0.1, 0.5, 12)
    found = interval([Sample.of(x)])
    known = stats.ttest_1samp(x, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((known.low, known.high))


def test_every_family_counts_the_same() -> None:
    """A large family does not outvote a small one, and its certainty does not cover for it."""
    many, few = Sample.of(np.full(1000, 1.0)), Sample.of(np.array([0.0, 1.0] * 10))
    result = interval([many, few])
    assert 0.5 < result.low < 0.70
    assert 0.80 < result.high < 1.0
    alone = interval([many, Sample.of(np.array([0.5]))])
    assert alone.low == -math.inf, "one item has no spread"


def test_sign_flip_agrees_with_mcnemar() -> None:
    """On 0/1 items the flips are those of the discordant pairs."""
    x = np.array([1.0] * 9 + [-1.0] * 2 + [0.0] * 40)
    assert sign_flip_p(x) == pytest.approx(mcnemar(9, 2).p, abs=0.01)
    assert sign_flip_p(np.zeros(30)) == 1.0


def test_noise_line_is_the_maximum_of_independent_windows() -> None:
    """Windows that differ independently: the expected maximum of K normals."""
    rng = np.random.default_rng(5)
    parts = rng.choice([-1.0, 1.0], (30, 400)) / 400
    result = noise_line(parts)
    assert result.factor == pytest.approx(2.04, abs=0.07), "E[max] of 30 standard normals"
    assert result.expected == pytest.approx(2.04 / 20, abs=0.005)
    assert result.p95 > result.expected


def test_noise_line_keeps_correlations() -> None:
    """Thirty copies of one window are one window: their best is no better."""
    row = np.random.default_rng(5).choice([-1.0, 1.0], (1, 400)) / 400
    copies = noise_line(np.repeat(row, 30, axis=0))
    assert copies.factor == pytest.approx(0.0, abs=0.03)
    sums = flipped(np.repeat(row, 2, axis=0), 50)
    assert np.array_equal(sums[:, 0], sums[:, 1])


def test_noise_line_of_identical_models_is_zero() -> None:
    """Nothing differs, nothing can look good by luck."""
    assert noise_line(np.zeros((4, 20))) == NoiseLine(4, 0.0, 0.0, 0.0)
    assert noise_line(np.zeros((0, 0))).n_windows == 0


def test_missing_scipy_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without scipy one message tells what to install."""

    def gone(name: str) -> None:
        raise ModuleNotFoundError(name=name.partition(".")[0])

    monkeypatch.setattr(extras, "import_module", gone)
    with pytest.raises(RysError, match=r"the report needs scipy: pip install scipy"):
        mcnemar(3, 1)


def test_an_interval_is_wider_where_no_item_differs() -> None:
    """As many may differ as Wilson's upper end of none in as many clusters."""
    moving = Sample.of(np.array([0.0, 1.0, -1.0, 1.0, 0.0] * 10))
    still = Sample.of(np.zeros(17))
    assert (interval([still]).low, interval([still]).high) == pytest.approx(
        (-0.184, 0.184), abs=5e-4
    )
    both, alone = interval([moving, still]), interval([moving])
    half = wilson(0, 17).high / 2
    assert both.low == pytest.approx(alone.low / 2 - half, abs=1e-3)
    assert both.high == pytest.approx(alone.high / 2 + half, abs=1e-3)
    pairs = Sample.of(np.zeros(34), [str(k // 2) for k in range(34)])
    assert interval([pairs]) == interval([still])


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(1, 500))
def test_what_can_be_detected_is_never_less_than_half_the_interval(
    low: float, width: float, freedom: float
) -> None:
    """A sentence that names both does not contradict itself."""
    around = Interval(low, low + width)
    assert detectable_mean(around, freedom) >= (around.high - around.low) / 2
    assert detectable_mean(Interval(-math.inf, math.inf), freedom) == 0


def test_what_can_be_detected_is_what_a_test_finds() -> None:
    """155 items that differ on a fifth find ten points (Connor 1987); by interval or by error."""
    error = math.sqrt(0.2 / 155)
    assert detectable(error) == pytest.approx(0.1, abs=0.001)
    x = np.random.default_rng(1).normal(0, 1, 30)
    found = estimate([Sample.of(x)])
    assert detectable_mean(interval([Sample.of(x)]), found.freedom) == pytest.approx(
        detectable(found.error, found.freedom)
    )


@pytest.mark.parametrize("n", [8, 20, 100])
def test_power_is_eighty_percent(n: int) -> None:
    """By simulation of t tests: the gain that `detectable` names is found in 80 of 100."""
    gain = detectable(1 / math.sqrt(n), n - 1)
    x = np.random.default_rng(n).normal(gain, 1, (4000, n))
    found = (stats.ttest_1samp(x, 0, axis=1).pvalue <= 0.05).mean()
    assert found == pytest.approx(0.8, abs=0.025)
