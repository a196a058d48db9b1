"""Windows computed from the base's inputs equal the whole variants, bit for bit."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from rys_gguf import LayerMap, Model, make_plan
from rys_gguf.checks import opener
from rys_gguf.checks.pointers import loaded_plan
from rys_gguf.engines.base import LIVE, EngineOptions, Question
from rys_gguf.engines.live.batches import Prompt
from rys_gguf.engines.live.context import Logits
from rys_gguf.engines.live.engine import LiveEngine
from rys_gguf.engines.live.loaded import Loaded, batches_of
from rys_gguf.engines.live.session import Session
from rys_gguf.engines.live.tails import Tails
from rys_gguf.errors import EngineFailed
from rys_gguf.layers.architectures import ARCHITECTURES
from rys_gguf.layers.carry import ModelRules
from rys_gguf.layers.schedule import Schedule
from rys_gguf.patch.plan import Plan
from rys_gguf.patch.tail import tail_plan
from rys_gguf.search.hosts.base import Workplace
from rys_gguf.search.hosts.live import LiveHost
from tests import tiny

N = 8
OPTIONS = EngineOptions(n_ctx=256, n_threads=1, load_seconds=60, answer_seconds=60)
WITH_TAILS = sorted(name for name, arch in ARCHITECTURES.items() if arch.tails)
# All begin at layer 4, where the layers of every kind of these models are behind.
START, ENDS = 4, (5, 6, 7)
FROM_START = LayerMap(N, tuple(range(START, N)))


def _prompts() -> list[Prompt]:
    """Prompts of unequal length, some of which begin alike."""
    tokens = itertools.cycle(range(3, 250, 7))
    shared = tuple(itertools.islice(tokens, 30))
    own = [tuple(itertools.islice(tokens, n)) for n in (1, 5, 23, 40, 2)]
    return [*(shared + tail for tail in own[:3]), shared, own[3], own[4]]


@contextmanager
def _session(path: Path, options: EngineOptions = OPTIONS) -> Iterator[Session]:
    session = Session(path, options)
    try:
        session.start()
        yield session
    finally:
        session.close()


def _equal(a: Sequence[Logits], b: Sequence[Logits]) -> bool:
    return all(np.array_equal(x, y) and np.isfinite(x).all() for x, y in zip(a, b, strict=True))


def _whole(session: Session, model: Model, window: tuple[int, int], *args: Any) -> list[Logits]:
    layer_map = LayerMap.from_blocks([window], model.n_trunk)
    plan = make_plan(model, layer_map, schedule=Schedule.EXPLICIT)
    with loaded_plan(session, plan) as variant:
        return variant.logits(*args)


@pytest.mark.parametrize("arch", WITH_TAILS)
def test_the_windows_of_a_tail_are_the_whole_variants(tmp_path: Path, arch: str) -> None:
    """What the table says has tails has them; prompts share beginnings and batches."""
    model = Model(tiny.write(tmp_path / "m.gguf", arch, N))
    plan = tail_plan(model, ModelRules.of(model), FROM_START)
    assert plan is not None
    prompts = _prompts()
    with _session(model.files[0].path) as session, loaded_plan(session, plan) as tail:
        tails = Tails(session, N, tiny.N_EMBD)
        base = session.base.logits(prompts)
        for end, rows in zip(ENDS, tails.logits(tail, ENDS, prompts), strict=True):
            whole = _whole(session, model, (START, end), prompts)
            assert not _equal(whole, base)
            assert _equal(rows, whole)


def test_the_base_is_computed_once_while_there_is_room(tmp_path: Path) -> None:
    """Inputs that no longer fit are forgotten, and computed again where they are needed."""
    model = Model(tiny.write(tmp_path / "m.gguf", "llama", N))
    plan = tail_plan(model, ModelRules.of(model), FROM_START)
    assert plan is not None
    one, other = _prompts()[:4], _prompts()[4:]
    with _session(model.files[0].path) as session, loaded_plan(session, plan) as tail:
        n_tokens = sum(batch.n_tokens for batch in batches_of(_prompts()))
        needed = n_tokens * (N - 1) * 4 * tiny.N_EMBD
        roomy, tight = (Tails(session, N, tiny.N_EMBD, n) for n in (needed, needed - 1))
        found = [
            tails.logits(tail, ENDS, prompts)
            for tails in (roomy, tight)
            for prompts in (one, other, one)
        ]
        assert roomy.n_base_tokens == n_tokens
        assert tight.n_base_tokens > n_tokens
        assert not tight.has_room(_prompts())
        for rows, again in zip(found[:3], found[3:], strict=True):
            assert all(_equal(a, b) for a, b in zip(rows, again, strict=True))


class _Opened:
    """The maps of the plans that were opened."""

    def __init__(self) -> None:
        self.maps: list[LayerMap] = []

    def __call__(self, session: Session, plan: Plan) -> AbstractContextManager[Loaded]:
        self.maps.append(plan.layer_map)
        return loaded_plan(session, plan)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> _Opened:
    """What a host opens."""
    spy = _Opened()
    monkeypatch.setattr(opener, "loaded_plan", spy)
    return spy


@pytest.fixture
def host(tmp_path: Path) -> Iterator[LiveHost]:
    """A live host with a model of N layers."""
    model = Model(tiny.write(tmp_path / "m.gguf", "llama", N))
    options = replace(OPTIONS, kind=LIVE)
    made = LiveHost(Workplace(model, tmp_path, "host", Schedule.PORTABLE, options))
    yield made
    made.close()


def _asked(host: LiveHost, spec: str) -> list[list[float]]:
    """Probabilities of some options after all prompts."""
    questions = [Question(prompt, (5, 9, 77)) for prompt in _prompts()]
    with host.open(LayerMap.parse(spec, N)) as hosted, hosted.engine as engine:
        return engine.probabilities_of(questions)


def test_a_host_asks_windows_of_one_start_through_one_tail(host: LiveHost, opened: _Opened) -> None:
    """The scores are those of whole variants; the first of these is opened for comparison."""
    specs = [f"blocks:3,{end}" for end in range(4, N)]
    found = [_asked(host, spec) for spec in specs]
    assert [len(layer_map) for layer_map in opened.maps] == [N - 3, N + 1]
    with patch.object(Tails, "has_room", return_value=False):
        assert found == [_asked(host, spec) for spec in specs]
    assert [len(layer_map) for layer_map in opened.maps[2:]] == [N + 1, N + 2, N + 3, N + 4]


def test_a_damped_window_has_a_tail_of_its_own(host: LiveHost, opened: _Opened) -> None:
    """Its copies are the first layers of it; the scores are those of the whole variant."""
    specs = ["blocks:3,5@0.5", "blocks:3,5", "blocks:3,6@0.5", "blocks:3,6@0.25"]
    found = [_asked(host, spec) for spec in specs]
    assert [len(layer_map) for layer_map in opened.maps] == [N - 3, N + 2, *[N - 3] * 3]
    assert [layer_map.damping[:4] for layer_map in opened.maps if len(layer_map) < N] == [
        (0.5, 0.5, 1, 1), (), (0.5, 0.5, 0.5, 1), (0.25, 0.25, 0.25, 1),
    ]  # fmt: skip
    with patch.object(LayerMap, "windows", return_value=None):
        assert found == [_asked(host, spec) for spec in specs]
    assert len({str(scores) for scores in found}) == len(specs)


def test_what_is_repeated_otherwise_has_a_tail_of_its_own(host: LiveHost, opened: _Opened) -> None:
    """Three passes, layer by layer, two blocks, damped or not: the bits are the whole variant's."""
    specs = [
        "blocks:3,5;3,5", "blocks:2,3;3,4;4,5", "blocks:2,4;5,6", "blocks:2,4@0.5;5,6@0.5",
        f"blocks:2,4;5,{N}",
    ]  # fmt: skip
    found = [_asked(host, spec) for spec in specs]
    tails = [layer_map.sources for layer_map in opened.maps if layer_map[0]]
    assert tails == [
        (3, 4, 3, 4, 5, 6, 7), (2, 3, 3, 4, 4, 5, 6, 7), *[(2, 3, 4, 5, 5, 6, 7)] * 2,
        (2, 3, 4, 5, 6, 7, 5, 6, 7),
    ]  # fmt: skip
    with patch.object(Tails, "has_room", return_value=False):
        assert found == [_asked(host, spec) for spec in specs]
    assert len({str(scores) for scores in found}) == len(specs)


