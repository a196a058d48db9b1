"""What in a readable file stock llama.cpp does not load on this machine, though others may.

Such files are patched: types of forks are copied by their extent, and a big-endian model is right
for another machine. But whoever loads the result here should hear of it before.

Source: gguf_init_from_reader in ggml/src/gguf.cpp (b11549).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from gguf.constants import GGUFValueType

from rys_gguf.formats.header import Header
from rys_gguf.formats.types import BLOCKS
from rys_gguf.text import quoted


def loading_notes(header: Header) -> Iterator[str]:
    """One sentence for each reason why llama.cpp will not load the file here."""
    order = "<" if sys.byteorder == "little" else ">"
    if header.byteorder != order:
        name = "big-endian" if order == "<" else "little-endian"
        yield f"the file is {name}: llama.cpp loads it on {name} machines only, not here"
    foreign = [t for t in header.tensors if t.type not in BLOCKS]
    if foreign:
        yield (
            f"tensor {quoted(foreign[0].name)} is {foreign[0].type_name}, which llama.cpp "
            f"does not read, though a fork may ({len(foreign)} of {len(header.tensors)} tensors)"
        )
    for kv in header.kvs:
        if kv.item_type == GGUFValueType.ARRAY:
            yield f"key {quoted(kv.key)} is an array of arrays, which llama.cpp does not read"
