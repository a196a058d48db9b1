"""How large a difference is that was called one, less what being called one made of it.

A difference is called one where it crosses a bar at one of the looks. Of equal differences those
cross it that luck made larger, so what is called is too large on average, and the more so the less
likely it was to cross (the winner's curse). An estimate that allows for this divides the likelihood
of the data by the chance of crossing (Troendle and Yu 1999 for tests with several looks; Ghosh, Zou
and Wright 2008). Far above the bar it is what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from rys_gguf.stats.clusters import Floats
from rys_gguf.stats.looks import spent
from rys_gguf.stats.paired import ALPHA, Interval

_NORMAL = NormalDist()
_EDGE = _NORMAL.inv_cdf(1 - ALPHA / 2)
# Errors beyond which a normal law has nothing that counts, and points of a sum over such a range.
_REACH, _N_NODES, _N_TRUE = 8.0, 64, 600


def given_claim(
    difference: float,
    around: Interval,
    p_values: Sequence[float],
    looks: Sequence[float],
    level: float,
) -> tuple[float, Interval]:
    """A difference that was called one, and its 95 % interval, given that it was.

    `around` is its interval as measured, `p_values` are those of the looks that were taken, of all
    `looks` planned, and `level` is what the least of them, each divided by its share, had to reach.
    True differences of the same sign count as equally likely beforehand: the estimate is the median
    of what then is believed of them, and the ends are quantiles. All have the sign that was called.
    """
    error = (around.high - around.low) / 2 / _EDGE
    if not 0 < error < math.inf:
        return difference, around
    bars = np.array([_errors(level * share) for share in spent(looks)[: len(p_values)]])
    done = np.array(looks[: len(bars)]) / looks[len(bars) - 1]
    by_test, by_interval = _errors(p_values[-1]), abs(difference) / error
    # The interval is wider than the test knows where clusters are few. Where it is narrower that is
    # because the test takes all of a difference for an error, or has only so many flips.
    unit = min(1.0, by_interval / by_test) if by_test > 1 else 1.0
    low, middle, high = _quantiles(by_interval, unit * bars, done)
    if unit < 1:
        middle = unit * _quantiles(by_test, bars, done)[1]
    sign = math.copysign(error, difference)
    ends = sorted((low * sign, high * sign))
    return middle * sign, Interval(*ends)


def _errors(p: float) -> float:
    """How many standard errors a difference with this two-sided p-value is from 0."""
    return -_NORMAL.inv_cdf(max(p / 2, 1e-300))


def _quantiles(z: float, bars: Floats, done: Floats) -> list[float]:
    """The ends and the middle of what is believed of a true difference, all in standard errors.

    `z` is the difference at the last look, and `bars` are those of the looks, of which `done` are
    the fractions of the last one.
    """
    true = (np.arange(_N_TRUE) + 0.5) * (z + _REACH) / _N_TRUE
    density = np.exp(-((z - true) ** 2) / 2) / _chances(true, bars, done)
    below = (density.cumsum() - density / 2) / density.sum()
    found: list[float] = np.interp([ALPHA / 2, 0.5, 1 - ALPHA / 2], below, true).tolist()
    return found


def _chances(true: Floats, bars: Floats, done: Floats) -> Floats:
    """The chance that each true difference [K], in errors of the last look, crosses a bar.

    `done` are the looks as fractions of the last one, which is 1. What has been summed up of a
    difference moves from look to look as Brownian motion does (Armitage, McPherson and Rowe 1969).
    """
    nodes, weights = np.polynomial.legendre.leggauss(_N_NODES)
    places, mass, before = np.zeros(1), np.ones(1), 0.0
    for bar, now in zip(bars, done, strict=True):
        # Under no true difference, of the paths that have not crossed; a true one only tilts it.
        half = (bar * math.sqrt(now) + _REACH) / 2
        at = half * (nodes + 1) - _REACH
        step = math.sqrt(now - before)
        moved = np.exp(-(((at[:, None] - places) / step) ** 2) / 2) / (
            step * math.sqrt(2 * math.pi)
        )
        places, mass, before = at, half * weights * (moved @ mass), now
    stayed = np.exp(np.outer(true, places) - true[:, None] ** 2 / 2) @ mass
    return np.maximum(1 - stayed, 1e-300)
