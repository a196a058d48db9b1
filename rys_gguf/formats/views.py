"""The stock reader's fields and tensors, with long values and tensor data left in the file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType, GGUFValueType
from gguf.gguf_reader import ReaderField, ReaderTensor

from rys_gguf.files.source import SourceFile
from rys_gguf.formats.header import ByteOrder, Span, TensorInfo, decode
from rys_gguf.formats.types import BLOCKS

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

    `parts` then ends with their number, and `data` is empty. `span` is the extent of the value,
    without key and type tag.
    """

    span: Span
    _file: SourceFile
    _byteorder: ByteOrder

    @classmethod
    def at(cls, plain: ReaderField, span: Span, file: SourceFile, byteorder: ByteOrder) -> Field:
        """`plain` with its value's extent and where to read it."""
        field = cls(*plain)
        field.span = span
        field._file, field._byteorder = file, byteorder
        return field

    def contents(self, index_or_slice: int | slice = slice(None)) -> Any:
        """The decoded value, as in the stock class; nested arrays stay nested."""
        raw = self._file.read(self.span.offset, self.span.n_bytes)
        value = decode(self.types[0], raw, self._byteorder)
        return value[index_or_slice] if self.types[0] == GGUFValueType.ARRAY else value


class Tensor(ReaderTensor):
    """A `ReaderTensor` that reads its data when asked; data of an unknown type as raw bytes."""

    _read: Callable[[int, int], bytes]
    _byteorder: ByteOrder

    @classmethod
    def at(
        cls, info: TensorInfo, data_offset: int, field: ReaderField,
        file: SourceFile, byteorder: ByteOrder,
    ) -> Tensor:  # fmt: skip
        """The tensor of that info, whose data starts at byte `data_offset` of the file."""
        tensor = cls(
            name=info.name,
            tensor_type=_known_type(info.type),
            shape=field.parts[3],
            n_elements=info.n_elements,
            n_bytes=info.n_bytes,
            data_offset=data_offset,
            data=np.empty(0, np.uint8),  # hidden by the property below, which reads on demand
            field=field,
        )
        tensor._read, tensor._byteorder = file.read, byteorder
        return tensor

    @property
    def data(self) -> npt.NDArray[Any]:
        """The data as in the stock class: floats by value, quantised types as bytes."""
        raw = self._read(self.data_offset, self.n_bytes)
        dtype = np.dtype(_ITEM_DTYPES.get(self.tensor_type, np.uint8))
        flat = np.frombuffer(raw, dtype.newbyteorder(self._byteorder))
        if self.tensor_type not in BLOCKS:
            return flat
        shape = tuple(int(n) for n in reversed(self.shape))
        if self.tensor_type not in _ITEM_DTYPES:
            n_weights, n_bytes = BLOCKS[self.tensor_type]
            *rows, row = shape or (1,)
            shape = (*rows, row // n_weights * n_bytes)
        return flat.reshape(shape)


def _known_type(type_: int) -> GGMLQuantizationType:
    try:
        return GGMLQuantizationType(type_)
    except ValueError:
        return type_  # type: ignore[return-value]  # a fork's type: the number is all there is
