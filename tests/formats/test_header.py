"""A header as values: its encoding, and its questions."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType, GGUFEndian, GGUFValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rys_gguf.errors import InvalidGGUF
from rys_gguf.formats.header import (
    KV,
    ByteOrder,
    Header,
    Span,
    TensorInfo,
    decode_text,
    encode_text,
    layer_of,
    padded,
    rename,
)
from rys_gguf.formats.reader import HeaderReader
from tests.disk import finish
from tests.headers import kv_of
from tests.strategies import SCALARS, Made, files, raw_array, raw_kv, raw_string

T = GGUFValueType
F32 = int(GGMLQuantizationType.F32)

VALUES: dict[GGUFValueType, Any] = {
    T.UINT8: 200,
    T.INT8: -100,
    T.UINT16: 60_000,
    T.INT16: -30_000,
    T.UINT32: 4_000_000_000,
    T.INT32: -2_000_000_000,
    T.FLOAT32: 0.5,
    T.BOOL: True,
    T.STRING: "ħ",
    T.UINT64: 1 << 63,
    T.INT64: -(1 << 62),
    T.FLOAT64: 0.1,
}


def header(*kvs: KV, tensors: tuple[TensorInfo, ...] = (), byteorder: ByteOrder = "<") -> Header:
    """A header of version 3."""
    return Header(3, byteorder, kvs, tensors)


def encoded(header: Header) -> bytes:
    """The encoding of a header that left no value in a file."""
    return b"".join(piece for piece in header.encode() if isinstance(piece, bytes))


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("type_", VALUES)
def test_a_value_is_stored_as_struct_stores_it(type_: GGUFValueType, byteorder: ByteOrder) -> None:
    """Scalars and arrays of every type become the format's bytes, and the value again."""
    value = VALUES[type_]
    raw = (
        raw_string(value.encode(), byteorder)
        if type_ == T.STRING
        else struct.pack(byteorder + SCALARS[type_], value)
    )
    scalar = KV.of("key", type_, value, byteorder=byteorder)
    assert (scalar.raw, scalar.value, scalar.is_array) == (raw, value, False)
    assert (scalar.type_name, scalar.n_value_bytes) == (type_.name, len(raw))

    array = KV.of("key", T.ARRAY, [value] * 3, byteorder=byteorder, item_type=type_)
    assert array == KV.of_items("key", type_, [raw] * 3, byteorder)
    assert array.raw == raw_array(type_, [raw] * 3, byteorder)
    assert (array.value, array.items, array.is_array) == ([value] * 3, [raw] * 3, True)
    assert array.type_name == f"ARRAY[{type_.name}, 3]"


@pytest.mark.parametrize("endianess", GGUFEndian)
def test_a_header_is_written_as_the_stock_writer_writes_it(
    tmp_path: Path, endianess: GGUFEndian
) -> None:
    """A header made of values has, byte for byte, the encoding that GGUFWriter gives it."""
    byteorder: ByteOrder = "<" if endianess == GGUFEndian.LITTLE else ">"
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama", endianess=endianess)
    kvs = [KV.of("general.architecture", T.STRING, "llama", byteorder=byteorder)]
    for type_, value in VALUES.items():
        writer.add_key_value(f"k.{type_.name}", value, type_)
        writer.add_key_value(f"a.{type_.name}", [value] * 2, T.ARRAY, type_)
        kvs.append(KV.of(f"k.{type_.name}", type_, value, byteorder=byteorder))
        kvs.append(
            KV.of(f"a.{type_.name}", T.ARRAY, [value] * 2, byteorder=byteorder, item_type=type_)
        )
    writer.add_tensor("a", np.zeros((3, 5), np.float32))
    writer.add_tensor("b", np.zeros(34, np.uint8), raw_dtype=GGMLQuantizationType.Q8_0)
    finish(writer)
    q8 = int(GGMLQuantizationType.Q8_0)
    tensors = (TensorInfo("a", (5, 3), F32, 0, 60), TensorInfo("b", (32,), q8, 64, 34))
    made = header(*kvs, tensors=tensors, byteorder=byteorder)
    content = (tmp_path / "m.gguf").read_bytes()
    assert content[: made.data_offset] == encoded(made)
    assert len(content) == made.data_offset + made.n_data_bytes


@pytest.mark.no_cover  # many times the same lines, which would take three times as long
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(made=files())
def test_what_is_encoded_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, made: Made
) -> None:
    """Writing a header and reading it gives an equal one; its sizes are those of the file."""
    folder = tmp_path_factory.mktemp("header")
    (folder / "a.gguf").write_bytes(made.content)
    with HeaderReader(folder / "a.gguf") as first:
        assert len(encoded(first.header)) == first.header.data_offset == first.data_offset
        assert first.header.n_bytes <= first.header.data_offset < first.header.n_bytes + 64
        data = made.content[first.data_offset :]
        (folder / "b.gguf").write_bytes(encoded(first.header) + data)
    with HeaderReader(folder / "b.gguf") as second:
        assert second.header == first.header


