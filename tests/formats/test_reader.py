"""The reader against the stock one, against hand-made files, and against damaged ones."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFEndian, GGUFValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rys_gguf.errors import InvalidGGUF
from rys_gguf.formats.header import Span, decode
from rys_gguf.formats.reader import HeaderReader
from rys_gguf.formats.views import Field
from tests import tiny
from tests.disk import finish
from tests.headers import kv_of
from tests.strategies import (
    U32,
    U64,
    UNKNOWN_TYPE,
    Made,
    architecture,
    damaged,
    files,
    raw_array,
    raw_file,
    raw_kv,
    raw_string,
    raw_tensor,
)

T = GGUFValueType
Pair = tuple[gguf.GGUFReader, HeaderReader, bytes]
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file that each example overwrites."""
    return tmp_path_factory.mktemp("reader") / "m.gguf"


def opened(path: Path, content: bytes) -> HeaderReader:
    """A reader of these bytes."""
    path.write_bytes(content)
    return HeaderReader(path)


def encoded(reader: HeaderReader) -> bytes:
    """The header's own encoding, with the values that stayed in the file."""
    return b"".join(
        reader.file.read(part.offset, part.n_bytes) if isinstance(part, Span) else part
        for part in reader.header.encode()
    )


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


@pytest.mark.parametrize("type_", [4, 144, UNKNOWN_TYPE, (1 << 32) - 1])
def test_a_tensor_of_unknown_type_reaches_to_the_next(scratch: Path, type_: int) -> None:
    """A type this gguf package does not know is its number, and the bytes up to the next offset."""
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


def test_a_string_longer_than_llama_cpp_takes_is_invalid(tmp_path: Path) -> None:
    """The same holds inside an array, if the file is large enough."""
    path = tmp_path / "m.gguf"
    array = U32(T.STRING) + U64(2) + U64(3) + b"abc" + U64((1 << 30) + 1)
    path.write_bytes(kv(T.ARRAY, array))
    os.truncate(path, 2 << 30)
    with pytest.raises(InvalidGGUF, match=f"claims a string of {(1 << 30) + 1} bytes"):
        HeaderReader(path)


def test_nameless_tensors_in_a_hole_are_refused_in_good_time(tmp_path: Path) -> None:
    """Zeros parse as tensors, as many as the header claims; found by fuzzing."""
    path = tmp_path / "m.gguf"
    path.write_bytes(counts(16_384, 0)[:24])
    os.truncate(path, 1 << 24)
    began = time.process_time()
    with pytest.raises(InvalidGGUF, match="tensor '' appears twice in the table"):
        HeaderReader(path)
    assert time.process_time() - began < 5


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


# -- any bytes ----------------------------------------------------------------------------------


@FUZZ
@given(made=files())
def test_any_well_formed_file_is_read_as_it_was_made(scratch: Path, made: Made) -> None:
    """Everything in a header is found, and encodes to the same bytes."""
    with opened(scratch, made.content) as reader:
        header = reader.header
        assert (header.byteorder, header.version, header.alignment) == (
            made.byteorder,
            made.version,
            made.alignment,
        )
        assert [
            (kv.key.encode("utf-8", "surrogateescape"), kv.type, kv.raw) for kv in header.kvs
        ] == made.kvs
        for kv in header.kvs:
            if kv.item_type is not None:
                assert raw_array(kv.item_type, kv.items, made.byteorder) == kv.raw
            assert repr(reader.fields[kv.key].contents()) == repr(kv.value)  # NaN is not NaN
        assert [
            (t.name.encode("utf-8", "surrogateescape"), t.ne, t.type) for t in header.tensors
        ] == [tensor[:3] for tensor in made.tensors]
        assert [t.data.tobytes() for t in reader.tensors] == [t[3] for t in made.tensors]
        assert header.offset_issues() == []
        assert encoded(reader) == made.content[: reader.data_offset]


def refusal(path: Path, content: bytes) -> str | None:
    """Parse and look at everything; the message if the file is not a GGUF.

    What is taken has to encode to the file's own bytes.
    """
    try:
        reader = opened(path, content)
    except InvalidGGUF as e:
        return str(e)
    with reader:
        for field in reader.fields.values():
            field.contents()
        for tensor in reader.tensors:
            assert tensor.data.nbytes == tensor.n_bytes
        reader.header.offset_issues()
        n = reader.header.n_bytes
        assert encoded(reader)[:n] == content[:n]
    return None


