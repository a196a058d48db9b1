"""A GGUF header as values: keys with their bytes as stored, tensor infos, and how to encode them.

A plan's target is a `Header`, and the reader returns one too: writing encodes the first, and
checking starts by comparing the two. Values keep the bytes they came with. They are decoded to be
looked at, but never encoded again, so signalling NaNs and invalid UTF-8 survive. Long values
(a vocabulary) stay in their file as a `Span`.

Layout: ggml/include/gguf.h, "file structure". Byte order is "<" or ">", as in `struct`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gguf.constants import GGUF_DEFAULT_ALIGNMENT, GGUFValueType

from rys_gguf.errors import InvalidGGUF
from rys_gguf.formats.limits import MIN_ALIGNMENT
from rys_gguf.formats.types import type_name
from rys_gguf.text import printable, quoted

# ASCII digits without leading zeros, at the start only: int() and \d accept more than llama.cpp.
_LAYER = re.compile(r"\Ablk\.(0|[1-9][0-9]{0,8})\.", re.ASCII)

ByteOrder = Literal["<", ">"]

ALIGNMENT_KEY = "general.alignment"

SCALAR_FORMAT = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}
SCALAR_BYTES = {t: struct.calcsize("<" + f) for t, f in SCALAR_FORMAT.items()}


@dataclass(frozen=True, slots=True)
class Span:
    """`n_bytes` bytes of a model file, from `offset`; `shard` counts the files of a split model."""

    offset: int
    n_bytes: int
    shard: int = 0


@dataclass(frozen=True, slots=True)
class KV:
    """One key and its value as stored, without the value's type tag.

    An array's value starts with its item type and number of items; `item_type` and `n_items`
    repeat them.
    """

    key: str
    type: GGUFValueType
    raw: bytes | Span
    byteorder: ByteOrder = "<"
    item_type: GGUFValueType | None = None
    n_items: int = 0

    @classmethod
    def of(
        cls,
        key: str,
        type_: GGUFValueType,
        value: Any,
        *,
        byteorder: ByteOrder = "<",
        item_type: GGUFValueType | None = None,
    ) -> KV:
        """A KV from a Python value; arrays take a sequence and the type of their items."""
        if type_ != GGUFValueType.ARRAY:
            return cls(key, type_, _pack(type_, value, byteorder), byteorder)
        assert item_type is not None
        if item_type not in SCALAR_FORMAT:
            return cls.of_items(
                key, item_type, [_pack(item_type, v, byteorder) for v in value], byteorder
            )
        n = len(value)
        raw = struct.pack(f"{byteorder}IQ{n}{SCALAR_FORMAT[item_type]}", item_type, n, *value)
        return cls(key, GGUFValueType.ARRAY, raw, byteorder, item_type, n)

    @classmethod
    def of_items(
        cls, key: str, item_type: GGUFValueType, items: Sequence[bytes], byteorder: ByteOrder
    ) -> KV:
        """An array KV from its items as they are stored."""
        raw = struct.pack(byteorder + "IQ", item_type, len(items)) + b"".join(items)
        return cls(key, GGUFValueType.ARRAY, raw, byteorder, item_type, len(items))

    @property
    def is_array(self) -> bool:
        """Whether the value is an array of any item type."""
        return self.type == GGUFValueType.ARRAY

    @property
    def value(self) -> Any:
        """The decoded value; strings keep bytes that are not UTF-8 as surrogate escapes.

        Raises InvalidGGUF for a value that stays in its file (see `Model.raw`): no value that is
        decoded here is that long in a real model.
        """
        if isinstance(self.raw, Span):
            msg = f"{printable(self.key)} is {self.raw.n_bytes} bytes long; no model has that much"
            raise InvalidGGUF(msg)
        return decode(self.type, self.raw, self.byteorder)

    @property
    def items(self) -> list[bytes]:
        """The items of an array as they are stored."""
        assert isinstance(self.raw, bytes)
        assert self.item_type is not None
        items, pos = [], 12
        for _ in range(self.n_items):
            end = _value_end(self.item_type, self.raw, pos, self.byteorder)
            items.append(self.raw[pos:end])
            pos = end
        return items

    @property
    def type_name(self) -> str:
        """`UINT32`, or `ARRAY[BOOL, 36]` with the number of items."""
        if not self.is_array:
            return self.type.name
        return (
            f"ARRAY[{self.item_type.name if self.item_type is not None else '-'}, {self.n_items}]"
        )

    @property
    def n_value_bytes(self) -> int:
        """Bytes of the value as stored."""
        return self.raw.n_bytes if isinstance(self.raw, Span) else len(self.raw)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One entry of the tensor table.

    `ne` is in GGUF order (the contiguous dimension first), `offset` counts from the start of the
    data section, and `n_bytes` is the size of the data without padding. A type that gguf-py does
    not know keeps its number, and its data is taken to reach to the next tensor.
    """

    name: str
    ne: tuple[int, ...]
    type: int
    offset: int
    n_bytes: int

    @property
    def type_name(self) -> str:
        """`Q4_K`, or `type 144` for one of a fork."""
        return type_name(self.type)

    @property
    def n_elements(self) -> int:
        """Number of weights."""
        n = 1
        for dim in self.ne:
            n *= dim
        return n