def test_a_value_in_a_file_is_encoded_as_its_span() -> None:
    """The encoder does not read the file: it yields the span in the value's place."""
    span = Span(1000, 70_000, 2)
    tokens = KV("tokens", T.ARRAY, span, "<", T.STRING, 9)
    made = header(KV.of("a", T.UINT8, 1), tokens, KV.of("b", T.UINT8, 2))
    before, hole, after = made.encode()
    assert hole == span
    assert isinstance(before, bytes)
    assert isinstance(after, bytes)
    assert before.endswith(raw_string(b"tokens") + struct.pack("<I", T.ARRAY))
    assert after.startswith(raw_kv(b"b", T.UINT8, b"\2"))
    assert len(before) + span.n_bytes + len(after) == made.data_offset
    assert tokens.n_value_bytes == 70_000
    with pytest.raises(InvalidGGUF, match="tokens is 70000 bytes long"):
        _ = tokens.value


def test_keys_are_looked_up_by_their_name() -> None:
    """A key that is missing is None; the first of its name counts."""
    made = header(KV.of("a", T.UINT8, 1), KV.of("b", T.UINT8, 2))
    assert kv_of(made, "b").value == 2
    assert made.get("c") is None


@pytest.mark.parametrize(("alignment", "padding"), [(None, 32), (1, 1), (64, 64), (4096, 4096)])
def test_the_alignment_pads_header_and_tensors(alignment: int | None, padding: int) -> None:
    """The data starts on a multiple of general.alignment, of 32 without it, and so do tensors."""
    kvs = [KV.of("general.alignment", T.UINT32, alignment)] if alignment else []
    tensors = (TensorInfo("a", (1,), F32, 0, 4), TensorInfo("b", (2,), F32, padded(4, padding), 8))
    made = header(*kvs, tensors=tensors)
    assert made.alignment == padding
    assert made.data_offset % padding == 0 <= made.data_offset - made.n_bytes < padding
    assert made.n_data_bytes == padded(4, padding) + padded(8, padding)
    assert made.offset_issues() == []


@pytest.mark.parametrize(
    ("offsets", "issues"),
    [
        ((0, 32, 64), []),
        ((32, 64, 96), ["tensor 'a' has offset 32, llama.cpp expects 0"]),
        ((0, 64, 96), ["tensor 'b' has offset 64, llama.cpp expects 32"]),
        ((0, 0, 32), ["tensor 'b' has offset 0, llama.cpp expects 32"]),
        (
            (32, 0, 64),
            [
                "tensor 'a' has offset 32, llama.cpp expects 0",
                "tensor 'b' has offset 0, llama.cpp expects 64",
                "tensor 'c' has offset 64, llama.cpp expects 32",
            ],
        ),
    ],
)
def test_offsets_that_llama_cpp_refuses_are_listed(offsets: list[int], issues: list[str]) -> None:
    """Holes, overlaps and another order break the rule that each tensor follows the one before."""
    rows = zip("abc", offsets, strict=True)
    tensors = tuple(TensorInfo(name, (5,), F32, offset, 20) for name, offset in rows)
    assert header(tensors=tensors).offset_issues() == issues


def test_a_tensor_counts_its_weights() -> None:
    """The product of the dimensions, one without any."""
    assert TensorInfo("a", (4, 3, 2), F32, 0, 96).n_elements == 24
    assert TensorInfo("a", (), F32, 0, 4).n_elements == 1
    assert TensorInfo("a", (4, 0), F32, 0, 0).n_elements == 0


@given(st.integers(0, 1 << 64), st.sampled_from([1 << n for n in range(32)]))
def test_padding_reaches_the_next_multiple(n: int, alignment: int) -> None:
    """The least multiple that is not below the number."""
    assert padded(n, alignment) % alignment == 0 <= padded(n, alignment) - n < alignment


@given(st.binary())
def test_any_bytes_are_text_and_back(raw: bytes) -> None:
    """Bytes that are not UTF-8 survive in text; UTF-8 reads as such."""
    assert encode_text(decode_text(raw)) == raw
    try:
        assert decode_text(raw) == raw.decode()
    except UnicodeDecodeError:
        assert not decode_text(raw).isprintable()


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("blk.0.attn_q.weight", 0),
        ("blk.7.ssm_a", 7),
        ("blk.511.x", 511),
        ("blk.10.blk.3.x", 10),
        ("token_embd.weight", None),
        ("blk.weight", None),
        ("blk.1", None),
        ("blk.01.x", None),
        ("blk.-1.x", None),
        ("blk.+1.x", None),
        ("blk. 1.x", None),
        ("blk.1_0.x", None),
        ("blk.٣.x", None),
        ("blk.\uff11.x", None),
        ("dec.blk.1.x", None),
        ("Blk.1.x", None),
        ("\nblk.1.x", None),
        ("blk.9999999999999999999.x", None),
    ],
)
def test_layers_are_named_as_llama_cpp_names_them(name: str, layer: int | None) -> None:
    """A tensor belongs to a layer only if its name starts with `blk.`, a plain number and a dot."""
    assert layer_of(name) == layer
    renamed = rename(name, 12)
    assert renamed == (name if layer is None else name.replace(f"blk.{layer}.", "blk.12.", 1))
