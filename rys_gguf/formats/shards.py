"""One model in one or several files, opened together and read as if they were one.

llama.cpp's scheme (src/llama-model-loader.cpp, tools/gguf-split): PREFIX-00001-of-00003.gguf, the
first shard holds all metadata, each holds split.no, split.count and split.tensors.count.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rys_gguf.errors import InvalidGGUF
from rys_gguf.files.source import SourceFile
from rys_gguf.formats.header import Header, Span, TensorInfo, padded
from rys_gguf.formats.reader import HeaderReader
from rys_gguf.text import printable, quoted

SPLIT_NO = "split.no"
SPLIT_COUNT = "split.count"
SPLIT_TENSORS = "split.tensors.count"
SPLIT_KEYS = frozenset({SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS})

_CHUNK = 1 << 20

# llama.cpp's %05d-of-%05d.
_SHARD_NAME = re.compile(r"-([0-9]{5})-of-([0-9]{5})\.gguf$", re.ASCII)


@dataclass(frozen=True, slots=True)
class TensorData:
    """Where a tensor's data is, and how many bytes of padding follow it in its file."""

    span: Span
    n_padding: int


class Shards:
    """The files of a model: the path of any one opens all; open files are taken in their order.

    `header` is that of the model as one file: the first file's keys without split.*, every tensor,
    and offsets as they would be there. `data` gives each tensor's actual place.
    Raises InvalidGGUF, naming the shard that is missing or out of place.
    """

    def __init__(self, files: str | os.PathLike[str] | Sequence[HeaderReader]) -> None:
        self.readers: list[HeaderReader] = []
        try:
            if isinstance(files, (str, os.PathLike)):
                self._open(Path(files))
            else:
                self._take(files)
            self._merge()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for reader in self.readers:
            reader.file.close()

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """The files in order; `Span.shard` counts them."""
        return tuple(reader.file for reader in self.readers)

    @property
    def n_bytes(self) -> int:
        """Size on disk, all files together."""
        return sum(file.n_bytes for file in self.files)

    @property
    def n_trailing_bytes(self) -> int:
        """Bytes after the last tensor's padding, all files together; llama.cpp ignores them."""
        ends = ((r, r.header.data_offset + r.header.n_data_bytes) for r in self.readers)
        return sum(max(0, reader.file.n_bytes - end) for reader, end in ends)

    def read(self, span: Span) -> Iterator[bytes]:
        """The bytes of a span in pieces of at most 1 MiB."""
        file = self.files[span.shard]
        for done in range(0, span.n_bytes, _CHUNK):
            yield file.read(span.offset + done, min(_CHUNK, span.n_bytes - done))

    def require_unchanged(self) -> None:
        """Raise InvalidGGUF if a file changed since it was opened."""
        for file in self.files:
            file.require_unchanged()

    def offset_issues(self) -> list[str]:
        """Where a file breaks llama.cpp's rule for offsets."""
        return [
            issue if len(self.readers) == 1 else f"{reader.file.name}: {issue}"
            for reader in self.readers
            for issue in reader.header.offset_issues()
        ]

    def _open(self, path: Path) -> None:
        first = HeaderReader(path)
        self.readers.append(first)
        count = self._number(first, SPLIT_COUNT) or 1
        match = _SHARD_NAME.search(path.name)
        if count == 1:
            return
        if match is None or int(match[2]) != count:
            raise InvalidGGUF(
                f"{first.file.name}: is one of {count} shards, but not named as such: llama.cpp "
                f"wants NAME-00001-of-{count:05d}.gguf"
            )
        opened, self.readers = int(match[1]), []
        for n in range(1, count + 1):
            shard = path.with_name(f"{path.name[: match.start()]}-{n:05d}-of-{count:05d}.gguf")
            if n == opened:
                reader = first
            elif not os.path.lexists(shard):
                first.file.close()
                raise InvalidGGUF(
                    f"{printable(shard.name)}: missing; {first.file.name} is one of {count} shards"
                )
            else:
                reader = HeaderReader(shard)
            self.readers.append(reader)
            self._check_place(reader, n, count)

    def _take(self, readers: Sequence[HeaderReader]) -> None:
        self.readers = list(readers)
        for n, reader in enumerate(readers, 1):
            if len(readers) > 1:
                self._check_place(reader, n, len(readers))

    def _check_place(self, reader: HeaderReader, n: int, count: int) -> None:
        own_no, own_count = (self._number(reader, key) for key in (SPLIT_NO, SPLIT_COUNT))
        if own_count != count:
            raise InvalidGGUF(
                f"{reader.file.name}: belongs to a model of {own_count or 1} shards, not {count}"
            )
        if own_no != n - 1:
            place = "no number" if own_no is None else f"number {own_no + 1}"
            raise InvalidGGUF(
                f"{reader.file.name}: says it is {place} of {count} shards; the files are in "
                f"a different order from their names"
            )

    def _merge(self) -> None:
        first, alignment = self.readers[0].header, self.readers[0].alignment
        self.data: dict[str, TensorData] = {}
        tensors: list[TensorInfo] = []
        offset = 0
        for shard, reader in enumerate(self.readers):
            if reader.header.byteorder != first.byteorder:
                raise InvalidGGUF(f"{reader.file.name}: has another byte order than shard 1")
            for tensor in reader.header.tensors:
                if tensor.name in self.data:
                    raise InvalidGGUF(
                        f"{reader.file.name}: tensor {quoted(tensor.name)} is also in "
                        f"an earlier shard; the shards do not belong to one model"
                    )
                at = reader.data_offset + tensor.offset
                n_padding = padded(tensor.n_bytes, int(reader.alignment)) - tensor.n_bytes
                n_padding = min(n_padding, reader.file.n_bytes - at - tensor.n_bytes)
                self.data[tensor.name] = TensorData(Span(at, tensor.n_bytes, shard), n_padding)
                # A single file keeps its offsets, so that faults in them can be seen.
                if len(self.readers) > 1:
                    tensor = replace(tensor, offset=offset)  # noqa: PLW2901 - as in one file
                tensors.append(tensor)
                offset = padded(offset + tensor.n_bytes, alignment)
        dropped = SPLIT_KEYS if len(self.readers) > 1 else frozenset()
        kvs = tuple(kv for kv in first.kvs if kv.key not in dropped)
        self.header = Header(first.version, first.byteorder, kvs, tuple(tensors))
        n_tensors = self._number(self.readers[0], SPLIT_TENSORS)
        if len(self.readers) > 1 and n_tensors not in (None, len(tensors)):
            raise InvalidGGUF(
                f"{self.readers[0].file.name}: the model has {n_tensors} tensors, its shards hold "
                f"{len(tensors)}: a shard is of another model"
            )

    @staticmethod
    def _number(reader: HeaderReader, key: str) -> int | None:
        kv = reader.header.get(key)
        return None if kv is None or not isinstance(kv.value, int) else kv.value


def shard_path(path: Path, n: int, count: int) -> Path:
    """The name of shard n (from 1) of an output: OUT.gguf gives OUT-00001-of-00003.gguf."""
    stem = _SHARD_NAME.sub("", path.name).removesuffix(".gguf")
    return path.with_name(f"{stem}-{n:05d}-of-{count:05d}.gguf")
