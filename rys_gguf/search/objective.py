"""One candidate at a time: make the file, start the engine, ask, and say what came of it.

A worker needs nothing but its `Setup` and a `Job`, and both are plain data: the same function runs
in a thread of the sweep and in a process on another machine. What it finds is returned as lines
for the run; it writes nothing but the candidate's file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rys_gguf.checks.smoke import PROMPTS, compare
from rys_gguf.checks.smoke import Answer as Said
from rys_gguf.checks.smoke import answer as say
from rys_gguf.checks.verify import find_problems
from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.server import Engine
from rys_gguf.errors import EngineFailed, RysError
from rys_gguf.formats.model import Model
from rys_gguf.layers.schedule import Schedule
from rys_gguf.patch.plan import make_plan
from rys_gguf.patch.writer import write_plan
from rys_gguf.probes.ask import Answer, TokenizedRequest, answer, answer_line, ask
from rys_gguf.probes.item import Item
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.storage import DAMAGE, GENERATE, LOOPS, SPEED
from rys_gguf.search.hosts.working_file import CandidateFile
from rys_gguf.text import printable

SEARCH, HELDOUT = "search", "heldout"

# The base's most likely tokens that a divergence looks at; what they leave is one more outcome.
_TOP = 100
# Of a candidate more, as what the base likes may stand far down.
_DEEP = 500
# Prompts of the smoke test that the loop stage uses, and tokens an answer. It is a filter, for
# which the first sentences are enough; `rys-gguf smoke` and `validate` use all.
_LOOP_PROMPTS = (PROMPTS[0], PROMPTS[3], PROMPTS[4], PROMPTS[7])
_LOOP_TOKENS = 64
_MORE_LOOPS = 2
_SPEED_TOKENS = 32

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setup:
    """What all jobs of a sweep have in common. Picklable.

    `items` and `questions` are those of a suite, by its name ("search" or "heldout"), in order.
    `texts` are token sequences after which a candidate is compared with the base; `reference` is
    what the base gives there; `said` are its answers of the loop stage. `in_full` writes a whole
    file for every candidate: what `scripts/sweep_cost.py` measures a sweep against.
    """

    model: str
    folder: str
    schedule: Schedule
    options: EngineOptions
    chats: bool
    items: dict[str, tuple[Item, ...]]
    questions: dict[str, tuple[tuple[TokenizedRequest, ...], ...]]
    baselines: dict[str, float]
    texts: tuple[tuple[int, ...], ...]
    reference: tuple[dict[int, float], ...] = ()
    said: tuple[Said, ...] = ()
    max_divergence: float = 1.0
    min_agreement: float = 0.5
    in_full: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """A stage of a job: `items` are positions in the suite `suite`."""

    stage: str
    suite: str = SEARCH
    items: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """A candidate, and the stages to take it through while its engine runs.

    `real_file`: on the file that `apply` would write, verified, instead of the working file.
    """

    candidate: Candidate
    steps: tuple[Step, ...]
    real_file: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """A stage that is over: its line for results.jsonl and those for items.jsonl."""

    result: Line
    items: tuple[Line, ...]


class Worker:
    """Runs jobs one after another, with a file and an engine of its own.

    `close` it in the end; `stop` ends an engine that runs, from another thread.
    """

    def __init__(self, setup: Setup, name: str, options: EngineOptions | None = None) -> None:
        self._setup = setup
        self._options = options or setup.options
        folder = Path(setup.folder)
        self._path = folder / f"{name}.gguf"
        self._real = folder / f"{name}-real.gguf"
        self._model = Model(setup.model)
        self._file = CandidateFile(self._model, self._path, setup.schedule)
        self._engine: Engine | None = None

    def close(self) -> None:
        """Close the model and remove the working files."""
        self._model.close()
        for path in (self._path, self._real):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def stop(self) -> None:
        """End the engine, whatever it is doing; the job then fails."""
        # Looked at once: the worker's own thread may let go of it meanwhile.
        if (engine := self._engine) is not None:
            engine.close()

    def run(self, job: Job) -> Iterator[Outcome]:
        """The job's stages as they end. A stage that drops the candidate or fails is the last.

        Raises OutputFailed where the disk is full: that says nothing of the candidate.
        """
        start = time.monotonic()
        path, n_written, n_shared = self._make(job)
        writing = time.monotonic() - start
        cost: Line = {"bytes_written": n_written, "bytes_shared": n_shared}
        started = time.monotonic()
        stage = job.steps[0].stage
        try:
            # Known before it is loaded, so that `stop` ends it then too.
            self._engine = Engine(path, self._options)
            with self._engine as engine:
                loading = time.monotonic() - started
                for step in job.steps:
                    stage = step.stage
                    found = self._stage(engine, step)
                    now = time.monotonic()
                    cost |= {
                        "engine_seconds": now - started,
                        "seconds": {
                            "write": writing, "load": loading, "ask": now - started - loading
                        },
                    }  # fmt: skip
                    yield _outcome(job, step, found, cost)
                    if found.reason is not None:
                        return
                    started, writing, loading = now, 0.0, 0.0
                    cost = {"bytes_written": 0, "bytes_shared": 0}
        except EngineFailed as e:
            failed = _Found(reason=str(e).splitlines()[0], status="failed", log=e.log)
            cost |= {
                "engine_seconds": time.monotonic() - started,
                "seconds": {"write": writing, "load": 0.0, "ask": 0.0},
            }
            yield _outcome(job, Step(stage), failed, cost)
        finally:
            self._engine = None
            if job.real_file and not job.candidate.is_base:
                self._real.unlink(missing_ok=True)

    def _make(self, job: Job) -> tuple[Path, int, int]:
        """The candidate's file, and the bytes written and shared to make it."""
        layer_map = job.candidate.layer_map
        if job.candidate.is_base:
            return Path(self._setup.model), 0, 0
        if job.real_file or self._setup.in_full:
            plan = make_plan(self._model, layer_map, schedule=self._setup.schedule)
            written = write_plan(plan, self._real, force=True)
            if job.real_file and (problems := find_problems(self._real, self._setup.model)):
                raise RysError(f"{printable(self._real)}: {problems[0]}; the file was not used")
            return self._real, written.n_copied, written.n_shared
        change = self._file.become(layer_map)
        return self._path, change.n_written, change.n_shared

    # -- stages ------------------------------------------------------------------------------

    def _stage(self, engine: Engine, step: Step) -> _Found:
        if step.stage == DAMAGE:
            found = self._divergence(engine)
        elif step.stage == LOOPS:
            found = self._loops(engine)
        elif step.stage == SPEED:
            found = _Found(speed(engine, self._setup.texts[-1]))
        else:
            found = self._probes(engine, step)
        return found

    def _divergence(self, engine: Engine) -> _Found:
        setup = self._setup
        theirs = [engine.top_logprobs(text, _DEEP) for text in setup.texts]
        measures: Line = {**divergence(setup.reference, theirs)}
        reason = None
        if not math.isfinite(measures["kl"]):
            reason = "its probabilities are not numbers"
            measures["kl"] = None
        elif measures["kl"] > setup.max_divergence:
            reason = (
                f"damaged: {measures['kl']:.2f} nats from the base on plain text, "
                f"at most {setup.max_divergence:g}"
            )
        elif measures["agreement"] < setup.min_agreement:
            reason = (
                f"damaged: agrees with the base on {measures['agreement']:.0%} of next words, "
                f"at least {setup.min_agreement:.0%}"
            )
        return _Found(measures, reason=reason)

    def _loops(self, engine: Engine) -> _Found:
        said = tuple(answers_of(engine, chats=self._setup.chats))
        verdict = compare(said, self._setup.said or None)
        n_loops = sum(bool(a.findings) for a in said)
        base = sum(bool(a.findings) for a in self._setup.said)
        return _Found(
            {"loops": n_loops, "loops_base": base, "loop_prompts": len(said)},
            # Of so few answers one alone says little, however much of it repeats.
            reason=None
            if verdict.passed or n_loops < base + _MORE_LOOPS
            else f"loops: {verdict.reasons[0]}",
        )

    def _probes(self, engine: Engine, step: Step) -> _Found:
        setup = self._setup
        items, questions = setup.items[step.suite], setup.questions[step.suite]
        baseline = setup.baselines[step.suite]
        found = _Found({})
        for n in step.items:
            if step.stage == GENERATE:
                got = answer(engine, items[n], chats=setup.chats, baseline=baseline)
            else:
                got = ask(engine, items[n], questions[n], baseline)
            found.answers.append(got)
        return found


