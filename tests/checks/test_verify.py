"""Verification finds each deviation, names it, and lists them all."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from rys_gguf import (
    LayerMap,
    Model,
    Schedule,
    apply,
    find_problems,
    make_plan,
    resolve_layer_map,
    write_plan,
)
from rys_gguf.formats.header import KV
from rys_gguf.formats.reader import HeaderReader
from tests import tiny
from tests.cli import calls
from tests.disk import finish

Pair = tuple[Path, Path]  # a variant and its source
Change = Callable[[dict[str, KV]], None]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """The variant blocks:4,8 of a hybrid source with an MTP tail and a per-layer array."""
    source = tiny.write(
        tmp_path / "source.gguf",
        "qwen35",
        8,
        n_mtp=1,
        recurrent_layers=True,
        extra={"general.name": "Tiny"},
    )
    out = tmp_path / "out.gguf"
    with Model(source) as model:
        write_plan(make_plan(model, LayerMap.parse("blocks:4,8", 8)), out)
    return out, source


def problems(out: Path, source: Path, spec: str | None = None) -> list[str]:
    """The problems as text."""
    return [str(problem) for problem in find_problems(out, source, spec)]


def patch(path: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def position(path: Path, needle: bytes, nth: int = 0) -> int:
    """The offset of the nth occurrence of some bytes."""
    raw, at = path.read_bytes(), -1
    for _ in range(nth + 1):
        at = raw.index(needle, at + 1)
    return at


def test_a_written_file_has_no_problems(pair: Pair) -> None:
    """With the recorded map and with the same map given, nothing deviates."""
    assert problems(*pair) == []
    assert problems(*pair, "blocks:4,8") == []
    assert problems(*pair, "layers:0..7,4..7") == []


@pytest.mark.parametrize(
    "name",
    [
        "blk.10.ffn_down.weight",
        "blk.5.ffn_down.weight",
        "output_norm.weight",
        "blk.12.nextn.eh_proj.weight",
    ],
)
@pytest.mark.parametrize("where", ["first", "last"])
def test_one_changed_byte_is_named_with_its_tensor(pair: Pair, name: str, where: str) -> None:
    """In copies, originals, globals and the MTP tail, at either end of the data."""
    out, source = pair
    tensor = next(t for t in gguf.GGUFReader(out).tensors if t.name == name)
    at = 0 if where == "first" else tensor.n_bytes - 1
    raw = out.read_bytes()[tensor.data_offset + at]
    patch(out, tensor.data_offset + at, bytes([raw ^ 1]))
    found = problems(out, source)
    assert len(found) == 1
    assert f"tensor {name}" in found[0]
    assert f"byte {at} " in found[0]


def test_one_changed_array_entry_is_named(pair: Pair) -> None:
    """The entry is named with both values, and the layer that would run differently."""
    out, source = pair
    field = gguf.GGUFReader(out).fields["qwen35.attention.recurrent_layers"]
    patch(out, field.offset + sum(p.nbytes for p in field.parts[:5]) + 9, b"\x00")
    found = problems(out, source)
    assert any("recurrent_layers[9]" in p and "source layer 5" in p for p in found)
    assert any(p.startswith("layer 9: runs as full attention") for p in found)
    assert len(found) == 2


def test_one_changed_name_is_named(pair: Pair) -> None:
    """One tensor is missing and another is not expected."""
    out, source = pair
    patch(out, position(out, b"blk.10.ffn_down.weight"), b"blk.10.ffn_dawn.weight")
    found = problems(out, source)
    assert sorted(p.split(":")[0] for p in found) == [
        "tensor blk.10.ffn_dawn.weight",
        "tensor blk.10.ffn_down.weight",
    ]


def test_surplus_tensors_are_listed_in_file_order(pair: Pair) -> None:
    """The same two files give the same report every time."""
    out, source = pair
    names = [f"blk.{n}.ffn_down.weight" for n in range(4, 10)]
    for name in names:
        patch(out, position(out, name.encode()), name.replace("down", "dawn").encode())
    order = [t.name for t in gguf.GGUFReader(out).tensors if "dawn" in t.name]
    surplus = [p.split(":")[0] for p in problems(out, source) if "dawn" in p]
    assert surplus == [f"tensor {name}" for name in order]


def test_a_duplicate_tensor_name_is_named(pair: Pair) -> None:
    """A tensor table must not have a name twice."""
    out, source = pair
    patch(out, position(out, b"blk.10.ffn_down.weight"), b"blk.11.ffn_down.weight")
    assert any("blk.11.ffn_down.weight" in p and "twice" in p for p in problems(out, source))


def test_every_problem_is_listed(pair: Pair) -> None:
    """Three faults give three problems and exit code 1."""
    out, source = pair
    tensors = gguf.GGUFReader(out).tensors
    for tensor in (tensors[3], tensors[-1]):
        patch(out, tensor.data_offset, b"\xff\xff")
    patch(out, position(out, b"tokenizer.ggml.bos_token_id") + 27 + 4, b"\x63")
    done = calls.call("verify", out, "--source", source, "--json")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report["ok"] is False
    wheres = {p["where"] for p in report["problems"]}
    assert wheres == {
        f"tensor {tensors[3].name}",
        f"tensor {tensors[-1].name}",
        "tokenizer.ggml.bos_token_id",
    }


def edit(pair: Pair, change: Change) -> list[str]:
    """Rewrite the variant's header with stock gguf after changing its KVs, and verify."""
    out, source = pair
    with HeaderReader(out) as reader:
        header = reader.header
        kvs = {kv.key: kv for kv in header.kvs}
        change(kvs)
        new = replace(header, kvs=tuple(kvs.values()))
        data = reader.file.read(reader.data_offset, reader.file.n_bytes - reader.data_offset)
        encoded = b"".join(
            p if isinstance(p, bytes) else reader.file.read(p.offset, p.n_bytes)
            for p in new.encode()
        )
    out.write_bytes(encoded + data)
    return problems(out, source)


