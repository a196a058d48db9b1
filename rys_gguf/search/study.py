"""The search: many windows, little work on each, and less and less of them.

A window that is damaged is dropped after a few forward passes. The rest is asked the first items
of the suite; the better part of it is asked more, and so on (successive halving; Jamieson and
Talwalkar 2016, arXiv:1502.07943). The best few are then written as `apply` would write them,
verified, left out if they loop, and asked items that no choice was made by.

What happens next follows from the lines of the run alone: a sweep that was interrupted is the same
sweep once more, in which what is recorded is not done again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.sampling import has_template
from rys_gguf.engines.server import Engine
from rys_gguf.errors import RysError
from rys_gguf.formats.model import Model
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.schedule import Schedule
from rys_gguf.probes.ask import Compiler
from rys_gguf.probes.item import Item
from rys_gguf.probes.preflight import require_answers, require_repeatable, require_room
from rys_gguf.probes.score import best_constant
from rys_gguf.probes.suite import Suite
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import ItemAnswer
from rys_gguf.runs.stage import Stage
from rys_gguf.runs.storage import DAMAGE, FINAL, GENERATE, LOOPS, SPEED, OpenRun
from rys_gguf.search.executors.local import Pool
from rys_gguf.search.objective import HELDOUT, SEARCH, Job, Setup, Step, answers_of, reference
from rys_gguf.search.space import Selection, Windows, fine
from rys_gguf.stats.ranking import best, ranks
from rys_gguf.text import printable

# Plain text of several kinds, against whose continuation damage shows. Own text, cut at several
# places each.
_TEXTS = (
    (
        "The harbour lay quiet that morning. Two boats had come back before dawn with their nets "
        "half empty, and the men were sitting on the wall, mending what the rocks had torn and "
        "speaking of the weather."
    ),
    (
        "To change the tyre, first loosen the nuts a little while the wheel still stands on the "
        "ground. Then lift the car with the jack, take the nuts off completely, and pull the "
        "wheel towards you."
    ),
    (
        "Three boxes hold 12 pencils each and one box holds 8. Together that makes 36 + 8 = 44 "
        "pencils. If 4 children share them equally, every child gets 44 / 4 = 11 pencils."
    ),
    (
        '"Are you coming with us tonight?" she asked. "I would like to," he said, "but I have to '
        'finish this letter first, and the post office closes at six."'
    ),
)
_LEAST_ITEMS = 16
_CUTS = (0.6, 1.0)


class Watcher(Protocol):
    """Who is told how a sweep goes on."""

    def say(self, line: str) -> None:
        """A line for the user."""

    def begin(self, what: str, total: int) -> None:
        """A part with `total` stages begins; the one before is over."""

    def advance(self) -> None:
        """One stage of the part is over."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides a sweep's result besides model, suite, windows and engine.

    `shares` of the suite are asked round after round, cumulatively; after each, the better
    `keep` of the candidates go on, at least `n_finalists`.
    """

    schedule: Schedule = Schedule.PORTABLE
    shares: tuple[float, ...] = (0.06, 0.25)
    keep: float = 0.34
    n_finalists: int = 3
    max_divergence: float = 1.0
    min_agreement: float = 0.5
    generate: bool = False
    preflight: bool = True

    def as_json(self) -> dict[str, Any]:
        """The settings as plain values."""
        return {**dataclasses.asdict(self), "schedule": self.schedule.value,
                "shares": list(self.shares)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Prepared:
    """A sweep's setup, and what the engine calls itself."""

    setup: Setup
    build: str


def prepare(
    model: Path,
    folder: Path,
    options: EngineOptions,
    settings: Settings,
    suite: Suite,
    heldout: Suite,
    *,
    progress: Callable[[], None] = lambda: None,
) -> Prepared:
    """Ask the base what every candidate is compared with, and make tokens of all prompts.

    `progress` is called after each item that was prepared. Raises RysError.
    """
    chats = has_template(model, options)
    with Engine(model, options) as engine:
        compiler = Compiler(engine, chats=chats)
        questions = {}
        for name, items in ((SEARCH, suite.items), (HELDOUT, heldout.items)):
            compiled = []
            for item in items:
                compiled.append(compiler.compile(item))
                progress()
            questions[name] = tuple(compiled)
        texts = tuple(
            tuple(tokens[: max(2, round(len(tokens) * cut))])
            for text in _TEXTS
            for tokens in [engine.tokenize(text)]
            for cut in _CUTS
        )
        if settings.preflight:
            require_repeatable(engine, suite.items, questions[SEARCH])
        if settings.preflight and settings.generate:
            require_answers(engine, heldout.items, chats=chats)
        setup = Setup(
            str(model),
            str(folder),
            settings.schedule,
            options,
            chats,
            {SEARCH: suite.items, HELDOUT: heldout.items},
            questions,
            {SEARCH: best_constant(suite.items), HELDOUT: best_constant(heldout.items)},
            texts,
            reference(engine, texts),
            tuple(answers_of(engine, chats=chats)),
            settings.max_divergence,
            settings.min_agreement,
        )
        if not all(math.isfinite(v) for p in setup.reference for v in p.values()):
            raise RysError(f"{printable(model)}: the model's probabilities are not numbers")
        return Prepared(setup, engine.build)


