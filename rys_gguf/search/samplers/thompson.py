"""Top-two Thompson sampling: items go to the windows that may still be the best.

Each step draws gains of all windows from what is believed of them, and asks the best of the draw a
few more items; half of the time it asks the best of another draw, so that the leader's rivals are
asked as well (Russo 2016, arXiv:1602.08448). The belief is that of stats/landscape.py: a window's
answers count for its neighbours, and a window that nobody needs to know of is never asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.stage import DIVERGENCE, Status
from rys_gguf.runs.trial import Trial, Trials
from rys_gguf.search.job import Batch, Job, Step, batch_left
from rys_gguf.search.samplers.halving import Halving
from rys_gguf.search.space import Selection
from rys_gguf.stats.clusters import Ints
from rys_gguf.stats.landscape import Belief, Landscape
from rys_gguf.stats.observed import Observations
from rys_gguf.stats.ranking import rank_smoothly

# How many rounds are chosen by one belief: fewer learn sooner, more keep workers busy.
_N_CHOSEN = 8
# How often the best of a draw is asked, and not its rival.
_LEADER = 0.5
# Draws until a rival differs from the leader; where none does, the leader is asked.
_MOST_DRAWS = 50
# The part of all asks that may go to the first batch, in which every window has one round. If the
# windows are too many for that, it has some of them, evenly spread.
_FIRST = 0.25
# Lets the root of a covariance be taken that rounding has made singular; a variance in score.
_JITTER = 1e-9


@dataclass(slots=True)
class _Course:
    """How far a search has come: `rounds` of each window, and those that are `out` of it."""

    rounds: Ints
    out: npt.NDArray[np.bool_]
    n_asked: int = 0
    n_batches: int = 0

    def advance(self, k: int, job: Job, trials: Trials) -> None:
        """Count a job of window `k` that is over."""
        trial = trials[job.candidate.key]
        for step in job.steps:
            if not trial.is_ok(step.stage):
                self.out[k] = True
                return
            if step.stage.is_round:
                self.rounds[k] += 1
                self.n_asked += len(step.items)


class Thompson:
    """A sampler that asks windows about `n_asks` items in all, a round of one window at a time.

    `windows` has candidates of one block each. `seed` is the run's.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, windows: Selection, halving: Halving, n_asks: int, seed: int) -> None:
        self.first = windows
        self.n_most = len(windows.candidates)
        self.n_asks = n_asks
        self._halving = halving
        self._steps = halving.rounds.steps
        self._seed = seed
        # Neighbours side by side, so that the first batch can be spread evenly.
        self._candidates = sorted(windows.candidates, key=lambda c: c.windows)
        self._landscape = Landscape(
            [c.blocks for c in self._candidates],
            max((c.layer_map.n_source for c in self._candidates), default=0),
        )
        # Choices by everything they follow from: a run's past is worked out once.
        self._chosen: dict[tuple[int, bytes, bytes, bytes], tuple[int, ...]] = {}

    def describe(self) -> Iterator[str]:
        """The windows."""
        yield f"candidates: {', '.join(c.spec for c in self.first.candidates)}"

    def next(self, trials: Trials) -> Batch | None:
        """Windows far apart first, then those that may be the best, until all asks are spent.

        What was chosen follows from the answers before it: the search is gone through from its
        start, up to the first batch that is not all recorded. Answers beyond that, as of a run
        whose failures are tried again, wait for their turn.
        """
        begun = self._begun()
        entered = [self._candidates[k] for k in begun]
        if batch := self._halving.enter(entered, "search", trials):
            return batch
        n = len(self._candidates)
        course = _Course(np.zeros(n, dtype=np.intp), np.zeros(n, dtype=np.bool_))
        for k in begun:
            course.advance(k, Job(self._candidates[k], self._steps[:1]), trials)
        # Limits that did not fit the model at the start never do.
        is_filtered = not any(_is_readmitted(trials[c.key]) for c in entered)
        base = trials[self._halving.base]
        observations = Observations(
            base, [trials.get(c.key) or Trial(c) for c in self._candidates], len(self._steps)
        )
        while chosen := self._choose(course, observations):
            jobs = {
                k: self._job(k, n, course, is_filtered=is_filtered)
                for k, n in Counter(chosen).items()
            }
            label = f"search, {course.n_asked:,} of {self.n_asks:,} asked"
            if batch := batch_left(label, jobs.values(), trials):
                return batch
            for k, job in jobs.items():
                course.advance(k, job, trials)
            course.n_batches += 1
        return None

    def ranked(self, trials: Trials) -> list[Candidate]:
        """The candidates that got through all that they were asked, by what is believed of them."""
        order = rank_smoothly(trials[self._halving.base], trials.values()).order
        return [r.trial.candidate for r in order if not _has_failed(r.trial)]

    def _begun(self) -> list[int]:
        n = len(self._candidates)
        most = max(1, int(_FIRST * self.n_asks / len(self._steps[0].items)))
        return sorted({round(k) for k in np.linspace(0, n - 1, min(n, most))})

    def _job(self, k: int, n: int, course: _Course, *, is_filtered: bool) -> Job:
        """The next `n` rounds of window `k`; the filter comes before its first."""
        done = int(course.rounds[k])
        steps = self._steps[done : done + n]
        if is_filtered and not done:
            steps = (Step(DIVERGENCE), *steps)
        return Job(self._candidates[k], steps)

    def _choose(self, course: _Course, observations: Observations) -> tuple[int, ...]:
        """The windows to ask a round each, some more than once; none once the search is over."""
        n_left = self.n_asks - course.n_asked
        n = min(_N_CHOSEN, -(-n_left // len(self._steps[0].items)))
        left = np.where(course.out, 0, len(self._steps) - course.rounds)
        if n <= 0 or not left.any():
            return ()
        observed = observations.after(course.rounds)
        key = (
            course.n_batches, left.tobytes(), observed.values.tobytes(),
            observed.variances.tobytes(),
        )  # fmt: skip
        if key not in self._chosen:
            rng = np.random.default_rng((self._seed, course.n_batches))
            seen = np.flatnonzero(observed.counts.any(axis=1))
            belief = self._landscape.believe(seen, observed.values[seen], observed.variances[seen])
            self._chosen[key] = _top_two(belief, left, n, rng)
        return self._chosen[key]


def _top_two(belief: Belief, left: Ints, n: int, rng: np.random.Generator) -> tuple[int, ...]:
    """`n` windows by draws from a belief, each at most as often as it has rounds `left`."""
    left = left.copy()
    root = np.linalg.cholesky(belief.covariance + _JITTER * np.eye(len(left)))

    def best_of_draw() -> int:
        gains = belief.means + root @ rng.standard_normal(len(left))
        return int(np.where(left > 0, gains, -np.inf).argmax())

    chosen: list[int] = []
    while len(chosen) < n and left.any():
        leader = k = best_of_draw()
        if rng.random() >= _LEADER:
            rivals = (best_of_draw() for _ in range(_MOST_DRAWS))
            k = next((rival for rival in rivals if rival != leader), leader)
        left[k] -= 1
        chosen.append(k)
    return tuple(chosen)


def _is_readmitted(trial: Trial) -> bool:
    """Whether it was asked although the filter had dropped it."""
    return trial.status(DIVERGENCE) is Status.DROPPED and len(trial.rounds) > 0


def _has_failed(trial: Trial) -> bool:
    return any(stage.is_round and not result.is_ok for stage, result in trial.results.items())
