"""The jobs of workers, as plain data: a candidate, and the stages to take it through."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.stage import Stage
from rys_gguf.runs.trial import Trials

# The two suites of a sweep: the items to search with, and those that judge the finalists.
SEARCH, HELDOUT = "search", "heldout"


@dataclass(frozen=True, slots=True)
class Step:
    """A stage of a job: `items` are positions in the suite named `suite`."""

    stage: Stage
    suite: str = SEARCH
    items: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """A candidate, and the stages to take it through while its engine runs.

    `as_written` asks for the verified file that `apply` would write, whatever host is used
    otherwise.
    """

    candidate: Candidate
    steps: tuple[Step, ...]
    as_written: bool = False

    def left(self, trials: Trials) -> Job | None:
        """The part of the job that is still to be done; None if it is over.

        A stage that dropped or failed the candidate ends the job: the stages after it are skipped.
        """
        trial = trials.get(self.candidate.key)
        if trial is None:
            return self
        if any(s.stage in trial.results and not trial.is_ok(s.stage) for s in self.steps):
            return None
        steps = tuple(s for s in self.steps if s.stage not in trial.results)
        return replace(self, steps=steps) if steps else None


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs that may run side by side, in the order that costs least; `label` is for people.

    Nothing outside a batch may be asked until all of it is recorded.
    """

    label: str
    jobs: tuple[Job, ...]

    @property
    def n_stages(self) -> int:
        """How many results it will give if no candidate is dropped or fails."""
        return sum(len(job.steps) for job in self.jobs)


def batch_left(label: str, jobs: Iterable[Job], trials: Trials) -> Batch | None:
    """The batch of everything that is still to be done of some jobs; None if nothing is."""
    left = tuple(todo for job in jobs if (todo := job.left(trials)) is not None)
    return Batch(label, left) if left else None
