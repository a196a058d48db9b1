"""A variant as a header without data: each of its tensors is one that the loaded base has.

llama.cpp loads such a file as it loads any other. Then its tensors are given the data of the
base's, so a variant takes no weights on disk, in memory or on a device.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gguf.constants import GGUFValueType

from rys_gguf.errors import OutputFailed
from rys_gguf.formats.header import KV, Header, Span
from rys_gguf.formats.model import Model
from rys_gguf.formats.shards import SPLIT_KEYS, TensorData
from rys_gguf.formats.vocabulary import n_tokens
from rys_gguf.patch.plan import Plan
from rys_gguf.patch.tensors import GatheredTensor, PlannedTensor, layout
from rys_gguf.patch.writer import gathered
from rys_gguf.text import printable

_TOKENIZER = "tokenizer."
# llama.cpp sizes a tensor of some architectures by the first; servers need templates.
_KEPT = ("tokenizer.ggml.token_type_count", "tokenizer.chat_template")
_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"


@dataclass(frozen=True, slots=True)
class Hollow:
    """A header, and where each tensor's data comes from.

    `pairs` are names of its tensors, each with the base's tensor of the same data. `own` are the
    tensors that no base has, such as rescaled ones, with their bytes; those without bytes are
    zeros. `twins` are names of tensors, each with one of `own` that has the same data.
    """

    header: Header
    pairs: tuple[tuple[str, str], ...]
    own: tuple[PlannedTensor, ...]
    twins: tuple[tuple[str, str], ...] = ()

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
    return _hollow(plan.model, plan.header, plan.tensors, untied=untied)


def hollow_edited(
    model: Model,
    tensors: Mapping[str, bytes | None],
    values: Mapping[str, bytes],
    *,
    untied: bool = False,
) -> Hollow:
    """The header of a model as it is, for a base that is this model, with some edits.

    `tensors` are new bytes by the name of a tensor, None for zeros; `values` are new values of
    scalars by their key, as they are stored. `untied` is as for `hollow`.
    """
    kvs = (replace(kv, raw=values.get(kv.key, kv.raw)) for kv in model.header.kvs)
    planned = (
        PlannedTensor(t, t, (tensors[t.name] or b"") if t.name in tensors else model.data(t))
        for t in model.header.tensors
    )
    header = replace(model.header, kvs=tuple(kvs))
    return _zeros_once(_hollow(model, header, planned, untied=untied))


def _zeros_once(whole: Hollow) -> Hollow:
    """The same with twins: zeros of one kind and shape are read, and held on a device, once."""
    own: list[PlannedTensor] = []
    twins: list[tuple[str, str]] = []
    held: dict[object, str] = {}
    for tensor in whole.own:
        info = tensor.target
        kind = info.name.split(".", 2)[-1], info.type, info.ne
        if not tensor.data and kind in held:
            twins.append((info.name, held[kind]))
        else:
            own.append(tensor)
            if not tensor.data:
                held[kind] = info.name
    return replace(whole, own=tuple(own), twins=tuple(twins))


def _hollow(
    model: Model,
    header: Header,
    planned: Iterable[PlannedTensor],
    *,
    untied: bool,
) -> Hollow:
    tensors = list(planned)
    names = {t.data: t.source.name for t in tensors if t.is_copy and t.source is not None}
    if untied:
        tensors += [
            replace(t, target=replace(t.target, name=_HEAD))
            for t in tensors
            if t.target.name == _EMBEDDING
        ]
    placed = layout(tensors, header.alignment)
    infos = tuple(t.target for t in placed)
    header = replace(header, kvs=tuple(_kvs(model, header)), tensors=infos)
    pairs = tuple((t.target.name, names[t.data]) for t in placed if t.is_copy)
    return Hollow(header, pairs, tuple(t for t in placed if not t.is_copy))


def is_tied(model: Model) -> bool:
    """Whether the model's head is its embedding."""
    names = {t.name for t in model.globals}
    return _EMBEDDING in names and _HEAD not in names


def _kvs(model: Model, header: Header) -> Iterator[KV]:
    order = header.byteorder
    size_key = model.key("vocab_size")
    n = n_tokens(model)
    for kv in header.kvs:
        if kv.key in SPLIT_KEYS or (n is not None and kv.key == size_key):
            continue
        if n is None or not kv.key.startswith(_TOKENIZER) or kv.key.startswith(_KEPT):
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
