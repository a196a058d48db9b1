"""The record of how a file was made, and the map between two models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf.constants import GGUFValueType

from rys_gguf import InvalidLayerMap, LayerMap, Model, make_plan, write_plan
from rys_gguf.formats.header import KV, Header
from rys_gguf.patch.provenance import (
    MAP_KEY,
    SOURCE_KEY,
    is_source,
    recorded_map,
    recorded_source,
    resolve_layer_map,
)
from tests.disk import write_llama


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model of four layers."""
    return write_llama(tmp_path / "m.gguf")


def variant(source: Path, spec: str, *, provenance: bool = True) -> Path:
    """The model with a map, beside it."""
    out = source.with_name("out.gguf")
    with Model(source) as model:
        plan = make_plan(model, LayerMap.parse(spec, model.n_trunk), provenance=provenance)
        write_plan(plan, out)
    return out


def header(*kvs: KV) -> Header:
    """A header with these keys only."""
    return Header(3, "<", kvs, ())


def ints(value: Any, item: GGUFValueType = GGUFValueType.INT32) -> KV:
    """A recorded map."""
    return KV.of(MAP_KEY, GGUFValueType.ARRAY, value, item_type=item)


def test_a_variant_records_its_map_and_its_source(source: Path, tmp_path: Path) -> None:
    """Both are found again, and another model is not taken for the source."""
    other = write_llama(tmp_path / "other.gguf", 4, n_floats=128)
    with Model(variant(source, "blocks:1,3")) as out, Model(source) as model:
        assert recorded_map(out.header, 4) == LayerMap.parse("blocks:1,3", 4)
        name, n_bytes, digest = recorded_source(out.header) or ("", "", "")
        assert (name, n_bytes) == ("m.gguf", str(source.stat().st_size))
        assert digest == f"sha256:{model.header_digest()}"
        assert is_source(out.header, model)
        with Model(other) as foreign:
            assert not is_source(out.header, foreign)
        assert not is_source(model.header, model)


@pytest.mark.parametrize(
    ("kv", "message"),
    [
        (ints([0, 4]), "the model has layers 0..3"),
        (ints([]), "the layer map is empty"),
        (ints([0, 1], GGUFValueType.UINT32), r"is ARRAY\[UINT32, 2\], expected ARRAY\[INT32\]"),
        (KV.of(MAP_KEY, GGUFValueType.UINT32, 7), r"is UINT32, expected ARRAY\[INT32\]"),
        (ints([0] * 100_000), "100000 layers"),
    ],
)
def test_a_record_that_is_no_map_is_refused(kv: KV, message: str) -> None:
    """It comes from a file of somebody else."""
    with pytest.raises(InvalidLayerMap, match=message):
        recorded_map(header(kv), 4)


@pytest.mark.parametrize("value", [["a", "b"], ["a", "b", "c", "d"], []])
def test_a_record_of_another_shape_names_no_source(value: list[str]) -> None:
    """Name, size and digest, or nothing."""
    string, array = GGUFValueType.STRING, GGUFValueType.ARRAY
    assert recorded_source(header(KV.of(SOURCE_KEY, array, value, item_type=string))) is None
    assert recorded_source(header(KV.of(SOURCE_KEY, string, "x"))) is None
    assert recorded_source(header()) is None


def test_the_map_between_two_models(source: Path) -> None:
    """The given one, else the recorded one; it must fit both models."""
    with Model(variant(source, "blocks:1,3")) as out, Model(source) as model:
        assert resolve_layer_map(out, model, None) == LayerMap.parse("blocks:1,3", 4)
        assert resolve_layer_map(out, model, "blocks:0,2") == LayerMap.parse("blocks:0,2", 4)
        with pytest.raises(InvalidLayerMap, match=r"out.gguf: has 6 layers, blocks:0,1 makes 5 of"):
            resolve_layer_map(out, model, "blocks:0,1")


def test_without_a_record_the_map_must_be_given(source: Path) -> None:
    """The message names the options that give one."""
    with (
        Model(variant(source, "blocks:1,3", provenance=False)) as out,
        Model(source) as model,
        pytest.raises(InvalidLayerMap, match=r"records no layer map; .* --blocks or --layers"),
    ):
        resolve_layer_map(out, model, None)


def test_without_the_source_the_record_must_do(source: Path) -> None:
    """It tells the map unless the last layers were dropped: only a source has those."""
    with Model(variant(source, "blocks:1,3")) as out:
        assert resolve_layer_map(out, None) == LayerMap.parse("blocks:1,3", 4)
    with Model(source) as out, pytest.raises(InvalidLayerMap, match=r"; --source names the model"):
        resolve_layer_map(out, None)
