"""The parts of a sweep that every sampler shares: the base before it, the finalists after it.

Each is like a sampler: `next` says what to run now, given the trials so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rys_gguf.errors import RysError
from rys_gguf.probes.item import Item
from rys_gguf.probes.preflight import require_room
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.stage import FINAL, GENERATE, LOOPS, PLACEBO, SPEED, look_stage
from rys_gguf.runs.trial import Trial, Trials
from rys_gguf.search.job import HELDOUT, SEARCH, Batch, Job, Step, batch_left
from rys_gguf.search.samplers.base import Sampler
from rys_gguf.search.samplers.rounds import Rounds
from rys_gguf.stats.looks import look_ends
from rys_gguf.stats.pairs import at_looks
from rys_gguf.stats.ranking import rank
from rys_gguf.stats.verdict import judge, undecided


class Phase(Protocol):
    """A part of a sweep, over once `next` gives None."""

    def next(self, trials: Trials) -> Batch | None:
        """The jobs to run now; None once the phase is over."""


def final_steps(
    n_heldout: int, *, generate: bool, looks: Sequence[float] = (1.0,)
) -> tuple[Step, ...]:
    """The stages that ask held-out items: a part in each look and, if asked for, all in words."""
    items = tuple(range(n_heldout))
    ends = (0, *look_ends(n_heldout, looks))
    steps = tuple(
        Step(look_stage(n), HELDOUT, items[ends[n - 1] : ends[n]]) for n in range(1, len(ends))
    )
    return (*steps, Step(GENERATE, HELDOUT, items)) if generate else steps


@dataclass(frozen=True, slots=True)
class BasePhase:
    """Asks the model as it is everything that any candidate may be asked.

    `steps` are all rounds and the final stages. With `preflight` it then checks that the suites
    leave room for a difference on this model; `items` are those of each suite.
    """

    base: Candidate
    steps: tuple[Step, ...]
    items: dict[str, tuple[Item, ...]]
    preflight: bool = True

    def next(self, trials: Trials) -> Batch | None:
        """All stages of the base. Raises RysError if one failed, Unsuitable for its answers."""
        batch = batch_left("base", [Job(self.base, self.steps)], trials)
        if batch is None:
            trial = trials[self.base.key]
            for step in self.steps:
                _require_ok(trial, step)
            if self.preflight:
                self._require_room(trial)
        return batch

    def _require_room(self, trial: Trial) -> None:
        by_id = {(suite, item.id): item for suite, items in self.items.items() for item in items}
        # Probabilities and words apart: a base may know by one what it does not by the other.
        for in_words in (False, True):
            require_room(
                (by_id[step.suite, name], answer)
                for step in self.steps
                if (step.stage == GENERATE) == in_words
                for name, answer in trial.answers_in([step.stage]).items()
            )


def _require_ok(trial: Trial, step: Step) -> None:
    if not trial.is_ok(step.stage):
        result = trial.results.get(step.stage)
        reason = "it was not run" if result is None else result.reason
        raise RysError(f"the model itself failed in stage {step.stage}: {reason}")


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a search ends although it could ask more: after so many `seconds` of work in the run.

    They are those of all calls of the run, as its log counts them, on `n_engines` side by side. The
    base works alone.
    """

    seconds: float = math.inf
    n_engines: int = 1

    @classmethod
    def of(cls, seconds: float | None, n_engines: int) -> Deadline:
        """That of a run; None is no deadline."""
        return cls(math.inf if seconds is None else seconds, n_engines)

    def is_over(self, base: str, trials: Trials) -> bool:
        """Whether it has passed. It never has before windows were asked anything."""
        alone, together = (
            sum(_seconds(trial) for key, trial in trials.items() if (key == base) == is_base)
            for is_base in (True, False)
        )
        is_begun = any(trial.rounds for key, trial in trials.items() if key != base)
        return is_begun and alone + together / self.n_engines >= self.seconds


def _seconds(trial: Trial) -> float:
    times = (result.seconds for result in trial.results.values())
    return sum(time.write + time.load + time.ask for time in times)


@dataclass(frozen=True, slots=True)
class SearchPhase:
    """Asks what the sampler asks, until its deadline: a batch that has begun by then is the last.

    `tell` gets a line if that is before the sampler's own end.
    """

    base: Candidate
    sampler: Sampler
    deadline: Deadline = Deadline()
    tell: Callable[[str], None] = lambda _: None

    def next(self, trials: Trials) -> Batch | None:
        """The sampler's next batch."""
        batch = self.sampler.next(trials)
        if batch is None or not self._is_out_of_time(trials):
            return batch
        self.tell(
            f"note: the time of the search is over before its last questions ({batch.label}): "
            f"finalists are chosen by what is known"
        )
        return None

    def is_cut(self, trials: Trials) -> bool:
        """Whether its deadline ended it before its sampler's own end."""
        return self._is_out_of_time(trials) and self.sampler.next(trials) is not None

    def _is_out_of_time(self, trials: Trials) -> bool:
        return self.deadline.is_over(self.base.key, trials)


