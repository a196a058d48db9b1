"""Evaluate one candidate: take it through the stages of a job, and give each stage's outcome."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rys_gguf.checks.loops import find_loop
from rys_gguf.engines.base import Engine
from rys_gguf.errors import EngineFailed, RysError
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.probes.ask import Answer, answer_all, ask_all, think_and_answer, think_and_ask
from rys_gguf.probes.item import Item
from rys_gguf.runs.records import ItemAnswer, StageResult, Times
from rys_gguf.runs.stage import (
    DIVERGENCE,
    FINAL,
    GENERATE,
    LOOPS,
    PLACEBO,
    SPEED,
    Status,
    round_stage,
)
from rys_gguf.search.executors.base import Outcome
from rys_gguf.search.filters import damage, looping, measure_divergence, n_loops, replies
from rys_gguf.search.hosts.base import Host
from rys_gguf.search.job import Job, Step
from rys_gguf.search.setup import Setup
from rys_gguf.search.speed import measure_speed

Measures = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A stage's numbers and answers; `reason` says why it drops the candidate, None if it passed.

    An engine that failed has Status.FAILED and the engine's last lines as `log`.
    """

    measures: Measures
    answers: tuple[Answer, ...] = ()
    reason: str | None = None
    status: Status = Status.OK
    log: tuple[str, ...] = ()


def run_job(job: Job, host: Host, setup: Setup) -> Iterator[Outcome]:
    """The job's outcomes, stage by stage. A stage that drops the candidate or fails is the last.

    Raises RysError, such as OutputFailed where the disk is full, for what is not a property of the
    candidate. Only its speed then counts as failed: a sweep is complete without it.
    """
    layer_map = job.candidate.layer_map
    meter = Meter(host)
    step = job.steps[0]
    if step.stage == SPEED:
        # Alone in its job, and with engines of its own: it compares two models.
        yield _outcome(job, step, _measure_speed(meter, layer_map, setup), meter)
        return
    try:
        with meter.engine(layer_map) as engine:
            for step in job.steps:
                evaluation = STAGES[step.stage.name](engine, setup, step)
                yield _outcome(job, step, evaluation, meter)
                if evaluation.status is not Status.OK:
                    return
    except EngineFailed as e:
        yield _outcome(job, step, _failed(e), meter)


def _failed(error: RysError) -> Evaluation:
    log = error.log if isinstance(error, EngineFailed) else ()
    return Evaluation({}, reason=str(error).splitlines()[0], status=Status.FAILED, log=log)


def _measure_speed(meter: Meter, layer_map: LayerMap, setup: Setup) -> Evaluation:
    try:
        return Evaluation(measure_speed(meter.engine, layer_map, setup.texts[-1]))
    except RysError as e:
        return _failed(e)


# -- stages --------------------------------------------------------------------------------------


def _diverge(engine: Engine, setup: Setup, _step: Step) -> Evaluation:
    distance = measure_divergence(engine, setup.texts, setup.reference)
    kl = distance.kl if math.isfinite(distance.kl) else None
    return _filtered({"kl": kl, "agreement": distance.agreement}, damage(distance, setup.limits))


def _loop(engine: Engine, setup: Setup, _step: Step) -> Evaluation:
    written = replies(engine, chats=setup.chats)
    measures: Measures = {
        "loops": n_loops(written),
        "loops_base": n_loops(setup.replies),
        "loop_prompts": len(written),
    }
    return _filtered(measures, looping(written, setup.replies))


def _filtered(measures: Measures, reason: str | None) -> Evaluation:
    status = Status.OK if reason is None else Status.DROPPED
    return Evaluation(measures, reason=reason, status=status)


def _ask(engine: Engine, setup: Setup, step: Step) -> Evaluation:
    items, requests = setup.items[step.suite], setup.requests[step.suite]
    baseline = setup.baselines[step.suite]
    asked = [items[n] for n in step.items], [requests[n] for n in step.items]
    return Evaluation({}, tuple(ask_all(engine, *asked, baseline)))


def _judge(engine: Engine, setup: Setup, step: Step) -> Evaluation:
    if setup.thinking is None:
        return _ask(engine, setup, step)
    asked, baseline = _asked(setup, step)
    return Evaluation({}, tuple(think_and_ask(engine, asked, setup.thinking, baseline)))