@dataclass(frozen=True, slots=True)
class Header:
    """Everything before the tensor data."""

    version: int
    byteorder: ByteOrder
    kvs: tuple[KV, ...]
    tensors: tuple[TensorInfo, ...]

    def get(self, key: str) -> KV | None:
        """The KV of that key, or None."""
        return next((kv for kv in self.kvs if kv.key == key), None)

    @property
    def alignment(self) -> int:
        """general.alignment, or GGUF's default of 32 bytes."""
        kv = self.get(ALIGNMENT_KEY)
        return int(kv.value) if kv else GGUF_DEFAULT_ALIGNMENT

    @property
    def output_alignment(self) -> int:
        """The alignment of what is written from this model: enough for llama.cpp to map it."""
        return max(self.alignment, MIN_ALIGNMENT)

    @property
    def n_bytes(self) -> int:
        """Bytes of the encoded header, without the padding before the data."""
        return (
            24
            + sum(12 + len(encode_text(kv.key)) + kv.n_value_bytes for kv in self.kvs)
            + sum(24 + len(encode_text(t.name)) + 8 * len(t.ne) for t in self.tensors)
        )

    @property
    def data_offset(self) -> int:
        """Where the tensor data starts in the file."""
        return padded(self.n_bytes, self.alignment)

    @property
    def n_data_bytes(self) -> int:
        """Bytes of the data section, every tensor padded."""
        alignment = self.alignment
        return sum(padded(t.n_bytes, alignment) for t in self.tensors)

    def encode(self) -> Iterator[bytes | Span]:
        """The header's bytes in order, up to and including the padding before the data.

        A value that stayed in its file is yielded as its Span.
        """
        u32, u64 = self.byteorder + "I", self.byteorder + "Q"
        out = bytearray(b"GGUF")
        out += struct.pack(u32, self.version)
        out += struct.pack(self.byteorder + "QQ", len(self.tensors), len(self.kvs))
        for kv in self.kvs:
            out += _pack_string(encode_text(kv.key), self.byteorder) + struct.pack(u32, kv.type)
            if isinstance(kv.raw, Span):
                yield bytes(out)
                yield kv.raw
                out.clear()
            else:
                out += kv.raw
        for t in self.tensors:
            out += _pack_string(encode_text(t.name), self.byteorder)
            out += struct.pack(u32, len(t.ne))
            out += b"".join(struct.pack(u64, dim) for dim in t.ne)
            out += struct.pack(self.byteorder + "IQ", t.type, t.offset)
        padding = zeros(self.data_offset - self.n_bytes)
        yield bytes(out) + next(padding, b"")
        yield from padding

    def offset_issues(self) -> list[str]:
        """Where the table breaks llama.cpp's rule that each tensor follows the one before it.

        Each offset must be the running sum of padded sizes.

        Source: ggml/src/gguf.cpp, "tensor '%s' has offset %, expected %".
        """
        issues = []
        expected, alignment = 0, self.alignment
        for t in self.tensors:
            if t.offset != expected:
                issues.append(
                    f"tensor {quoted(t.name)} has offset {t.offset}, llama.cpp expects {expected}"
                )
            expected = t.offset + padded(t.n_bytes, alignment)
        return issues