@dataclass(frozen=True, slots=True)
class FinalPhase:
    """Takes the sampler's best through the held-out items, until enough do not loop.

    `steps` are those of `final_steps`, for looks at these fractions of the items. All finalists are
    asked the items of the first look; those that are still undecided are asked more.
    """

    base: Candidate
    sampler: Sampler
    steps: tuple[Step, ...]
    n_finalists: int
    looks: tuple[float, ...] = (1.0,)

    def next(self, trials: Trials) -> Batch | None:
        """As many candidates as there are finalists missing, on files as `apply` writes them.

        Then the next look at those that are open, and at last what all of them say in words.
        """
        batch, finalists = self._chosen(trials)
        if batch is not None or not finalists:
            return batch
        for look in range(1, len(self.looks)):
            if batch := self._look(finalists, look, trials):
                return batch
        return batch_left("finalists", [self._job(c, self._in_words) for c in finalists], trials)

    @property
    def _in_words(self) -> tuple[Step, ...]:
        return self.steps[len(self.looks) :]

    def _job(self, candidate: Candidate, steps: Sequence[Step]) -> Job:
        return Job(candidate, tuple(steps), as_written=True)

    def _look(self, finalists: Sequence[Candidate], look: int, trials: Trials) -> Batch | None:
        """What is left of the look after look `look`."""
        base = trials[self.base.key]
        # What was asked in a later look must not change what this one follows from.
        shown = {c.key: at_looks(base, trials[c.key])[:look] for c in finalists}
        still = undecided(judge(shown, self.looks), look, self.looks)
        step = self.steps[look]
        jobs = [
            self._job(c, [step])
            for c in finalists
            if c.key in still and trials[c.key].is_ok(self.steps[look - 1].stage)
        ]
        return batch_left(f"finalists, look {look + 1}", jobs, trials)

    def finalists(self, trials: Trials) -> list[Candidate]:
        """The candidates that answered the held-out items, best of the search first."""
        _, finalists = self._chosen(trials)
        return finalists

    def _chosen(self, trials: Trials) -> tuple[Batch | None, list[Candidate]]:
        ranked = list(self.sampler.ranked(trials))
        finalists: list[Candidate] = []
        while (n_missing := self.n_finalists - len(finalists)) and ranked:
            tried, ranked = ranked[:n_missing], ranked[n_missing:]
            # Where there is one look, all of a finalist is asked while its engine runs.
            steps = (Step(LOOPS), *(self.steps[:1] if len(self.looks) > 1 else self.steps))
            jobs = [self._job(c, steps) for c in tried]
            if batch := batch_left("finalists", jobs, trials):
                return batch, finalists
            finalists += [c for c in tried if trials[c.key].is_ok(FINAL)]
        return None, finalists


@dataclass(frozen=True, slots=True)
class PlaceboPhase:
    """Asks a window that is no finalist as many held-out items as any finalist was asked.

    More layers may make a model think longer, and better, whichever they are. A window from the
    middle of the search's ranking, as long as the best finalist if there is one, shows how much of
    a gain that is. Nothing is asked unless it `is_wanted`.
    """

    base: Candidate
    final: FinalPhase
    is_wanted: bool = False

    def next(self, trials: Trials) -> Batch | None:
        """The window nearest to the middle that has not been found to loop."""
        finalists = self.final.finalists(trials) if self.is_wanted else []
        if not finalists:
            return None
        n_looks = max(len(trials[c.key].looks) for c in finalists)
        items = tuple(n for step in self.final.steps[:n_looks] for n in step.items)
        for candidate in self._candidates(finalists, trials):
            steps = (Step(LOOPS), Step(PLACEBO, HELDOUT, items))
            if batch := batch_left("placebo", [Job(candidate, steps, as_written=True)], trials):
                return batch
            if trials[candidate.key].is_ok(PLACEBO):
                break
        return None

    def _candidates(self, finalists: Sequence[Candidate], trials: Trials) -> list[Candidate]:
        # What the sampler leaves out of its ranking is behind all that is in it.
        others = rank(trials[self.base.key], trials.values()).order
        order = [*self.final.sampler.ranked(trials), *(r.trial.candidate for r in others)]
        order = list(dict.fromkeys(order))
        places = {c: n for n, c in enumerate(order) if c not in finalists}
        n_added, middle = finalists[0].n_added, len(order) // 2
        return sorted(places, key=lambda c: (c.n_added != n_added, abs(places[c] - middle)))


@dataclass(frozen=True, slots=True)
class SpeedPhase:
    """Measures the speed of the base and of each finalist beside it."""

    base: Candidate
    final: FinalPhase

    def next(self, trials: Trials) -> Batch | None:
        """One candidate a batch: engines that run side by side slow each other down."""
        for candidate in (self.base, *self.final.finalists(trials)):
            if batch := batch_left("speed", [Job(candidate, (Step(SPEED),))], trials):
                return batch
        return None


def phases(
    base: Candidate,
    sampler: Sampler,
    rounds: Rounds,
    suites: tuple[Sequence[Item], Sequence[Item]],
    *,
    generate: bool = False,
    preflight: bool = True,
    looks: tuple[float, ...] = (1.0,),
    placebo: bool = False,
) -> tuple[BasePhase, SearchPhase, FinalPhase, PlaceboPhase, SpeedPhase]:
    """All phases of a sweep in order; each begins once the one before is over.

    `suites` are the search items and the held-out items. With `placebo` a window that is no
    finalist is asked held-out items as well.
    """
    last = final_steps(len(suites[1]), generate=generate, looks=looks)
    items = {SEARCH: tuple(suites[0]), HELDOUT: tuple(suites[1])}
    final = FinalPhase(base, sampler, last, rounds.n_finalists, looks)
    before = BasePhase(base, (*rounds.steps, *last), items, preflight)
    speed = SpeedPhase(base, final)
    return before, SearchPhase(base, sampler), final, PlaceboPhase(base, final, placebo), speed
