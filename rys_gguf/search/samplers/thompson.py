"""Top-two Thompson sampling: items go to the windows that may still be the best.

Each step draws gains of all windows from what is believed of them, and asks the best of the draw a
few more items; half of the time it asks the best of another draw, so that the leader's rivals are
asked as well (Russo 2016, arXiv:1602.08448). The belief is that of stats/landscape.py: a window's
answers count for its neighbours, and a window that nobody needs to know of is never asked.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.scan import PriorEffect
from rys_gguf.runs.stage import DIVERGENCE, Status
from rys_gguf.runs.trial import Trial, Trials
from rys_gguf.search.job import Batch, Job, Step, batch_left
from rys_gguf.search.samplers.halving import Halving
from rys_gguf.search.samplers.rounds import Rounds
from rys_gguf.search.space import Selection
from rys_gguf.stats.clusters import Ints
from rys_gguf.stats.landscape import Belief, Landscape, Shape
from rys_gguf.stats.observed import Observations
from rys_gguf.stats.prior import expected_gains
from rys_gguf.stats.ranking import rank_smoothly

# The part of all asks that is chosen by one belief, and how many rounds at least: less learns
# sooner, more keeps workers busy.
_BATCH, _LEAST_BATCH = 0.05, 8
# How often the best of a draw is asked, and not its rival.
_LEADER = 0.5
# Draws for each choice: where none of them gives the leader a rival, the leader is asked.
_N_DRAWS = 8
# The landscape's shape is fitted anew once so many times as many items have been asked.
_REFIT = 1.25
# The part of all asks that may go to the first batch, in which every window has one round. If the
# windows are too many for that, it has some of them, evenly spread.
_FIRST = 0.25


@dataclass(slots=True)
class _Course:
    """How far a search has come: `rounds` of each window, and those that are `out` of it.

    `shape` is the landscape's as it was fitted after `n_fitted` items.
    """

    rounds: Ints
    out: npt.NDArray[np.bool_]
    n_asked: int = 0
    n_batches: int = 0
    n_fitted: int = 0
    shape: Shape = field(default_factory=Shape)

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

    `windows` has candidates of one block each. `seed` is the run's. `prior` are the effects of a
    relative's windows: they decide what is asked first, and nothing of how windows are ranked.
    """

    def __init__(
        self,
        windows: Selection,
        halving: Halving,
        n_asks: int,
        seed: int,
        notes: Sequence[str] = (),
        prior: Sequence[PriorEffect] = (),
    ) -> None:
        self.first = windows
        self.notes = notes
        self.n_most = len(windows.candidates)
        self.n_asks = n_asks
        self._halving = halving
        self._steps = halving.rounds.steps
        self._seed = seed
        # Neighbours side by side, so that the first batch can be spread evenly.
        self._candidates = sorted(windows.candidates, key=lambda c: c.windows)
        blocks = [c.blocks for c in self._candidates]
        n_layers = self._candidates[0].layer_map.n_source
        # In whatever form a window is repeated.
        places = [of_map[0].window for of_map in blocks]
        expected = expected_gains(prior, places, n_layers) if prior else None
        self._landscape = Landscape.of_maps(blocks, n_layers, expected)
        # Choices by everything they follow from: a run's past is worked out once.
        self._chosen: dict[Hashable, tuple[Shape, tuple[int, ...]]] = {}

    def describe(self) -> Iterator[str]:
        """The windows."""
        yield f"candidates: {self.first.in_words()}"

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
        n_items = len(self._steps[0].items)
        n_left = self.n_asks - course.n_asked
        n = min(max(_LEAST_BATCH, round(_BATCH * self.n_asks / n_items)), -(-n_left // n_items))
        left = np.where(course.out, 0, len(self._steps) - course.rounds)
        if n <= 0 or not left.any():
            return ()
        observed = observations.after(course.rounds)
        seen = np.flatnonzero(observed.counts.any(axis=1))
        known = seen, observed.values[seen], observed.variances[seen]
        key = (course.n_batches, course.shape, left.tobytes(), *(part.tobytes() for part in known))
        is_due = course.n_asked >= _REFIT * course.n_fitted
        if key not in self._chosen:
            shape = self._landscape.fitted(*known, course.shape) if is_due else course.shape
            rng = np.random.default_rng((self._seed, course.n_batches))
            belief = self._landscape.believe(*known, shape)
            self._chosen[key] = shape, _top_two(belief, left, n, rng)
        course.shape, chosen = self._chosen[key]
        if is_due:
            course.n_fitted = course.n_asked
        return chosen


def least_of_thompson(rounds: Rounds) -> int:
    """The least number of asks: the first batch has a round of as many windows as finalists."""
    return math.ceil(rounds.n_finalists * rounds.ends[0] / _FIRST)


def _top_two(belief: Belief, left: Ints, n: int, rng: np.random.Generator) -> tuple[int, ...]:
    """`n` windows by draws from a belief, each at most as often as it has rounds `left`."""
    left = left.copy()
    draws = np.where(left > 0, belief.draws(_N_DRAWS * n, rng), -np.inf)
    best = iter(draws.argmax(axis=1).tolist())
    chosen: list[int] = []
    for leader in best:
        is_rival = rng.random() >= _LEADER
        k = next((rival for rival in best if rival != leader), leader) if is_rival else leader
        if left[k] > 0:
            left[k] -= 1
            chosen.append(k)
        if len(chosen) == n:
            break
    return tuple(chosen)


def _is_readmitted(trial: Trial) -> bool:
    """Whether it was asked although the filter had dropped it."""
    return trial.status(DIVERGENCE) is Status.DROPPED and len(trial.rounds) > 0


def _has_failed(trial: Trial) -> bool:
    return any(stage.is_round and not result.is_ok for stage, result in trial.results.items())
