"""Metadata without a file, for tests of the rules by themselves."""

from __future__ import annotations

from typing import Any

from gguf.constants import GGUFValueType

from rys_gguf.formats.header import KV
from rys_gguf.layers.rule import Metadata


def meta(n: int, n_mtp: int = 0, architecture: str = "a", **values: Any) -> Metadata:
    """Metadata with the given keys under the architecture's prefix (dots written as __)."""
    keys = {"block_count": n + n_mtp, **values}
    kvs = (value_kv(f"{architecture}.{k.replace('__', '.')}", v) for k, v in keys.items())
    return Metadata(architecture, {kv.key: kv for kv in kvs}, n, n_mtp)


def value_kv(key: str, value: Any) -> KV:
    """A key with a whole number, a number, a text, or a list of one of these."""
    types = {int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32, str: GGUFValueType.STRING}
    if isinstance(value, list):
        item = GGUFValueType.INT32 if min(value, default=0) == -1 else types[type(value[0])]
        return KV.of(key, GGUFValueType.ARRAY, value, item_type=item)
    return KV.of(key, types[type(value)], value)