@FUZZ
@given(
    content=st.binary(max_size=200)
    | st.binary(max_size=200).map(lambda b: b"GGUF\3\0\0\0" + b)
    | st.tuples(st.integers(0, 3), st.integers(0, 3), st.binary(max_size=300)).map(
        lambda t: b"GGUF" + struct.pack("<IQQ", 3, t[0], t[1]) + t[2]
    )
)
def test_any_bytes_parse_or_are_invalid(scratch: Path, content: bytes) -> None:
    """Whatever a file holds, the reader takes it or raises InvalidGGUF, and nothing else."""
    message = refusal(scratch, content) or "m.gguf: a GGUF"
    assert message.startswith("m.gguf: ")
    assert message.isprintable()


@FUZZ
@given(data=st.data())
def test_damaged_files_parse_or_are_invalid(scratch: Path, data: st.DataObject) -> None:
    """The same holds for damaged files."""
    message = refusal(scratch, data.draw(damaged(data.draw(files()).content)))
    assert message is None or message.isprintable()


# -- known damage -------------------------------------------------------------------------------


def small() -> bytes:
    """A good file with values and tensors of several kinds."""
    return raw_file(
        [
            architecture(),
            raw_kv(b"llama.block_count", T.UINT32, struct.pack("<I", 1)),
            raw_kv(b"nested", T.ARRAY, raw_array(T.ARRAY, [raw_array(T.INT16, [b"ab"])])),
            raw_kv(b"tokens", T.ARRAY, raw_array(T.STRING, [raw_string(b"a"), raw_string(b"b")])),
            raw_kv(b"flag", T.BOOL, b"\1"),
        ],
        [
            raw_tensor(b"token_embd.weight", [4, 2]),
            raw_tensor(b"blk.0.ffn_up.weight", [3], offset=32),
        ],
        bytes(64),
    )


def test_a_file_cut_anywhere_is_invalid(scratch: Path) -> None:
    """A good file that is cut off at any byte is refused."""
    content = small()
    n_needed = len(content) - 32 + 12  # the last tensor is 12 bytes; its padding may be missing
    for n in range(n_needed):
        with pytest.raises(InvalidGGUF, match=r"m\.gguf: "):
            opened(scratch, content[:n])
    for n in range(n_needed, len(content) + 1):
        opened(scratch, content[:n]).file.close()


def counts(n_tensors: int, n_kvs: int) -> bytes:
    """A file that claims so many tensors and keys, and holds none."""
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_kvs) + bytes(64)


def kv(type_: int, value: bytes, key: bytes = b"some.key") -> bytes:
    """A file of one key."""
    return raw_file([raw_kv(key, type_, value)], data=bytes(64))


def table(*rows: bytes) -> bytes:
    """A file of these tensors, with 64 bytes of data."""
    return raw_file([], rows, bytes(64))


def aligned(type_: int, value: bytes) -> bytes:
    """A file with that alignment."""
    return raw_file(
        [raw_kv(b"general.alignment", type_, value)], [raw_tensor(b"a", [1])], bytes(64)
    )


def nested(depth: int) -> bytes:
    """An array in an array in an array."""
    value = raw_array(T.UINT8, [b"\1"])
    for _ in range(depth - 1):
        value = raw_array(T.ARRAY, [value])
    return value


HUGE = (1 << 64) - 1
F32, Q4_0 = int(GGMLQuantizationType.F32), int(GGMLQuantizationType.Q4_0)

