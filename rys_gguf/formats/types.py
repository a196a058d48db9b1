"""The tensor types of ggml: their names, blocks and sizes.

The gguf package knows the types of its own release, and not all of them as ggml does. Here its
table is put right and brought up to date, and everything that needs a size takes it from here.

Source: type_traits in ggml/src/ggml.c with ggml-common.h, and enum ggml_type in ggml.h (b11549).
"""

from __future__ import annotations

from collections.abc import Sequence

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from rys_gguf.errors import InvalidGGUF

# Weights and bytes of a block, where gguf 0.19 says otherwise or does not know the type.
_Q8_1 = (32, 36)  # two halves and 32 bytes; gguf counts two floats
_Q2_0 = (64, 18)
# Types by number: weights per block, bytes per block.
BLOCKS: dict[int, tuple[int, int]] = {
    **{int(t): sizes for t, sizes in GGML_QUANT_SIZES.items()},
    9: _Q8_1,
    42: _Q2_0,
}
_NAMES: dict[int, str] = {**{int(t): t.name for t in GGMLQuantizationType}, 42: "Q2_0"}
# What llama.cpp once read and refuses today; some forks still read it.
_REMOVED: dict[int, str] = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}


def type_name(type_: int) -> str:
    """The name of a ggml tensor type, or `type N` if llama.cpp never had it."""
    return _NAMES.get(type_) or _REMOVED.get(type_) or f"type {type_}"


def tensor_bytes(type_: int, ne: Sequence[int]) -> int | None:
    """Size of a tensor's data in bytes, or None for a type that llama.cpp does not read.

    Raises InvalidGGUF if a row is not a whole number of quantisation blocks.
    """
    sizes = BLOCKS.get(type_)
    if sizes is None:
        return None
    quant_block, quant_bytes = sizes
    row = ne[0] if ne else 1
    if row % quant_block:
        msg = f"rows of {row} weights, {type_name(type_)} needs multiples of {quant_block}"
        raise InvalidGGUF(msg)
    n_elements = 1
    for dim in ne:
        n_elements *= dim
    return n_elements // quant_block * quant_bytes
