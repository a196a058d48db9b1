"""Tensor types and their sizes, against the library of the engine itself."""

from __future__ import annotations

import ctypes
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from rys_gguf import LayerMap, Model, find_problems, make_plan, write_plan
from rys_gguf.errors import InvalidGGUF
from rys_gguf.formats.header import TensorInfo
from rys_gguf.formats.reader import HeaderReader
from rys_gguf.formats.types import BLOCKS, tensor_bytes, type_name
from tests import tiny
from tests.engine_library import engine_library, opens
from tests.strategies import U32, UNKNOWN_TYPE, architecture, raw_file, raw_kv, raw_tensor

F32 = int(GGMLQuantizationType.F32)
Q8_1 = int(GGMLQuantizationType.Q8_1)
Q2_0 = 42
# Those that llama.cpp once had, and one past its last.
GONE = {4: "Q4_2", 31: "Q4_0_4_4", 38: "IQ4_NL_8_8"}


@pytest.fixture(scope="module")
def ggml() -> ctypes.CDLL:
    """The ggml that the engine was built with."""
    return engine_library()


def test_every_type_has_the_size_the_engine_gives_it(ggml: ctypes.CDLL, tmp_path: Path) -> None:
    """The types that gguf.cpp opens are those with blocks, and names and blocks are ggml's."""
    path = tmp_path / "m.gguf"
    for type_ in range(max(BLOCKS) + 20):
        path.write_bytes(raw_file([architecture()], [raw_tensor(b"empty", [0], type_)]))
        assert opens(ggml, path) == (type_ in BLOCKS), type_name(type_)
    for type_, block in BLOCKS.items():
        assert (ggml.ggml_blck_size(type_), ggml.ggml_type_size(type_)) == block, type_name(type_)
        assert ggml.ggml_type_name(type_).decode().upper() == type_name(type_).upper()


def test_sizes_are_those_of_the_stock_package() -> None:
    """Rows, blocks and bytes per block multiply to the size; an unknown type has none."""
    for type_, (block, n_block_bytes) in GGML_QUANT_SIZES.items():
        if type_ == GGMLQuantizationType.Q8_1:
            continue  # gguf 0.19 counts four bytes too many
        assert tensor_bytes(type_, (3 * block, 5, 2)) == 30 * n_block_bytes
        assert tensor_bytes(type_, (2 * block, 0)) == 0
        rows = gguf.quants.quant_shape_to_byte_shape((7, 2 * block), type_)
        assert tensor_bytes(type_, (2 * block, 7)) == rows[0] * rows[1]
        if block > 1:
            with pytest.raises(InvalidGGUF, match=f"{type_.name} needs multiples of {block}"):
                tensor_bytes(type_, (block + 1, block))
    assert tensor_bytes(F32, ()) == 4
    assert tensor_bytes(UNKNOWN_TYPE, (256,)) is None


def test_types_are_called_by_their_names() -> None:
    """Types that were removed have names too; one that llama.cpp never had has its number."""
    assert type_name(F32) == TensorInfo("a", (1,), F32, 0, 4).type_name == "F32"
    assert type_name(Q2_0) == "Q2_0"
    assert {type_: type_name(type_) for type_ in GONE} == GONE
    assert type_name(UNKNOWN_TYPE) == f"type {UNKNOWN_TYPE}"


@pytest.mark.parametrize(("type_", "n_bytes"), [(Q8_1, 2 * 36), (Q2_0, 18)])
def test_types_that_the_stock_package_lacks_or_miscounts_are_patched(
    tmp_path: Path, type_: int, n_bytes: int
) -> None:
    """A file with such tensors is legal: it is read, written and verified, bytes and all."""
    path, out = tmp_path / "m.gguf", tmp_path / "out.gguf"
    rng = np.random.default_rng(type_)
    padded = n_bytes + -n_bytes % 32
    tensors = [raw_tensor(b"blk.%d.x" % n, [64], type_, n * padded) for n in range(3)]
    kvs = [architecture(), raw_kv(b"llama.block_count", gguf.GGUFValueType.UINT32, U32(3))]
    path.write_bytes(raw_file(kvs, tensors, rng.bytes(3 * padded)))
    with HeaderReader(path) as reader:
        assert [t.n_bytes for t in reader.tensors] == [n_bytes] * 3
        assert reader.header.offset_issues() == []
        assert reader.tensors[1].data.shape == (n_bytes,)
    with Model(path) as model:
        write_plan(make_plan(model, LayerMap.parse("layers:0,1,1,2", 3)), out)
    assert find_problems(out, path) == []


def test_the_engine_reads_the_sizes_of_a_written_file(ggml: ctypes.CDLL, tmp_path: Path) -> None:
    """gguf.cpp itself opens a variant with tensors of every type that has blocks."""
    path, out = tmp_path / "m.gguf", tmp_path / "out.gguf"
    tiny.write(path, "llama", 2)
    infos, data = [], b""
    for type_, (block, n_block_bytes) in sorted(BLOCKS.items()):
        for layer in range(2):
            name = f"blk.{layer}.{type_name(type_)}".encode()
            infos.append(raw_tensor(name, [3 * block, 2], type_, len(data)))
            data += bytes(6 * n_block_bytes + -6 * n_block_bytes % 32)
    kvs = [architecture(), raw_kv(b"llama.block_count", gguf.GGUFValueType.UINT32, U32(2))]
    path.write_bytes(raw_file(kvs, infos, data))
    with Model(path) as model:
        write_plan(make_plan(model, LayerMap.parse("layers:0,1,0,1", 2)), out)
    assert opens(ggml, path)
    assert opens(ggml, out)