DAMAGE = {
    "nothing": (b"", "is empty"),
    "an LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
    "HTML": (b"\n<!doctype html><html>", "is a web page"),
    "safetensors": (U64(2) + b'{"a":{}}' + bytes(20), "is a safetensors file"),
    "a zip": (b"PK\3\4" + bytes(30), "is a zip archive"),
    "other magic": (b"GGML" + bytes(30), "starts with 'GGML' instead of 'GGUF'"),
    "magic backwards": (b"FUGG" + bytes(30), "is not a GGUF file"),
    "magic only": (b"GGUF", "is shorter than a GGUF header"),
    "version 0": (raw_file(version=0), "is GGUF version 0; versions 2 and 3 are read"),
    "version 1": (raw_file(version=1), "is GGUF version 1;"),
    "version 4": (raw_file(version=4), "is GGUF version 4;"),
    "version 4, big endian": (raw_file(version=4, byteorder=">"), "is GGUF version 4;"),
    "many tensors": (counts(HUGE, 0), f"claims {HUGE} tensors"),
    "many keys": (counts(0, HUGE), f"claims {HUGE} keys"),
    "more keys than there are": (counts(0, 5)[:24], "inside its header"),
    "more tensors than there are": (counts(5, 0)[:24], "inside its header"),
    "an empty key": (kv(T.UINT8, b"\1", b""), "a key at byte 24 is 0 bytes long"),
    "a huge key": (counts(0, 1)[:24] + U64(HUGE), f"a key at byte 24 is {HUGE} bytes long"),
    "a key of 64 KiB": (kv(T.UINT8, b"\1", b"k" * 65536), "is 65536 bytes long"),
    "the same key twice": (
        raw_file([raw_kv(b"k", T.UINT8, b"\1"), raw_kv(b"k", T.INT8, b"\1")]),
        "key 'k' appears twice",
    ),
    "an unknown value type": (kv(13, b"\1"), "key 'some.key' has a value of unknown type 13"),
    "an unknown item type": (kv(T.ARRAY, raw_array(99, [])), "unknown type 99"),
    "a huge string": (kv(T.STRING, U64(HUGE)), f"claims a string of {HUGE} bytes"),
    "a string just too long": (kv(T.STRING, U64(1 << 20)), "claims a string of 1048576 bytes"),
    "a huge array": (kv(T.ARRAY, U32(T.UINT8) + U64(HUGE)), f"claims {HUGE} items"),
    "an array just too long": (kv(T.ARRAY, U32(T.UINT64) + U64(1000)), "claims 1000 items"),
    "many strings": (kv(T.ARRAY, U32(T.STRING) + U64(1 << 40)), f"claims {1 << 40} items"),
    "a huge string in an array": (
        kv(T.ARRAY, raw_array(T.STRING, [U64(HUGE)])),
        "a string runs past the end of the file",
    ),
    "many nested arrays": (kv(T.ARRAY, U32(T.ARRAY) + U64(1 << 40)), f"claims {1 << 40} items"),
    "deep arrays": (kv(T.ARRAY, nested(9)), "nests arrays deeper than 8"),
    "alignment 0": (aligned(T.UINT32, U32(0)), "general.alignment is 0, must be a power of two"),
    "alignment 3": (aligned(T.UINT32, U32(3)), "general.alignment is 3, must be a power of two"),
    "alignment 48": (aligned(T.UINT32, U32(48)), "general.alignment is 48"),
    "alignment 2 GiB": (aligned(T.UINT32, U32(1 << 31)), "ends before its tensor data starts"),
    "alignment as UINT64": (aligned(T.UINT64, U64(32)), "is UINT64, must be UINT32"),
    "alignment as an array": (
        aligned(T.ARRAY, raw_array(T.UINT32, [U32(32)])),
        "is ARRAY[UINT32, 1], must be UINT32",
    ),
    "a name of 64 bytes": (
        table(raw_tensor(b"n" * 64, [1])),
        "a tensor name at byte 24 is 64 bytes long, at most 63 fit",
    ),
    "5 dimensions": (
        table(raw_tensor(b"a", [1] * 5)),
        "tensor 'a' has 5 dimensions, at most 4 fit",
    ),
    "2^32 - 1 dimensions": (
        counts(1, 0)[:24] + raw_string(b"a") + U32((1 << 32) - 1),
        "has 4294967295 dimensions",
    ),
    "a dimension of -1": (table(raw_tensor(b"a", [HUGE])), "more weights than can be counted"),
    "a negative dimension times 0": (
        table(raw_tensor(b"a", [HUGE, 0])),
        "more weights than can be counted",
    ),
    "dimensions that wrap to 0": (
        table(raw_tensor(b"a", [1 << 32, 1 << 32])),
        "tensor 'a' claims more weights than can be counted",
    ),
    "bytes that wrap": (table(raw_tensor(b"a", [1 << 62])), "more weights than can be counted"),
    "an exabyte": (table(raw_tensor(b"a", [1 << 58])), "it is incomplete"),
    "a row of half a block": (
        table(raw_tensor(b"a", [48, 2], Q4_0)),
        "tensor 'a' has rows of 48 weights, Q4_0 needs multiples of 32",
    ),
    "no dimensions, in blocks": (table(raw_tensor(b"a", [], Q4_0)), "has rows of 1 weights"),
    "an unaligned offset": (
        table(raw_tensor(b"a", [1], offset=4)),
        "tensor 'a' has offset 4, not a multiple of 32",
    ),
    "an offset past the end": (table(raw_tensor(b"a", [1], offset=96)), "it is incomplete"),
    "an offset that wraps": (
        table(raw_tensor(b"a", [1], offset=(1 << 64) - 32)),
        "it is incomplete",
    ),
    "an unknown type past the end": (
        table(raw_tensor(b"a", [1], UNKNOWN_TYPE, 96)),
        "it is incomplete",
    ),
    "data one byte short": (table(raw_tensor(b"a", [16]))[:-1], "it is incomplete"),
    "the same name up to a NUL": (
        table(raw_tensor(b"a\0b", [1]), raw_tensor(b"a\0c", [1], offset=32)),
        "appears twice in the table",
    ),
    "the same name twice": (
        table(raw_tensor(b"a", [1]), raw_tensor(b"a", [1], offset=32)),
        "tensor 'a' appears twice in the table",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(scratch: Path, damage: str) -> None:
    """Each kind of damage has its own message, with the file's name, and costs no memory."""
    content, message = DAMAGE[damage]
    scratch.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidGGUF) as e:
            HeaderReader(scratch)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(e.value).startswith("m.gguf: ")
    assert message in str(e.value)
    assert peak < 4 << 20


ESCAPE = b"\x1b[2J\x07\xc2\x9b\xe2\x80\xae\xff\n"


@pytest.mark.parametrize(
    "content",
    [
        raw_file([raw_kv(ESCAPE, T.UINT8, b"\1")] * 2),
        kv(13, b"", ESCAPE),
        kv(T.STRING, U64(HUGE), ESCAPE),
        kv(T.ARRAY, U32(T.UINT8) + U64(HUGE), ESCAPE),
        kv(T.ARRAY, raw_array(T.STRING, [U64(HUGE)]), ESCAPE),
        kv(T.ARRAY, nested(9), ESCAPE),
        table(raw_tensor(ESCAPE, [1] * 5)),
        table(raw_tensor(ESCAPE, [1]), raw_tensor(ESCAPE, [1], offset=32)),
        table(raw_tensor(ESCAPE, [HUGE])),
        table(raw_tensor(ESCAPE, [48], Q4_0)),
        table(raw_tensor(ESCAPE, [1], offset=4)),
        table(raw_tensor(ESCAPE, [99])),
        ESCAPE + bytes(30),
    ],
)
def test_messages_have_no_control_characters(tmp_path: Path, content: bytes) -> None:
    """No control character of a key, a tensor or the file's name gets into a message."""
    path = tmp_path / "a\x1b[31mb.gguf"
    with pytest.raises(InvalidGGUF) as e:
        opened(path, content)
    assert str(e.value).isprintable()
    assert "\\x1b[" in str(e.value)


def test_messages_are_short(scratch: Path) -> None:
    """A name of 60 KB is cut where it is shown."""
    with pytest.raises(InvalidGGUF) as e:
        opened(scratch, raw_file([raw_kv(b"k" * 60_000, T.UINT8, b"\1")] * 2))
    assert len(str(e.value)) < 400


def test_what_is_not_a_regular_file_is_invalid(tmp_path: Path) -> None:
    """A folder, a missing file and a pipe are refused, without waiting for a writer."""
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("", "not a regular file"),
        ("none", "No such file"),
        ("pipe", "regular"),
    ):
        with pytest.raises(InvalidGGUF, match=message):
            HeaderReader(tmp_path / name)


