"""Live variants compute what their files compute, and the engine writes what a server writes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from rys_gguf import LayerMap, Model, make_plan, write_plan
from rys_gguf.checks.smoke import PROMPTS
from rys_gguf.engines.base import LIVE, SERVER, EngineOptions, Generation, Writing
from rys_gguf.engines.find import open_engine
from rys_gguf.engines.live.session import Session
from tests import tiny
from tests.engines.contract import OPENING
from tests.live_maps import (
    NO_MEMORY,
    OPTIONS,
    SAME,
    WRONG,
    answers,
    compare,
    hollow_file,
    of_file,
    outcomes,
)
from tests.random_maps import Case


@contextlib.contextmanager
def session_of(path: Path) -> Iterator[Session]:
    """A session with the model loaded."""
    session = Session(path, OPTIONS)
    try:
        session.start()
        yield session
    finally:
        session.close()


@pytest.mark.parametrize("quantize", [None, gguf.GGMLQuantizationType.Q4_0])
@pytest.mark.parametrize("arch", ["llama", "gemma4", "qwen35moe"])
def test_damped_copies_hold_their_scales_themselves(
    tmp_path: Path, arch: str, quantize: gguf.GGMLQuantizationType | None
) -> None:
    """The live variant computes what its file computes: only these few numbers are its own."""
    source = tiny.write(tmp_path / "m.gguf", arch, 8, quantize=quantize)
    with Model(source) as model:
        plan = make_plan(model, LayerMap.parse("blocks:0,4@0.3", 8))
        out = write_plan(plan, tmp_path / "out.gguf").paths[0]
        file = hollow_file(plan, tmp_path / "hollow.gguf")
        assert sum(not tensor.is_copy for tensor in plan.tensors) < 20
    with session_of(source) as session, session.variant(file) as variant:
        live = answers(variant)
    assert all(map(np.array_equal, live, of_file(out)))


@pytest.mark.parametrize(
    ("case", "kind", "parts"),
    [
        (Case("llama", 4, (0, 1, 1, 3), n_shards=2, split=True), SAME, {"shards", "split"}),
        (Case("llama", 4, (0, 1, 2, 3)), SAME, set()),
        (Case("llama", 6, (0, 1, 2, 1, 2, 3, 4, 3, 4, 5), quantize="Q4_0"), SAME, {"quantized"}),
        (
            Case("qwen35", 8, (0, 1, 2, 3, 3, 4, 5, 6, 7), "explicit", n_mtp=1),
            SAME,
            {"MTP", "explicit"},
        ),
        (Case("gemma3", 61, (*range(61), 60), "explicit"), SAME, {"rescaled", "explicit"}),
        (Case("gemma4", 8, (*range(8), *range(4, 8))), SAME, {"gathered"}),
        (Case("jamba", 8, (*range(8), 4, 5, 6, 7)), SAME, set()),
        (Case("lfm2", 6, (0, 1, 2, 1, 2, 3, 4, 5)), SAME, set()),
        (Case("deepseek2", 6, (0, 1, 2, 4, 3, 3, 5)), SAME, set()),
        (Case("gpt-oss", 4, (0, 1, 0, 1, 2, 3), quantize="Q8_0"), SAME, {"quantized"}),
        (Case("bert", 3, (0, 1, 1, 2)), NO_MEMORY, set()),
        (Case("llada", 3, (0, 1, 1, 2)), NO_MEMORY, set()),
    ],
    ids=lambda value: value.arch if isinstance(value, Case) else "",
)
def test_a_variant_computes_what_its_file_computes(case: Case, kind: str, parts: set[str]) -> None:
    """Bit for bit; scripts/live_zoo.py takes as many architectures and maps as you like."""
    outcome = compare(case)
    assert (outcome.kind, set(outcome.parts)) == (kind, parts), outcome.why


@pytest.mark.parametrize("arch", ["afmoe", "qwen3next"])
def test_random_maps_compute_what_their_files_compute(arch: str) -> None:
    """Whatever the map, and however the model is stored."""
    wrong = [f"{c.as_json()}: {o.why}" for c, o in outcomes(arch, 2, 1, 12) if o.kind == WRONG]
    assert not wrong


def test_a_variant_with_other_weights_is_told_from_its_file(tmp_path: Path) -> None:
    """The comparison sees a single tensor that has the data of another layer."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 4)
    with Model(path) as model:
        file = hollow_file(make_plan(model, LayerMap.parse("blocks:1,3", 4)), tmp_path / "h.gguf")
    name = "blk.3.ffn_up.weight"
    swapped = [(a, "blk.0.ffn_up.weight" if a == name else b) for a, b in file.pairs]
    assert swapped != list(file.pairs)
    with session_of(path) as session:
        with session.variant(file) as variant:
            right = answers(variant)
        with session.variant(replace(file, pairs=tuple(swapped))) as variant:
            wrong = answers(variant)
    assert not any(map(np.array_equal, right, wrong))


# -- texts ----------------------------------------------------------------------------------------


def texts(model: Path, kind: str, tasks: list[Writing]) -> list[Generation]:
    """What an engine of that kind writes."""
    with open_engine(model, EngineOptions(kind=kind, n_ctx=256, n_threads=1)) as engine:
        return engine.write(tasks)


def test_it_writes_what_a_server_writes(smollm2: Path) -> None:
    """To the prompts of a smoke test, with and without a template, up to a stop text or not."""
    chosen = PROMPTS[1:3]
    tasks = [Writing(p.question, 10, chat=True, with_nll=True) for p in chosen]
    tasks += [Writing(p.as_text, 10, with_nll=True) for p in chosen[:1]]
    tasks.append(Writing(OPENING, 12, stop=(",", "."), with_nll=True))
    require_same_texts(smollm2, tasks)


def test_it_writes_what_a_server_writes_with_a_large_vocabulary(gemma3: Path) -> None:
    """Gemma 3 has windows, and tokens that are parts of a character."""
    tasks = [Writing(PROMPTS[5].question, 10, chat=True, with_nll=True)]
    tasks.append(Writing("\U0001f600\U0001f603\U0001f604 \U0001f64c", 8, with_nll=True))
    require_same_texts(gemma3, tasks)


def require_same_texts(model: Path, tasks: list[Writing]) -> None:
    """Text, tokens and ending are the same, and mean nlls but for rounding."""
    live, server = (texts(model, kind, tasks) for kind in (LIVE, SERVER))
    for ours, theirs in zip(live, server, strict=True):
        assert replace(ours, mean_nll=None) == replace(theirs, mean_nll=None)
        assert ours.mean_nll == pytest.approx(theirs.mean_nll, abs=0.02)
