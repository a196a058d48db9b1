"""Looking into headers, where a test knows what must be there."""

from __future__ import annotations

from rys_gguf.formats.header import KV, Header


def kv_of(header: Header, key: str) -> KV:
    """The KV of that key, which the header must have."""
    kv = header.get(key)
    assert kv is not None, key
    return kv