def _generate(engine: Engine, setup: Setup, step: Step) -> Evaluation:
    asked, baseline = _asked(setup, step)
    if setup.thinking is not None:
        return Evaluation({}, tuple(think_and_answer(engine, asked, setup.thinking, baseline)))
    return Evaluation({}, tuple(answer_all(engine, asked, chats=setup.chats, baseline=baseline)))


def _asked(setup: Setup, step: Step) -> tuple[list[Item], float]:
    """The items of a step, and the baseline of their suite."""
    items = setup.items[step.suite]
    return [items[n] for n in step.items], setup.baselines[step.suite]


# By the stage's name, which all rounds share.
STAGES: Mapping[str, Callable[[Engine, Setup, Step], Evaluation]] = {
    DIVERGENCE.name: _diverge,
    round_stage(1).name: _ask,
    LOOPS.name: _loop,
    FINAL.name: _judge,
    PLACEBO.name: _judge,
    GENERATE.name: _generate,
}


# -- the cost ------------------------------------------------------------------------------------


class Meter:
    """Opens a host's engines and adds up what they cost, from one outcome to the next."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._asking_since: float | None = None
        self._clear()

    def _clear(self) -> None:
        self.n_written = self.n_shared = 0
        self.write = self.load = self.ask = 0.0

    @contextlib.contextmanager
    def engine(self, layer_map: LayerMap) -> Iterator[Engine]:
        """A running engine for a map."""
        with self._host.open(layer_map) as hosted, contextlib.ExitStack() as stack:
            self.n_written += hosted.n_written
            self.n_shared += hosted.n_shared
            self.write += hosted.write_seconds
            start = time.monotonic()
            try:
                engine = stack.enter_context(hosted.engine)
            finally:
                self._asking_since = time.monotonic()
                self.load += self._asking_since - start
            try:
                yield engine
            finally:
                self._count_asking()
                self._asking_since = None

    def _count_asking(self) -> None:
        if self._asking_since is not None:
            now = time.monotonic()
            self.ask += now - self._asking_since
            self._asking_since = now

    def read(self) -> tuple[int, int, Times]:
        """Bytes written, bytes shared and seconds since the last reading."""
        self._count_asking()
        cost = self.n_written, self.n_shared, Times(write=self.write, load=self.load, ask=self.ask)
        self._clear()
        return cost


# -- the records ---------------------------------------------------------------------------------


def _outcome(job: Job, step: Step, evaluation: Evaluation, meter: Meter) -> Outcome:
    candidate = job.candidate
    answers = tuple(
        ItemAnswer(candidate=candidate.key, stage=step.stage, **given.fields(), **_loops(given))
        for given in evaluation.answers
    )
    n_written, n_shared, seconds = meter.read()
    result = StageResult(
        candidate=candidate.key,
        spec=candidate.spec,
        windows=candidate.windows,
        extra_layers=candidate.n_added,
        is_base=candidate.is_base,
        stage=step.stage,
        status=evaluation.status,
        reason=evaluation.reason,
        measures=evaluation.measures,
        n_items=len(answers),
        scores=_means((a.family, a.score) for a in answers),
        soft_scores=_means((a.family, a.soft_score) for a in answers),
        bytes_written=n_written,
        bytes_shared=n_shared,
        engine_seconds=seconds.load + seconds.ask,
        seconds=seconds,
        log=evaluation.log,
    )
    return Outcome(result, answers)


def _loops(given: Answer) -> dict[str, Any]:
    """How many thoughts were cut off while they looped: nothing else ends a greedy loop."""
    if not given.thoughts:
        return {}
    cut = [thought.text for thought in given.thoughts if thought.is_cut]
    return {"thoughts_looping": sum(find_loop(text) is not None for text in cut)}


def _means(values: Iterator[tuple[str, float | None]]) -> dict[str, float]:
    families: dict[str, list[float]] = {}
    for family, value in values:
        if value is not None:
            families.setdefault(family, []).append(value)
    return {family: sum(known) / len(known) for family, known in families.items()}
