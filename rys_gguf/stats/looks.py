"""Looks at held-out items: finalists are asked some, then more, and clear cases stop early.

Whoever looks more than once finds something by luck more often. Each look therefore has a share of
the level, spent as O'Brien and Fleming would (Lan and DeMets 1983): next to nothing at first, most
of it in the end. The shares add up to 1, so that the level holds whatever the looks have in common,
and a p-value over several looks is the least of each one's divided by its share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from rys_gguf.stats.paired import ALPHA, POWER

# The fractions of the held-out items that finalists have been asked at each look.
LOOKS = (0.25, 0.5, 1.0)
# Fewer held-out items than this are asked at once.
_LEAST_ITEMS = 400
# A finalist goes on while its chance of a claim in the end is at least this, if it has the gain
# that all items would find with 80 % power.
_LEAST_CHANCE = 0.2
# A gain of so many standard errors is not asked about any further. One that has only just crossed
# the line at an early look did so by luck as well, and would be reported too large.
_CLEAR = 4.5
_NORMAL = NormalDist()


def looks_at(n_items: int) -> tuple[float, ...]:
    """The looks that are planned at so many held-out items."""
    return LOOKS if n_items >= _LEAST_ITEMS else LOOKS[-1:]


def look_ends(n_items: int, looks: Sequence[float]) -> tuple[int, ...]:
    """How many held-out items have been asked after each look.

    look_ends(1200, (0.25, 0.5, 1.0)) == (300, 600, 1200)
    """
    return tuple(round(n_items * share) for share in looks)


def spent(looks: Sequence[float]) -> tuple[float, ...]:
    """The share of the level that each look has; they add up to 1.

    spent((0.25, 0.5, 1.0)) is about (0.002, 0.11, 0.888)
    """
    edge = _NORMAL.inv_cdf(1 - ALPHA / 2)
    total = [
        2 * (1 - _NORMAL.cdf(edge / math.sqrt(share))) / ALPHA if share < 1 else 1.0
        for share in looks
    ]
    return tuple(after - before for before, after in zip((0.0, *total), total, strict=False))


def over_looks(p_values: Sequence[float], looks: Sequence[float]) -> float:
    """One p-value of a test that was made at the first looks of those planned."""
    return min(1.0, *(p / share for p, share in zip(p_values, spent(looks), strict=False)))


def level_shares(n_finalists: int, n_families: int) -> tuple[float, float]:
    """The share of the level that a finalist's overall test has, and each of its families' tests.

    Half of the level is for the overall tests, which the verdicts are about first.
    """
    return 1 / (2 * n_finalists), 1 / (2 * n_finalists * n_families)


def is_clear(difference: float, error: float) -> bool:
    """Whether a gain is so far above its error that more items would tell its user nothing new."""
    return difference >= _CLEAR * error


def is_open(
    difference: float, error: float, look: int, looks: Sequence[float], alpha: float
) -> bool:
    """Whether more items may still show a gain, after so many of the planned looks.

    `error` is the standard error now, and `alpha` the test's own part of the level. The chance
    is that of a claim at the last look, given what is known, if the true gain is what all items
    would find with 80 % power, or as large as it seems (Lan, Simon and Halperin 1982).
    """
    done = looks[look - 1]
    if done >= 1 or not math.isfinite(error):
        return done < 1
    last = error * math.sqrt(done)
    needed = _NORMAL.inv_cdf(1 - alpha * spent(looks)[-1] / 2)
    hoped = max(difference, (needed + _NORMAL.inv_cdf(POWER)) * last)
    expected = done * difference + (1 - done) * hoped
    spread = math.sqrt(1 - done) * last
    if not spread:
        # Nothing differed yet. More items may, until they are all asked.
        return True
    return 1 - _NORMAL.cdf((needed * last - expected) / spread) >= _LEAST_CHANCE
