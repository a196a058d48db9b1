"""`gguf.GGUFReader`, with the slow and the unchecked parts replaced.

The stock reader makes several numpy objects per vocabulary entry (seconds and hundreds of MiB on
a 262k-token file), slices without asking whether the file is that long, knows only the tensor
types of its own release, and maps the file, so that one that shrinks kills the process. Here an
array is one span of the file, decoded when somebody asks for it; every length is compared with the
file before it is used; and bytes are read, not mapped. `fields` and `tensors` mean what they mean
in the stock class, against which the tests compare them.

Limits and messages follow ggml/src/gguf.cpp (gguf_init_from_reader). Where the format is wider
than llama.cpp (nested arrays, byte orders, ik_llama.cpp's tensor types) the reader follows the
format: such values are copied by their extent, never interpreted.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections import OrderedDict
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gguf.constants import GGUFEndian, GGUFValueType
from gguf.gguf_reader import (
    READER_SUPPORTED_VERSIONS,
    GGUFReader,
    ReaderField,
    ReaderTensor,
)

from rys_gguf.errors import InvalidGGUF
from rys_gguf.files.source import SourceFile
from rys_gguf.formats.header import (
    ALIGNMENT_KEY,
    KV,
    ByteOrder,
    Header,
    Span,
    TensorInfo,
    decode_text,
    padded,
)
from rys_gguf.formats.limits import MAX_NAME_BYTES
from rys_gguf.formats.other_files import what_it_is
from rys_gguf.formats.types import tensor_bytes
from rys_gguf.formats.views import Field, Tensor
from rys_gguf.formats.walk import INLINE_BYTES, Walker
from rys_gguf.text import printable, quoted

# The spec's limit for keys. llama.cpp has none, but nothing may be allocated on a file's word.
_MAX_KEY_BYTES = (1 << 16) - 1
_MAX_DIMS = 4
# Of eight bytes each: as many as a 64-bit size can count.
_MAX_WEIGHTS = (1 << 60) - 1
# Bounds on work and memory that no real model comes near: 512 layers of 32 tensors.
_MAX_TENSORS = 1 << 14
_MAX_KEYS = 1 << 12
# Keys and values that are kept in memory; a vocabulary is not among them.
_MAX_KEPT_BYTES = 1 << 24


class _Entry(NamedTuple):
    """One entry of the tensor table as it is stored, and where it starts in the file."""

    at: int
    name: str
    ne: tuple[int, ...]
    type: int
    offset: int


class HeaderReader(GGUFReader):
    """The header and tensor table of one GGUF file; tensor data is not touched.

    It is a path or an open file, which the reader then closes. Messages call the file of a path
    `name`, by default the name it has on disk. Raises InvalidGGUF, and nothing else, for any file
    that is not a GGUF of version 2 or 3 with every value and tensor inside the file. Close it, or
    use it as a context manager.
    """

    header: Header
    byteorder: ByteOrder

    def __init__(self, file: os.PathLike[str] | str | SourceFile, name: str | None = None) -> None:
        # The stock __init__ maps the file; this one reads it and does the rest in the same order.
        self.file = file if isinstance(file, SourceFile) else SourceFile(file, name)
        self._walker = Walker(self.file)
        self._n_kept = 0
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
        n_tensors, n_kvs = self._counts()
        offs = self._build_fields(24, n_kvs)
        kvs = [self._kv(field) for field in self.fields.values() if isinstance(field, Field)]
        self.alignment = self._alignment(kvs)
        offs, entries = self._entries(offs, n_tensors)
        self.data_offset = padded(offs, self.alignment)
        if self.data_offset > self.file.n_bytes and n_tensors:
            raise self._invalid("ends before its tensor data starts: the file is incomplete")
        infos = tuple(self._tensor_infos(entries))
        self.header = Header(version, self.byteorder, tuple(kvs), infos)
        self._table = [entry.at for entry in entries]
        self._walker.close()

    # -- stock methods, replaced ---------------------------------------------------------------

    def _get(
        self,
        offset: int,
        dtype: npt.DTypeLike,
        count: int = 1,
        override_order: Any = None,
    ) -> npt.NDArray[Any]:
        return self._walker.numbers(offset, dtype, count, override_order)

    def _push_field(self, field: ReaderField, skip_sum: bool = False) -> int:  # noqa: FBT001, FBT002 - stock signature
        if field.name in self.fields:
            raise self._invalid(f"key {quoted(field.name)} appears twice")
        self.fields[field.name] = field
        return 0 if skip_sum else sum(int(part.nbytes) for part in field.parts)

    def _build_fields(self, offs: int, count: int) -> int:
        for _ in range(count):
            start = offs
            n_key = self._walker.u64(offs)
            if not 0 < n_key <= _MAX_KEY_BYTES:
                raise self._invalid(f"a key at byte {offs} is {n_key} bytes long")
            raw_key = self._walker.bytes(offs + 8, n_key)
            key = decode_text(raw_key)
            offs += 8 + n_key
            type_ = self._walker.value_type(offs, key)
            offs += 4
            parts = [
                self._get(start, np.uint64),
                np.frombuffer(raw_key, np.uint8),
                self._get(offs - 4, np.uint32),
            ]
            end, value_parts, types = self._walker.value(offs, type_, key)
            self._n_kept += n_key + (end - offs if end - offs <= INLINE_BYTES else 0)
            if self._n_kept > _MAX_KEPT_BYTES:
                raise self._invalid(
                    f"has more than {_MAX_KEPT_BYTES} bytes of metadata besides its vocabulary"
                )
            in_file = type_ == GGUFValueType.ARRAY or end - offs > INLINE_BYTES
            data = [] if in_file else [len(parts) + len(value_parts) - 1]
            plain = ReaderField(start, key, parts + value_parts, data, types)
            span = Span(offs, end - offs)
            self._push_field(Field.at(plain, span, self.file, self.byteorder), skip_sum=True)
            offs = end
        return offs

    @cached_property
    def tensors(self) -> list[ReaderTensor]:  # type: ignore[override]  # an attribute there
        """The tensors as the stock class has them, read when somebody asks for them.

        Their numpy arrays take twice as long as all the rest. Raises InvalidGGUF if the file has
        become shorter since it was opened.
        """
        made: list[ReaderTensor] = []
        for at, info in zip(self._table, self.header.tensors, strict=True):
            n_name = self._walker.u64(at)
            dims_at = at + 12 + n_name
            n_dims = len(info.ne)
            parts = [
                self._get(at, np.uint64),
                self._get(at + 8, np.uint8, n_name),
                self._get(at + 8 + n_name, np.uint32),
                self._get(dims_at, np.uint64, n_dims),
                self._get(dims_at + 8 * n_dims, np.uint32),
                self._get(dims_at + 8 * n_dims + 4, np.uint64),
            ]
            field = ReaderField(at, info.name, parts, [1, 3, 4, 5])
            offset = self.data_offset + info.offset
            made.append(Tensor.at(info, offset, field, self.file, self.byteorder))
        self._walker.close()
        return made

    # -- the checks ----------------------------------------------------------------------------

    def _check_magic(self) -> None:
        start = self.file.read(0, min(24, self.file.n_bytes))
        if start[:4] != b"GGUF":
            raise self._invalid(what_it_is(start))
        if len(start) < 24:  # noqa: PLR2004 - magic, version and two counts
            raise self._invalid("is shorter than a GGUF header: the file is incomplete")

    def _byte_order_and_version(self) -> int:
        raw = self._walker.bytes(4, 4)
        little, big = struct.unpack("<I", raw)[0], struct.unpack(">I", raw)[0]
        # As in gguf.cpp: a version whose low half is empty was written in the other byte order.
        swapped = little & 0xFFFF == 0
        version = int(big if swapped else little)
        self.byteorder = self._walker.byteorder = ">" if swapped else "<"
        self.endianess = GGUFEndian.BIG if swapped else GGUFEndian.LITTLE
        host = "<" if struct.pack("=H", 1) == b"\x01\x00" else ">"
        self.byte_order = "I" if self.byteorder == host else "S"
        if version not in READER_SUPPORTED_VERSIONS:
            raise self._invalid(f"is GGUF version {version}; versions 2 and 3 are read")
        return version

    def _counts(self) -> tuple[int, int]:
        """The numbers of tensors and keys; the stock fields for them are filled in."""
        counts = self._get(8, np.uint64, 2)
        u32, u64 = GGUFValueType.UINT32, GGUFValueType.UINT64
        for field in (
            ReaderField(4, "GGUF.version", [self._get(4, np.uint32)], [0], [u32]),
            ReaderField(8, "GGUF.tensor_count", [counts[:1]], [0], [u64]),
            ReaderField(16, "GGUF.kv_count", [counts[1:]], [0], [u64]),
        ):
            self._push_field(field)
        n_tensors, n_kvs = int(counts[0]), int(counts[1])
        for n, what, limit in ((n_tensors, "tensors", _MAX_TENSORS), (n_kvs, "keys", _MAX_KEYS)):
            if n > limit:
                raise self._invalid(f"claims {n} {what}, more than any model has ({limit})")
        return n_tensors, n_kvs

    def _alignment(self, kvs: list[KV]) -> int:
        kv = next((kv for kv in kvs if kv.key == ALIGNMENT_KEY), None)
        if kv is None:
            return int(GGUFReader.alignment)
        if kv.type != GGUFValueType.UINT32:
            raise self._invalid(f"{ALIGNMENT_KEY} is {kv.type_name}, must be UINT32")
        alignment = int(kv.value)
        if alignment == 0 or alignment & (alignment - 1):
            raise self._invalid(f"{ALIGNMENT_KEY} is {alignment}, must be a power of two")
        return alignment

    def _entries(self, offs: int, count: int) -> tuple[int, list[_Entry]]:
        """Where the tensor table that starts at `offs` ends, and what is in it."""
        n_dims_of = struct.Struct(self.byteorder + "I")
        rests = [struct.Struct(f"{self.byteorder}{n}QIQ") for n in range(_MAX_DIMS + 1)]
        entries = []
        for _ in range(count):
            at = offs
            n_name = self._walker.u64(at)
            if n_name > MAX_NAME_BYTES:
                raise self._invalid(
                    f"a tensor name at byte {at} is {n_name} bytes long, "
                    f"at most {MAX_NAME_BYTES} fit"
                )
            raw = self._walker.bytes(at + 8, n_name + 4)
            name = decode_text(raw[:n_name])
            (n_dims,) = n_dims_of.unpack_from(raw, n_name)
            if n_dims > _MAX_DIMS:
                raise self._invalid(
                    f"tensor '{printable(name)}' has {n_dims} dimensions, at most {_MAX_DIMS} fit"
                )
            offs = at + 12 + n_name
            *ne, type_, offset = rests[n_dims].unpack(self._walker.bytes(offs, rests[n_dims].size))
            entries.append(_Entry(at, name, tuple(ne), type_, offset))
            offs += rests[n_dims].size
        return offs, entries

    def _tensor_infos(self, entries: list[_Entry]) -> Iterator[TensorInfo]:
        n_data = self.file.n_bytes - self.data_offset
        # Data of an unknown type reaches to the next tensor, or to the end of the file.
        offsets = sorted({entry.offset for entry in entries} | {n_data})
        following = dict(itertools.pairwise(offsets))
        seen = set()
        for entry in entries:
            known_as = entry.name.partition("\0")[0]  # llama.cpp's names end at a NUL
            if known_as in seen:
                raise self._invalid(f"tensor {quoted(entry.name)} appears twice in the table")
            seen.add(known_as)
            n_following = following.get(entry.offset, entry.offset) - entry.offset
            yield self._tensor_info(entry, n_following, n_data)

    def _tensor_info(self, entry: _Entry, n_following: int, n_data: int) -> TensorInfo:
        """One tensor, which has `n_following` bytes before the next in a section of `n_data`."""
        n_extent = 1
        for dim in entry.ne:
            n_extent *= dim or 1  # numpy's arrays have the same limit where they are empty
        if n_extent > _MAX_WEIGHTS:
            raise self._bad(entry, "claims more weights than can be counted")
        try:
            n_bytes = tensor_bytes(entry.type, entry.ne)
        except InvalidGGUF as e:
            raise self._bad(entry, f"has {e}") from None
        if n_bytes is None:
            n_bytes = n_following
        if entry.offset % self.alignment:
            raise self._bad(entry, f"has offset {entry.offset}, not a multiple of {self.alignment}")
        if entry.offset + n_bytes > n_data:
            raise self._bad(
                entry,
                f"ends at byte {self.data_offset + entry.offset + n_bytes}, "
                f"the file at {self.file.n_bytes}: it is incomplete",
            )
        return TensorInfo(entry.name, entry.ne, entry.type, entry.offset, n_bytes)

    def _kv(self, field: Field) -> KV:
        span = field.span
        raw = (
            self._walker.bytes(span.offset, span.n_bytes) if span.n_bytes <= INLINE_BYTES else span
        )
        if field.types[0] != GGUFValueType.ARRAY:
            return KV(field.name, field.types[0], raw, self.byteorder)
        item_type = GGUFValueType(int(field.parts[3][0]))
        n_items = int(field.parts[4][0])
        return KV(field.name, field.types[0], raw, self.byteorder, item_type, n_items)

    def _bad(self, tensor: _Entry, fault: str) -> InvalidGGUF:
        return self._invalid(f"tensor {quoted(tensor.name)} {fault}")

    def _invalid(self, fault: str) -> InvalidGGUF:
        return self._walker.invalid(fault)
