"""Statistics of paired item scores; scipy does them where it can.

Scores are fractions of 1. A difference is always window minus base on the same item: what the two
share, the item's difficulty above all, cancels. Random numbers are seeded, results repeat.
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
    """A 95 % interval; infinite where the data says nothing of its own spread."""

    low: float
    high: float


NO_INTERVAL = Interval(-math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class McNemar:
    """Items only the window got right (wins), only the base (losses), and two-sided p-values."""

    wins: int
    losses: int
    p: float
    mid_p: float


@dataclass(frozen=True, slots=True)
class NoiseLine:
    """What the best of K windows that are all equal to the base would show by luck.

    `expected` and `p95` are differences over the base, of the mean of family means; `factor` is
    the expected maximum in units of a window's own standard error, so that `factor * se` is the
    line of a window whatever number of items it was asked.
    """

    n_windows: int
    expected: float
    p95: float
    factor: float


def bootstrap(samples: Sequence[Floats], n_resamples: int = N_RESAMPLES) -> Interval:
    """95 % percentile interval of the mean of the samples' means, resampled inside each sample.

    One sample gives the plain bootstrap of a mean, several the stratified one of the overall.
    """
    if any(len(x) < 2 for x in samples):  # noqa: PLR2004 - one item has no spread
        return NO_INTERVAL

    def mean_of_means(*resampled: Floats, axis: int = -1) -> Floats:
        return np.asarray(np.mean([np.mean(x, axis=axis) for x in resampled], axis=0))

    found = (
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
    return Interval(float(found.low), float(found.high))


def interval(differences: Sequence[Floats], n_resamples: int = N_RESAMPLES) -> Interval:
    """95 % interval of the mean over families of mean differences, one array for each family.

    A bootstrap sees no spread where no item differs, and would give a point. Of n such items, as
    many as Wilson's upper end of 0 in n may truly differ, in either direction: the interval is
    widened by that, each family by its share.
    """
    found = bootstrap(differences, n_resamples)
    same = [len(x) for x in differences if not np.any(x)]
    margin = sum(wilson(0, n).high for n in same) / max(1, len(differences))
    return Interval(found.low - margin, found.high + margin)


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
    found = _scipy("stats").binomtest(n_right, n).proportion_ci(method="wilson")
    return Interval(float(found.low), float(found.high))


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

    Were window and base exchangeable, each item's difference could as well have the other sign.
    A column gets one sign for all rows: windows that fail together stay together.
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
    # The observed signs are one of the flips; ties count in spite of rounding.
    return float((1 + np.count_nonzero(sums >= observed - 1e-12)) / (1 + n_flips))


def noise_line(parts: Floats, n_flips: int = N_RESAMPLES) -> NoiseLine:
    """The max-of-K line of `parts` [K, n]: what each item adds to each window's difference.

    An item a window was not asked is 0 in its row.
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
    """Standard error of each row's sum were the window equal to the base: [K]."""
    return np.asarray(np.sqrt((parts**2).sum(axis=1)))


def detectable_effect(n: int, discordance: float) -> float | None:
    """The gain a paired 0/1 test of `n` items finds with 80 % power at 5 %; None if there is none.

    `discordance` is the fraction of items on which window and base differ. Normal approximation
    (Connor 1987): 155 items at 0.2 find 10 points.
    """
    norm = _scipy("stats").norm
    z_test, z_power = float(norm.ppf(1 - ALPHA / 2)), float(norm.ppf(POWER))

    def excess(gain: float) -> float:
        spread = math.sqrt(max(0.0, discordance - gain**2))
        return z_test * math.sqrt(discordance) + z_power * spread - gain * math.sqrt(n)

    if not 0 < discordance <= 1 or excess(discordance) > 0:
        return None
    return float(_scipy("optimize").brentq(excess, 0.0, discordance))


def detectable_mean(standard_error: float, interval: Interval) -> float:
    """The mean difference found with 80 % power at 5 %, for any kind of score.

    Where no item differs the standard error is 0, but the difference need not be: the error is
    then the one that an interval of this width stands for. So what is found is never less than
    half the interval. It is 0 if neither is known.
    """
    norm = _scipy("stats").norm
    z_test, z_power = float(norm.ppf(1 - ALPHA / 2)), float(norm.ppf(POWER))
    half = (interval.high - interval.low) / 2
    error = max(standard_error, half / z_test) if math.isfinite(half) else standard_error
    return (z_test + z_power) * error


def _scipy(module: str) -> Any:
    return load("the report", f"scipy.{module}")
