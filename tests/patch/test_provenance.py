"""The record of how a file was made, and the map between two models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf.constants import GGUFValueType

from rys_gguf import InvalidLayerMap, LayerMap, Model, Schedule, align, apply, make_plan, write_plan
from rys_gguf.formats.header import KV, Header
from rys_gguf.patch.provenance import (
    MAP_KEY,
    SOURCE_KEY,
    compose,
    is_source,
    origin_of,
    origins,
    recorded_map,
    recorded_source,
    resolve_layer_map,
)
from tests import tiny
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
        pytest.raises(
            InvalidLayerMap, match=r"records no layer map; .* --blocks or --layers, or .* recover"
        ),
    ):
        resolve_layer_map(out, model, None)


def test_without_the_source_the_record_must_do(source: Path) -> None:
    """It tells the map unless the last layers were dropped: only a source has those."""
    with Model(variant(source, "blocks:1,3")) as out:
        assert resolve_layer_map(out, None) == LayerMap.parse("blocks:1,3", 4)
    with Model(source) as out, pytest.raises(InvalidLayerMap, match=r"; --source names the model"):
        resolve_layer_map(out, None)


# -- variants of variants ------------------------------------------------------------------------


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Path, Path, Path, Path]:
    """A model of four layers, and three variants, each made from the one before it."""
    base = tiny.write(tmp_path / "base.gguf", "llama", 4, extra={"general.name": "Tiny"})
    first, second, third = (tmp_path / f"{n}.gguf" for n in ("first", "second", "third"))
    apply(base, "blocks:1,3", first)
    apply(first, "layers:0..2,1..5", second)
    apply(second, "blocks:7,8", third)
    return base, first, second, third


def test_maps_are_composed_from_left_to_right() -> None:
    """Each output comes from where the output it copies came from."""
    first, second = LayerMap(4, (0, 1, 2, 1, 2, 3)), LayerMap(6, (0, 3, 5, 5))
    assert compose(first, second) == LayerMap(4, (0, 1, 3, 3))
    with pytest.raises(InvalidLayerMap, match=r"is for 6 layers, .* makes 4"):
        compose(second, second)


def test_the_record_leads_to_the_original_however_many_steps(
    chain: tuple[Path, Path, Path, Path],
) -> None:
    """rys.layer_map and rys.source are those of the base; each model between is on record."""
    base, first, second, third = chain
    with Model(third) as out:
        assert recorded_map(out.header, 4) == LayerMap(4, (0, 1, 2, 1, 2, 1, 2, 3, 3))
        assert (recorded_source(out.header) or [""])[0] == "base.gguf"
        assert [origin.source and origin.source[0] for origin in origins(out.header)] == [
            "second.gguf",
            "first.gguf",
            "base.gguf",
        ]
        for path, n_steps in ((base, 3), (first, 2), (second, 1)):
            with Model(path) as source:
                origin = origin_of(out.header, source)
                assert origin is not None
                assert origin.names(source)
                assert len(origin.steps) == n_steps
                assert origin.is_base is (path == base)
                assert resolve_layer_map(out, source) == origin.layer_map
                assert len(origin.layer_map) == 9
                assert origin.layer_map.n_source == source.n_trunk
        assert resolve_layer_map(out, None) == recorded_map(out.header, 4)


def test_the_name_carries_one_label_that_of_the_whole_map(
    chain: tuple[Path, Path, Path, Path],
) -> None:
    """Labels count layers of the model whose name stands before them."""
    labels = [LayerMap(4, (0, 1, 2, 1, 2, 3)).label, LayerMap(4, (0, 1, 2, 1, 2, 1, 2, 3)).label]
    for path, label in zip(chain[1:], labels, strict=False):
        with Model(path) as model:
            name = model.header.get("general.name")
            assert name is not None
            assert name.value == f"Tiny {label}"


def test_a_source_of_another_size_is_none_of_those_on_record(
    chain: tuple[Path, Path, Path, Path], tmp_path: Path
) -> None:
    """The one with as many layers stands in for it, but is not called the source."""
    _, first, second, _ = chain
    with Model(first) as model:
        align(model, tmp_path / "aligned.gguf")
    with Model(second) as out, Model(tmp_path / "aligned.gguf") as source:
        origin = origin_of(out.header, source)
        assert origin is not None
        assert not origin.names(source)
        assert origin.layer_map == LayerMap(6, (0, 1, 2, 1, 2, 3, 4, 5))


def with_kv(path: Path, *kvs: KV) -> Header:
    """The header of a file with some values replaced."""
    new = {kv.key: kv for kv in kvs}
    with Model(path) as model:
        old = model.header
    return Header(old.version, old.byteorder, tuple(new.get(k.key, k) for k in old.kvs), ())


@pytest.mark.parametrize(
    ("key", "values"),
    [
        (MAP_KEY, [0, 1, 2, 1, 2, 1, 2, 2]),
        ("rys.step.layer_map", [0, 1, 2, 1, 2, 3, 4, 4]),
        ("rys.step.layer_map", [0, 1, 2, 1, 2, 3, 4, 6]),
        ("rys.parent.layer_map", [0, 1, 2, 1, 2]),
        ("rys.parent.layer_map", []),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(
    chain: tuple[Path, Path, Path, Path], key: str, values: list[int]
) -> None:
    """The steps must lead to the map on record."""
    kv = KV.of(key, GGUFValueType.ARRAY, values, item_type=GGUFValueType.INT32)
    with pytest.raises(InvalidLayerMap):
        origins(with_kv(chain[2], kv))


def test_a_long_chain_of_somebody_else_is_read_without_recursion() -> None:
    """A file can hold thousands of keys."""
    kvs = [ints([0])]
    for n in range(1300):
        for key in ("parent." * n + "step.layer_map", "parent." * (n + 1) + "layer_map"):
            kvs.append(replace(ints([0]), key=f"rys.{key}"))  # noqa: PERF401 - two for each n
    assert len(origins(header(*kvs))) == 1301


def test_a_record_that_does_not_fit_its_file_is_not_led_back(tmp_path: Path) -> None:
    """The new record leads to the file at hand; a note says so, and nothing of the old is lost."""
    foreign = KV.of(MAP_KEY, GGUFValueType.ARRAY, [0, 1, 2], item_type=GGUFValueType.INT32)
    path = tiny.write(tmp_path / "m.gguf", "llama", 4, extra={"rys.layer_map": [0, 1, 2]})
    with Model(path) as model:
        assert model.header.get(MAP_KEY) == foreign
        plan = make_plan(model, LayerMap.parse("blocks:1,3", 4))
    assert any("does not fit it" in note for note in plan.notes)
    assert [origin.layer_map for origin in origins(plan.header)] == [plan.layer_map]
    kept = plan.header.get("rys.parent.layer_map")
    assert kept is not None
    assert kept.raw == foreign.raw


def test_a_dropped_end_is_on_record_as_well(tmp_path: Path) -> None:
    """How many layers the original had does not follow from a map that leaves out its last."""
    base = tiny.write(tmp_path / "m.gguf", "llama", 6)
    apply(base, "layers:0..3,2..3", tmp_path / "out.gguf")
    apply(tmp_path / "out.gguf", "blocks:0,1", tmp_path / "two.gguf")
    for name in ("out.gguf", "two.gguf"):
        with Model(tmp_path / name) as out:
            assert resolve_layer_map(out, None).n_source == 6


def test_what_a_step_changed_is_kept_with_its_old_value(tmp_path: Path) -> None:
    """Old values under rys.was, new keys in rys.added."""
    base = tiny.write(tmp_path / "m.gguf", "qwen35", 8, extra={"general.name": "Tiny"})
    apply(base, "blocks:3,5", tmp_path / "out.gguf", schedule=Schedule.EXPLICIT)
    with Model(tmp_path / "out.gguf") as out:
        kvs = {kv.key: kv.value for kv in out.header.kvs if kv.key.startswith("rys.")}
    assert kvs["rys.was.qwen35.block_count"] == 8
    assert kvs["rys.was.general.name"] == "Tiny"
    assert kvs["rys.added"] == ["qwen35.attention.recurrent_layers"]
