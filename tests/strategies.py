"""GGUF files from scratch: their bytes laid out by hand, and Hypothesis strategies for them.

The functions follow the format's description, not the package: what the reader finds in their
output is compared with what went in.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from gguf.constants import GGMLQuantizationType, GGUFValueType
from hypothesis import strategies as st

from rys_gguf.formats.types import BLOCKS

T = GGUFValueType
U32, U64 = struct.Struct("<I").pack, struct.Struct("<Q").pack

SCALARS = {
    T.UINT8: "B",
    T.INT8: "b",
    T.UINT16: "H",
    T.INT16: "h",
    T.UINT32: "I",
    T.INT32: "i",
    T.FLOAT32: "f",
    T.BOOL: "?",
    T.UINT64: "Q",
    T.INT64: "q",
    T.FLOAT64: "d",
}


def raw_string(text: bytes, byteorder: str = "<") -> bytes:
    """A string as GGUF stores it."""
    return struct.pack(byteorder + "Q", len(text)) + text


def raw_array(item_type: int, items: Sequence[bytes], byteorder: str = "<") -> bytes:
    """An array of items that are encoded already."""
    return struct.pack(byteorder + "IQ", item_type, len(items)) + b"".join(items)


def raw_kv(key: bytes, type_: int, value: bytes, byteorder: str = "<") -> bytes:
    """A key with its value."""
    return raw_string(key, byteorder) + struct.pack(byteorder + "I", type_) + value


def raw_tensor(
    name: bytes, ne: Sequence[int], type_: int = 0, offset: int = 0, byteorder: str = "<"
) -> bytes:
    """An entry of the tensor table."""
    dims = struct.pack(f"{byteorder}I{len(ne)}Q", len(ne), *ne)
    return raw_string(name, byteorder) + dims + struct.pack(byteorder + "IQ", type_, offset)


def raw_file(
    kvs: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    byteorder: str = "<",
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """A whole file; `alignment` is that of the data and writes no key."""
    counts = struct.pack(byteorder + "IQQ", version, len(tensors), len(kvs))
    header = b"GGUF" + counts + b"".join(kvs) + b"".join(tensors)
    return header + bytes(-len(header) % alignment) + data


def architecture(name: bytes = b"llama") -> bytes:
    """The one key that every model has."""
    return raw_kv(b"general.architecture", T.STRING, raw_string(name))


@dataclass(frozen=True)
class Made:
    """A generated file: its bytes and its content."""

    content: bytes
    byteorder: str
    version: int
    alignment: int
    kvs: list[tuple[bytes, GGUFValueType, bytes]]
    tensors: list[tuple[bytes, tuple[int, ...], int, bytes]]


def names(max_size: int = 40) -> st.SearchStrategy[bytes]:
    """Keys and tensor names: usual ones and arbitrary bytes."""
    usual = st.from_regex(r"(blk\.[0-9]{1,3}\.)?[a-z_.]{1,20}", fullmatch=True).map(str.encode)
    return usual | st.binary(min_size=1, max_size=max_size)


@st.composite
def values(draw: st.DrawFn, byteorder: str, max_depth: int = 3) -> tuple[GGUFValueType, bytes]:
    """A value of any type as stored: arbitrary bits, nested arrays."""
    type_ = draw(st.sampled_from(GGUFValueType))
    return type_, draw(_value(type_, byteorder, max_depth))


@st.composite
def _value(draw: st.DrawFn, type_: GGUFValueType, byteorder: str, depth: int) -> bytes:
    if type_ == T.STRING:
        return raw_string(draw(st.binary(max_size=20)), byteorder)
    if type_ == T.ARRAY:
        types = [t for t in GGUFValueType if depth or t != T.ARRAY]
        item_type = draw(st.sampled_from(types))
        items = draw(st.lists(_value(item_type, byteorder, depth - 1), max_size=4))
        return raw_array(item_type, items, byteorder)
    size = struct.calcsize(SCALARS[type_])
    return draw(st.binary(min_size=size, max_size=size))


@st.composite
def tensors(draw: st.DrawFn) -> tuple[tuple[int, ...], int, int]:
    """Shape, type and size of a tensor of any type that llama.cpp reads."""
    type_ = draw(st.sampled_from(sorted(BLOCKS)))
    block, n_block_bytes = BLOCKS[type_]
    dims = draw(st.lists(st.integers(0, 3), max_size=4))
    if dims:
        dims[0] *= block
    elif block > 1:
        dims = [block]
    n = 1
    for dim in dims:
        n *= dim
    return tuple(dims), int(type_), n // block * n_block_bytes


@st.composite
def files(draw: st.DrawFn) -> Made:
    """Any file that the reader must accept, whether or not it is a model."""
    byteorder = draw(st.sampled_from("<>"))
    version = draw(st.sampled_from([2, 3]))
    alignment = draw(st.sampled_from([None, 1, 8, 32, 64]))
    keys = draw(st.lists(names(), max_size=6, unique=True))
    kvs = [
        (key, *draw(values(byteorder)))
        for key in keys
        if key != b"general.alignment" and not key.startswith(b"GGUF.")
    ]
    if alignment is not None:
        kvs.append((b"general.alignment", T.UINT32, struct.pack(byteorder + "I", alignment)))
    step = alignment or 32
    table, infos, data = [], [], b""
    for name in draw(st.lists(names(), max_size=5, unique=True)):
        ne, type_, n_bytes = draw(tensors())
        content = draw(st.binary(min_size=n_bytes, max_size=n_bytes)) if n_bytes < 64 else b""
        content = content.ljust(n_bytes, b"\x5a")
        infos.append(raw_tensor(name, ne, type_, len(data), byteorder))
        table.append((name, ne, type_, content))
        data += content + bytes(-n_bytes % step)
    content = raw_file(
        [raw_kv(*kv, byteorder) for kv in kvs],
        infos,
        data,
        byteorder=byteorder,
        version=version,
        alignment=step,
    )
    return Made(content, byteorder, version, step, kvs, table)


# Numbers at which readers break: lengths, counts, dimensions, types.
_EDGES = [0, 1, 0x7F, 0xFF, 0xFFFF, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
_WIDE_EDGES = [*_EDGES, 1 << 32, (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` with a few bytes changed, removed, added, or replaced by an edge number."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        new = draw(
            st.binary(min_size=1, max_size=4)
            | st.sampled_from(_EDGES).map(lambda n: struct.pack("<I", n))
            | st.sampled_from(_WIDE_EDGES).map(lambda n: struct.pack("<Q", n))
        )
        cut = draw(st.sampled_from([0, 1, len(new), len(content)]))
        content = content[:at] + new + content[at + cut :]
    return content


UNKNOWN_TYPE = max(map(int, GGMLQuantizationType)) + 100
