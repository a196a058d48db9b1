"""Measure the base as the reference of all candidates, and turn all prompts into tokens."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rys_gguf.engines.base import LIVE, Engine
from rys_gguf.engines.find import open_kept_engine
from rys_gguf.engines.live.engine import LiveEngine
from rys_gguf.engines.template import has_template
from rys_gguf.errors import RysError
from rys_gguf.formats.model import Model
from rys_gguf.layers.carry import ModelRules
from rys_gguf.probes.preflight import require_answers, require_repeatable
from rys_gguf.probes.requests import Compiler
from rys_gguf.probes.score import best_constant
from rys_gguf.probes.thinking import thinking_of
from rys_gguf.runs.stage import FINAL, GENERATE, Stage, round_stage
from rys_gguf.search.filters import reference, replies
from rys_gguf.search.job import HELDOUT, SEARCH, Step
from rys_gguf.search.objective import STAGES
from rys_gguf.search.pace import Pace, Stopwatch, item_seconds
from rys_gguf.search.settings import SweepRequest
from rys_gguf.search.setup import Limits, Setup
from rys_gguf.text import printable

# Plain text of several kinds, written for this. How a model continues it shows any damage.
TEXTS = (
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
# Each text is cut at these fractions of its tokens; the model goes on from each cut.
CUTS = (0.6, 1.0)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A sweep's setup, the engine's own name for its build, and how fast the base is in it."""

    setup: Setup
    build: str
    pace: Pace


def prepare(request: SweepRequest, progress: Callable[[], None] = lambda: None) -> Prepared:
    """The setup of a sweep, from one session with the base's engine.

    `progress` is called after each item. Raises RysError, among others Unsuitable where the
    preflight finds that answers would say nothing.
    """
    settings, options = request.settings, request.options
    chats = has_template(request.model, options)
    items = {SEARCH: request.suites[0].items, HELDOUT: request.suites[1].items}
    watch = Stopwatch()
    with contextlib.ExitStack() as stack:
        opened = open_kept_engine(request.model, options)
        engine, loading = watch.time(lambda: stack.enter_context(opened))
        thinking = None
        if settings.thinking:
            thinking = thinking_of(
                engine, items[HELDOUT], settings.thinking, chats=chats, n_ctx=options.n_ctx
            )
        compiler = Compiler(engine, chats=chats)
        requests = {}
        for name, members in items.items():
            compiled = []
            for item in members:
                compiled.append(compiler.compile(item))
                progress()
            requests[name] = tuple(compiled)
        if settings.preflight:
            require_repeatable(engine, items[SEARCH], requests[SEARCH])
            if settings.generate:
                require_answers(engine, items[HELDOUT], chats=chats, thinking=thinking)
        texts = tuple(_cut_texts(engine))
        likely, reading = watch.time(lambda: reference(engine, texts))
        replied, replying = watch.time(lambda: replies(engine, chats=chats))
        setup = Setup(
            model=str(request.model),
            # Workers of a cluster start in other folders.
            folder=str((request.folder / "work").absolute()),
            schedule=settings.schedule,
            options=options,
            chats=chats,
            items=items,
            requests=requests,
            baselines={name: best_constant(members) for name, members in items.items()},
            texts=texts,
            reference=likely,
            replies=replied,
            limits=Limits(settings.max_divergence, settings.min_agreement),
            thinking=thinking,
        )
        if not all(math.isfinite(v) for p in setup.reference for v in p.values()):
            raise RysError(f"{printable(request.model)}: the model's probabilities are not numbers")
        pace = Pace(
            item={
                SEARCH: _seconds(round_stage(1), SEARCH, engine, setup, watch),
                HELDOUT: _seconds(FINAL, HELDOUT, engine, setup, watch),
            },
            words=_seconds(GENERATE, HELDOUT, engine, setup, watch) if settings.generate else 0.0,
            texts=reading,
            replies=replying,
            # A live engine loads nothing for a window.
            load=0.0 if options.kind == LIVE else loading,
            as_tails=_computes_tails(engine),
        )
        return Prepared(setup, engine.build, pace)


def _seconds(stage: Stage, suite: str, engine: Engine, setup: Setup, watch: Stopwatch) -> float:
    """The seconds that an item of a suite takes as a stage asks it."""

    def ask(numbers: Sequence[int]) -> None:
        STAGES[stage.name](engine, setup, Step(stage, suite, tuple(numbers)))

    return item_seconds(len(setup.items[suite]), ask, watch)


def _computes_tails(engine: Engine) -> bool:
    """Whether windows are computed from their first layer on, on top of what the base computes."""
    if not isinstance(engine, LiveEngine) or not engine.gives_layer_inputs:
        return False
    with Model(engine.model) as model:
        return bool(ModelRules.of(model).arch.tails)


def _cut_texts(engine: Engine) -> Iterator[tuple[int, ...]]:
    for text in TEXTS:
        tokens = engine.tokenize(text)
        for cut in CUTS:
            yield tuple(tokens[: max(2, round(len(tokens) * cut))])
