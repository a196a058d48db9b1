"""Differences between window and base, overall and by family: their size, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rys_gguf.stats.claims import given_claim
from rys_gguf.stats.clusters import Floats, estimate
from rys_gguf.stats.paired import (
    ALPHA,
    NO_INTERVAL,
    Interval,
    McNemar,
    detectable_mean,
    interval,
    mcnemar,
    sign_flip_p,
    unseen,
    wilson,
)
from rys_gguf.stats.pairs import OVERALL, Families, Pairs, overall, parts_of, readable

# The smallest difference that matters, in score. It could not be told from the noise of other
# items, and nobody would take a larger model for it, however sure it is (Lakens 2017).
MATTERS = 0.005


@dataclass(frozen=True, slots=True)
class Effect:
    """One measured difference, window minus base; `holm_p` is corrected for all tests of a report.

    `error` is the standard error of `difference`. `estimate` and `likely`, its 95 % interval, allow
    for what being significant says of luck, and are the difference and its `interval` where it is
    not. `p` holds for all looks that were taken. `base` and `window` are the scores themselves,
    with intervals where items are right or wrong. `detectable` is the true difference that as many
    items would show in four cases out of five.
    """

    name: str
    n: int
    base: float
    window: float
    base_interval: Interval | None
    window_interval: Interval | None
    difference: float
    error: float
    interval: Interval
    estimate: float
    likely: Interval
    p: float
    holm_p: float
    detectable: float
    mcnemar: McNemar | None

    @property
    def significant(self) -> bool:
        """Whether the difference, in whatever direction, survives the correction."""
        return self.holm_p <= ALPHA

    @property
    def negligible(self) -> bool:
        """Whether its interval holds no difference that matters."""
        return self.interval.low >= -MATTERS and self.interval.high <= MATTERS

    @property
    def counts(self) -> bool:
        """Whether it is a difference, in whatever direction, for a verdict."""
        return self.significant and not self.negligible


def p_value(families: Families, name: str, n_resamples: int) -> float:
    """That of a family, or of the mean over all of them; 1 without a readable answer."""
    known = readable(families)
    if name == OVERALL:
        hidden = unseen([p.sample for p in known.values()])
        return sign_flip_p(np.array(list(parts_of(known).values())), n_resamples, hidden)
    if name not in known:
        return 1.0
    pairs = known[name]
    # McNemar's test is exact for items that have nothing in common.
    if pairs.binary and pairs.sample.are_single:
        return _mcnemar(pairs).p
    return sign_flip_p(pairs.sample.sums, n_resamples)


def effect_of(name: str, families: Families, p: float, adjusted: float) -> Effect:
    """The difference in a family, or overall, with p-values of its test: p, and `adjusted`."""
    if not families:
        return Effect(
            name, 0, 0.0, 0.0, None, None, 0.0, math.inf, NO_INTERVAL, 0.0, NO_INTERVAL, p,
            adjusted, 0.0, None,
        )  # fmt: skip
    alone = next(iter(families.values())) if name != OVERALL else None
    samples = [f.sample for f in families.values()]
    around, found = interval(samples), estimate(samples)
    test = _mcnemar(alone) if alone and alone.binary else None
    difference = overall(families)
    return Effect(
        name,
        sum(len(f.items) for f in families.values()),
        float(np.mean([f.base.mean() for f in families.values()])),
        float(np.mean([f.window.mean() for f in families.values()])),
        _of_right(alone.base) if alone and alone.binary else None,
        _of_right(alone.window) if alone and alone.binary else None,
        difference,
        found.error,
        around,
        difference,
        around,
        p,
        adjusted,
        detectable_mean(around, found.freedom),
        test,
    )


def estimated(
    effect: Effect, p_values: Sequence[float], looks: Sequence[float], level: float
) -> Effect:
    """The effect with its estimate, if it is significant; `level` is that of its test."""
    if not effect.significant:
        return effect
    found = given_claim(effect.difference, effect.interval, p_values, looks, level)
    return replace(effect, estimate=found[0], likely=found[1])


def _of_right(scores: Floats) -> Interval:
    return wilson(int(scores.sum()), len(scores))


def _mcnemar(pairs: Pairs) -> McNemar:
    difference = pairs.difference
    return mcnemar(int((difference > 0).sum()), int((difference < 0).sum()))
