"""A tail is what follows where a map leaves the base; its plan holds these layers alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf import LayerMap, Model
from rys_gguf.layers.carry import ModelRules
from rys_gguf.patch.tail import tail_of, tail_plan
from tests import tiny

N = 8
FACTORS = st.sampled_from([0.0, 0.5, 1.0])


@given(data=st.data())
def test_the_base_and_a_tail_are_the_map(data: st.DataObject) -> None:
    """As many layers of the base as there can be, and what follows them; never all or none."""
    sources = data.draw(st.lists(st.integers(0, N - 1), min_size=1, max_size=2 * N))
    n_base = data.draw(st.integers(0, N))
    sources = [*range(n_base), *sources]
    damping = data.draw(st.lists(FACTORS, min_size=len(sources), max_size=len(sources)))
    damping[:n_base] = [1.0] * n_base
    layer_map = LayerMap(N, tuple(sources), tuple(damping))
    found = tail_of(layer_map)
    as_in_base = [layer_map[k] == k and layer_map.damp(k) == 1 for k in range(len(layer_map))]
    if found is None:
        assert not as_in_base[0] or all(as_in_base[:N])
        return
    n_same, tail = found
    assert 0 < n_same < N
    assert all(as_in_base[:n_same])
    assert not as_in_base[n_same]
    assert (*range(n_same), *tail.sources) == layer_map.sources
    assert [tail.damp(k) for k in range(len(tail))] == damping[n_same:]


def test_windows_that_begin_together_share_a_tail() -> None:
    """It begins with their first layer, wherever they end; the last layer has none behind it."""
    found = [tail_of(LayerMap.from_blocks([(3, end)], N)) for end in range(4, N + 1)]
    shared = LayerMap(N, tuple(range(3, N)))
    assert found == [*((end, shared) for end in range(4, N)), None]


@pytest.mark.parametrize("arch", ["llama", "gpt-oss"])
def test_a_plan_has_the_layers_of_the_tail_alone(tmp_path: Path, arch: str) -> None:
    """And no record of a map: nobody is given such a model."""
    tail = LayerMap(N, tuple(range(3, N)))
    with Model(tiny.write(tmp_path / "m.gguf", arch, N)) as model:
        plan = tail_plan(model, ModelRules.of(model), tail)
        assert plan is not None
        assert plan.layer_map == tail
        values = {kv.key: kv.value for kv in plan.header.kvs}
        assert values[f"{arch}.block_count"] == N - 3
        assert not any(key.startswith("rys.") for key in values)


@pytest.mark.parametrize(("arch", "start"), [("gemma4", 3), ("gpt-oss", N - 1)])
def test_not_every_tail_is_a_model(tmp_path: Path, arch: str, start: int) -> None:
    """Layers of Gemma 4 take more than one input; llama.cpp aborts on gpt-oss without a window."""
    tail = LayerMap(N, tuple(range(start, N)))
    with Model(tiny.write(tmp_path / "m.gguf", arch, N)) as model:
        assert tail_plan(model, ModelRules.of(model), tail) is None