def round_ends(n_items: int, shares: Sequence[float]) -> list[int]:
    """How many items of a suite each round ends with; very few would rank nothing.

    round_ends(312, (0.06, 0.25)) == [19, 78]
    """
    least = [_LEAST_ITEMS * 3**n for n in range(len(shares))]
    ends = (max(round(n_items * s), m) for s, m in zip(shares, least, strict=True))
    return sorted({min(n_items, end) for end in ends})


class Sweep:
    """One sweep over a run's folder."""

    def __init__(
        self,
        run: OpenRun,
        setup: Setup,
        settings: Settings,
        pool: Pool,
        watcher: Watcher,
    ) -> None:
        self._run = run
        self._setup = setup
        self._settings = settings
        self._pool = pool
        self._watcher = watcher
        n = len(setup.items[SEARCH])
        self._ends = round_ends(n, settings.shares)
        everything = tuple(range(len(setup.items[HELDOUT])))
        stages = (FINAL, GENERATE) if settings.generate else (FINAL,)
        self._last = tuple(Step(stage, HELDOUT, everything) for stage in stages)
        with Model(setup.model) as model:
            self._base = Candidate(LayerMap.identity(model.n_trunk))
            self._windows = Windows(model, settings.schedule)

    def run(self, first: Selection, fine_size: int | None = None) -> list[Candidate]:
        """Search among the candidates of `first`, and the finalists, best first.

        With `fine_size` a second pass follows: windows of that size around the best of the first.
        """
        with _working_folder(Path(self._setup.folder)):
            # Nothing is to be had without the base: a failure of it is never final.
            self._run.forget_failed(self._base.key)
            self._measure_base()
            standing = self._enter(first.candidates, "pass 1" if fine_size else "search")
            if fine_size is not None:
                values = self._ranks(standing, 1)
                order = best(values, _cost(standing), len(values))
                by_key = {c.key: c for c in standing}
                zone = [by_key[key].windows[0] for key in order if by_key[key].windows]
                second = fine(self._windows, zone, fine_size)
                new = [c for c in second.candidates if c.key not in by_key]
                known = {c.key for c in first.candidates}
                standing += self._enter([c for c in new if c.key not in known], "pass 2")
            return self._finish(self._halve(standing))

    # -- the parts ---------------------------------------------------------------------------

    def _measure_base(self) -> None:
        steps = [self._round(n) for n in range(1, len(self._ends) + 1)]
        self._do("base", [Job(self._base, (*steps, *self._last))])
        for step in (*steps, *self._last):
            self._require_ok(step.stage)
        if self._settings.preflight:
            # All it was asked, so that chance is told from little; control families with it.
            asked = [(SEARCH, step.stage) for step in steps]
            require_room(self._answers_of_base([*asked, (HELDOUT, FINAL)]))
            # In words a base may know what it does not by probability, and the other way round.
            require_room(self._answers_of_base([(HELDOUT, GENERATE)]))

    def _answers_of_base(
        self, asked: Iterable[tuple[str, str]]
    ) -> Iterator[tuple[Item, ItemAnswer]]:
        """Items with the base's answers, of suites and stages."""
        for suite, stage in asked:
            by_id = {item.id: item for item in self._setup.items[suite]}
            for line in self._run.items_of(self._base.key, stage):
                yield (
                    by_id[line["item"]],
                    ItemAnswer(
                        candidate=self._base.key,
                        stage=Stage.parse(stage),
                        item=line["item"],
                        family=line["family"],
                        score=line["score"],
                        probabilities=tuple(line["probabilities"]),
                    ),
                )

    def _require_ok(self, stage: str) -> None:
        result = self._run.result(self._base.key, stage)
        if result is None or result["status"] != "ok":
            reason = (result or {}).get("reason")
            raise RysError(f"the model itself failed in stage {stage}: {reason}")

    def _enter(self, candidates: Sequence[Candidate], what: str) -> list[Candidate]:
        """The first stages of new candidates; those that are not dropped."""
        steps = (Step(DAMAGE), self._round(1))
        self._do(what, [Job(c, steps) for c in candidates])
        standing = [c for c in candidates if self._is_standing(c)]
        if 2 * len(standing) < len(candidates):
            # So many at once say that the limits do not fit this model: the better half goes on.
            dropped = [c for c in candidates if self._status(c, DAMAGE) == "dropped"]
            dropped.sort(key=self._divergence)
            again = dropped[: (len(candidates) + 1) // 2 - len(standing)]
            self._do(f"{what}, again", [Job(c, (self._round(1),)) for c in again])
            standing += [c for c in again if self._status(c, self._round(1).stage) == "ok"]
        return standing

    def _halve(self, standing: list[Candidate]) -> list[Candidate]:
        """Round after round the better part; at the end those that were in the last, best first."""
        for n in range(2, len(self._ends) + 1):
            wanted = max(self._settings.n_finalists, math.ceil(len(standing) * self._settings.keep))
            standing = self._best(standing, n - 1, wanted)
            step = self._round(n)
            self._do(f"round {n}", [Job(c, (step,)) for c in standing])
            standing = [c for c in standing if self._status(c, step.stage) == "ok"]
        return self._best(standing, len(self._ends), len(standing))

    def _finish(self, ranked: list[Candidate]) -> list[Candidate]:
        """Take the best that do not loop through the held-out items, in their real files."""
        finalists: list[Candidate] = []
        while (missing := self._settings.n_finalists - len(finalists)) and ranked:
            batch, ranked = ranked[:missing], ranked[missing:]
            steps = (Step(LOOPS), *self._last)
            self._do("finalists", [Job(c, steps, real_file=True) for c in batch])
            finalists += [c for c in batch if self._status(c, FINAL) == "ok"]
        # One after another: beside other engines each would be slower.
        for candidate in (self._base, *finalists):
            self._do("speed", [Job(candidate, (Step(SPEED),))])
        return finalists

    def _round(self, n: int) -> Step:
        start = self._ends[n - 2] if n > 1 else 0
        return Step(f"round{n}", SEARCH, tuple(range(start, self._ends[n - 1])))

    # -- what is known -----------------------------------------------------------------------

    def _do(self, what: str, jobs: Iterable[Job]) -> None:
        """Run what is not recorded yet, up to the stage that ended a candidate."""
        todo = []
        for job in jobs:
            results = [self._run.result(job.candidate.key, step.stage) for step in job.steps]
            if any(result and result["status"] != "ok" for result in results):
                continue
            steps = tuple(s for s, result in zip(job.steps, results, strict=True) if not result)
            if steps:
                todo.append(dataclasses.replace(job, steps=steps))
        if not todo:
            return
        self._watcher.begin(what, sum(len(job.steps) for job in todo))
        for outcome in self._pool.run(self._setup, todo):
            self._run.record(outcome.result, outcome.items)
            if outcome.result["status"] == "failed":
                self._watcher.say(
                    f"{outcome.result['spec']}: {outcome.result['stage']} failed: "
                    f"{outcome.result['reason']}"
                )
            self._watcher.advance()

    def _status(self, candidate: Candidate, stage: str) -> str | None:
        result = self._run.result(candidate.key, stage)
        return result["status"] if result else None

    def _is_standing(self, candidate: Candidate) -> bool:
        stages = (DAMAGE, self._round(1).stage)
        return all(self._status(candidate, stage) == "ok" for stage in stages)

    def _divergence(self, candidate: Candidate) -> float:
        result = self._run.result(candidate.key, DAMAGE)
        value = result["measures"].get("kl") if result else None
        return math.inf if value is None else float(value)

    def _ranks(self, candidates: Sequence[Candidate], n_rounds: int) -> dict[str, float]:
        stages = [self._round(n).stage for n in range(1, n_rounds + 1)]

        def asked(key: str) -> list[dict[str, Any]]:
            return [line for stage in stages for line in self._run.items_of(key, stage)]

        return ranks(asked(self._base.key), {c.key: asked(c.key) for c in candidates})

    def _best(self, candidates: Sequence[Candidate], n_rounds: int, n: int) -> list[Candidate]:
        by_key = {c.key: c for c in candidates}
        values = self._ranks(candidates, n_rounds)
        return [by_key[key] for key in best(values, _cost(candidates), n)]


def _cost(candidates: Iterable[Candidate]) -> dict[str, int]:
    return {c.key: c.layer_map.n_added for c in candidates}


@contextlib.contextmanager
def _working_folder(folder: Path) -> Any:
    """A folder for working files, empty before and gone after."""
    try:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as e:
        raise RysError(f"{printable(folder)}: {e.strerror or e}") from e
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
