"""The ranking of a search's candidates: samplers choose by it, and reports show it.

Candidates are compared with the base item by item, on the rounds of the search. Families are
measured on different scales, and a noisy one must not decide alone: each family has a weight in
inverse proportion to the spread of its differences.

`rank` is for searches whose candidates advance together, `rank_smoothly` for those that ask each
window as many items as it deserves.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from rys_gguf.layers.blocks import Block
from rys_gguf.runs.stage import Stage, round_stage
from rys_gguf.runs.trial import Trial
from rys_gguf.stats.clusters import Floats
from rys_gguf.stats.landscape import Belief, Landscape
from rys_gguf.stats.observed import Observations, Observed

# A family in which no candidate differs from the base by more than rounding says nothing; any
# unit will do.
_ROUNDING = 1e-12
_NO_SPREAD = 1.0
# How many windows are chosen together, more than there are finalists; how far below the best is
# near it, in score; and by how many draws that is judged.
_N_TOGETHER = 12
_NEAR = 0.02
_N_DRAWS = 1000

# Window minus base for each item that both answered, by family.
Differences = Mapping[str, list[float]]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate in the ranking, by its answers in the rounds 1 to `n_rounds`.

    `means` are its mean differences to the base in soft score, by family. `value` is the sum of
    `weights` times `means`: 0 for a copy of the base, -inf if no item can be compared. The weights
    of a candidate that was asked every family sum to 1.
    """

    trial: Trial
    n_rounds: int
    n_items: int
    value: float
    means: Mapping[str, float]
    weights: Mapping[str, float]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The rounds that its value is computed from."""
        return rounds_to(self.n_rounds)


@dataclass(frozen=True, slots=True)
class Ranking:
    """The candidates that got through at least one round, best first."""

    order: tuple[Ranked, ...]


def rank(base: Trial, trials: Iterable[Trial], n_rounds: int | None = None) -> Ranking:
    """Rank candidates; with `n_rounds`, as if only that many rounds had been asked.

    Candidates that got through more rounds come first. Among those with the same number of rounds
    the value decides. The spread of a family is taken over all candidates that got through these
    rounds, including those that went further. Ties go to fewer added layers, then to the key.
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


def rank_smoothly(base: Trial, trials: Iterable[Trial]) -> Ranking:
    """Rank candidates of repeated windows by what is believed of them, however far they came.

    `value` is the mean of that belief, for which the answers of neighbours count as well. The first
    few are those of which one is most likely to be near the best; the others follow by value.
    """
    pool = sorted((t for t in trials if _n_rounds(t)), key=lambda t: t.key)
    pool = [trial for trial in pool if trial.candidate.blocks]
    if not pool:
        return Ranking(())
    rounds = np.array([_n_rounds(trial) for trial in pool])
    observed = Observations(base, pool, int(rounds.max())).after(rounds)
    belief = _belief(*_known(base, pool, observed))
    values = np.where(observed.counts.any(axis=1), belief.means, -math.inf)
    places = {pool[k].key: place for place, k in enumerate(_together(belief, values))}
    order = []
    for k, trial in enumerate(pool):
        families = [f for f, n in enumerate(observed.counts[k]) if n]
        order.append(
            Ranked(
                trial,
                int(rounds[k]),
                int(observed.counts[k].sum()),
                float(values[k]),
                {observed.families[f]: float(observed.means[k, f]) for f in families},
                {observed.families[f]: float(observed.weights[k, f]) for f in families},
            )
        )
    order.sort(
        key=lambda r: (
            places.get(r.trial.key, _N_TOGETHER), -r.value, r.trial.candidate.n_added, r.trial.key,
        )
    )  # fmt: skip
    return Ranking(tuple(order))


def _together(belief: Belief, values: Floats) -> list[int]:
    """Windows of which one is likely to be near the best, the surest first.

    Each covers most of the draws in which none before it is near the best. Of neighbours on one
    peak, which all are near the best or none is, a single one comes first.
    """
    draws = belief.draws(_N_DRAWS, np.random.default_rng(0))
    draws = np.where(np.isfinite(values), draws, -np.inf)
    near = draws >= draws.max(axis=1, keepdims=True) - _NEAR
    chosen: list[int] = []
    for _ in range(min(_N_TOGETHER, int(np.isfinite(values).sum()))):
        # Where draws cannot tell two windows apart, the better mean does.
        covered = near.sum(axis=0) + np.where(np.isfinite(values), np.clip(values, -1, 1) / 4, 0)
        covered[chosen] = -np.inf
        k = int(np.where(np.isfinite(values), covered, -np.inf).argmax())
        chosen.append(k)
        near = near & ~near[:, [k]]
    return chosen


