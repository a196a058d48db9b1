"""The differences between two headers: keys, tensor infos, sizes. Tensor data is not compared."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rys_gguf.formats.header import ALIGNMENT_KEY, KV, Header, Span, TensorInfo, decode
from rys_gguf.formats.model import Model
from rys_gguf.patch.plan import Plan
from rys_gguf.text import printable

_SHOWN_ITEMS = 8
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class KVChange:
    """A key whose value or type differs, or that only one side has (the other side is None)."""

    old: KV | None
    new: KV | None

    @property
    def key(self) -> str:
        """The key."""
        kv = self.new or self.old
        assert kv is not None
        return kv.key

    @property
    def sign(self) -> str:
        """`+` added, `-` removed, `~` changed."""
        if self.old is None:
            return "+"
        return "-" if self.new is None else "~"


@dataclass(frozen=True, slots=True)
class TensorChange:
    """A tensor whose shape or type differs, or that only one side has."""

    old: TensorInfo | None
    new: TensorInfo | None

    @property
    def name(self) -> str:
        """The tensor's name."""
        tensor = self.new or self.old
        assert tensor is not None  # one side exists
        return tensor.name


@dataclass(frozen=True, slots=True)
class HeaderDiff:
    """The differences between two headers, and the totals on both sides."""

    kvs: tuple[KVChange, ...]
    tensors: tuple[TensorChange, ...]
    n_tensors: tuple[int, int]
    n_bytes: tuple[int, int]
    layout: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Whether there are no differences."""
        return not (self.kvs or self.tensors or self.layout)


def diff_plan(plan: Plan) -> HeaderDiff:
    """The changes that a plan makes to its source's header."""
    # Values that stay in the source are the same span on both sides.
    return _diff(
        plan.model.header,
        plan.header,
        (plan.model.n_bytes, plan.n_bytes),
        _same_raw,
    )


def diff_models(old: Model, new: Model) -> HeaderDiff:
    """The differences between the headers of two models."""
    return _diff(
        old.header, new.header, (old.n_bytes, new.n_bytes), lambda a, b: _same_value(old, a, new, b)
    )


def diff_kvs(
    old: Sequence[KV], new: Sequence[KV], equal: Callable[[KV, KV], bool]
) -> list[KVChange]:
    """Changed and removed keys in the old header's order, then added ones in the new one's."""
    after = {kv.key: kv for kv in new}
    before = {kv.key for kv in old}
    changes = [
        KVChange(kv, other)
        for kv in old
        if (other := after.get(kv.key)) is None
        or (kv.type, kv.item_type, kv.n_items) != (other.type, other.item_type, other.n_items)
        or not equal(kv, other)
    ]
    return changes + [KVChange(None, kv) for kv in new if kv.key not in before]


def show_value(kv: KV, *, full: bool = False) -> str:
    """A value for people: one line without control characters, shortened unless `full`."""
    if isinstance(kv.raw, Span):
        return f"{kv.n_items} items" if kv.is_array else f"{kv.raw.n_bytes - 8} bytes of text"
    if kv.is_array:
        items = kv.value
        shown = items if full else items[:_SHOWN_ITEMS]
        more = f", ... {len(items)} in all" if len(shown) < len(items) else ""
        return "[" + ", ".join(_show_item(item) for item in shown) + more + "]"
    limit = 1 << 16 if full else _SHOWN_CHARACTERS
    return _show_item(kv.value, limit)


def json_value(kv: KV | None) -> Any:
    """A value for JSON; a value that stays in its file is described by its size."""
    if kv is None:
        return None
    value = {"n_bytes": kv.raw.n_bytes} if isinstance(kv.raw, Span) else kv.value
    return {"type": kv.type_name, "value": value}


def _show_item(value: Any, limit: int = _SHOWN_CHARACTERS) -> str:
    if isinstance(value, str):
        return f'"{printable(value, limit)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _diff(
    old: Header,
    new: Header,
    n_bytes: tuple[int, int],
    equal: Callable[[KV, KV], bool],
) -> HeaderDiff:
    before, after = ({t.name: t for t in h.tensors} for h in (old, new))
    tensors = [
        TensorChange(t, other)
        for t in old.tensors
        if (other := after.get(t.name)) is None or (t.ne, t.type) != (other.ne, other.type)
    ]
    tensors += [TensorChange(None, t) for t in new.tensors if t.name not in before]
    rows = [
        ("GGUF version", old.version, new.version),
        ("byte order", _ORDER[old.byteorder], _ORDER[new.byteorder]),
    ]
    if not (old.get(ALIGNMENT_KEY) and new.get(ALIGNMENT_KEY)):  # otherwise the keys say it
        rows.append(("alignment", old.alignment, new.alignment))
    layout = [f"{what} {a} -> {b}" for what, a, b in rows if a != b]
    return HeaderDiff(
        tuple(diff_kvs(old.kvs, new.kvs, equal)),
        tuple(tensors),
        (len(old.tensors), len(new.tensors)),
        n_bytes,
        tuple(layout),
    )


_ORDER = {"<": "little-endian", ">": "big-endian"}


def _same_raw(a: KV, b: KV) -> bool:
    return a.raw == b.raw


def _same_value(old: Model, a: KV, new: Model, b: KV) -> bool:
    if a.n_value_bytes != b.n_value_bytes:
        return False
    if a.byteorder != b.byteorder:
        return _decoded(old, a) == _decoded(new, b)
    pieces: Iterable[tuple[bytes | None, bytes | None]] = itertools.zip_longest(
        old.raw(a), new.raw(b)
    )
    return all(x == y for x, y in pieces)


def _decoded(model: Model, kv: KV) -> object:
    return decode(kv.type, b"".join(model.raw(kv)), kv.byteorder)
