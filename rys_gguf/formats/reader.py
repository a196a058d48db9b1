"""`gguf.GGUFReader`, with what is slow or unchecked in it replaced.

The stock reader makes several numpy objects per vocabulary entry (seconds and hundreds of MiB on
a 262k-token file), slices without asking whether the file is that long, knows only the tensor
types of its own release, and maps the file, so that one that shrinks kills the process. Here an
array is one span of the file, decoded when somebody asks; every length is compared with the file
before it is used; and bytes are read, not mapped. `fields` and `tensors` mean what they mean in
the stock class, which is the oracle of the tests.

Limits and messages follow ggml/src/gguf.cpp (gguf_init_from_reader). Where the format is wider
than llama.cpp (nested arrays, byte orders, ik_llama.cpp's tensor types) the reader follows the
format: such values are copied by their extent, never interpreted.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFEndian, GGUFValueType
from gguf.gguf_reader import READER_SUPPORTED_VERSIONS, GGUFReader, ReaderField, ReaderTensor
from gguf.quants import quant_shape_to_byte_shape

from rys_gguf.errors import InvalidGGUF
from rys_gguf.files.source import SourceFile
from rys_gguf.formats.header import (
    KV,
    SCALAR_BYTES,
    ByteOrder,
    Header,
    Span,
    TensorInfo,
    decode,
    decode_text,
    padded,
    tensor_bytes,
)
from rys_gguf.formats.limits import MAX_NAME_BYTES
from rys_gguf.text import printable

# Values up to this size are kept with their key; longer ones (vocabularies) stay in the file.
_INLINE_BYTES = 1 << 18
_WINDOW_BYTES = 1 << 20
# The spec's limit for keys. llama.cpp has none, but nothing may be allocated on a file's word.
_MAX_KEY_BYTES = (1 << 16) - 1
_MAX_DIMS = 4
# Of eight bytes each: what a 64-bit size can count.
_MAX_WEIGHTS = (1 << 60) - 1
# gguf.cpp: GGUF_MAX_STRING_LENGTH and GGUF_MAX_ARRAY_ELEMENTS.
_MAX_STRING_BYTES = 1 << 30
_MAX_ITEMS = 1 << 30
# Bounds on work and memory that no real model comes near, low enough for two files side by side:
# 512 layers of 32 tensors; strings are walked one by one, nested arrays at the cost of 64.
_MAX_TENSORS = 1 << 14
_MAX_KEYS = 1 << 12
_MAX_WALKED = 1 << 22
_ARRAY_WEIGHT = 1 << 6
# Keys and values that are kept in memory; a vocabulary is not among them.
_MAX_KEPT_BYTES = 1 << 24
_MAX_DEPTH = 8

_ITEM_DTYPES = {
    GGMLQuantizationType.F16: np.float16,
    GGMLQuantizationType.F32: np.float32,
    GGMLQuantizationType.F64: np.float64,
    GGMLQuantizationType.I8: np.int8,
    GGMLQuantizationType.I16: np.int16,
    GGMLQuantizationType.I32: np.int32,
    GGMLQuantizationType.I64: np.int64,
}


class Field(ReaderField):
    """A `ReaderField` whose array items, and strings of great length, stay in the file.

    `parts` then ends with their number, and `data` is empty. `span` is the value's extent, without
    key and type tag.
    """

    span: Span
    _reader: HeaderReader

    @classmethod
    def at(cls, plain: ReaderField, span: Span, reader: HeaderReader) -> Field:
        """`plain` with its value's extent and where to read it."""
        field = cls(*plain)
        field.span = span
        field._reader = reader
        return field

    def contents(self, index_or_slice: int | slice = slice(None)) -> Any:
        """The decoded value, as in the stock class; nested arrays stay nested."""
        raw = self._reader.file.read(self.span.offset, self.span.n_bytes)
        value = decode(self.types[0], raw, self._reader.byteorder)
        return value[index_or_slice] if self.types[0] == GGUFValueType.ARRAY else value


