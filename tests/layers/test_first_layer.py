"""Which maps may begin with a layer of another kind, whose sizes may stand for all layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rys_gguf import LayerMap, Model, Refused, Schedule, find_problems, make_plan, write_plan
from rys_gguf.checks.variant import VariantPair
from rys_gguf.errors import EngineFailed
from rys_gguf.layers.architectures import ARCHITECTURES
from rys_gguf.layers.carry import ModelRules
from tests import tiny
from tests.engine import direct_proof, logprobs
from tests.layers.metadata import meta

# Models in the engine: their lines are reached by quicker tests, and tracing doubles the time.
pytestmark = pytest.mark.no_cover

N = 12
HEADS = ".attention.head_count"
NO_SIZES = {".attention.key_length": None, ".attention.value_length": None}


def heads(numbers: list[int]) -> dict[str, Any]:
    """A key that gives each of the layers a number of heads of its own, in turn."""
    return {HEADS: numbers * (N // len(numbers))}


def is_exact(path: Path, source: Path, layer_map: LayerMap) -> bool:
    """Whether the file loads and computes what the map says; the source does load."""
    logprobs(source)
    try:
        return direct_proof(VariantPair(path, source, layer_map)).holds(1e-3)
    except EngineFailed:
        return False


# Architecture, options of the tiny model, keys, the layer that comes first as well.
EXACT: list[tuple[str, dict[str, Any], dict[str, Any], int]] = [
    ("jamba", {}, {}, 3),
    ("granitehybrid", {}, {}, 3),
    ("lfm2", {}, {}, 3),
    ("bailingmoe3", {"leading_dense": 0}, {}, 3),
    ("nemotron_h", {}, {}, 1),
    ("nemotron_h", {}, {}, 2),
    # Entries of layers without attention, which stand for no other layer where sizes are given.
    ("nemotron_h", {}, heads([3, 2, 1]), 2),
    ("granitehybrid", {}, heads([1, 1, 1, 2]), 3),
]


@pytest.mark.parametrize(("arch", "options", "extra", "first"), EXACT)
def test_a_layer_of_another_kind_may_come_first(
    tmp_path: Path, arch: str, options: dict[str, Any], extra: dict[str, Any], first: int
) -> None:
    """Where llama.cpp reads the entries of a key layer by layer, none stands for the model."""
    source, out = tmp_path / "m.gguf", tmp_path / "out.gguf"
    tiny.write(source, arch, N, extra=extra, **options)
    with Model(source) as model:
        layer_map = LayerMap.parse(f"layers:{first},0..{N - 1}", N)
        write_plan(make_plan(model, layer_map), out)
    assert find_problems(out, source) == []
    assert direct_proof(VariantPair(out, source, layer_map)).holds()


# Architecture, keys of a model whose attention layers come first, where the number is 2.
WRONG: list[tuple[str, dict[str, Any]]] = [
    # Without heads in layer 0 llama.cpp takes the model for one without attention.
    ("jamba", {HEADS: 0}),
    ("granitehybrid", {HEADS: 0}),
    ("lfm2", {HEADS: 0}),
    ("nemotron_h", {HEADS: 0}),
    # jamba.cpp and lfm2.cpp take the heads of layer 0 in every layer.
    ("jamba", {HEADS: 1}),
    ("lfm2", {HEADS: 1}),
    # The size of a head follows from those of layer 0 where no key gives it.
    ("granitehybrid", {HEADS: 1, **NO_SIZES}),
    ("nemotron_h", {HEADS: 1, **NO_SIZES}),
]


@pytest.mark.parametrize(("arch", "extra"), WRONG)
def test_a_layer_that_would_size_the_others_is_refused(
    tmp_path: Path, arch: str, extra: dict[str, Any]
) -> None:
    """The plain rewrite does not load, or computes something else."""
    period, attention = (3, 1) if arch == "nemotron_h" else (4, 3)
    layers = [attention, *(n for n in range(N) if n != attention)]
    layer_map = LayerMap.parse(f"layers:1,0..{N - 1}", N)

    def written(name: str, sources: list[int]) -> Path:
        numbers = [2 if s % period == attention else extra[HEADS] for s in sources]
        keys = {**extra, HEADS: numbers}
        return tiny.write(tmp_path / name, arch, N, sources=sources, extra=keys)

    source = written("m.gguf", layers)
    with Model(source) as model, pytest.raises(Refused) as caught:
        make_plan(model, layer_map)
    assert f"head_count starts with {extra[HEADS]} instead of 2" in str(caught.value)
    plain = written("plain.gguf", [layers[s] for s in layer_map.sources])
    assert not is_exact(plain, source, layer_map)


SLIDES = sorted(
    name
    for name, arch in ARCHITECTURES.items()
    if "attention.sliding_window_pattern" in {key for rule in arch.rules for key in rule.arrays()}
    and name != "exaone4"  # without windows at this number of layers
)


@pytest.mark.parametrize("name", SLIDES)
def test_sizes_of_sliding_layers_bind_the_first_unless_read_by_layer(name: str) -> None:
    """A layer of the same attention may come first; so may the other where the sizes agree."""
    values = {
        "attention__sliding_window": 8,
        "attention__sliding_window_pattern": [1, 1, 1, 0] * 2,
        "rope__dimension_count": 16,
    }
    arch = ARCHITECTURES[name]
    for size in (8, 16):
        source = meta(8, 0, name, **values, rope__dimension_count_swa=size)
        for first in (1, 3):
            layer_map = LayerMap.parse(f"layers:{first},0..7", 8)
            found = ModelRules(arch, source).carry(layer_map, Schedule.EXPLICIT).conflicts
            bound = any("rope.dimension_count_swa is 8" in conflict.text for conflict in found)
            by_layer = "rope.dimension_count_swa" in arch.by_layer
            assert bound == (size == 8 and first == 3 and not by_layer)


def test_a_first_layer_with_another_window_is_refused_where_sizes_differ(tmp_path: Path) -> None:
    """RoPE of the layer 0 that llama.cpp takes for all; without the key the map is exact."""
    layer_map = LayerMap.parse(f"layers:5,0..{N - 1}", N)
    plain = tmp_path / "plain.gguf"
    for size in (8, None):
        extra = {".rope.dimension_count_swa": size}
        source = tiny.write(tmp_path / "m.gguf", "gemma3", N, extra=extra, pattern=True)
        sources = layer_map.sources
        tiny.write(plain, "gemma3", N, sources=sources, extra=extra, pattern=True)
        proof = direct_proof(VariantPair(plain, source, layer_map))
        with Model(source) as model:
            if size is None:
                make_plan(model, layer_map, schedule=Schedule.EXPLICIT)
            else:
                with pytest.raises(Refused, match=r"gemma3\.rope\.dimension_count_swa is 8"):
                    make_plan(model, layer_map, schedule=Schedule.EXPLICIT)
        assert proof.holds() == (size is None)
