"""Differences between headers, and how their values are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGUFEndian, GGUFValueType

from rys_gguf import LayerMap, Model, diff_models, make_plan
from rys_gguf.formats.header import KV, Span
from rys_gguf.patch.diff import diff_plan, json_value, show_value
from tests import tiny
from tests.disk import finish
from tests.layers.metadata import value_kv

LONG = 300_000


def written(
    path: Path, endianess: GGUFEndian = GGUFEndian.LITTLE, alignment: int = 32, **values: Any
) -> Path:
    """A model of one layer with these keys of its own."""
    writer = gguf.GGUFWriter(str(path), "llama", endianess=endianess)
    writer.add_block_count(1)
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    for key, value in values.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_uint32(key, value)
    writer.add_tensor("blk.0.x", np.zeros(4, np.float32))
    finish(writer)
    return path


def differences(a: Path, b: Path) -> list[str]:
    """The keys that differ, each with its sign, and what differs in the layout."""
    with Model(a) as old, Model(b) as new:
        diff = diff_models(old, new)
    return [f"{change.sign}{change.key}" for change in diff.kvs] + list(diff.layout)


def test_keys_are_added_removed_and_changed(tmp_path: Path) -> None:
    """In the old header's order, then the new ones; a changed type counts."""
    a = written(tmp_path / "a.gguf", same=1, gone=2, other=3, kind=4, items=[1, 2])
    b = written(tmp_path / "b.gguf", new=5, same=1, other=6, kind="4", items=[1, 2, 3])
    assert differences(a, b) == ["-gone", "~other", "~kind", "~items", "+new"]
    with Model(a) as model:
        assert diff_models(model, model).is_empty


def test_long_values_are_compared_in_their_files(tmp_path: Path) -> None:
    """A vocabulary stays on disk, and a difference in it is found there."""
    texts = ["x" * LONG, "x" * (LONG - 1) + "y", "x" * (LONG + 1)]
    a, b, c = (written(tmp_path / f"{n}.gguf", long=text) for n, text in enumerate(texts))
    assert differences(a, a) == []
    assert differences(a, b) == ["~long"]
    assert differences(a, c) == ["~long"]


def test_values_of_either_byte_order_are_compared_by_value(tmp_path: Path) -> None:
    """The layout differs, and of the values only those that mean something else."""
    values: dict[str, Any] = {
        "n": 7,
        "items": [1, 2],
        "text": "x",
        "long": "x" * LONG,
        "other": "y" * LONG,
    }
    a = written(tmp_path / "a.gguf", **values)
    changed = {**values, "n": 8, "other": "z" * LONG}
    b = written(tmp_path / "b.gguf", GGUFEndian.BIG, **changed)
    assert differences(a, b) == ["~n", "~other", "byte order little-endian -> big-endian"]
    c = written(tmp_path / "c.gguf", alignment=64, **values)
    assert differences(a, c) == ["+general.alignment", "alignment 32 -> 64"]


def test_tensors_are_compared_by_shape_and_type(tmp_path: Path) -> None:
    """One that only one side has is added or gone."""
    a = tiny.write(tmp_path / "a.gguf", "llama", 2)
    b = tiny.write(tmp_path / "b.gguf", "llama", 1, quantize=gguf.GGMLQuantizationType.Q8_0)
    with Model(a) as old, Model(b) as new:
        diff = diff_models(old, new)
        assert diff_models(new, old).tensors[-1].old is None
    changes = {change.name: change for change in diff.tensors}
    up = changes["blk.0.ffn_up.weight"]
    assert (up.old, up.new) != (None, None)
    assert up.old is not None
    assert up.new is not None
    assert (up.old.type_name, up.new.type_name) == ("F32", "Q8_0")
    assert changes["blk.1.ffn_up.weight"].new is None
    assert "blk.0.attn_norm.weight" not in changes


def test_a_plan_changes_what_its_map_changes(tmp_path: Path) -> None:
    """Before anything is written the changes of the header are known."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 4)
    with Model(source) as model:
        plan = make_plan(model, LayerMap.parse("blocks:1,3", 4), provenance=False)
        diff = diff_plan(plan)
        assert not diff.is_empty
        assert [change.key for change in diff.kvs] == ["llama.block_count"]
        assert diff.n_bytes == (source.stat().st_size, plan.n_bytes)
        assert (
            diff.n_tensors[1] - diff.n_tensors[0] == len(diff.tensors) == 2 * len(model.layers[0])
        )


@pytest.mark.parametrize(
    ("kv", "shown"),
    [
        (value_kv("k", "a\x1bb"), '"a\\x1bb"'),
        (value_kv("k", "x" * 70), '"' + "x" * 60 + '..."'),
        (value_kv("k", 0.5), "0.5"),
        (value_kv("k", 7), "7"),
        (value_kv("k", list(range(20))), "[0, 1, 2, 3, 4, 5, 6, 7, ... 20 in all]"),
        (value_kv("k", ["a", "b"]), '["a", "b"]'),
        (KV.of("k", GGUFValueType.BOOL, True), "true"),
        (KV.of("k", GGUFValueType.BOOL, False), "false"),
        (KV("k", GGUFValueType.STRING, Span(0, 1008)), "1000 bytes of text"),
        (KV("k", GGUFValueType.ARRAY, Span(0, 9), "<", GGUFValueType.BOOL, 3), "3 items"),
    ],
)
def test_a_value_is_shown_in_one_line(kv: KV, shown: str) -> None:
    """Nothing in it reaches a terminal as a command, and it is short unless asked for in full."""
    assert show_value(kv) == shown
    assert len(show_value(kv, full=True)) >= len(shown.replace(", ... 20 in all", ""))


def test_values_for_json_have_their_type() -> None:
    """A long value is described by its size; a side without the key has nothing."""
    assert json_value(value_kv("k", [1, 2])) == {"type": "ARRAY[UINT32, 2]", "value": [1, 2]}
    long = KV("k", GGUFValueType.STRING, Span(0, 1008))
    assert json_value(long) == {"type": "STRING", "value": {"n_bytes": 1008}}
    assert json_value(None) is None
