"""Statistics of paired item scores, by laws that scipy knows.

Scores are fractions of 1. A difference is always window minus base on the same item, so that what
both share, above all the item's difficulty, cancels. Random numbers are seeded: results repeat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rys_gguf.extras import load
from rys_gguf.stats.clusters import Floats, Sample, estimate

N_RESAMPLES = 10_000
ALPHA = 0.05
POWER = 0.8
_SEED = 20
_CHUNK = 1000
_MANY_PARTS = 50


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval; infinite where there are too few data to estimate a spread."""

    low: float
    high: float


NO_INTERVAL = Interval(-math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class McNemar:
    """How many items only the window (wins) or only the base (losses) got right, and p-values.

    Both p-values are two-sided.
    """

    wins: int
    losses: int
    p: float
    mid_p: float


@dataclass(frozen=True, slots=True)
class NoiseLine:
    """The gain that the best of K windows would show by luck if all were equal to the base.

    `expected` and `p95` are its mean and its 95th percentile. `factor` is the expected maximum in
    units of a window's own standard error: `factor * se` is the line for a window that was asked
    more or fewer items than others.
    """

    n_windows: int
    expected: float
    p95: float
    factor: float


def interval(samples: Sequence[Sample], level: float = 1 - ALPHA) -> Interval:
    """Interval of the mean over families of mean differences, one sample for each family.

    By Student's t with the errors and the degrees of freedom of `stats.clusters`. Where no item
    differs no spread is seen, and that would give a point. Yet none in n clusters is compatible
    with a fraction up to the upper end of Wilson's interval, in either direction: the interval is
    widened by it, by each such family's share.
    """
    found = estimate(samples)
    if not math.isfinite(found.error):
        return NO_INTERVAL
    margin = unseen(samples)
    if found.error:
        margin += _student((1 + level) / 2, found.freedom) * found.error
    return Interval(found.mean - margin, found.mean + margin)


def unseen(samples: Sequence[Sample]) -> float:
    """What families of which no item differs may hide in the mean over all of them."""
    still = (s for s in samples if not np.any(s.values))
    return sum(wilson(0, s.n_clusters).high for s in still) / max(1, len(samples))


def mcnemar(wins: int, losses: int) -> McNemar:
    """Exact McNemar test: the sign test of the discordant pairs.

    mcnemar(6, 0).p == 0.03125
    """
    if wins + losses == 0:
        return McNemar(0, 0, 1.0, 1.0)
    few, n = min(wins, losses), wins + losses
    at_most = float(_special().bdtr(few, n, 0.5))
    fewer = float(_special().bdtr(few - 1, n, 0.5)) if few else 0.0
    # Both tails are alike; mid-p counts half of what is exactly as extreme.
    return McNemar(wins, losses, min(1.0, 2 * at_most), min(1.0, at_most + fewer))


def wilson(n_right: int, n: int) -> Interval:
    """95 % Wilson interval of a fraction; of 9 in 17 it is 0.310 to 0.738 (Wilson 1927)."""
    if n == 0:
        return Interval(0.0, 1.0)
    z = float(_special().ndtri(1 - ALPHA / 2))
    middle = n_right + z * z / 2
    half = z * math.sqrt(n_right * (n - n_right) / n + z * z / 4)
    low = (middle - half) / (n + z * z) if n_right else 0.0
    high = (middle + half) / (n + z * z) if n_right < n else 1.0
    return Interval(low, high)


def holm(p_values: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """Holm's adjusted p-values, in the order given; `weights` share the level unequally.

    holm([0.01, 0.04, 0.03]) == [0.03, 0.06, 0.06]
    """
    weights = [1.0] * len(p_values) if weights is None else weights
    adjusted = [0.0] * len(p_values)
    highest, left = 0.0, sum(weights)
    for k in sorted(range(len(p_values)), key=lambda k: p_values[k] / weights[k]):
        highest = max(highest, min(1.0, p_values[k] * left / weights[k]))
        adjusted[k] = highest
        left -= weights[k]
    return adjusted


def flipped(parts: Floats, n_flips: int = N_RESAMPLES, seed: int = _SEED) -> Floats:
    """Sums of each row of `parts` [K, n] under random signs per column: [n_flips, K].

    If window and base were exchangeable, the difference of each cluster of items could as well have
    the other sign (Canay, Romano and Shaikh 2017). A column has one sign in all rows: windows that
    fail on the same items stay correlated.
    """
    rng = np.random.default_rng(seed)
    sums = np.empty((n_flips, len(parts)))
    for start in range(0, n_flips, _CHUNK):
        n = min(_CHUNK, n_flips - start)
        signs = rng.integers(0, 2, (n, parts.shape[1])).astype(np.float64) * 2 - 1
        sums[start : start + n] = signs @ parts.T
    return sums


def sign_flip_p(parts: Floats, n_flips: int = N_RESAMPLES, hidden: float = 0.0) -> float:
    """Two-sided p-value of the sum of `parts` [n], by random sign flips.

    With many parts the flips' law is normal (Efron 1969), and finer than a number of flips. So much
    of the sum as may be `hidden` in parts that did not differ is not counted: it may be the other
    way.
    """
    observed = max(0.0, abs(float(parts.sum())) - hidden)
    if np.count_nonzero(parts) >= _MANY_PARTS:
        return math.erfc(observed / math.sqrt(2 * float((parts**2).sum())))
    sums = np.abs(flipped(parts[None, :], n_flips)[:, 0])
    # The observed signs are one of the flips. The margin lets ties count despite rounding.
    return float((1 + np.count_nonzero(sums >= observed - 1e-12)) / (1 + n_flips))


def noise_line(parts: Floats, n_flips: int = N_RESAMPLES) -> NoiseLine:
    """The noise line of K windows from `parts` [K, n], what each cluster adds to each difference.

    A cluster that a window was not asked is 0 in its row.
    """
    errors = standard_errors(parts)
    moving = parts[errors > 0]
    if not len(moving):
        return NoiseLine(len(parts), 0.0, 0.0, 0.0)
    sums = flipped(moving, n_flips)
    best = sums.max(axis=1)
    standardised = (sums / errors[errors > 0]).max(axis=1)
    return NoiseLine(
        len(parts),
        max(0.0, float(best.mean())),
        max(0.0, float(np.quantile(best, 0.95))),
        max(0.0, float(standardised.mean())),
    )


def standard_errors(parts: Floats) -> Floats:
    """Standard error of each row's sum if the window is equal to the base: [K]."""
    return np.asarray(np.sqrt((parts**2).sum(axis=1)))


def detectable(error: float, freedom: float = math.inf, alpha: float = ALPHA) -> float:
    """The true mean that a test at `alpha` finds with 80 % power, by its standard error.

    The error is one that is estimated with some degrees of freedom: Student's t takes the place of
    the normal law in both quantiles (Bloom 1995).
    """
    return sum(_quantiles(freedom, alpha)) * error


def detectable_mean(around: Interval, freedom: float) -> float:
    """`detectable` by the 95 % interval around a mean, which it is never less than half of.

    It is 0 if the interval is infinite.
    """
    half = (around.high - around.low) / 2
    for_test, for_power = _quantiles(freedom, ALPHA)
    return half * (1 + for_power / for_test) if math.isfinite(half) else 0.0


def _quantiles(freedom: float, alpha: float) -> tuple[float, float]:
    """How many standard errors a test at `alpha` takes, and 80 % power on top of it."""
    return _student(1 - alpha / 2, freedom), _student(POWER, freedom)


def _student(p: float, freedom: float) -> float:
    """The quantile of Student's t; infinitely many degrees of freedom are the normal law."""
    return float(_special().stdtrit(freedom, p))


def _special() -> Any:
    # scipy.stats has all of this as well, and takes two seconds to import.
    return load("the report", "scipy.special")