class Tensor(ReaderTensor):
    """A `ReaderTensor` that reads its data when asked; of unknown types the raw bytes."""

    _reader: HeaderReader

    @property
    def data(self) -> npt.NDArray[Any]:
        """The data as in the stock class: floats by value, quantised types as bytes."""
        raw = self._reader.file.read(self.data_offset, self.n_bytes)
        dtype = np.dtype(_ITEM_DTYPES.get(self.tensor_type, np.uint8))
        flat = np.frombuffer(raw, dtype.newbyteorder(self._reader.byteorder))
        if self.tensor_type not in GGML_QUANT_SIZES:
            return flat
        shape = tuple(int(n) for n in reversed(self.shape))
        if self.tensor_type not in _ITEM_DTYPES:
            shape = quant_shape_to_byte_shape(shape or (1,), self.tensor_type)
        return flat.reshape(shape)


class HeaderReader(GGUFReader):
    """The header and tensor table of one GGUF file; tensor data is not touched.

    Raises InvalidGGUF, and nothing else, for any file that is not a GGUF of version 2 or 3 with
    every value and tensor inside the file. Close it, or use it as a context manager.
    """

    header: Header

    def __init__(self, path: os.PathLike[str] | str, name: str | None = None) -> None:
        # The stock __init__ maps the file; this one reads it and does the rest in the same order.
        self.file = SourceFile(path, name)
        self._window = b""
        self._window_start = 0
        self._walked = 0
        self._kept = 0
        try:
            self._parse()
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> HeaderReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()

    def _parse(self) -> None:
        self._check_magic()
        version = self._byte_order_and_version()
        self.fields = OrderedDict()
        self.tensors = []
        kvs: list[KV] = []
        infos: list[TensorInfo] = []
        counts = self._get(8, np.uint64, 2)
        self._push_field(
            ReaderField(4, "GGUF.version", [self._get(4, np.uint32)], [0], [GGUFValueType.UINT32])
        )
        self._push_field(
            ReaderField(8, "GGUF.tensor_count", [counts[:1]], [0], [GGUFValueType.UINT64])
        )
        self._push_field(
            ReaderField(16, "GGUF.kv_count", [counts[1:]], [0], [GGUFValueType.UINT64])
        )
        n_tensors, n_kvs = int(counts[0]), int(counts[1])
        for n, what, limit in ((n_tensors, "tensors", _MAX_TENSORS), (n_kvs, "keys", _MAX_KEYS)):
            if n > limit:
                raise self._invalid(f"claims {n} {what}, more than any model has ({limit})")

        offs = self._build_fields(24, n_kvs)
        kvs = [self._kv(field) for field in self.fields.values() if isinstance(field, Field)]
        self.alignment = self._alignment(kvs)
        offs, tensor_fields = self._build_tensor_info(offs, n_tensors)
        self.data_offset = padded(offs, self.alignment)
        if self.data_offset > self.file.n_bytes and n_tensors:
            raise self._invalid("ends before its tensor data starts: the file is incomplete")
        infos = self._tensor_infos(tensor_fields)
        self.header = Header(version, self.byteorder, tuple(kvs), tuple(infos))
        self._build_tensors(self.data_offset, tensor_fields)
        self._window = b""

    # -- stock methods, replaced ---------------------------------------------------------------

    def _get(
        self,
        offset: int,
        dtype: npt.DTypeLike,
        count: int = 1,
        override_order: Any = None,
    ) -> npt.NDArray[Any]:
        item = np.dtype(dtype).newbyteorder(override_order or self.byteorder)
        return np.frombuffer(self._bytes(offset, item.itemsize * int(count)), item)

    def _push_field(self, field: ReaderField, skip_sum: bool = False) -> int:  # noqa: FBT001, FBT002 - stock signature
        if field.name in self.fields:
            raise self._invalid(f"key {printable(field.name)!r} stands there twice")
        self.fields[field.name] = field
        return 0 if skip_sum else sum(int(part.nbytes) for part in field.parts)

    def _build_fields(self, offs: int, count: int) -> int:
        for _ in range(count):
            start = offs
            n_key = self._u64(offs)
            if not 0 < n_key <= _MAX_KEY_BYTES:
                raise self._invalid(f"a key at byte {offs} is {n_key} bytes long")
            raw_key = self._bytes(offs + 8, n_key)
            key = decode_text(raw_key)
            offs += 8 + n_key
            type_ = self._value_type(offs, key)
            offs += 4
            parts = [
                self._get(start, np.uint64),
                np.frombuffer(raw_key, np.uint8),
                self._get(offs - 4, np.uint32),
            ]
            end, value_parts, types = self._value(offs, type_, key)
            self._kept += n_key + (end - offs if end - offs <= _INLINE_BYTES else 0)
            if self._kept > _MAX_KEPT_BYTES:
                raise self._invalid(
                    f"has more than {_MAX_KEPT_BYTES} bytes of metadata besides its vocabulary"
                )
            in_file = type_ == GGUFValueType.ARRAY or end - offs > _INLINE_BYTES
            data = [] if in_file else [len(parts) + len(value_parts) - 1]
            plain = ReaderField(start, key, parts + value_parts, data, types)
            self._push_field(Field.at(plain, Span(offs, end - offs), self), skip_sum=True)
            offs = end
        return offs

    def _build_tensor_info(self, offs: int, count: int) -> tuple[int, list[ReaderField]]:
        fields = []
        for _ in range(count):
            n_name = self._u64(offs)
            if n_name > MAX_NAME_BYTES:
                raise self._invalid(
                    f"a tensor name at byte {offs} is {n_name} bytes long, "
                    f"at most {MAX_NAME_BYTES} fit"
                )
            n_dims = int(self._get(offs + 8 + n_name, np.uint32)[0])
            if n_dims > _MAX_DIMS:
                name = printable(decode_text(self._bytes(offs + 8, n_name)))
                raise self._invalid(
                    f"tensor {name!r} has {n_dims} dimensions, at most {_MAX_DIMS} fit"
                )
            dims_at = offs + 12 + n_name
            fields.append(
                ReaderField(
                    offs,
                    decode_text(self._bytes(offs + 8, n_name)),
                    [
                        self._get(offs, np.uint64),
                        self._get(offs + 8, np.uint8, n_name),
                        self._get(offs + 8 + n_name, np.uint32),
                        self._get(dims_at, np.uint64, n_dims),
                        self._get(dims_at + 8 * n_dims, np.uint32),
                        self._get(dims_at + 8 * n_dims + 4, np.uint64),
                    ],
                    [1, 3, 4, 5],
                )
            )
            offs = dims_at + 8 * n_dims + 12
        return offs, fields

    def _build_tensors(self, start_offs: int, fields: list[ReaderField]) -> None:
        for info, field in zip(self.header.tensors, fields, strict=True):
            tensor = Tensor(
                name=info.name,
                tensor_type=_known_type(info.type),
                shape=field.parts[3],
                n_elements=info.n_elements,
                n_bytes=info.n_bytes,
                data_offset=start_offs + info.offset,
                data=np.empty(0, np.uint8),  # hidden by Tensor.data, which reads on demand
                field=field,
            )
            tensor._reader = self
            self.tensors.append(tensor)

    # -- the checks ----------------------------------------------------------------------------

    def _check_magic(self) -> None:
        start = self.file.read(0, min(24, self.file.n_bytes))
        if start[:4] != b"GGUF":
            raise self._invalid(_what_it_is(start))
        if len(start) < 24:  # noqa: PLR2004 - magic, version and two counts
            raise self._invalid("is shorter than a GGUF header: the file is incomplete")

    def _byte_order_and_version(self) -> int:
        raw = self._bytes(4, 4)
        little, big = struct.unpack("<I", raw)[0], struct.unpack(">I", raw)[0]
        # As in gguf.cpp: a version whose low half is empty was written in the other byte order.
        swapped = little & 0xFFFF == 0
        version = int(big if swapped else little)
        self.byteorder: ByteOrder = ">" if swapped else "<"
        self.endianess = GGUFEndian.BIG if swapped else GGUFEndian.LITTLE
        host = "<" if struct.pack("=H", 1) == b"\x01\x00" else ">"
        self.byte_order = "I" if self.byteorder == host else "S"
        if version not in READER_SUPPORTED_VERSIONS:
            raise self._invalid(f"is GGUF version {version}; versions 2 and 3 are read")
        return version

    def _alignment(self, kvs: list[KV]) -> int:
        kv = next((kv for kv in kvs if kv.key == "general.alignment"), None)
        if kv is None:
            return int(GGUFReader.alignment)
        if kv.type != GGUFValueType.UINT32:
            raise self._invalid(f"general.alignment is {kv.type_name}, must be UINT32")
        alignment = int(kv.value)
        if alignment == 0 or alignment & (alignment - 1):
            raise self._invalid(f"general.alignment is {alignment}, must be a power of two")
        return alignment

    def _value_type(self, offs: int, key: str) -> GGUFValueType:
        number = int(self._get(offs, np.uint32)[0])
        try:
            return GGUFValueType(number)
        except ValueError:
            raise self._invalid(
                f"key {printable(key)!r} has a value of unknown type {number}"
            ) from None

    def _value(
        self, offs: int, type_: GGUFValueType, key: str
    ) -> tuple[int, list[npt.NDArray[Any]], list[GGUFValueType]]:
        """End, parts and types of a value, as the stock `_get_field_parts` has them."""
        if type_ == GGUFValueType.STRING:
            n = self._string_length(offs, key)
            if 8 + n > _INLINE_BYTES:
                return offs + 8 + n, [self._get(offs, np.uint64)], [type_]
            return (
                offs + 8 + n,
                [self._get(offs, np.uint64), self._get(offs + 8, np.uint8, n)],
                [type_],
            )
        if type_ == GGUFValueType.ARRAY:
            end, types = self._skip_array(offs, key, 1)
            return end, [self._get(offs, np.uint32), self._get(offs + 4, np.uint64)], types
        return (
            offs + SCALAR_BYTES[type_],
            [self._get(offs, self.gguf_scalar_to_np[type_])],
            [type_],
        )

    def _skip_array(self, offs: int, key: str, depth: int) -> tuple[int, list[GGUFValueType]]:
        item_type = self._value_type(offs, key)
        n = self._u64(offs + 4)
        offs += 12
        types = [GGUFValueType.ARRAY]
        if n > _MAX_ITEMS or n * _MIN_ITEM_BYTES[item_type] > self.file.n_bytes - offs:
            raise self._invalid(
                f"key {printable(key)!r} claims {n} items, more than the file holds"
            )
        if n:
            types.append(item_type)
        if (item_bytes := SCALAR_BYTES.get(item_type)) is not None:
            return offs + n * item_bytes, types
        self._walked += n if item_type == GGUFValueType.STRING else n * _ARRAY_WEIGHT
        if self._walked > _MAX_WALKED:
            raise self._invalid(f"key {printable(key)!r}: more items than any vocabulary has")
        if item_type == GGUFValueType.STRING:
            return self._skip_strings(offs, n, key), types
        if depth == _MAX_DEPTH:
            raise self._invalid(f"key {printable(key)!r} nests arrays deeper than {_MAX_DEPTH}")
        for i in range(n):
            offs, inner = self._skip_array(offs, key, depth + 1)
            if i == 0:
                types = [GGUFValueType.ARRAY, *inner]
        return offs, types

    def _skip_strings(self, offs: int, n: int, key: str) -> int:
        """The end of `n` strings from `offs`. A loop over one buffer: vocabularies are long."""
        length = struct.Struct(self.byteorder + "Q")
        while n:
            self._bytes(offs, 8)
            buf, pos = self._window, offs - self._window_start
            while n and pos + 8 <= len(buf):
                size = length.unpack_from(buf, pos)[0]
                pos += 8 + size
                n -= 1
            offs = self._window_start + pos
            if offs > self.file.n_bytes:
                raise self._invalid(
                    f"key {printable(key)!r}: a string runs past the end of the file"
                )
            if size > _MAX_STRING_BYTES:  # longer than the buffer, so no other hides before it
                raise self._invalid(f"key {printable(key)!r} claims a string of {size} bytes")
        return offs

    def _string_length(self, offs: int, key: str) -> int:
        n = self._u64(offs)
        if n > _MAX_STRING_BYTES or n > self.file.n_bytes - offs - 8:
            raise self._invalid(f"key {printable(key)!r} claims a string of {n} bytes")
        return n

    def _tensor_infos(self, fields: list[ReaderField]) -> list[TensorInfo]:
        n_data = self.file.n_bytes - self.data_offset
        offsets = sorted({int(f.parts[5][0]) for f in fields} | {n_data})
        following = dict(itertools.pairwise(offsets))
        infos, seen = [], set()
        for field in fields:
            name = field.name
            shown = f"tensor {printable(name)!r}"
            ne = tuple(int(n) for n in field.parts[3])
            type_, offset = int(field.parts[4][0]), int(field.parts[5][0])
            known_as = name.partition("\0")[0]  # llama.cpp's names end at a NUL
            if known_as in seen:
                raise self._invalid(f"{shown} stands in the table twice")
            seen.add(known_as)
            n_extent = 1
            for dim in ne:
                n_extent *= dim or 1  # numpy's arrays have the same limit where they are empty
            if n_extent > _MAX_WEIGHTS:
                raise self._invalid(f"{shown} claims more weights than can be counted")
            try:
                n_bytes = tensor_bytes(type_, ne)
            except InvalidGGUF as e:
                raise self._invalid(f"{shown} has {e}") from None
            if n_bytes is None:
                n_bytes = following.get(offset, offset) - offset
            if offset % self.alignment:
                raise self._invalid(
                    f"{shown} has offset {offset}, not a multiple of {self.alignment}"
                )
            if offset + n_bytes > n_data:
                raise self._invalid(
                    f"{shown} ends at byte {self.data_offset + offset + n_bytes}, "
                    f"the file at {self.file.n_bytes}: it is incomplete"
                )
            infos.append(TensorInfo(name, ne, type_, offset, n_bytes))
        return infos

    def _kv(self, field: Field) -> KV:
        span = field.span
        raw = self._bytes(span.offset, span.n_bytes) if span.n_bytes <= _INLINE_BYTES else span
        if field.types[0] != GGUFValueType.ARRAY:
            return KV(field.name, field.types[0], raw, self.byteorder)
        item_type = GGUFValueType(int(field.parts[3][0]))
        n_items = int(field.parts[4][0])
        return KV(field.name, field.types[0], raw, self.byteorder, item_type, n_items)

    # -- bytes ---------------------------------------------------------------------------------

    def _bytes(self, offset: int, n: int) -> bytes:
        if offset + n > self.file.n_bytes:
            raise self._invalid(
                f"ends at byte {self.file.n_bytes}, inside its header: the file is incomplete"
            )
        start = offset - self._window_start
        if start < 0 or start + n > len(self._window):
            size = min(max(n, _WINDOW_BYTES), self.file.n_bytes - offset)
            self._window, self._window_start, start = self.file.read(offset, size), offset, 0
        return self._window[start : start + n]

    def _u64(self, offset: int) -> int:
        return int(struct.unpack(self.byteorder + "Q", self._bytes(offset, 8))[0])

    def _invalid(self, what: str) -> InvalidGGUF:
        return InvalidGGUF(f"{self.file.name}: {what}")


_MIN_ITEM_BYTES = SCALAR_BYTES | {GGUFValueType.STRING: 8, GGUFValueType.ARRAY: 12}


def _known_type(type_: int) -> GGMLQuantizationType:
    try:
        return GGMLQuantizationType(type_)
    except ValueError:
        return type_  # type: ignore[return-value]  # a fork's type: the number is all there is


def _what_it_is(start: bytes) -> str:
    """What a file without the GGUF magic seems to be, for the message."""
    if not start:
        return "is empty"
    if start.startswith(b"version https://git-l"):
        return "is a Git LFS pointer, not the model; fetch it with `git lfs pull`"
    if start.lstrip()[:1] == b"<":
        return "is a web page, not a model; the download went wrong"
    if start[8:10] in (b'{"', b"{ "):
        return "is a safetensors file; convert it with llama.cpp's convert_hf_to_gguf.py first"
    if start.startswith(b"PK"):
        return "is a zip archive (a PyTorch checkpoint?), not a GGUF"
    magic = printable(decode_text(start[:4]))
    return f"is not a GGUF file: it starts with {magic!r} instead of 'GGUF'"