def believed_gains(base: Trial, trials: Iterable[Trial]) -> dict[str, float]:
    """What is believed of the gains of candidates of repeated windows, by their key.

    Those that were asked nothing have a gain that follows from the others.
    """
    pool = sorted((t for t in trials if t.candidate.blocks), key=lambda t: t.key)
    rounds = np.array([_n_rounds(trial) for trial in pool], dtype=np.intp)
    observed = Observations(base, pool, int(rounds.max(initial=0))).after(rounds)
    means = _kept_means(*_known(base, pool, observed))
    return {trial.key: float(mean) for trial, mean in zip(pool, means, strict=True)}


# What a belief follows from: maps, the number of layers, and arrays as their bytes.
_Known = tuple[tuple[tuple[Block, ...], ...], int, bytes, bytes, bytes]


def _known(base: Trial, pool: Sequence[Trial], observed: Observed) -> _Known:
    maps = tuple(trial.candidate.blocks for trial in pool)
    seen = np.flatnonzero(observed.counts.any(axis=1))
    values, variances = observed.values[seen], observed.variances[seen]
    n_layers = base.candidate.layer_map.n_source
    return maps, n_layers, seen.tobytes(), values.tobytes(), variances.tobytes()


def _belief(
    maps: tuple[tuple[Block, ...], ...], n_layers: int, seen: bytes, values: bytes, variances: bytes
) -> Belief:
    landscape = Landscape.of_maps(maps, n_layers)
    known = np.frombuffer(seen, np.intp), np.frombuffer(values), np.frombuffer(variances)
    return landscape.believe(*known, landscape.fitted(*known))


@functools.lru_cache(maxsize=64)
def _kept_means(*known: Any) -> tuple[float, ...]:
    """The means of a belief, kept: a search asks for the same ones before each of its batches."""
    return tuple(_belief(*known).means.tolist())


def rounds_to(n: int) -> tuple[Stage, ...]:
    """The first `n` rounds."""
    return tuple(round_stage(k) for k in range(1, n + 1))


def differences(base: Trial, trial: Trial, n_rounds: int) -> Differences:
    """Soft scores minus the base's, on the items of the first rounds that both answered."""
    stages = rounds_to(n_rounds)
    reference = base.answers_in(stages)
    by_family: dict[str, list[float]] = {}
    for item, answer in trial.answers_in(stages).items():
        a, b = reference.get(item), answer.soft_score
        if a is not None and a.soft_score is not None and b is not None:
            by_family.setdefault(a.family, []).append(b - a.soft_score)
    return by_family


def _n_rounds(trial: Trial) -> int:
    """How many rounds a candidate got through, counted from the first without a gap."""
    n = 0
    while trial.is_ok(round_stage(n + 1)):
        n += 1
    return n


def _units(pool: Iterable[Differences]) -> dict[str, float]:
    """The spread of each family's differences over all candidates' items."""
    pooled: dict[str, list[float]] = {}
    for by_family in pool:
        for family, values in by_family.items():
            pooled.setdefault(family, []).extend(values)
    spreads = {family: float(np.std(values)) for family, values in pooled.items()}
    return {family: x if x > _ROUNDING else _NO_SPREAD for family, x in spreads.items()}


def _standardised(by_family: Differences, units: Mapping[str, float]) -> float:
    """The mean over a candidate's families of its mean difference, in units of their spread."""
    return fmean(fmean(v) / units[f] for f, v in by_family.items()) if by_family else -math.inf


def _ranked(trial: Trial, n: int, by_family: Differences, units: Mapping[str, float]) -> Ranked:
    # The harmonic mean of the units turns units of spread back into a score, with weights that
    # sum to 1. It is the same factor for all candidates of a cohort, so it keeps their order.
    unit = len(units) / sum(1 / u for u in units.values()) if units else 0.0
    means = {family: fmean(values) for family, values in by_family.items()}
    weights = {family: unit / (units[family] * len(by_family)) for family in by_family}
    value = sum(weights[f] * means[f] for f in by_family) if by_family else -math.inf
    return Ranked(trial, n, sum(map(len, by_family.values())), value, means, weights)