@dataclass(slots=True)
class _Found:
    """What a stage came to."""

    measures: Line = dataclasses.field(default_factory=dict)
    reason: str | None = None
    status: str = "dropped"
    log: tuple[str, ...] = ()
    answers: list[Answer] = dataclasses.field(default_factory=list)


def answers_of(engine: Engine, *, chats: bool) -> Iterator[Said]:
    """What a model writes in the loop stage."""
    for prompt in _LOOP_PROMPTS:
        yield say(engine, prompt, _LOOP_TOKENS, chats=chats)


def reference(engine: Engine, texts: Sequence[Sequence[int]]) -> tuple[dict[int, float], ...]:
    """What the base gives after every text: its most likely tokens' log-probabilities, in nats."""
    return tuple(engine.top_logprobs(text, _TOP) for text in texts)


def divergence(
    base: Sequence[dict[int, float]], theirs: Sequence[dict[int, float]]
) -> dict[str, float]:
    """Mean Kullback-Leibler divergence from the base in nats, and the share of equal top tokens.

    Over the base's listed tokens, with all others as one outcome; a token the candidate does not
    list counts with the lowest probability it does list, so that large divergences are
    underestimated.
    """
    total, agreed = 0.0, 0
    for p, q in zip(base, theirs, strict=True):
        floor = min(q.values())
        rest_p = max(1e-9, 1 - sum(map(math.exp, p.values())))
        rest_q = max(1e-9, 1 - sum(math.exp(q.get(t, floor)) for t in p))
        total += sum(math.exp(v) * (v - q.get(t, floor)) for t, v in p.items())
        total += rest_p * math.log(rest_p / rest_q)
        agreed += max(p, key=p.__getitem__) == max(q, key=q.__getitem__)
    return {"kl": total / len(base), "agreement": agreed / len(base)}


