"""Sweeps without llama.cpp: planted answers, logs in memory, hosts whose engines are scripts."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rys_gguf.engines.base import EngineOptions, Generation, Speed
from rys_gguf.errors import EngineFailed, OutputFailed
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.schedule import Schedule
from rys_gguf.probes.item import Choice, Item
from rys_gguf.probes.requests import TokenizedRequest
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import ItemAnswer, StageResult
from rys_gguf.runs.stage import DIVERGENCE, LOOPS, Status
from rys_gguf.runs.trial import Trial
from rys_gguf.search.executors.base import Outcome
from rys_gguf.search.hosts.base import Hosted, Workplace
from rys_gguf.search.job import HELDOUT, SEARCH, Job, Step
from rys_gguf.search.setup import Setup
from tests.fake_engine import FakeEngine

Window = tuple[int, int]


def items(n: int, name: str, family: str = "reasoning") -> tuple[Choice, ...]:
    """Yes-no items, half of each."""
    return tuple(
        Choice(
            id=f"{name}{k}", family=family, topic="t", level=0, question=f"{name} {k}?",
            answer=("yes", "no")[k % 2],
        )
        for k in range(n)
    )  # fmt: skip


def window_of(candidate: Candidate) -> Window | None:
    """The window that a candidate repeats; None for the base."""
    return candidate.windows[0] if candidate.windows else None


# -- planted answers -----------------------------------------------------------------------------


@dataclass
class Planted:
    """The answers of models whose windows have known effects.

    `gains` are added to the probability of the right option, by window; those of several windows
    add up, and `together` is added where there are several. `kl` is the divergence of
    a window, 0.1 where it is not listed; more than 1 drops it. `loops` fail the loop filter,
    `broken` fail in their first stage, and `failing` in the given stage.
    """

    gains: Mapping[Window, float] = field(default_factory=dict)
    together: float = 0.0
    kl: Mapping[Window, float] = field(default_factory=dict)
    loops: Sequence[Window] = ()
    broken: Sequence[Window] = ()
    failing: Mapping[Window, str] = field(default_factory=dict)
    suites: Mapping[str, Sequence[Item]] = field(
        default_factory=lambda: {SEARCH: items(120, "s"), HELDOUT: items(120, "h")}
    )

    def outcomes(self, job: Job) -> Iterator[Outcome]:
        """The outcomes of a job, up to the stage that drops the candidate or fails."""
        for step in job.steps:
            outcome = self._outcome(job.candidate, step)
            yield outcome
            if not outcome.result.is_ok:
                return

    def _outcome(self, candidate: Candidate, step: Step) -> Outcome:
        window = window_of(candidate)
        status, reason = Status.OK, None
        measures: dict[str, float | None] = {}
        if window in self.broken or (window and self.failing.get(window) == str(step.stage)):
            status, reason = Status.FAILED, "llama.cpp ended"
        elif step.stage == DIVERGENCE and window is not None:
            kl = self.kl.get(window, 0.1)
            measures = {"kl": kl}
            if kl > 1:
                status, reason = Status.DROPPED, "damaged"
        elif step.stage == LOOPS and window in self.loops:
            status, reason = Status.DROPPED, "loops"
        is_ok = status is Status.OK
        answers = tuple(self.answer(candidate, step, n) for n in step.items) if is_ok else ()
        result = StageResult(
            candidate=candidate.key, spec=candidate.spec, windows=candidate.windows,
            extra_layers=candidate.n_added, is_base=candidate.is_base, stage=step.stage,
            status=status, reason=reason, measures=measures, n_items=len(answers),
        )  # fmt: skip
        return Outcome(result, answers)

    def answer(self, candidate: Candidate, step: Step, n: int) -> ItemAnswer:
        """The answer to item `n` of the step's suite."""
        item, window = self.suites[step.suite][n], window_of(candidate)
        ability = random.Random(item.id).uniform(0.35, 0.75)
        sigma = 0.25 if item.family == "math" else 0.08
        noise = random.Random(item.id + candidate.key).gauss(0, sigma) if window else 0.0
        gain = sum(self.gains.get(w, 0.0) for w in candidate.windows)
        gain += self.together if len(candidate.windows) > 1 else 0.0
        return answered(candidate, step, item, min(1.0, max(0.0, ability + gain + noise)))


def answered(candidate: Candidate, step: Step, item: Item, p: float) -> ItemAnswer:
    """An answer that gives the right option the probability `p`."""
    wrong = "no" if item.gold == "yes" else "yes"
    return ItemAnswer(
        candidate=candidate.key, stage=step.stage, item=item.id, family=item.family,
        topic=item.topic, score=float(p > 0.5), soft_score=p, gold=item.gold,
        probabilities=({str(item.gold): p, wrong: 1 - p},),
    )  # fmt: skip


def trials_of(outcomes: Iterable[Outcome], n_layers: int) -> dict[str, Trial]:
    """The trials that a log with these outcomes holds."""
    trials: dict[str, Trial] = {}
    for outcome in outcomes:
        result = outcome.result
        old = trials.get(result.candidate)
        candidate = old.candidate if old else Candidate.from_key(result.candidate, n_layers)
        results = {**(old.results if old else {}), result.stage: result}
        answers = {**(old.answers if old else {})}
        if result.status is not Status.FAILED:
            answers[result.stage] = {a.item: a for a in outcome.answers}
        trials[result.candidate] = Trial(candidate, results, answers)
    return trials


