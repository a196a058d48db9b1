"""The order of a search's candidates: what goes on by it is what reports show.

Candidates are compared item by item with the base, on the search's rounds. Families are measured
on different scales, and the noisier one must not decide alone: each counts in inverse proportion
to the spread of its differences.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, pstdev

from rys_gguf.runs.stage import Stage, round_stage
from rys_gguf.runs.trial import Trial

# A family in which no candidate differs from the base by more than rounding says nothing; any
# unit will do.
_ROUNDING = 1e-12
_NO_SPREAD = 1.0

# Window minus base for each item that both answered, by family.
Differences = Mapping[str, list[float]]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate's place in the ranking, by the rounds 1 to `n_rounds`.

    `value` is the sum over families of `weights` times `means`: a weighted mean of the mean
    paired differences in soft score, 0 for the base, and -inf where no item can be compared.
    Weights sum to 1 for a candidate that was asked every family.
    """

    trial: Trial
    n_rounds: int
    n_items: int
    value: float
    means: Mapping[str, float]
    weights: Mapping[str, float]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The rounds its value rests on."""
        return rounds_to(self.n_rounds)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates that got through at least one round, best first."""

    order: tuple[Ranked, ...]


def rank(base: Trial, trials: Iterable[Trial], n_rounds: int | None = None) -> Ranking:
    """Rank candidates; with `n_rounds`, as if only that many rounds had been asked.

    Those that got through more rounds stand first. Among those that got through equally many, the
    value decides; a family's spread is that of all who got so far, also of those that went
    further. Ties go to fewer added layers, then to the key.
    """
    depths = {
        trial.key: (trial, min(_n_rounds(trial), n_rounds or _n_rounds(trial)))
        for trial in trials
        if trial.key != base.key
    }
    order: list[Ranked] = []
    for n in sorted({depth for _, depth in depths.values()} - {0}, reverse=True):
        pool = {
            trial.key: differences(base, trial, n) for trial, depth in depths.values() if depth >= n
        }
        units = _units(pool.values())
        cohort = [trial for trial, depth in depths.values() if depth == n]
        cohort.sort(key=lambda t: (-_standardised(pool[t.key], units), t.candidate.n_added, t.key))
        order.extend(_ranked(trial, n, pool[trial.key], units) for trial in cohort)
    return Ranking(tuple(order))


def rounds_to(n: int) -> tuple[Stage, ...]:
    """The first `n` rounds."""
    return tuple(round_stage(k) for k in range(1, n + 1))


def differences(base: Trial, trial: Trial, n_rounds: int) -> Differences:
    """Soft scores minus the base's on the items of the first rounds that both answered."""
    stages = rounds_to(n_rounds)
    reference = base.answers_in(stages)
    found: dict[str, list[float]] = {}
    for item, answer in trial.answers_in(stages).items():
        a, b = reference.get(item), answer.soft_score
        if a is not None and a.soft_score is not None and b is not None:
            found.setdefault(a.family, []).append(b - a.soft_score)
    return found


def _n_rounds(trial: Trial) -> int:
    """How many rounds it got through, from the first without a gap."""
    n = 0
    while trial.is_ok(round_stage(n + 1)):
        n += 1
    return n


def _units(pool: Iterable[Differences]) -> dict[str, float]:
    """The spread of each family's differences over all candidates' items."""
    pooled: dict[str, list[float]] = {}
    for found in pool:
        for family, values in found.items():
            pooled.setdefault(family, []).extend(values)
    spreads = {family: pstdev(values) for family, values in pooled.items()}
    return {family: x if x > _ROUNDING else _NO_SPREAD for family, x in spreads.items()}


def _standardised(found: Differences, units: Mapping[str, float]) -> float:
    """The mean over a candidate's families of its mean difference in units of their spread."""
    return fmean(fmean(v) / units[f] for f, v in found.items()) if found else -math.inf


def _ranked(trial: Trial, n: int, found: Differences, units: Mapping[str, float]) -> Ranked:
    # From units of spread back to a score: by the harmonic mean of the units, so that the weights
    # of a candidate with all families sum to 1. It is the same for all, and keeps their order.
    unit = len(units) / sum(1 / u for u in units.values()) if units else 0.0
    means = {family: fmean(values) for family, values in found.items()}
    weights = {family: unit / (units[family] * len(found)) for family in found}
    value = sum(weights[f] * means[f] for f in found) if found else -math.inf
    return Ranked(trial, n, sum(map(len, found.values())), value, means, weights)
