"""Statistics of paired item scores; scipy does them where it can.

Scores are fractions of 1. A difference is always window minus base on the same item, so that what
both share, above all the item's difficulty, cancels. Random numbers are seeded: results repeat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rys_gguf.extras import load

Floats = npt.NDArray[np.float64]

N_RESAMPLES = 10_000
ALPHA = 0.05
POWER = 0.8
_SEED = 20
_CHUNK = 1000


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


def bootstrap(samples: Sequence[Floats], n_resamples: int = N_RESAMPLES) -> Interval:
    """95 % percentile interval of the mean of the samples' means, resampled within each sample.

    One sample gives the plain bootstrap of a mean, several samples the stratified one.
    """
    if any(len(x) < 2 for x in samples):  # noqa: PLR2004 - one item has no spread
        return NO_INTERVAL

    def mean_of_means(*resampled: Floats, axis: int = -1) -> Floats:
        return np.asarray(np.mean([np.mean(x, axis=axis) for x in resampled], axis=0))

    ends = (
        _scipy("stats")
        .bootstrap(
            tuple(samples),
            mean_of_means,
            n_resamples=n_resamples,
            batch=_CHUNK,
            method="percentile",
            vectorized=True,
            rng=np.random.default_rng(_SEED),
        )
        .confidence_interval
    )
    return Interval(float(ends.low), float(ends.high))


def interval(differences: Sequence[Floats], n_resamples: int = N_RESAMPLES) -> Interval:
    """95 % interval of the mean over families of mean differences, one array for each family.

    Where no item differs a bootstrap sees no spread and gives a point. Yet none in n is compatible
    with a fraction up to the upper end of Wilson's interval, in either direction: the interval is
    widened by it, by each such family's share.
    """
    resampled = bootstrap(differences, n_resamples)
    same = [len(x) for x in differences if not np.any(x)]
    margin = sum(wilson(0, n).high for n in same) / max(1, len(differences))
    return Interval(resampled.low - margin, resampled.high + margin)


def mcnemar(wins: int, losses: int) -> McNemar:
    """Exact McNemar test: the sign test of the discordant pairs.

    mcnemar(6, 0).p == 0.03125
    """
    if wins + losses == 0:
        return McNemar(0, 0, 1.0, 1.0)
    stats = _scipy("stats")
    p = float(stats.binomtest(wins, wins + losses).pvalue)
    few = min(wins, losses)
    # mid-p counts half of what is exactly as extreme: 2 P(X < few) + P(X = few).
    law = stats.binom(wins + losses, 0.5)
    mid_p = min(1.0, float(2 * law.cdf(few - 1) + law.pmf(few)))
    return McNemar(wins, losses, p, mid_p)


def wilson(n_right: int, n: int) -> Interval:
    """95 % Wilson interval of a fraction; of 9 in 17 it is 0.310 to 0.738."""
    if n == 0:
        return Interval(0.0, 1.0)
    ends = _scipy("stats").binomtest(n_right, n).proportion_ci(method="wilson")
    return Interval(float(ends.low), float(ends.high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given.

    holm([0.01, 0.04, 0.03]) == [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, k in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[k]))
        adjusted[k] = highest
    return adjusted


def flipped(parts: Floats, n_flips: int = N_RESAMPLES, seed: int = _SEED) -> Floats:
    """Sums of each row of `parts` [K, n] under random signs per column: [n_flips, K].

    If window and base were exchangeable, each item's difference could as well have the other sign.
    A column has one sign in all rows: windows that fail on the same items stay correlated.
    """
    rng = np.random.default_rng(seed)
    sums = np.empty((n_flips, len(parts)))
    for start in range(0, n_flips, _CHUNK):
        n = min(_CHUNK, n_flips - start)
        signs = rng.integers(0, 2, (n, parts.shape[1])).astype(np.float64) * 2 - 1
        sums[start : start + n] = signs @ parts.T
    return sums


def sign_flip_p(parts: Floats, n_flips: int = N_RESAMPLES) -> float:
    """Two-sided p-value of the sum of `parts` [n], by random sign flips."""
    observed = abs(float(parts.sum()))
    sums = np.abs(flipped(parts[None, :], n_flips)[:, 0])
    # The observed signs are one of the flips. The margin lets ties count despite rounding.
    return float((1 + np.count_nonzero(sums >= observed - 1e-12)) / (1 + n_flips))


def noise_line(parts: Floats, n_flips: int = N_RESAMPLES) -> NoiseLine:
    """The noise line of K windows from `parts` [K, n], what each item adds to each difference.

    An item that a window was not asked is 0 in its row.
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


def detectable_effect(n: int, discordance: float) -> float | None:
    """The gain that a paired test of `n` right-or-wrong items finds with 80 % power at 5 %.

    `discordance` is the fraction of items on which window and base differ. Normal approximation
    (Connor 1987): 155 items at 0.2 find 10 points. None if no gain is large enough.
    """
    norm = _scipy("stats").norm
    z_test, z_power = float(norm.ppf(1 - ALPHA / 2)), float(norm.ppf(POWER))

    def excess(gain: float) -> float:
        spread = math.sqrt(max(0.0, discordance - gain**2))
        return z_test * math.sqrt(discordance) + z_power * spread - gain * math.sqrt(n)

    if not 0 < discordance <= 1 or excess(discordance) > 0:
        return None
    return float(_scipy("optimize").brentq(excess, 0.0, discordance))


def detectable_mean(standard_error: float, around: Interval) -> float:
    """The mean difference that is found with 80 % power at 5 %, for any kind of score.

    Where no item differs the standard error is 0, though the true difference may not be: the error
    that fits the width of the interval `around` the difference is used instead. The result is
    never below half that width, and 0 if neither is known.
    """
    norm = _scipy("stats").norm
    z_test, z_power = float(norm.ppf(1 - ALPHA / 2)), float(norm.ppf(POWER))
    half = (around.high - around.low) / 2
    error = max(standard_error, half / z_test) if math.isfinite(half) else standard_error
    return (z_test + z_power) * error


def _scipy(module: str) -> Any:
    return load("the report", f"scipy.{module}")