class PlantedExecutor:
    """Runs jobs on planted answers and keeps what it is asked.

    With a `fuse` it raises KeyboardInterrupt after that many outcomes.
    """

    def __init__(self, planted: Planted, fuse: int | None = None) -> None:
        self._planted = planted
        self._fuse = fuse
        self.n_asked = 0
        self.jobs: list[Job] = []

    def __enter__(self) -> PlantedExecutor:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing to end."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """The planted outcomes, job after job."""
        for job in jobs:
            self.jobs.append(job)
            for outcome in self._planted.outcomes(job):
                if self._fuse is not None:
                    if self._fuse == 0:
                        raise KeyboardInterrupt
                    self._fuse -= 1
                self.n_asked += len(outcome.answers)
                yield outcome


class Notes:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.parts: list[tuple[str, int]] = []
        self.n_done = 0

    def say(self, line: str) -> None:
        """Keep the line."""
        self.lines.append(line)

    def begin(self, label: str, total: int) -> None:
        """Keep the part."""
        self.parts.append((label, total))

    def advance(self) -> None:
        """Count the stage."""
        self.n_done += 1


# -- scripted hosts ------------------------------------------------------------------------------

# Windows whose engines do something else than answer.
DIES: Window = (1, 3)
DISK_FULL: Window = (2, 4)
BUG: Window = (3, 5)
HANGS: Window = (0, 2)
_REQUEST = TokenizedRequest((5, 6, 7), (("yes", (1,)), ("no", (2,))))


def scripted_setup(model: Path, folder: Path, n_items: int = 4) -> Setup:
    """A setup whose items `ScriptedEngine` answers."""
    suites = {SEARCH: items(n_items, "s"), HELDOUT: items(n_items, "h")}
    return Setup(
        model=str(model), folder=str(folder / "work"), schedule=Schedule.PORTABLE,
        options=EngineOptions(), chats=False, items=dict(suites),
        requests=dict.fromkeys(suites, ((_REQUEST,),) * n_items),
        baselines=dict.fromkeys(suites, 0.0), texts=((1, 2), (3, 4)), reference=({1: -0.5},) * 2,
    )  # fmt: skip


class ScriptedEngine(FakeEngine):
    """An engine whose answers follow from the layer map; it logs its start and end."""

    build = "scripted 1"

    def __init__(self, place: Workplace, layer_map: LayerMap) -> None:
        self.model = place.model.files[0].path
        self._place = place
        self._window = window_of(Candidate(layer_map))
        self._is_closed = False
        # Both speeds of each of its measurements; the base's are higher.
        self.speeds = iter([100.0, 110.0] if self._window is None else [80.0, 88.0])

    def __enter__(self) -> ScriptedEngine:
        log(self._place, f"start {self._place.name} {self._window}")
        if self._window == DIES:
            raise EngineFailed("llama.cpp ended (exit code 9)\n  | no memory", ["no memory"])
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of whatever it is doing."""
        self._is_closed = True

    def option_probabilities(
        self, tokens: Sequence[int], options: Sequence[int], *, same_prompt: bool = False
    ) -> list[float]:
        """Three quarters for the first option."""
        if self._window == BUG:
            raise ZeroDivisionError("a bug")
        while self._window == HANGS and not self._is_closed:
            time.sleep(0.01)
        if self._is_closed:
            raise EngineFailed("llama.cpp ended (SIGTERM)")
        return [0.75, 0.25]

    def top_logprobs(self, tokens: Sequence[int], n: int) -> dict[int, float]:
        """One token."""
        return {1: -0.5}

    def reply(
        self, prompt: str | Sequence[int], n_tokens: int, stop: tuple[str, ...], with_nll: bool
    ) -> Generation:
        """A short answer."""
        return Generation("Yes.", 2, truncated=False, mean_nll=0.1 if with_nll else None)

    def speed(self, tokens: Sequence[int], n_tokens: int) -> Speed:
        """The next planted speed."""
        generation = next(self.speeds)
        return Speed(10 * generation, generation)


class ScriptedHost:
    """A host with a working file that holds nothing, and scripted engines."""

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self._path = place.folder / f"{place.name}.gguf"
        self._path.touch()
        self._engine: ScriptedEngine | None = None
        log(place, f"host {place.name}")

    @contextlib.contextmanager
    def open(self, layer_map: LayerMap) -> Iterator[Hosted]:
        """A scripted engine; 10 bytes written and 5 shared unless it is the base."""
        if window_of(Candidate(layer_map)) == DISK_FULL:
            raise OutputFailed("disk full")
        self._engine = ScriptedEngine(self._place, layer_map)
        cost = (0, 0) if layer_map.is_identity else (10, 5)
        yield Hosted(self._engine, *cost)

    def stop(self) -> None:
        """End the engine."""
        if self._engine is not None:
            self._engine.close()

    def close(self) -> None:
        """Remove the working file."""
        if self._path.exists():
            log(self._place, f"close {self._place.name}")
        self._path.unlink(missing_ok=True)


def log(place: Workplace, line: str) -> None:
    """Append a line to the log beside the working folder, whatever process this is."""
    with (place.folder.parent / "scripted.log").open("a") as file:
        file.write(line + "\n")


def logged(folder: Path, what: str) -> list[str]:
    """The lines of the log that begin with a word."""
    lines = (folder / "scripted.log").read_text().splitlines()
    return [line for line in lines if line.startswith(what)]