def sparse(path: Path, n_bytes: int, parts: dict[int, bytes]) -> Path:
    """A file of zeros with something at these places; it takes next to no room."""
    with path.open("wb") as file:
        for at, content in parts.items():
            file.seek(at)
            file.write(content)
        file.truncate(n_bytes)
    return path


def test_a_million_nested_arrays_are_refused(tmp_path: Path) -> None:
    """Zeros are empty arrays of bytes; walking millions of them would take minutes."""
    head = counts(0, 1)[:24] + raw_string(b"k") + U32(T.ARRAY) + U32(T.ARRAY) + U64(1 << 21)
    path = sparse(tmp_path / "m.gguf", len(head) + 12 * (1 << 21), {0: head})
    with pytest.raises(InvalidGGUF, match="key 'k'"):
        HeaderReader(path)


def test_metadata_beyond_all_measure_is_refused(tmp_path: Path) -> None:
    """Four thousand values of 64 KB each would fit in memory one by one, not together."""
    step, n = 1 << 16, 4_000
    heads = [raw_string(b"%d" % k) + U32(T.STRING) for k in range(n)]
    kvs = {24 + k * step: head + U64(step - len(head) - 8) for k, head in enumerate(heads)}
    path = sparse(tmp_path / "m.gguf", 24 + n * step, {0: counts(0, n)[:24]} | kvs)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidGGUF, match="metadata"):
            HeaderReader(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60 << 20
