"""The keys that say how large a model is: general.parameter_count and general.size_label.

llama.cpp reads neither; the GGUF naming convention, model hubs and Ollama do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gguf import utility
from gguf.constants import GGUFValueType

from rys_gguf.formats.header import KV, Header, Span, TensorInfo
from rys_gguf.text import printable

COUNT_KEY = "general.parameter_count"
LABEL_KEY = "general.size_label"


def n_parameters(tensors: Sequence[TensorInfo]) -> int:
    """How many weights the tensors hold."""
    return sum(tensor.n_elements for tensor in tensors)


def size_label(tensors: Sequence[TensorInfo]) -> str:
    """The label that gguf-py's converter computes from a model's tensors, such as 135M or 8x7B.

    Source: gguf-py/gguf/gguf_writer.py, get_total_parameter_count (llama.cpp b11549).
    """
    shared = experts = 0
    counts = []
    for tensor in tensors:
        ne = tensor.ne
        axis = 1 if ".bias" in tensor.name else 2
        if "_exps." in tensor.name and len(ne) > 2 and ne[axis]:  # noqa: PLR2004 - as in gguf-py
            experts += tensor.n_elements // ne[axis]
            counts.append(ne[axis])
        else:
            shared += tensor.n_elements
    n_experts = sum(counts) // len(counts) if counts else 0
    return utility.size_label(n_parameters(tensors), shared, experts, n_experts)


def recounted(source: Header, tensors: Sequence[TensorInfo]) -> dict[str, KV]:
    """Those of the two keys that say what the source's tensors hold, with the output's values."""
    new: dict[str, KV] = {}
    count, label = source.get(COUNT_KEY), source.get(LABEL_KEY)
    n = n_parameters(tensors)
    is_number = count is not None and count.type in _MOST and n <= _MOST[count.type]
    if count and is_number and count.value == n_parameters(source.tensors):
        new[COUNT_KEY] = KV.of(COUNT_KEY, count.type, n, byteorder=count.byteorder)
    if label and _text(label) == size_label(source.tensors):
        text = size_label(tensors)
        new[LABEL_KEY] = KV.of(LABEL_KEY, label.type, text, byteorder=label.byteorder)
    return new


def size_notes(source: Header, output: Header) -> Iterator[str]:
    """Which of the two keys no longer says how large the output is, though it says something."""
    if n_parameters(source.tensors) == n_parameters(output.tensors):
        return
    new = recounted(source, output.tensors)
    for key in (COUNT_KEY, LABEL_KEY):
        kv = source.get(key)
        if kv is not None and key not in new and not isinstance(kv.raw, Span):
            shown = printable(str(kv.value), 40)
            yield f"{key} {shown} is kept: it is a name for the source's size, not a count"


def _text(kv: KV) -> str | None:
    is_text = kv.type == GGUFValueType.STRING and not isinstance(kv.raw, Span)
    return str(kv.value) if is_text else None


_MOST = {
    GGUFValueType.UINT32: 2**32 - 1,
    GGUFValueType.INT32: 2**31 - 1,
    GGUFValueType.UINT64: 2**64 - 1,
    GGUFValueType.INT64: 2**63 - 1,
}
