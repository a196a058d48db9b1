"""A candidate and everything a run knows about it, for samplers and statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import ItemAnswer, StageResult
from rys_gguf.runs.stage import SPEED, Stage, Status


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate's results and answers by stage. Treat both as read-only.

    A stage has its last result, and it has answers only if that result is no failure.
    """

    candidate: Candidate
    results: Mapping[Stage, StageResult] = field(default_factory=dict, repr=False)
    answers: Mapping[Stage, Mapping[str, ItemAnswer]] = field(default_factory=dict, repr=False)

    @property
    def key(self) -> str:
        """The candidate's key."""
        return self.candidate.key

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that are over, in the order in which a candidate goes through them."""
        return tuple(sorted(self.results))

    @property
    def reached(self) -> Stage | None:
        """The last stage it came to; speed, which is measured last of all, only if alone."""
        before_speed = [s for s in self.stages if s != SPEED]
        return before_speed[-1] if before_speed else next(iter(self.stages), None)

    @property
    def ending(self) -> StageResult | None:
        """The first result that dropped or failed it, None if there is none.

        A candidate that was dropped may have been asked again since. One whose speed could not be
        measured is a finalist all the same.
        """
        before_speed = (self.results[s] for s in self.stages if s != SPEED)
        return next((result for result in before_speed if not result.is_ok), None)

    @property
    def is_out(self) -> bool:
        """Whether the stage it reached ended it."""
        return self.reached is not None and not self.is_ok(self.reached)

    @property
    def measures(self) -> dict[str, float | None]:
        """The numbers of all its stages; where two have the same name, the later one."""
        return {name: x for s in self.stages for name, x in self.results[s].measures.items()}

    @property
    def bytes_written(self) -> int:
        """Bytes written over all its stages."""
        return sum(result.bytes_written for result in self.results.values())

    @property
    def engine_seconds(self) -> float:
        """Seconds of loading and asking over all its stages."""
        return sum(result.engine_seconds for result in self.results.values())

    @property
    def rounds(self) -> tuple[Stage, ...]:
        """The rounds it got through, in order."""
        return tuple(s for s in self.stages if s.is_round and self.status(s) is Status.OK)

    @property
    def looks(self) -> tuple[Stage, ...]:
        """The looks at held-out items it got through, in order."""
        return tuple(s for s in self.stages if s.is_look and self.status(s) is Status.OK)

    def status(self, stage: Stage) -> Status | None:
        """How a stage ended, None if it is not over."""
        result = self.results.get(stage)
        return None if result is None else result.status

    def is_ok(self, stage: Stage) -> bool:
        """Whether it got through a stage."""
        return self.status(stage) is Status.OK

    def answers_in(self, stages: Iterable[Stage]) -> dict[str, ItemAnswer]:
        """Its answers in some stages, by item."""
        return {item: a for s in stages for item, a in self.answers.get(s, {}).items()}

    def measure(self, stage: Stage, name: str) -> float | None:
        """A number that a stage measured, None if it did not."""
        result = self.results.get(stage)
        return None if result is None else result.measures.get(name)


# By the candidate's key, in the order in which the log first names them; the base is one of them.
Trials = Mapping[str, Trial]
