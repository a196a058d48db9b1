"""The reader against the stock one, and against hand-made files beyond it."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFEndian, GGUFValueType

from rys_gguf.errors import InvalidGGUF
from rys_gguf.formats.header import Span, decode
from rys_gguf.formats.reader import HeaderReader
from rys_gguf.formats.views import Field
from tests import tiny
from tests.disk import finish
from tests.headers import encoded, kv_of, opened
from tests.strategies import (
    UNKNOWN_TYPE,
    architecture,
    raw_array,
    raw_file,
    raw_kv,
    raw_string,
    raw_tensor,
)

T = GGUFValueType
Pair = tuple[gguf.GGUFReader, HeaderReader, bytes]


# -- the stock reader is the oracle -------------------------------------------------------------


def write_values(path: Path, endianess: GGUFEndian) -> Path:
    """Every value type, as a scalar and in an array."""
    writer = gguf.GGUFWriter(str(path), "llama", endianess=endianess)
    values: dict[GGUFValueType, list[Any]] = {
        T.UINT8: [0, 255],
        T.INT8: [-128, 127],
        T.UINT16: [1, 65535],
        T.INT16: [-32768, 5],
        T.UINT32: [1, 2**32 - 1],
        T.INT32: [-(2**31), 7],
        T.FLOAT32: [1.5, float("-inf")],
        T.BOOL: [True, False],
        T.STRING: ["", "naïve ▁"],
        T.UINT64: [1, 2**64 - 1],
        T.INT64: [-(2**63), 9],
        T.FLOAT64: [0.1, 1e300],
    }
    for type_, (first, second) in values.items():
        writer.add_key_value(f"test.{type_.name}", first, type_)
        writer.add_key_value(f"test.{type_.name}.2", second, type_)
        writer.add_key_value(f"test.{type_.name}.array", [first, second, first], T.ARRAY, type_)
    writer.add_key_value("test.long", "x" * 1_000_000, T.STRING)
    writer.add_tensor("a", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("b", np.arange(40, dtype=np.int16).reshape(2, 1, 4, 5))
    finish(writer)
    return path


def write_types(path: Path, endianess: GGUFEndian = GGUFEndian.LITTLE) -> Path:
    """A tensor of every type that the gguf package can write."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(path), "llama", endianess=endianess)
    plain: dict[str, Any] = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
    plain |= {"I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64}
    for type_, (_, n_block_bytes) in GGML_QUANT_SIZES.items():
        if type_ == GGMLQuantizationType.Q8_1:
            continue  # the stock package has its size wrong
        if type_.name in plain:
            writer.add_tensor(type_.name, rng.integers(-9, 9, (2, 3)).astype(plain[type_.name]))
        else:
            rows = rng.integers(0, 256, (3, 2 * n_block_bytes), dtype=np.uint8)
            writer.add_tensor(type_.name, rows, raw_dtype=type_)
    q8 = gguf.quants.quantize(rng.standard_normal((2, 64), np.float32), GGMLQuantizationType.Q8_0)
    writer.add_tensor("quantized", q8, raw_dtype=GGMLQuantizationType.Q8_0)
    finish(writer)
    return path


def write_aligned(path: Path, alignment: int) -> Path:
    """Two odd tensors on a wide grid."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_custom_alignment(alignment)
    writer.add_tensor("a", np.arange(5, dtype=np.int8))
    writer.add_tensor("b", np.arange(7, dtype=np.float64))
    finish(writer)
    return path


def write_no_tensors(path: Path) -> Path:
    """A vocabulary without a model."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_token_list(["a", "b", "c"])
    finish(writer)
    return path


def as_version_2(path: Path, byteorder: str) -> Path:
    """The same file with 2 as its version."""
    with path.open("r+b") as file:
        file.seek(4)
        file.write(struct.pack(byteorder + "I", 2))
    return path


FIXTURES = {
    "llama": lambda p: tiny.write(p, "llama", 3),
    "llama, Q8_0": lambda p: tiny.write(p, "llama", 2, quantize=GGMLQuantizationType.Q8_0),
    "gemma3, array": lambda p: tiny.write(p, "gemma3", 12, pattern=True),
    "qwen35, array": lambda p: tiny.write(p, "qwen35", 8, n_mtp=1, recurrent_layers=True),
    "qwen3next": lambda p: tiny.write(p, "qwen3next", 4),
    "jamba": lambda p: tiny.write(p, "jamba", 4),
    "apertus": lambda p: tiny.write(p, "apertus", 3),
    "gemma4": lambda p: tiny.write(p, "gemma4", 8, shared_kv_layers=4),
    "values": lambda p: write_values(p, GGUFEndian.LITTLE),
    "values, big endian": lambda p: write_values(p, GGUFEndian.BIG),
    "values, version 2": lambda p: as_version_2(write_values(p, GGUFEndian.LITTLE), "<"),
    "big endian, version 2": lambda p: as_version_2(write_values(p, GGUFEndian.BIG), ">"),
    "types": write_types,
    "types, big endian": lambda p: write_types(p, GGUFEndian.BIG),
    "alignment 64": lambda p: write_aligned(p, 64),
    "alignment 4096": lambda p: write_aligned(p, 4096),
    "no tensors": write_no_tensors,
}


@pytest.fixture(params=FIXTURES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """The stock reader and ours on the same file, with its bytes."""
    path = FIXTURES[request.param](tmp_path / "m.gguf")
    with HeaderReader(path) as ours:
        yield gguf.GGUFReader(path), ours, path.read_bytes()


def test_the_file_as_a_whole_is_what_the_stock_reader_sees(pair: Pair) -> None:
    """Byte order, alignment, start of the data, and the names of keys and tensors."""
    stock, ours, _ = pair
    assert isinstance(ours, gguf.GGUFReader)
    assert (ours.byte_order, ours.endianess) == (stock.byte_order, stock.endianess)
    assert (ours.alignment, ours.data_offset) == (stock.alignment, stock.data_offset)
    assert list(ours.fields) == list(stock.fields)
    assert [t.name for t in ours.tensors] == [t.name for t in stock.tensors]


def test_every_field_is_what_the_stock_reader_sees(pair: Pair) -> None:
    """Name, place, types and decoded value of every key; one index and slices of arrays too."""
    stock, ours, _ = pair
    for name, theirs in stock.fields.items():
        field = ours.get_field(name)
        assert field is not None
        assert (field.name, field.offset, field.types) == (name, theirs.offset, theirs.types)
        assert field.contents() == theirs.contents()
        assert type(field.contents()) is type(theirs.contents())
        if field.types[0] == T.ARRAY:
            for index in (0, -1, slice(1, 3), slice(None, None, 2)):
                assert field.contents(index) == theirs.contents(index)


def test_the_parts_of_a_field_are_its_bytes(pair: Pair) -> None:
    """Parts and places equal the stock reader's, up to the items of arrays."""
    stock, ours, content = pair
    for name, theirs in stock.fields.items():
        field = ours.fields[name]
        n = len(field.parts)
        for mine, part in zip(field.parts, theirs.parts, strict=False):
            assert (mine.dtype, mine.tolist()) == (part.dtype, part.tolist())
        joined = b"".join(part.tobytes() for part in field.parts)
        assert content[field.offset : field.offset + len(joined)] == joined
        n_bytes = sum(part.nbytes for part in theirs.parts)
        if name.startswith("GGUF."):
            continue
        assert isinstance(field, Field)
        span = field.span
        assert span.offset + span.n_bytes == theirs.offset + n_bytes
        value = decode(field.types[0], content[span.offset :][: span.n_bytes], ours.byteorder)
        assert value == theirs.contents()
        if field.types[0] == T.ARRAY:
            assert (n, field.data) == (5, [])
        elif len(joined) == n_bytes:
            assert (n, field.data) == (len(theirs.parts), theirs.data)
        else:
            assert n_bytes > 1_000_000, "only long values stay in the file"
            assert field.data == []


def test_every_tensor_is_what_the_stock_reader_sees(pair: Pair) -> None:
    """Name, type, shape, sizes, place, table row and data of every tensor."""
    stock, ours, _ = pair
    for n, theirs in enumerate(stock.tensors):
        tensor = ours.get_tensor(n)
        for attribute in ("name", "tensor_type", "n_elements", "n_bytes", "data_offset"):
            assert getattr(tensor, attribute) == getattr(theirs, attribute), attribute
        assert (tensor.shape.dtype, tensor.shape.tolist()) == (
            theirs.shape.dtype,
            theirs.shape.tolist(),
        )
        assert (tensor.data.dtype, tensor.data.shape) == (theirs.data.dtype, theirs.data.shape)
        assert tensor.data.tobytes() == theirs.data.tobytes()
        row, their_row = tensor.field, theirs.field
        assert (row.offset, row.name, row.data) == (
            their_row.offset,
            their_row.name,
            their_row.data,
        )
        assert [p.tolist() for p in row.parts] == [p.tolist() for p in their_row.parts]


def test_the_header_encodes_to_the_bytes_it_was_read_from(pair: Pair) -> None:
    """Encoding the parsed header gives the file up to its data."""
    _, ours, content = pair
    assert encoded(ours) == content[: ours.data_offset]
    assert ours.header.data_offset == ours.data_offset
    assert ours.header.n_data_bytes == len(content) - ours.data_offset
    assert ours.header.offset_issues() == []


# -- beyond the stock reader --------------------------------------------------------------------


def test_an_empty_array_keeps_its_item_type(scratch: Path) -> None:
    """An array without items is a value like any other."""
    for item_type in GGUFValueType:
        content = raw_file([raw_kv(b"k", T.ARRAY, raw_array(item_type, []))])
        with opened(scratch, content) as reader:
            assert reader.fields["k"].contents() == []
            kv = kv_of(reader.header, "k")
            assert (kv.item_type, kv.n_items, kv.items, kv.value) == (item_type, 0, [], [])
            assert encoded(reader) == content


def test_nested_arrays_stay_nested(scratch: Path) -> None:
    """Arrays of arrays decode to lists of lists, and come back byte for byte."""
    pair = raw_array(T.UINT8, [b"\1", b"\2"])
    words = raw_array(T.STRING, [raw_string(b"a"), raw_string(b""), raw_string(b"bc")])
    deep = raw_array(T.ARRAY, [pair, raw_array(T.ARRAY, [words]), raw_array(T.BOOL, [])])
    content = raw_file([raw_kv(b"k", T.ARRAY, deep), raw_kv(b"after", T.UINT8, b"\7")])
    with opened(scratch, content) as reader:
        field = reader.fields["k"]
        assert field.contents() == [[1, 2], [["a", "", "bc"]], []]
        assert field.contents(1) == [["a", "", "bc"]]
        assert field.types == [T.ARRAY, T.ARRAY, T.UINT8]
        assert reader.fields["after"].contents() == 7
        assert kv_of(reader.header, "k").items == [pair, raw_array(T.ARRAY, [words]), deep[-12:]]
        assert encoded(reader) == content


def test_bytes_that_are_not_utf_8_survive(scratch: Path) -> None:
    """Keys, values and names of any bytes are readable as text and encode to the same bytes."""
    odd = b"\xff\xc3(\x00\xed\xb2\x80"
    content = raw_file(
        [
            raw_kv(odd, T.STRING, raw_string(odd)),
            raw_kv(b"list", T.ARRAY, raw_array(T.STRING, [raw_string(odd), raw_string(b"ok")])),
        ],
        [raw_tensor(odd, [2], int(GGMLQuantizationType.I8)), raw_tensor(b"", [0], offset=32)],
        b"\1\2".ljust(32, b"\0"),
    )
    with opened(scratch, content) as reader:
        text = odd.decode("utf-8", "surrogateescape")
        assert reader.fields[text].contents() == text
        assert reader.fields["list"].contents() == [text, "ok"]
        assert [t.name for t in reader.tensors] == [text, ""]
        assert reader.tensors[0].data.tolist() == [1, 2]
        assert encoded(reader) == content[: reader.data_offset]


def test_signalling_nans_survive(scratch: Path) -> None:
    """Floats whose bits a conversion would change come back as they were."""
    f32, f64 = struct.pack("<I", 0x7F800001), struct.pack("<Q", 0x7FF0000000000001)
    content = raw_file(
        [
            raw_kv(b"f32", T.FLOAT32, f32),
            raw_kv(b"f64", T.FLOAT64, f64),
            raw_kv(b"array", T.ARRAY, raw_array(T.FLOAT32, [f32, f32])),
        ]
    )
    with opened(scratch, content) as reader:
        assert np.isnan(reader.fields["f32"].contents())
        assert kv_of(reader.header, "array").items == [f32, f32]
        assert encoded(reader) == content


@pytest.mark.parametrize("type_", [43, 144, UNKNOWN_TYPE, (1 << 32) - 1])
def test_a_tensor_of_unknown_type_reaches_to_the_next(scratch: Path, type_: int) -> None:
    """A type that llama.cpp does not know is its number, and the bytes up to the next offset."""
    data = bytes(range(160))
    content = raw_file(
        [],
        [
            raw_tensor(b"a", [5, 3], type_, 0),
            raw_tensor(b"b", [8], int(GGMLQuantizationType.F32), 96),
            raw_tensor(b"c", [7], type_, 128),
        ],
        data,
    )
    with opened(scratch, content) as reader:
        assert [t.n_bytes for t in reader.tensors] == [96, 32, 32]
        assert [t.tensor_type for t in reader.tensors] == [type_, GGMLQuantizationType.F32, type_]
        assert reader.tensors[0].data.tobytes() == data[:96]
        assert reader.tensors[2].data.tobytes() == data[128:]
        assert reader.header.tensors[0].type_name == f"type {type_}"
        assert encoded(reader) == content[: reader.data_offset]


def test_a_tensor_may_have_no_dimensions(scratch: Path) -> None:
    """No dimensions mean one weight, as in llama.cpp."""
    with opened(scratch, raw_file([], [raw_tensor(b"a", [])], struct.pack("<f", 2.5))) as reader:
        tensor = reader.tensors[0]
        assert (tensor.n_elements, tensor.n_bytes, tensor.data.shape) == (1, 4, ())
        assert float(tensor.data) == 2.5


def test_long_values_stay_in_the_file(scratch: Path) -> None:
    """A value of 1 MB is a span of the file, which the reader decodes and the header does not."""
    big = raw_array(T.UINT16, [b"\1\2"] * 500_000)
    with opened(scratch, raw_file([architecture(), raw_kv(b"big", T.ARRAY, big)])) as reader:
        kv = kv_of(reader.header, "big")
        assert isinstance(kv.raw, Span)
        assert (kv.raw.n_bytes, kv.n_items, kv.n_value_bytes) == (len(big), 500_000, len(big))
        assert reader.file.read(kv.raw.offset, kv.raw.n_bytes) == big
        assert reader.fields["big"].contents(slice(0, 2)) == [513, 513]
        with pytest.raises(InvalidGGUF, match="big is 1000012 bytes long"):
            _ = kv.value


@pytest.mark.no_cover  # many times the same lines, which would take three times as long
def test_values_are_found_across_reads(scratch: Path) -> None:
    """Strings, keys and table rows that straddle the pieces a file is read in are all found."""
    words = [b"%d" % n * (n % 9) for n in range(70_000)]
    words[5_000] = b"x" * 3_000_000
    long = raw_array(T.STRING, [raw_string(word) for word in words])
    kvs = [raw_kv(b"long", T.ARRAY, long)]
    kvs += [raw_kv(b"key %0400d" % n, T.UINT32, struct.pack("<I", n)) for n in range(4_000)]
    rows = [raw_tensor(b"tensor %050d" % n, [0, 1, 2]) for n in range(16_000)]
    content = raw_file(kvs, rows)
    with opened(scratch, content) as reader:
        assert reader.fields["long"].contents() == [word.decode() for word in words]
        assert [kv.value for kv in reader.header.kvs[1:]] == list(range(4_000))
        assert [t.name for t in reader.tensors] == [f"tensor {n:050d}" for n in range(16_000)]
        assert encoded(reader) == content


# -- what is read, and how much of it -----------------------------------------------------------


def bytes_read() -> int:
    """Bytes this process has read from files so far."""
    try:
        counters = Path("/proc/self/io").read_text()
    except OSError:
        pytest.skip("this system does not count what a process reads")
    return int(counters.split()[1])


def test_opening_a_terabyte_reads_its_header_only(tmp_path: Path) -> None:
    """Only the start of a model of 1 TB is read."""
    path = tmp_path / "m.gguf"
    n = 1 << 38
    header = raw_file([architecture()], [raw_tensor(b"blk.0.ffn_up.weight", [n])])
    path.write_bytes(header)
    try:
        os.truncate(path, len(header) + 4 * n)
    except OSError:
        pytest.skip("this file system has no files of 1 TB")
    before = bytes_read()
    with HeaderReader(path) as reader:
        assert bytes_read() - before < 4 << 20
        assert reader.tensors[0].n_bytes == 4 * n


def test_a_header_is_read_about_once(tmp_path: Path) -> None:
    """Many short arrays do not make the reader go over the same bytes again and again."""
    words = raw_array(T.STRING, [raw_string(b"ab")])
    nested = raw_array(T.ARRAY, [words] * 20_000)
    kvs = [raw_kv(b"%d" % n, T.ARRAY, words) for n in range(2_000)]
    path = tmp_path / "m.gguf"
    path.write_bytes(raw_file([raw_kv(b"nested", T.ARRAY, nested), *kvs]))
    before = bytes_read()
    with HeaderReader(path) as reader:
        assert bytes_read() - before < 20 * path.stat().st_size
        assert reader.fields["1999"].contents() == ["ab"]
        assert reader.fields["nested"].contents(-1) == ["ab"]