def test_what_ends_with_the_last_layer_is_a_whole_variant(host: LiveHost, opened: _Opened) -> None:
    """llama.cpp does not give its output; and a path with fewer layers is no window."""
    for spec in (f"blocks:3,{N}", "layers:0..3,5..7"):
        _asked(host, spec)
        assert opened.maps[-1] == LayerMap.parse(spec, N)


def test_text_is_written_by_the_whole_variant(host: LiveHost, opened: _Opened) -> None:
    """It is opened for the first text, and freed with the window."""
    layer_map = LayerMap.parse("blocks:3,5", N)
    _asked(host, "blocks:3,4")
    opened.maps.clear()
    with host.open(layer_map) as hosted, hosted.engine as engine:
        engine.logprobs(_prompts()[0], tiny.N_VOCAB)
        written = engine.generate("abc", 8)
        engine.generate("abc", 8)
    assert opened.maps == [layer_map]
    with (
        patch.object(LayerMap, "windows", return_value=None),
        host.open(layer_map) as hosted,
        hosted.engine as engine,
    ):
        assert engine.generate("abc", 8) == written


def test_tails_that_compute_something_else_are_left_alone(host: LiveHost) -> None:
    """The first one is found out, and all scores come from whole variants."""

    def others(_: Tails, tail: Loaded, __: Any, *asked: Any) -> list[list[Logits]]:
        return [tail.logits(*asked)]

    with patch.object(Tails, "logits", autospec=True, side_effect=others) as logits:
        found = [_asked(host, f"blocks:3,{end}") for end in (4, 5)]
    assert logits.call_count == 1
    with patch.object(LayerMap, "windows", return_value=None):
        assert found == [_asked(host, f"blocks:3,{end}") for end in (4, 5)]


def test_tails_that_end_the_engine_are_not_tried_again(host: LiveHost) -> None:
    """One candidate is lost with the process; those after it are whole variants."""

    def dies(tails: Tails, *_: Any) -> list[list[Logits]]:
        os.kill(host._session.pid, signal.SIGKILL)
        tails._link.ask("about")
        return []

    with patch.object(Tails, "logits", autospec=True, side_effect=dies) as logits:
        with pytest.raises(EngineFailed):
            _asked(host, "blocks:3,4")
        assert _asked(host, "blocks:3,4")
    assert logits.call_count == 1


def _asked_while_it_dies(host: LiveHost) -> None:
    with host.open(LayerMap.parse("blocks:3,5", N)) as hosted, hosted.engine as engine:
        assert isinstance(engine, LiveEngine)
        os.kill(engine.pid, signal.SIGKILL)
        engine.logprobs(_prompts()[0], tiny.N_VOCAB)


def test_a_new_process_gets_new_tails(host: LiveHost, opened: _Opened) -> None:
    """After the engine has died, the next window is as good as the one before."""
    found = _asked(host, "blocks:3,5")
    with pytest.raises(EngineFailed):
        _asked_while_it_dies(host)
    assert _asked(host, "blocks:3,5") == found
