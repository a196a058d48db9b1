"""Successive halving: all candidates answer a few items, the better part of them answers more.

Jamieson and Talwalkar 2016, arXiv:1502.07943. Before its first items every candidate passes the
divergence filter, which takes a few forward passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.stage import DIVERGENCE, Status
from rys_gguf.runs.trial import Trial, Trials
from rys_gguf.search.job import Batch, Job, Step, batch_left
from rys_gguf.search.samplers.rounds import Rounds
from rys_gguf.search.space import Selection
from rys_gguf.stats.ranking import rank


@dataclass(frozen=True, slots=True)
class Halving:
    """The steps of successive halving; samplers differ in which candidates they enter, and when.

    `base` is the key of the model as it is, whose answers all candidates are compared with.
    """

    base: str
    rounds: Rounds

    def enter(self, candidates: Sequence[Candidate], label: str, trials: Trials) -> Batch | None:
        """The filter and the first round for new candidates; None once all have answered.

        If more than half of the candidates fail the filter, its limits do not fit this model: the
        half that diverges least then answers the first round all the same.
        """
        steps = (Step(DIVERGENCE), self.rounds.step(1))
        if batch := batch_left(label, [Job(c, steps) for c in candidates], trials):
            return batch
        readmitted = [Job(c, steps[1:]) for c in self._readmitted(candidates, trials)]
        return batch_left(f"{label}, again", readmitted, trials)

    def standing(self, candidates: Sequence[Candidate], trials: Trials) -> list[Candidate]:
        """Those of entered candidates that got through the first round."""
        first = self.rounds.step(1).stage
        return [c for c in candidates if trials[c.key].is_ok(first)]

    def best_first(
        self, candidates: Sequence[Candidate], trials: Trials, n_rounds: int
    ) -> list[Candidate]:
        """Candidates by their first `n_rounds` rounds, compared with one another only."""
        members = [trials[c.key] for c in candidates]
        order = rank(trials[self.base], members, n_rounds).order
        return [ranked.trial.candidate for ranked in order]

    def narrow(self, trials: Trials) -> Batch | None:
        """The next round for the better part of the candidates; None once all rounds are over."""
        entered = standing = self._entered(trials)
        for number in range(2, len(self.rounds) + 1):
            keys = {c.key for c in standing}
            order = self.best_first(entered, trials, number - 1) if entered else []
            standing = [c for c in order if c.key in keys][: self.rounds.n_kept(len(standing))]
            step = self.rounds.step(number)
            jobs = [Job(c, (step,)) for c in standing]
            if batch := batch_left(f"round {number}", jobs, trials):
                return batch
            standing = [c for c in standing if trials[c.key].is_ok(step.stage)]
        return None

    def survivors(self, trials: Trials) -> list[Candidate]:
        """The candidates that got through all rounds that were asked, best first.

        Those are fewer than there are if the search ran out of time.
        """
        entered, asked = self._entered(trials), [s.stage for s in self.rounds.steps]
        asked = [s for s in asked if any(s in trials[c.key].results for c in entered)]
        order = self.best_first(entered, trials, len(asked)) if entered else []
        return [c for c in order if trials[c.key].is_ok(asked[-1])]

    def _entered(self, trials: Trials) -> list[Candidate]:
        """Every candidate that got through the first round.

        Trials decide and not what would be tried now: where something that failed came out well on
        a second try, candidates count that would not have come so far, as they do in reports.
        """
        own = (trial for key, trial in trials.items() if key != self.base)
        return self.standing([trial.candidate for trial in own], trials)

    def _passed(self, candidates: Sequence[Candidate], trials: Trials) -> list[Candidate]:
        stages = (DIVERGENCE, self.rounds.step(1).stage)
        return [c for c in candidates if all(trials[c.key].is_ok(stage) for stage in stages)]

    def _readmitted(self, candidates: Sequence[Candidate], trials: Trials) -> list[Candidate]:
        n_passed = len(self._passed(candidates, trials))
        if 2 * n_passed >= len(candidates):
            return []
        dropped = [c for c in candidates if trials[c.key].status(DIVERGENCE) is Status.DROPPED]
        dropped.sort(key=lambda c: _divergence(trials[c.key]))
        return dropped[: (len(candidates) + 1) // 2 - n_passed]


def _divergence(trial: Trial) -> float:
    value = trial.measure(DIVERGENCE, "kl")
    return math.inf if value is None else value


class OneSet:
    """A sampler that halves one set of candidates, all known from the start."""

    def __init__(self, first: Selection, halving: Halving, notes: Sequence[str] = ()) -> None:
        self.first = first
        self.notes = notes
        self.n_most = len(first.candidates)
        self._halving = halving

    def describe(self) -> Iterator[str]:
        """The candidates."""
        yield f"candidates: {self.first.in_words()}"

    def next(self, trials: Trials) -> Batch | None:
        """All candidates first, then rounds for ever fewer of them."""
        if batch := self._halving.enter(self.first.candidates, "search", trials):
            return batch
        return self._halving.narrow(trials)

    def ranked(self, trials: Trials) -> list[Candidate]:
        """The candidates that got through all rounds that were asked, best first."""
        return self._halving.survivors(trials)