def set_scalar(key: str, value: object) -> Change:
    """Give a scalar another value."""

    def change(kvs: dict[str, KV]) -> None:
        kv = kvs[key]
        kvs[key] = KV.of(key, kv.type, value, byteorder=kv.byteorder)

    return change


def drop(key: str) -> Change:
    """Remove a key."""

    def change(kvs: dict[str, KV]) -> None:
        del kvs[key]

    return change


def add(key: str) -> Change:
    """Add a string."""

    def change(kvs: dict[str, KV]) -> None:
        kvs[key] = KV.of(key, gguf.GGUFValueType.STRING, "x")

    return change


def swap(a: str, b: str) -> Change:
    """Exchange the places of two keys."""

    def change(kvs: dict[str, KV]) -> None:
        order = list(kvs)
        i, j = order.index(a), order.index(b)
        order[i], order[j] = order[j], order[i]
        moved = {key: kvs[key] for key in order}
        kvs.clear()
        kvs.update(moved)

    return change


def shorten(key: str) -> Change:
    """Remove the last entry of an array."""

    def change(kvs: dict[str, KV]) -> None:
        kv = kvs[key]
        assert kv.item_type is not None
        kvs[key] = KV.of_items(key, kv.item_type, kv.items[:-1], kv.byteorder)

    return change


HEADER_FAULTS = [
    (set_scalar("qwen35.block_count", 9), "qwen35.block_count", "the map makes 13 blocks"),
    (drop("qwen35.block_count"), "qwen35.block_count", "is missing"),
    (set_scalar("qwen35.embedding_length", 1), "qwen35.embedding_length", "the source has"),
    (drop("qwen35.embedding_length"), "qwen35.embedding_length", "is missing"),
    (add("new.key"), "new.key", "is new"),
    (swap("general.architecture", "qwen35.block_count"), "keys", "different order"),
    (shorten("qwen35.attention.recurrent_layers"), "recurrent_layers", "expected 13"),
    (shorten("tokenizer.ggml.tokens"), "tokenizer.ggml.tokens", "the source has"),
    (drop("rys.spec"), "rys.spec", "missing"),
    (drop("rys.source"), "rys.source", "missing"),
    (set_scalar("general.name", "other"), "general.name", "the source has"),
]


@pytest.mark.parametrize(("change", "where", "what"), HEADER_FAULTS)
def test_each_fault_of_the_header_is_named(
    pair: Pair, change: Change, where: str, what: str
) -> None:
    """One problem names the key and its fault."""
    found = edit(pair, change)
    assert any(where in p and what in p for p in found), found


