"""The model that stands for a large one: the engine runs it, and it outlives a repetition."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rys_gguf import LayerMap, Model, make_plan, write_plan
from scripts import synthetic
from tests.engine import logprobs

N_VOCAB = 49_152  # of SmolLM2


def test_a_synthetic_model_runs_and_so_does_its_variant(smollm2: Path, tmp_path: Path) -> None:
    """Both give numbers, for every token of the vocabulary that was borrowed, and not the same."""
    path, out = tmp_path / "m.gguf", tmp_path / "out.gguf"
    n = synthetic.write(smollm2, path, 3, 512, 512)
    with Model(path) as model:
        assert n == sum(t.n_elements for t in model.header.tensors)
        write_plan(make_plan(model, LayerMap.parse("blocks:1,2", 3)), out)
    base, variant = (logprobs(p, [[1, 50, 60, 70]], N_VOCAB)[0] for p in (path, out))
    assert np.isfinite(base).all()
    assert np.isfinite(variant).all()
    assert not np.array_equal(base, variant)


def test_the_same_arguments_write_the_same_model(smollm2: Path, tmp_path: Path) -> None:
    """Measurements on two machines are of one model."""
    for name in ("a", "b"):
        synthetic.write(smollm2, tmp_path / name, 1, 512, 512)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
