"""The importance matrix in the old format of llama-imatrix, a .dat file.

    int32 number of entries, and for each of them:
        int32 length of the name, the name
        int32 number of calls, int32 number of values, the values in F32
    int32 number of chunks, int32 length of the data set's name, the name

The last line may be missing. llama.cpp writes numbers as its machine does; those of a little-endian
one are read. Source: common_imatrix_load_legacy in common/imatrix-loader.cpp and
save_imatrix_legacy in tools/imatrix/imatrix.cpp (b11549).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rys_gguf.errors import InvalidGGUF
from rys_gguf.files.source import SourceFile
from rys_gguf.formats.header import Span, decode_text, encode_text
from rys_gguf.formats.limits import MAX_NAME_BYTES
from rys_gguf.text import quoted

_I32 = struct.Struct("<i")
# As many as the tensors of a model; no file is believed that claims more.
_MAX_ENTRIES = 1 << 14
_MAX_DATASET_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Entry:
    """The values of one weight; `span` is what follows the name: two counts and the values."""

    name: str
    n_values: int
    span: Span


class OldImatrix:
    """An importance matrix opened for reading. Use it as a context manager.

    `tail` is what follows the entries. Raises InvalidGGUF for a file that is not one from its first
    byte to its last.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.file = SourceFile(path)
        try:
            self.entries, end = self._read_entries()
            self.tail = Span(end, self.file.n_bytes - end)
            self._check_tail()
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> OldImatrix:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def encode(self, entries: Iterable[tuple[str, Entry]]) -> Iterator[bytes | Span]:
        """The bytes of a file of these entries under these names, and with this one's tail."""
        named = list(entries)
        yield _I32.pack(len(named))
        for name, entry in named:
            raw = encode_text(name)
            yield _I32.pack(len(raw)) + raw
            yield entry.span
        yield self.tail

    def _read_entries(self) -> tuple[tuple[Entry, ...], int]:
        n_entries = self._count(0, "entries", _MAX_ENTRIES)
        entries: dict[str, Entry] = {}
        at = 4
        for _ in range(n_entries):
            n_name = self._count(at, "bytes of a name", MAX_NAME_BYTES)
            name = decode_text(self._bytes(at + 4, n_name))
            at += 4 + n_name
            n_values = self._count(at + 4, "values", (self.file.n_bytes - at - 8) // 4)
            if name in entries:
                raise self._damaged(f"{quoted(name)} appears twice")
            entries[name] = Entry(name, n_values, Span(at, 8 + 4 * n_values))
            at += 8 + 4 * n_values
        return tuple(entries.values()), at

    def _check_tail(self) -> None:
        if not self.tail.n_bytes:
            return
        at = self.tail.offset + 4
        (n_name,) = _I32.unpack(self._bytes(at, 4))
        if not 0 <= n_name <= _MAX_DATASET_BYTES or at + 4 + n_name != self.file.n_bytes:
            raise self._damaged(f"{self.tail.n_bytes} bytes follow its {len(self.entries)} entries")

    def _count(self, at: int, what: str, most: int) -> int:
        (n,) = _I32.unpack(self._bytes(at, 4))
        if most < 1:
            raise self._damaged(f"it ends at byte {self.file.n_bytes}")
        if not 1 <= n <= most:
            raise self._damaged(f"{n} {what} at byte {at}, expected 1 to {most}")
        return int(n)

    def _bytes(self, at: int, n: int) -> bytes:
        if at + n > self.file.n_bytes:
            raise self._damaged(f"it ends at byte {self.file.n_bytes}")
        return self.file.read(at, n)

    def _damaged(self, what: str) -> InvalidGGUF:
        return InvalidGGUF(
            f"{self.file.name}: neither GGUF nor an importance matrix in the old format: {what}"
        )
