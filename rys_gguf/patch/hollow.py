"""A variant as a header without data: each of its tensors is one that the loaded base has.

llama.cpp loads such a file as it loads any other. Then its tensors are given the data of the
base's, so a variant takes no weights on disk, in memory or on a device.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from gguf.constants import GGUFValueType

from rys_gguf.errors import OutputFailed
from rys_gguf.formats.header import KV, Header, Span, TensorInfo
from rys_gguf.formats.model import Model
from rys_gguf.formats.shards import SPLIT_KEYS, TensorData
from rys_gguf.formats.vocabulary import n_tokens
from rys_gguf.patch.plan import Plan
from rys_gguf.patch.tensors import GatheredTensor, PlannedTensor
from rys_gguf.patch.writer import gathered
from rys_gguf.text import printable

_TOKENIZER = "tokenizer."
# llama.cpp sizes a tensor of some architectures by it.
_KEPT = ("tokenizer.ggml.token_type_count",)
_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"


@dataclass(frozen=True, slots=True)
class Hollow:
    """A header, and where each tensor's data comes from.

    `pairs` are names of its tensors, each with the base's tensor of the same data. `own` are the
    tensors that no base has, such as rescaled ones, with their bytes.
    """

    header: Header
    pairs: tuple[tuple[str, str], ...]
    own: tuple[PlannedTensor, ...]

    @property
    def pattern(self) -> str:
        """A regular expression for the names of the tensors that have no data."""
        if not self.own:
            return ".*"
        names = "|".join(re.escape(tensor.target.name) for tensor in self.own)
        return f"^(?!({names})$)"

    def write(self, model: Model, path: Path) -> None:
        """Write the file: the header, holes, and the data that are its own.

        Raises OutputFailed.
        """
        try:
            with open(path, "wb") as file:
                for piece in self.header.encode():
                    file.writelines(model.read(piece) if isinstance(piece, Span) else (piece,))
                start = self.header.data_offset
                for tensor in self.own:
                    file.seek(start + tensor.target.offset)
                    file.writelines(_content(model, tensor))
                file.truncate(start + self.header.n_data_bytes)
        except OSError as e:
            raise OutputFailed(f"{printable(path)}: {e.strerror or e}") from e


def hollow(plan: Plan, *, untied: bool = False) -> Hollow:
    """The header of a plan without its vocabulary, which token ids do not need.

    With `untied`, a model whose head is its embedding gets a head of its own, for a base that
    holds the embedding twice: for the host and for a device.
    """
    model = plan.model
    names = {t.data: t.source.name for t in plan.tensors if t.is_copy and t.source is not None}
    tensors = list(plan.tensors)
    if untied:
        tensors += _head(plan)
    infos = _placed((t.target for t in tensors), plan.header.alignment)
    header = replace(plan.header, kvs=tuple(_kvs(model, plan.header)), tensors=infos)
    placed = [replace(t, target=info) for t, info in zip(tensors, infos, strict=True)]
    pairs = tuple((t.target.name, names[t.data]) for t in placed if t.is_copy)
    return Hollow(header, pairs, tuple(t for t in placed if not t.is_copy))


def is_tied(model: Model) -> bool:
    """Whether the model's head is its embedding."""
    names = {t.name for t in model.globals}
    return _EMBEDDING in names and _HEAD not in names


def _head(plan: Plan) -> Iterator[PlannedTensor]:
    for tensor in plan.tensors:
        if tensor.target.name == _EMBEDDING:
            yield replace(tensor, target=replace(tensor.target, name=_HEAD))


def _placed(tensors: Iterable[TensorInfo], alignment: int) -> tuple[TensorInfo, ...]:
    placed = []
    offset = 0
    for tensor in tensors:
        placed.append(replace(tensor, offset=offset))
        offset = (offset + tensor.n_bytes + alignment - 1) & -alignment
    return tuple(placed)


def _kvs(model: Model, header: Header) -> Iterator[KV]:
    order = header.byteorder
    size_key = model.key("vocab_size")
    n = n_tokens(model)
    for kv in header.kvs:
        if kv.key in SPLIT_KEYS or (n is not None and kv.key == size_key):
            continue
        if n is None or not kv.key.startswith(_TOKENIZER) or kv.key in _KEPT:
            yield kv
    if n is not None:
        yield KV.of("tokenizer.ggml.model", GGUFValueType.STRING, "no_vocab", byteorder=order)
        yield KV.of(size_key, GGUFValueType.UINT32, n, byteorder=order)


def _content(model: Model, tensor: PlannedTensor) -> Iterator[bytes]:
    if isinstance(tensor.data, GatheredTensor):
        yield from gathered(model, tensor.data)
    else:
        assert not isinstance(tensor.data, TensorData)
        yield tensor.data
