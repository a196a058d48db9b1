"""The executor: where jobs run, with workers that last as long as it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from rys_gguf.runs.records import ItemAnswer, StageResult
from rys_gguf.search.job import Job


@dataclass(frozen=True, slots=True)
class Outcome:
    """A stage that is over, for the run's log."""

    result: StageResult
    answers: tuple[ItemAnswer, ...]


class Executor(Protocol):
    """Runs the jobs of one study.

    It is made with the study's `Setup` and keeps its workers until its block ends, so that what
    they have written and loaded serves the next batch too.
    """

    def __enter__(self) -> Executor: ...

    def __exit__(self, *exc: object) -> None: ...

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """The outcomes of all jobs as they come, in any order; those of one job in its order.

        Raises what a worker raised, once no job is running any more. A job whose engine failed is
        no error but an outcome with status "failed".
        """