def with_alignment(kvs: Iterable[KV], alignment: int, byteorder: ByteOrder) -> Iterator[KV]:
    """The KVs with that general.alignment, in its place if they have one, otherwise at the end."""
    new = KV.of(ALIGNMENT_KEY, GGUFValueType.UINT32, alignment, byteorder=byteorder)
    is_there = False
    for kv in kvs:
        is_there |= kv.key == ALIGNMENT_KEY
        yield new if kv.key == ALIGNMENT_KEY else kv
    if not is_there:
        yield new


def layer_of(name: str) -> int | None:
    """The block number in a tensor name, or None for a tensor of the whole model.

    layer_of("blk.7.attn_q.weight") == 7
    """
    match = _LAYER.match(name)
    return int(match[1]) if match else None


def rename(name: str, layer: int) -> str:
    """The tensor name with another block number."""
    return _LAYER.sub(f"blk.{layer}.", name, count=1)


def padded(n: int, alignment: int) -> int:
    """`n` rounded up to a multiple of `alignment` (a power of two)."""
    return (n + alignment - 1) & -alignment


def zeros(n: int) -> Iterator[bytes]:
    """`n` bytes of padding, at most 1 MiB at a time: an alignment can be as large as 2 GiB."""
    for done in range(0, n, 1 << 20):
        yield bytes(min(1 << 20, n - done))


def encode_text(text: str) -> bytes:
    """Text to the bytes from which it was decoded."""
    return text.encode("utf-8", "surrogateescape")


def decode_text(raw: bytes) -> str:
    """Bytes to text; bytes that are not UTF-8 become surrogate escapes and survive the way back."""
    return raw.decode("utf-8", "surrogateescape")


def decode(type_: GGUFValueType, raw: bytes, byteorder: ByteOrder) -> Any:
    """A stored value as a Python value; arrays become lists, nested arrays nested lists."""
    return _decode(type_, raw, 0, byteorder)[0]


def _decode(type_: GGUFValueType, raw: bytes, pos: int, byteorder: ByteOrder) -> tuple[Any, int]:
    if type_ == GGUFValueType.STRING:
        end = _value_end(type_, raw, pos, byteorder)
        return decode_text(raw[pos + 8 : end]), end
    if type_ == GGUFValueType.ARRAY:
        item, n = struct.unpack_from(byteorder + "IQ", raw, pos)
        pos += 12
        item_type = GGUFValueType(item)
        if (fmt := SCALAR_FORMAT.get(item_type)) is not None:
            end = pos + n * SCALAR_BYTES[item_type]
            return list(struct.unpack_from(f"{byteorder}{n}{fmt}", raw, pos)), end
        values = []
        for _ in range(n):
            value, pos = _decode(item_type, raw, pos, byteorder)
            values.append(value)
        return values, pos
    (value,) = struct.unpack_from(byteorder + SCALAR_FORMAT[type_], raw, pos)
    return value, pos + SCALAR_BYTES[type_]


def _value_end(type_: GGUFValueType, raw: bytes, pos: int, byteorder: ByteOrder) -> int:
    if type_ == GGUFValueType.STRING:
        return pos + 8 + int(struct.unpack_from(byteorder + "Q", raw, pos)[0])
    if type_ == GGUFValueType.ARRAY:
        return _decode(type_, raw, pos, byteorder)[1]
    return pos + SCALAR_BYTES[type_]


def _pack(type_: GGUFValueType, value: Any, byteorder: ByteOrder) -> bytes:
    if type_ == GGUFValueType.STRING:
        return _pack_string(encode_text(value), byteorder)
    return struct.pack(byteorder + SCALAR_FORMAT[type_], value)


def _pack_string(raw: bytes, byteorder: ByteOrder) -> bytes:
    return struct.pack(byteorder + "Q", len(raw)) + raw
