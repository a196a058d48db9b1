"""A run as statistics read it: its base, its windows, and how they differ item by item."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from rys_gguf.errors import RysError
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import THOMPSON, ItemAnswer, RunInfo
from rys_gguf.runs.stage import FINAL, GENERATE, PLACEBO, Stage
from rys_gguf.runs.trial import Trial, Trials
from rys_gguf.stats.pairs import Families, Field, pair
from rys_gguf.stats.ranking import Ranking, rank, rank_smoothly


class RunData(Protocol):
    """What statistics need of a run; `runs.storage.Run` has it."""

    @property
    def folder(self) -> Path:
        """The folder of its files."""

    @property
    def info(self) -> RunInfo:
        """run.json."""

    @property
    def trials(self) -> Trials:
        """Every candidate's results and answers, by its key."""


class Evidence:
    """The base and the windows of a run that have results. Raises RysError without a base."""

    def __init__(self, run: RunData) -> None:
        self.info = run.info
        self.trials = {key: trial for key, trial in run.trials.items() if trial.results}
        base = self.trials.get(Candidate.base(run.info.model.n_layers).key)
        if base is None:
            raise RysError("the run has no result of the base yet: there is nothing to compare")
        self.base: Trial = base
        self.windows: tuple[Trial, ...] = tuple(
            trial for trial in self.trials.values() if trial is not base
        )

    @property
    def rounds(self) -> tuple[Stage, ...]:
        """The search's rounds that were asked, in order; each adds items to the one before."""
        asked = {stage for trial in self.trials.values() for stage in trial.answers}
        return tuple(sorted(stage for stage in asked if stage.is_round))

    @property
    def looks(self) -> tuple[float, ...]:
        """The looks that were planned, as fractions of the held-out items."""
        settings = self.info.identity.get("settings")
        planned = settings.get("looks") if isinstance(settings, dict) else None
        return tuple(map(float, planned)) if isinstance(planned, list) and planned else (1.0,)

    @property
    def placebo(self) -> Trial | None:
        """The window that was asked held-out items without being a finalist, if there is one."""
        asked = (trial for trial in self.windows if trial.answers.get(PLACEBO))
        # Where a failure was tried again, it may have become one since.
        return next((trial for trial in asked if not trial.answers.get(FINAL)), None)

    @property
    def n_finalists(self) -> int:
        """How many finalists the sweep will have: those it has, and windows that may become some.

        0 where the run does not say how many were planned.
        """
        settings = self.info.identity.get("settings")
        planned = settings.get("n_finalists") if isinstance(settings, dict) else None
        finalists = [t for t in self.windows if t.answers.get(FINAL)]
        n_rounds = min((len(t.rounds) for t in finalists), default=0)
        n_open = sum(not t.is_out and len(t.rounds) >= n_rounds for t in self.windows)
        n_ended = sum(t.is_out for t in finalists)
        return min(planned, n_open + n_ended) if isinstance(planned, int) else 0

    def stages_of(self, stage: Stage) -> tuple[Stage, ...]:
        """All looks that were taken if `stage` is one of them, otherwise that stage."""
        if not stage.is_look:
            return (stage,)
        return tuple(sorted({s for t in self.trials.values() for s in t.answers if s.is_look}))

    def ranking(self) -> Ranking:
        """The candidates as the run's own search ranks them."""
        how = rank_smoothly if self.info.plan.sampler == THOMPSON else rank
        return how(self.base, self.windows)

    def answers(self, key: str, stages: Iterable[Stage]) -> dict[str, ItemAnswer]:
        """A candidate's answers in some stages, by item."""
        trial = self.trials.get(key)
        return trial.answers_in(stages) if trial else {}

    def pairs(self, key: str, stages: Iterable[Stage], field: Field = "score") -> Families:
        """Base and window on the items both answered, by family."""
        stages = tuple(stages)
        return pair(self.answers(self.base.key, stages), self.answers(key, stages), field)

    def judged_stage(self) -> Stage | None:
        """The held-out stage that decides verdicts, None while no held-out item was asked.

        It is that of generated answers once all finalists have them.
        """
        final, generated = self.finalists(FINAL), self.finalists(GENERATE)
        if generated and set(final) <= set(generated):
            return GENERATE
        return FINAL if final else None

    def finalists(self, stage: Stage) -> list[str]:
        """The keys of the candidates with answers in a held-out stage, if the base has some too."""
        if not self.base.answers.get(stage):
            return []
        return [trial.key for trial in self.windows if trial.answers.get(stage)]
