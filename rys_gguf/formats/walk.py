"""Walk over the values of a header without decoding them: where each ends, and that it can be.

Every length is compared with the file before it is used. Limits and messages follow
ggml/src/gguf.cpp (gguf_init_from_reader); where the format is wider than llama.cpp (nested arrays,
byte orders) the walk follows the format.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGUFValueType
from gguf.gguf_reader import GGUFReader

from rys_gguf.errors import InvalidGGUF
from rys_gguf.files.source import SourceFile
from rys_gguf.formats.header import SCALAR_BYTES, ByteOrder
from rys_gguf.text import quoted

# Values up to this size are kept with their key; longer ones (vocabularies) stay in the file.
INLINE_BYTES = 1 << 18
_WINDOW_BYTES = 1 << 20
# gguf.cpp: GGUF_MAX_STRING_LENGTH and GGUF_MAX_ARRAY_ELEMENTS.
_MAX_STRING_BYTES = 1 << 30
_MAX_ITEMS = 1 << 30
# A bound on the work that no real vocabulary comes near, low enough for two files side by side:
# strings are walked one by one, nested arrays at the cost of 64.
_MAX_WALKED = 1 << 22
_ARRAY_WEIGHT = 1 << 6
_MAX_DEPTH = 8

_MIN_ITEM_BYTES = SCALAR_BYTES | {GGUFValueType.STRING: 8, GGUFValueType.ARRAY: 12}


class Walker:
    """Reads a header's bytes through a window of the file, and finds where values end.

    `byteorder` is to be set as soon as it is known. Raises InvalidGGUF for bytes that the file does
    not have and for values that cannot be.
    """

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self.byteorder: ByteOrder = "<"
        self._window = b""
        self._window_start = 0
        self._n_walked = 0

    def bytes(self, offset: int, n: int) -> bytes:
        """`n` bytes from `offset`."""
        if offset + n > self.file.n_bytes:
            raise self.invalid(
                f"ends at byte {self.file.n_bytes}, inside its header: the file is incomplete"
            )
        start = offset - self._window_start
        if start < 0 or start + n > len(self._window):
            size = min(max(n, _WINDOW_BYTES), self.file.n_bytes - offset)
            self._window, self._window_start, start = self.file.read(offset, size), offset, 0
        return self._window[start : start + n]

    def numbers(
        self, offset: int, dtype: npt.DTypeLike, count: int = 1, byteorder: Any = None
    ) -> npt.NDArray[Any]:
        """`count` numbers from `offset`, in the file's byte order or another."""
        item = _ordered(np.dtype(dtype), byteorder or self.byteorder)
        return np.frombuffer(self.bytes(offset, item.itemsize * int(count)), item)

    def u64(self, offset: int) -> int:
        """The 64-bit number at `offset`."""
        return int(struct.unpack(self.byteorder + "Q", self.bytes(offset, 8))[0])

    def value_type(self, offset: int, key: str) -> GGUFValueType:
        """The type that the number at `offset` means."""
        number = int(self.numbers(offset, np.uint32)[0])
        try:
            return GGUFValueType(number)
        except ValueError:
            raise self.invalid(f"key {quoted(key)} has a value of unknown type {number}") from None

    def value(
        self, offset: int, type_: GGUFValueType, key: str
    ) -> tuple[int, list[npt.NDArray[Any]], list[GGUFValueType]]:
        """End, parts and types of a value, as the stock `_get_field_parts` has them.

        Of an array the parts are item type and number of items; of a string longer than
        INLINE_BYTES its length.
        """
        if type_ == GGUFValueType.STRING:
            n = self._string_length(offset, key)
            parts = [self.numbers(offset, np.uint64)]
            if 8 + n <= INLINE_BYTES:
                parts.append(self.numbers(offset + 8, np.uint8, n))
            return offset + 8 + n, parts, [type_]
        if type_ == GGUFValueType.ARRAY:
            end, types = self._skip_array(offset, key, 1)
            parts = [self.numbers(offset, np.uint32), self.numbers(offset + 4, np.uint64)]
            return end, parts, types
        parts = [self.numbers(offset, GGUFReader.gguf_scalar_to_np[type_])]
        return offset + SCALAR_BYTES[type_], parts, [type_]

    def close(self) -> None:
        """Let go of the window."""
        self._window = b""

    def invalid(self, fault: str) -> InvalidGGUF:
        """An InvalidGGUF that names the file."""
        return InvalidGGUF(f"{self.file.name}: {fault}")

    def _skip_array(self, offset: int, key: str, depth: int) -> tuple[int, list[GGUFValueType]]:
        item_type = self.value_type(offset, key)
        n = self.u64(offset + 4)
        offset += 12
        types = [GGUFValueType.ARRAY]
        if n > _MAX_ITEMS or n * _MIN_ITEM_BYTES[item_type] > self.file.n_bytes - offset:
            raise self.invalid(f"key {quoted(key)} claims {n} items, more than the file holds")
        if n:
            types.append(item_type)
        if (item_bytes := SCALAR_BYTES.get(item_type)) is not None:
            return offset + n * item_bytes, types
        self._n_walked += n if item_type == GGUFValueType.STRING else n * _ARRAY_WEIGHT
        if self._n_walked > _MAX_WALKED:
            raise self.invalid(f"key {quoted(key)}: more items than any vocabulary has")
        if item_type == GGUFValueType.STRING:
            return self._skip_strings(offset, n, key), types
        if depth == _MAX_DEPTH:
            raise self.invalid(f"key {quoted(key)} nests arrays deeper than {_MAX_DEPTH}")
        for i in range(n):
            offset, inner = self._skip_array(offset, key, depth + 1)
            if i == 0:
                types = [GGUFValueType.ARRAY, *inner]
        return offset, types

    def _skip_strings(self, offset: int, n: int, key: str) -> int:
        """The end of `n` strings from `offset`. A loop over one buffer: vocabularies are long."""
        length = struct.Struct(self.byteorder + "Q")
        while n:
            self.bytes(offset, 8)
            buf, pos = self._window, offset - self._window_start
            while n and pos + 8 <= len(buf):
                size = length.unpack_from(buf, pos)[0]
                pos += 8 + size
                n -= 1
            offset = self._window_start + pos
            if offset > self.file.n_bytes:
                raise self.invalid(f"key {quoted(key)}: a string runs past the end of the file")
            if size > _MAX_STRING_BYTES:  # longer than the buffer, so no other hides before it
                raise self.invalid(f"key {quoted(key)} claims a string of {size} bytes")
        return offset

    def _string_length(self, offset: int, key: str) -> int:
        n = self.u64(offset)
        if n > _MAX_STRING_BYTES or n > self.file.n_bytes - offset - 8:
            raise self.invalid(f"key {quoted(key)} claims a string of {n} bytes")
        return n


@lru_cache
def _ordered(dtype: np.dtype[Any], byteorder: Any) -> np.dtype[Any]:
    """The type in a byte order; numpy takes longer to make one than to read a number."""
    ordered: np.dtype[Any] = dtype.newbyteorder(byteorder)
    return ordered
