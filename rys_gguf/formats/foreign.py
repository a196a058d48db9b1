"""What in a readable file stock llama.cpp does not load on this machine, though others may.

Such files are patched: types of forks are copied by their extent, a big-endian model is right for
another machine, and a later llama.cpp may know more. But whoever loads the result here should hear
of it before.

Source: gguf_init_from_reader in ggml/src/gguf.cpp, llama_model_base::load_hparams in
src/llama-model.cpp and the tensors of src/models (b11549).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from gguf.constants import GGUFValueType

from rys_gguf.formats.header import Header
from rys_gguf.formats.other_files import DRAFTS
from rys_gguf.formats.types import BLOCKS
from rys_gguf.text import printable, quoted

# Names under the architecture's prefix of which llama.cpp asserts that it knows them.
_NAMES = {
    "rope.scaling.type": ("none", "linear", "yarn", "longrope"),
    "classifier.activation": ("gelu", "silu", "tanh"),
}


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
    yield from _value_notes(header)


def _value_notes(header: Header) -> Iterator[str]:
    arch = header.get("general.architecture")
    name = str(arch.value) if arch and arch.type == GGUFValueType.STRING else ""
    for suffix, known in _NAMES.items():
        kv = header.get(f"{name}.{suffix}")
        if kv and kv.type == GGUFValueType.STRING and kv.value not in known:
            yield (
                f"{printable(kv.key)} is {quoted(str(kv.value))}; llama.cpp aborts on it, it "
                f"knows {', '.join(known)}"
            )
    tokens = header.get("tokenizer.ggml.tokens")
    rows = next((t for t in header.tensors if t.name == "token_embd.weight"), None)
    # The embedding of a draft model is its target's.
    if tokens is None or not tokens.n_items or rows is None or name in DRAFTS:
        return
    n_rows = rows.ne[1] if len(rows.ne) > 1 else 1
    if n_rows != tokens.n_items:
        yield (
            f"token_embd.weight has {n_rows} rows for {tokens.n_items} tokens; llama.cpp loads "
            f"no model in which they differ"
        )