def test_a_map_that_differs_from_the_record_is_a_problem(pair: Pair) -> None:
    """The recorded map is checked against the map given."""
    out, source = pair
    found = problems(out, source, "blocks:0,4")
    assert any(p.startswith("rys.layer_map: records blocks:4,8") for p in found)


def test_another_source_is_a_problem(pair: Pair, tmp_path: Path) -> None:
    """The tensors of a file with the same layout but other weights differ."""
    out, _ = pair
    other = tiny.write(tmp_path / "other.gguf", "qwen35", 8, n_mtp=1, recurrent_layers=True, seed=1)
    found = problems(out, other)
    assert sum(p.startswith("tensor") for p in found) > 20


def test_without_a_record_the_map_must_be_given(pair: Pair, tmp_path: Path) -> None:
    """A file without a recorded map is verified against --blocks, and refused without it."""
    _, source = pair
    bare = tmp_path / "bare.gguf"
    calls.done("apply", source, "--blocks", "4,8", "--no-provenance", "-o", bare)
    assert "--blocks" in calls.refused("verify", bare, "--source", source)
    calls.done("verify", bare, "--source", source, "--blocks", "4,8")
    assert calls.call("verify", bare, "--source", source, "--blocks", "0,4").exit_code == 1


def test_a_file_cut_short_is_a_problem(pair: Pair) -> None:
    """The file says that it is incomplete."""
    out, source = pair
    with out.open("r+b") as file:
        file.truncate(out.stat().st_size - 100)
    assert any("incomplete" in p for p in problems(out, source))


def test_a_file_that_is_no_model_is_named(pair: Pair, tmp_path: Path) -> None:
    """What it is comes first, not all the keys it lacks."""
    vector = tmp_path / "vector.gguf"
    writer = gguf.GGUFWriter(str(vector), "controlvector")
    writer.add_tensor("direction.1", np.zeros(8, np.float32))
    finish(writer)
    (found,) = problems(vector, pair[1], "blocks:1,2")
    assert found.startswith("file: is a control vector, not a model")


def test_bytes_appended_are_a_problem(pair: Pair) -> None:
    """Only the source's own trailing bytes may follow the data."""
    out, source = pair
    with out.open("ab") as file:
        file.write(b"x" * 40)
    assert any("after the last tensor" in p for p in problems(out, source))


def test_a_naive_copy_fails_by_its_kinds(tmp_path: Path) -> None:
    """With tensors renamed and the count raised every byte is right, but the layers are not."""
    source = tiny.write(tmp_path / "m.gguf", "gemma3", 12)
    naive = tiny.write(
        tmp_path / "naive.gguf", "gemma3", 12, sources=[0, 1, 2, 3, 4, 5, 4, 5, *range(6, 12)]
    )
    found = problems(naive, source, "blocks:4,6")
    assert [p for p in found if p.startswith("tensor")] == []
    assert any(p.startswith("layer 7: runs as sliding") for p in found)


def test_offsets_out_of_order_are_named(pair: Pair) -> None:
    """Each tensor must begin where the one before it ends."""
    out, source = pair
    with HeaderReader(out) as reader:
        first, second = reader.header.tensors[:2]
    at = position(out, second.name.encode()) + len(second.name) + 4 + 8 * len(second.ne) + 4
    patch(out, at, struct.pack("<Q", second.offset + 32))
    assert any("tensor table" in p and second.name in p for p in problems(out, source))
    assert first.offset == 0


# -- variants of variants ------------------------------------------------------------------------


def chained(base: Path, *steps: tuple[str, Schedule]) -> list[Path]:
    """The base and the variants that the steps make, each of the one before it."""
    paths = [base]
    for n, (spec, schedule) in enumerate(steps, 1):
        out = base.with_name(f"step{n}.gguf")
        apply(paths[-1], spec, out, schedule=schedule)
        paths.append(out)
    return paths


P, E = Schedule.PORTABLE, Schedule.EXPLICIT
CHAINS = [
    ("llama", 6, {}, [("blocks:1,3", P), ("blocks:0,4", P), ("layers:0..5,5..11", P)]),
    # An array that the first step lists is there in the end, though the last map does not need it.
    ("qwen35", 8, {"n_mtp": 1}, [("blocks:3,5", E), ("layers:0..4,7..9", P)]),
    ("qwen35", 8, {"recurrent_layers": True}, [("blocks:3,5", E), ("blocks:0,1", E)]),
    ("apertus", 4, {}, [("blocks:1,3", P), ("layers:0..2,4..5", P)]),
    # Tensors of the whole model with a slice for each layer.
    ("gemma4", 8, {}, [("blocks:4,8", P), ("blocks:0,4", P)]),
    ("deepseek2", 6, {}, [("blocks:0,1", P), ("blocks:4,6", P)]),
]


