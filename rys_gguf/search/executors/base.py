"""The executor: runs jobs, with workers that last as long as it does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from rys_gguf.runs.records import ItemAnswer, StageResult
from rys_gguf.search.job import Job
from rys_gguf.search.setup import Setup


@dataclass(frozen=True, slots=True)
class Outcome:
    """A stage that is over, for the run's log."""

    result: StageResult
    answers: tuple[ItemAnswer, ...] = ()


class Executor(Protocol):
    """Runs the jobs of one sweep.

    It is made with the sweep's `Setup` and keeps its workers until its block ends, so that what
    they have written and loaded serves the next batch too. tests/search/executor_contract.py holds
    every executor to this.
    """

    def __enter__(self) -> Executor: ...

    def __exit__(self, *exc: object) -> None: ...

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """The outcomes of all jobs as they come, in any order; those of one job in its order.

        Raises what a worker raised, once no job is running any more. A job whose engine failed is
        no error but an outcome with status "failed".
        """


# The setup exists only after the base was measured, so executors are made by a factory.
MakeExecutor = Callable[[Setup], Executor]


class JobLists:
    """Jobs divided among workers: each gets jobs that follow one another, which cost it little.

    A worker that is through with its own jobs takes over from the end of the longest list.
    """

    def __init__(self, jobs: Sequence[Job], n_workers: int) -> None:
        n = n_workers
        self._lists = [deque(jobs[k * len(jobs) // n : (k + 1) * len(jobs) // n]) for k in range(n)]

    def __len__(self) -> int:
        return sum(map(len, self._lists))

    def take(self, worker: int) -> Job | None:
        """The next job of a worker, None if none is left."""
        if self._lists[worker]:
            return self._lists[worker].popleft()
        longest = max(self._lists, key=len)
        return longest.pop() if longest else None