def speed(engine: Engine, tokens: Sequence[int]) -> Line:
    """Tokens per second of reading a prompt and of writing, as the engine counts them.

    The best of three: whatever else the machine does only makes it slower.
    """
    timings = [
        engine.complete(
            tokens, n_predict=_SPEED_TOKENS, temperature=0.0, ignore_eos=True, cache_prompt=False
        ).get("timings", {})
        for _ in range(3)
    ]
    return {
        name: max((t.get(key) or 0.0 for t in timings), default=0.0) or None
        for name, key in (
            ("prompt_tokens_per_second", "prompt_per_second"),
            ("tokens_per_second", "predicted_per_second"),
        )
    }


def _outcome(job: Job, step: Step, found: _Found, cost: Line) -> Outcome:
    candidate = job.candidate
    items = tuple(_item_line(candidate, step, a) for a in found.answers)
    result = {
        "candidate": candidate.key,
        "spec": candidate.spec,
        "windows": [list(w) for w in candidate.windows],
        "extra_layers": candidate.layer_map.n_added,
        "is_base": candidate.is_base,
        "stage": step.stage,
        "status": "ok" if found.reason is None else found.status,
        "reason": found.reason,
        "measures": found.measures,
        "n_items": len(items),
        "scores": _means(items, "score"),
        "credits": _means(items, "credit"),
        **cost,
        "log": list(found.log),
    }
    return Outcome(result, items)


def _item_line(candidate: Candidate, step: Step, got: Answer) -> Line:
    return {
        "candidate": candidate.key,
        "stage": step.stage,
        "scoring": "generate" if step.stage == GENERATE else "quick",
        **answer_line(got),
    }


def _means(items: Sequence[Line], key: str) -> dict[str, float]:
    families: dict[str, list[float]] = {}
    for item in items:
        if item[key] is not None:
            families.setdefault(item["family"], []).append(item[key])
    return {family: sum(values) / len(values) for family, values in families.items()}
