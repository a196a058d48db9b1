"""Readers of given bytes, and values that a header must have."""

from __future__ import annotations

from pathlib import Path

from rys_gguf.formats.header import KV, Header, Span
from rys_gguf.formats.reader import HeaderReader


def kv_of(header: Header, key: str) -> KV:
    """The KV of that key, which the header must have."""
    kv = header.get(key)
    assert kv is not None, key
    return kv


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
