"""The real engine loads what apply writes, and computes what a model built that way computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rys_gguf import LayerMap, Model, Schedule, make_plan, write_plan
from rys_gguf.engines.find import open_engine
from rys_gguf.errors import EngineFailed
from tests import tiny
from tests.engine import OPTIONS, logprobs

CASES = [
    (24, "blocks:8,12", Schedule.PORTABLE),
    (24, "blocks:7,11", Schedule.PORTABLE),
    (24, "blocks:8,11", Schedule.EXPLICIT),
    (64, "blocks:16,20", Schedule.PORTABLE),
    (64, "blocks:15,20", Schedule.EXPLICIT),
]


@pytest.mark.parametrize("recurrent_layers", [False, True])
@pytest.mark.parametrize("n_mtp", [0, 1])
@pytest.mark.parametrize(("n", "spec", "schedule"), CASES)
def test_hybrid_variants_run_as_if_built_that_way(
    tmp_path: Path, n: int, spec: str, schedule: Schedule, n_mtp: int, recurrent_layers: bool
) -> None:
    """A written qwen35 file gives the same bits as a file built with the layers repeated."""
    source = tiny.write(
        tmp_path / "m.gguf", "qwen35", n, n_mtp=n_mtp, recurrent_layers=recurrent_layers
    )
    out = tmp_path / "out.gguf"
    layer_map = LayerMap.parse(spec, n)
    with Model(source) as model:
        write_plan(make_plan(model, layer_map, schedule=schedule), out)
    direct = tiny.write(
        tmp_path / "direct.gguf",
        "qwen35",
        n,
        sources=layer_map.sources,
        n_mtp=n_mtp,
        recurrent_layers=True,
    )
    assert np.array_equal(logprobs(out), logprobs(direct))


def test_smollm2_generates_after_the_patch(smollm2: Path, tmp_path: Path) -> None:
    """SmolLM2 with 34 layers answers."""
    out = tmp_path / "out.gguf"
    with Model(smollm2) as model:
        write_plan(make_plan(model, LayerMap.parse("blocks:10,14", 30)), out)
    with open_engine(out, OPTIONS) as engine:
        answer = engine.generate("The capital of France is", 16)
    assert len(answer.text.split()) >= 3


def test_a_file_that_does_not_load_fails_with_the_engines_log(tmp_path: Path) -> None:
    """The engine's process ends, and the error says why."""
    path = tiny.write(tmp_path / "m.gguf", "qwen35", 8, n_mtp=1, extra={".block_count": 11})
    with pytest.raises(EngineFailed, match="ended while it loaded"), open_engine(path, OPTIONS):
        pass