@pytest.mark.parametrize(("arch", "n_layers", "options", "steps"), CHAINS)
def test_a_chain_verifies_against_every_model_in_it(
    tmp_path: Path,
    arch: str,
    n_layers: int,
    options: dict[str, Any],
    steps: list[tuple[str, Schedule]],
) -> None:
    """Against the original and against each variant on the way."""
    base = tiny.write(
        tmp_path / "base.gguf", arch, n_layers, extra={"general.name": "Tiny"}, **options
    )
    *sources, last = chained(base, *steps)
    for source in sources:
        assert problems(last, source) == [], source.name


def test_a_vector_that_two_steps_rescaled_is_what_the_two_make_of_it(tmp_path: Path) -> None:
    """Each step rounds, though the second brings the layer count back."""
    base = tiny.write(tmp_path / "base.gguf", "gemma3", 62)
    steps = [("blocks:0,6", E), ("layers:0..61", E)]
    first, last = chained(base, *steps)[1:]
    assert problems(last, first) == []
    assert problems(last, base) == []
    norm = "blk.0.attn_q_norm.weight"
    vectors = [
        next(t for t in gguf.GGUFReader(path).tensors if t.name == norm).data
        for path in (base, first, last)
    ]
    assert not (vectors[0] == vectors[1]).all()
    patch(last, position(last, vectors[2].tobytes()), vectors[1].tobytes())
    assert any(norm in p for p in problems(last, base))


def test_a_fault_of_a_chain_is_found_against_either(tmp_path: Path) -> None:
    """One changed byte, one changed key."""
    base = tiny.write(tmp_path / "base.gguf", "llama", 6)
    _, first, last = chained(base, ("blocks:1,3", P), ("blocks:0,4", P))
    tensor = gguf.GGUFReader(last).tensors[-1]
    patch(last, tensor.data_offset, b"\xff\xff")
    patch(last, position(last, b"tokenizer.ggml.bos_token_id") + 27 + 4, b"\x63")
    for source in (base, first):
        found = problems(last, source)
        assert len(found) == 2
        assert any(tensor.name in p for p in found)


def test_a_map_that_the_steps_do_not_make_is_a_problem(tmp_path: Path) -> None:
    """The record of a chain is checked as a whole."""
    base = tiny.write(tmp_path / "base.gguf", "llama", 4)
    _, first, last = chained(base, ("blocks:1,3", P), ("blocks:0,2", P))
    raw = struct.pack("<8i", 0, 1, 0, 1, 2, 1, 2, 3)
    patch(last, position(last, raw), struct.pack("<8i", 0, 1, 0, 1, 2, 1, 2, 2))
    for source in (base, first):
        assert any("the steps on record make" in p for p in problems(last, source))


def test_a_second_step_may_take_back_the_first(tmp_path: Path) -> None:
    """The map that is left changes nothing, and still verifies."""
    base = tiny.write(tmp_path / "base.gguf", "llama", 4, extra={"general.name": "Tiny"})
    *sources, last = chained(base, ("blocks:1,3", P), ("layers:0..2,5", P))
    for source in sources:
        assert problems(last, source) == []
    with Model(last) as variant, Model(base) as model:
        spec = resolve_layer_map(variant, model).spec
    assert problems(last, base, spec) == []


def test_the_command_says_which_model_of_a_chain_it_compared(tmp_path: Path) -> None:
    """The recorded size and header decide, not the name."""
    base = tiny.write(tmp_path / "base.gguf", "llama", 4)
    _, first, last = chained(base, ("blocks:1,3", P), ("blocks:0,2", P))
    moved = base.rename(tmp_path / "other.gguf")
    against = {
        moved: "the original model it was made from",
        first: "its immediate source",
    }
    for source, role in against.items():
        assert role in calls.done("verify", last, "--source", source).stdout
        assert calls.data("verify", last, "--source", source)["ok"] is True
