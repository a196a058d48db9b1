"""What candidates have shown after any number of rounds: one number each, with its error.

A candidate is compared with the base on the items that both answered. As in the ranking, families
are measured on different scales, and a noisy one must not decide alone: each has a weight in
inverse proportion to the spread of its differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rys_gguf.runs.stage import round_stage
from rys_gguf.runs.trial import Trial
from rys_gguf.stats.clusters import Floats, Ints

# How many items the pooled variance counts for in that of a candidate.
_POOLED = 8
# A variance, in squares of a score's fraction, below which differences are rounding.
_LEAST = 1e-6


@dataclass(frozen=True, slots=True)
class Observed:
    """The gains of K candidates in soft score, as fractions of 1, after the rounds that count.

    `counts` and `means` are those of each family: [K, F]. A candidate's value is the sum of
    `weights` [K, F] times `means`, and has an error of variance `variances` [K]. One whose
    `counts` are all 0 has nothing to compare.
    """

    families: tuple[str, ...]
    counts: Ints
    means: Floats
    weights: Floats
    values: Floats
    variances: Floats


class Observations:
    """The sums of K candidates' differences to the base, for any number of rounds."""

    def __init__(self, base: Trial, trials: Sequence[Trial], n_rounds: int) -> None:
        rounds = {round_stage(n): n for n in range(1, n_rounds + 1)}
        reference = base.answers_in(rounds)
        self.families = tuple(sorted({answer.family for answer in reference.values()}))
        place = {family: f for f, family in enumerate(self.families)}
        places: list[tuple[int, int, int]] = []
        differences: list[float] = []
        for k, trial in enumerate(trials):
            for stage in trial.answers.keys() & rounds.keys():
                n = rounds[stage]
                for item, answer in trial.answers[stage].items():
                    a, b = reference.get(item), answer.soft_score
                    if a is not None and a.soft_score is not None and b is not None:
                        places.append((k, n, place[a.family]))
                        differences.append(b - a.soft_score)
        at = tuple(np.array(places, dtype=np.intp).reshape(-1, 3).T)
        # Counts, sums and sums of squares; round 0 is before any of them.
        sums = np.zeros((3, len(trials), n_rounds + 1, len(place)))
        for power, total in enumerate(sums):
            np.add.at(total, at, np.array(differences) ** power)
        self._sums = sums.cumsum(axis=2)

    def after(self, rounds: Ints) -> Observed:
        """What is known after the first `rounds` [K] of each candidate."""
        counts, totals, squares = self._sums[:, np.arange(len(rounds)), rounds]
        n = np.maximum(counts, 1)
        means = totals / n
        within = np.maximum(squares - totals * means, 0)
        n_free = np.maximum(counts - 1, 0)
        pooled = np.maximum(within.sum(axis=0) / np.maximum(n_free.sum(axis=0), 1), _LEAST)
        variances = (_POOLED * pooled + within) / (_POOLED + n_free)
        inverse = np.where(counts > 0, 1 / np.sqrt(pooled), 0)
        weights = inverse / np.maximum(inverse.sum(axis=1, keepdims=True), 1e-300)
        return Observed(
            self.families,
            counts.astype(np.intp),
            means,
            weights,
            (weights * means).sum(axis=1),
            (weights**2 * variances / n).sum(axis=1),
        )
