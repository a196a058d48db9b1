"""Random layer maps of every architecture: those written are exact, those refused deserve it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rys_gguf import LayerMap, Model, Plan, Refused
from rys_gguf.errors import EngineFailed
from scripts.naive import naive_plan
from tests import engine as server
from tests import random_maps, tiny
from tests.direct import DirectEngine
from tests.random_maps import CLOSE, CONFIRMED, EXACT, OVER, WRONG, Case, judge
from tests.strategies import map_cases

TOKENS = [1, *range(40, 60)]


@pytest.fixture(scope="module")
def engine() -> Iterator[DirectEngine]:
    """One child process with llama.cpp."""
    with DirectEngine() as engine:
        yield engine


@pytest.mark.no_cover  # many times the same lines, which would take three times as long
@pytest.mark.parametrize("arch", sorted(tiny.ARCHITECTURES.keys() - tiny.LIKE_OTHERS))
@settings(
    max_examples=5,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_random_maps_are_exact_or_deserve_their_refusal(
    engine: DirectEngine, arch: str, data: st.DataObject
) -> None:
    """A small sample; scripts/random_maps.py takes as many as you like."""
    case = data.draw(map_cases(arch, 20))
    judgement = judge(case, engine)
    assert judgement.outcome not in (WRONG, OVER), f"{case.as_json()}: {judgement.why}"


@pytest.mark.parametrize(
    ("case", "outcome"),
    [
        (Case("llama", 4, (0, 1, 1, 3), n_shards=2, split=True), EXACT),
        (Case("qwen35", 8, (0, 1, 2, 3, 3, 4, 5, 6, 7), "explicit", n_mtp=1), EXACT),
        (Case("bert", 3, (0, 1, 1, 2)), EXACT),
        (Case("gemma3", 61, (*range(61), 60), "explicit"), CLOSE),
        (Case("smollm3", 8, (0, 1, 2, 2, 3, 4, 5, 6, 7)), CONFIRMED),
    ],
)
def test_cases_whose_judgement_is_known(engine: DirectEngine, case: Case, outcome: str) -> None:
    """Every outcome that a right program has can be reached."""
    assert judge(case, engine).outcome == outcome
    assert Case.from_json(case.as_json()) == case


def test_a_wrong_file_is_noticed(engine: DirectEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the rules, a layer that changes its kind makes the case wrong."""

    def plan(model: Model, layer_map: LayerMap, **_: Any) -> Plan:
        return naive_plan(model, layer_map)

    monkeypatch.setattr(random_maps, "make_plan", plan)
    monkeypatch.setattr(random_maps, "find_problems", lambda *_: [])
    judgement = judge(Case("smollm3", 8, (0, 1, 2, 2, 3, 4, 5, 6, 7)), engine)
    assert judgement.outcome == WRONG
    assert judgement.why.startswith("proof: ")


def test_a_refusal_without_reason_is_noticed(
    engine: DirectEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map that any plain rewrite gets right was refused for nothing."""

    def refuse(*_: Any, **__: Any) -> Plan:
        raise Refused("for nothing")

    monkeypatch.setattr(random_maps, "make_plan", refuse)
    assert judge(Case("llama", 4, (0, 1, 1, 2, 3)), engine).outcome == OVER


def test_the_direct_engine_computes_what_the_server_does(
    engine: DirectEngine, tmp_path: Path
) -> None:
    """The same log-probabilities up to rounding, and one row of logits for every prefix."""
    path = tiny.write(tmp_path / "m.gguf", "gemma3", 8)
    with engine.open(path):
        ours = engine.logprobs(TOKENS, tiny.N_VOCAB)
    assert ours == pytest.approx(
        server.logprobs(path, [TOKENS], options=server.OPTIONS)[0], abs=1e-4
    )
    logits = engine.logits(path, TOKENS)
    assert logits.shape == (len(TOKENS), tiny.N_VOCAB)
    assert np.abs(np.diff(logits, axis=0)).max(axis=1).min() > 0.1


def test_the_direct_engine_survives_what_does_not_run(engine: DirectEngine, tmp_path: Path) -> None:
    """A model that does not load, and one that aborts the process, raise llama.cpp's message."""
    path = tmp_path / "m.gguf"
    path.write_bytes(b"nonsense")
    with pytest.raises(EngineFailed, match="invalid magic characters"):
        engine.logits(path, TOKENS)
    tiny.write(path, "llama", 2, extra={".block_count": 0})
    with pytest.raises(EngineFailed, match="GGML_ASSERT"):
        engine.logits(path, TOKENS)
    assert engine.logits(tiny.write(path, "llama", 2), TOKENS).shape[0] == len(TOKENS)
