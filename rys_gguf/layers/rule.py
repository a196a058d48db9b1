"""The protocol of the layer rules: what every rule can be asked, and what it is asked about.

A rule states one way in which llama.cpp lets a layer's computation depend on the layer's position
or on the number of layers. It carries its part of a header's metadata through a layer map
(`rewrite`), tells what every layer would run as (`kinds`), and lists what speaks against the
result (`conflicts`). No rule knows an architecture by name or touches a file.

Keys are given without the architecture's prefix throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gguf.constants import GGUFValueType

from rys_gguf.errors import Refused
from rys_gguf.formats.header import KV, ByteOrder
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.schedule import Schedule
from rys_gguf.text import printable

# What llama.cpp reads whole numbers from (llama-model-loader.cpp, get_key and get_arr).
_WHOLE_NUMBERS = (GGUFValueType.UINT32, GGUFValueType.INT32, GGUFValueType.BOOL)
# Some of its loops hold a count in 32 bits with a sign.
_MAX_COUNT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Conflict:
    """One reason why the result would not compute what the map says.

    `curable`: an explicit schedule removes it. `final`: no other map would be legal either.
    """

    text: str
    curable: bool = False
    final: bool = False


@dataclass(frozen=True)
class Metadata:
    """What the engine would read of one header: its KVs, and its numbers of layers.

    `n_trunk` counts the layers that the map covers, `n_mtp` the multi-token-prediction blocks
    behind them. `file` is the header's file, for messages.
    """

    architecture: str
    kvs: Mapping[str, KV]
    n_trunk: int
    n_mtp: int
    byteorder: ByteOrder = "<"
    file: str = ""

    def refuse(self, what: str) -> Refused:
        """A Refused that names the file."""
        return Refused(f"{self.file}: {what}" if self.file else what)

    def kv(self, suffix: str) -> KV | None:
        """The KV `{architecture}.{suffix}`."""
        return self.kvs.get(f"{self.architecture}.{suffix}")

    def scalar(self, suffix: str, default: Any = None) -> Any:
        """The value of a whole number; `default` if the key is missing or an array.

        Raises Refused for any other value or type: llama.cpp does not load such a model either.
        """
        kv = self.kv(suffix)
        if kv is None or kv.is_array:
            return default
        if kv.type != GGUFValueType.UINT32 or kv.value > _MAX_COUNT:
            raise self.refuse(
                f"{printable(kv.key)} is {kv.type_name} {printable(str(kv.value))}; llama.cpp "
                f"expects a whole number from 0 to {_MAX_COUNT}, as UINT32"
            )
        return int(kv.value)

    def refused(self, suffix: str, expected: str) -> Refused:
        """The error for a value that llama.cpp fails on, or that means nothing to it."""
        kv = self.kv(suffix)
        assert kv is not None
        shown = kv.type_name if kv.is_array else str(kv.value)
        return self.refuse(f"{printable(kv.key)} is {printable(shown)}; {expected}")

    def array(self, suffix: str) -> list[Any] | None:
        """The whole numbers of an array, or None if the key is missing or a scalar.

        Raises Refused for items of another type, or more than llama.cpp takes.
        """
        kv = self.kv(suffix)
        if kv is None or not kv.is_array:
            return None
        if kv.item_type not in _WHOLE_NUMBERS or kv.n_items > MAX_LAYERS:
            raise self.refuse(
                f"{printable(kv.key)} is {kv.type_name}; llama.cpp expects at most {MAX_LAYERS} "
                f"numbers, as UINT32, INT32 or BOOL"
            )
        return list(kv.value)

    def flags(self, suffix: str) -> list[bool] | None:
        """Which trunk layers have an entry other than 0, or None if the key is no array.

        llama.cpp reads such arrays into zeroed memory without a length check, so the layers behind
        the end of a short array count as 0.
        """
        items = self.array(suffix)
        if items is None:
            return None
        items = items[: self.n_trunk] + [0] * (self.n_trunk - len(items))
        return [bool(item) for item in items]

    def positive(self, suffix: str) -> bool:
        """Whether the key holds a scalar above zero."""
        return (self.scalar(suffix) or 0) > 0

    @property
    def n_blocks(self) -> int:
        """Trunk layers and MTP blocks."""
        return self.n_trunk + self.n_mtp

    @property
    def n_vocab(self) -> int:
        """Number of entries in the vocabulary, 0 if there is none."""
        kv = self.kvs.get("tokenizer.ggml.tokens")
        return kv.n_items if kv else 0

    def with_kv(self, kv: KV) -> Metadata:
        """This metadata with one KV replaced, or added at the end."""
        return replace(self, kvs={**self.kvs, kv.key: kv})

    def with_scalar(self, suffix: str, type_: GGUFValueType, value: Any) -> Metadata:
        """This metadata with one scalar of the architecture replaced or added."""
        key = f"{self.architecture}.{suffix}"
        return self.with_kv(KV.of(key, type_, value, byteorder=self.byteorder))

    def with_flags(self, suffix: str, flags: list[bool]) -> Metadata:
        """This metadata with one array of BOOL of the architecture replaced or added."""
        key, bools = f"{self.architecture}.{suffix}", GGUFValueType.BOOL
        return self.with_kv(
            KV.of(key, GGUFValueType.ARRAY, flags, byteorder=self.byteorder, item_type=bools)
        )


@dataclass(frozen=True, slots=True)
class Rescale:
    """A change of tensor data that undoes what the engine derives from the layer count.

    In every trunk layer the F32 tensor `blk.N.{tensor}` is multiplied by `factor(source, target)`.
    With `new` each layer gets a new tensor of that name instead, a scalar of that value.
    """

    tensor: str
    factor: Callable[[Metadata, Metadata], float]
    new: bool = False


# Where a rule holds: always (None), where a key is positive, or where a function says so.
Condition = str | Callable[[Metadata], bool] | None


def holds(when: Condition, meta: Metadata) -> bool:
    """Whether this model meets a condition."""
    if when is None:
        return True
    return meta.positive(when) if isinstance(when, str) else when(meta)


class Rule:
    """What every rule can be asked. A rule overrides the questions that it has an answer to."""

    __slots__ = ()

    def kinds(self, meta: Metadata) -> tuple[str, ...] | None:
        """What each trunk layer runs as, or None if this rule does not tell layers apart."""
        return None

    def describe(self, meta: Metadata) -> str | None:
        """The rule as it holds for this model, in words; None where it does not hold."""
        return None

    def arrays(self) -> tuple[str, ...]:
        """Keys of this rule that hold one value per block when they are arrays."""
        return ()

    def trunk_arrays(self) -> tuple[str, ...]:
        """Those of the arrays that have an entry per trunk layer, and none for MTP blocks."""
        return ()

    def adjusted(self) -> tuple[str, ...]:
        """Those of the arrays in which `rewrite` may change an entry."""
        return ()

    def rewrite(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> Metadata:
        """`target` with the changes that this rule asks for."""
        return target

    def note(self, source: Metadata, schedule: Schedule) -> str | None:
        """What the user should know about the change this rule made."""
        return None

    def rescales(self, source: Metadata, target: Metadata) -> list[Rescale]:
        """The changes of tensor data that an explicit schedule makes."""
        return []

    def readers(self, meta: Metadata) -> Mapping[int, tuple[int, ...]]:
        """Layers that read what earlier ones computed besides the residual, with those earlier."""
        return {}

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        """Why `target` would not compute what the map says."""
        meant, runs = self.kinds(source), self.kinds(target)
        if meant is None or runs is None:
            return []
        return kind_conflicts(meant, runs, layer_map, self.describe(source) or "")

    def statement(self) -> str | None:
        """The rule in words, without a model at hand; None if there is nothing to tell."""
        return None

    def limit(self, schedule: Schedule) -> str | None:
        """What a window has to respect, in a few words.

        None: it may lie anywhere. "none": no window is legal.
        """
        return None


@dataclass(frozen=True, slots=True)
class Fill:
    """What the F32 tensor `blk.N.{tensor}` must hold for layer N to pass its input on.

    `values` gives the values for a number of them.
    """

    tensor: str
    values: Callable[[int], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Damper:
    """An F32 tensor `blk.N.{tensor}` that multiplies all that `writers` add to the residual stream.

    A writer is a linear layer, `blk.N.{writer}.weight`. A tensor `{writer}.scale` counts as ones in
    a file that does not have it. With `of_all` the tensor is a number that multiplies the sum of
    the layer's input and all that the layer adds to it.
    """

    tensor: str
    writers: tuple[str, ...]
    of_all: bool = False


@dataclass(frozen=True, slots=True)
class Architecture:
    """One entry of the table: an architecture's rules and where they stand in llama.cpp's source.

    `arrays` are per-layer keys beyond those that every architecture has and those of the rules.
    `longer_arrays` may have more entries than there are blocks; the surplus is kept. They also do
    without entries for MTP blocks, unless they are among the `arrays`.
    `bare_arrays` have no architecture prefix, and entries for the trunk only.
    `by_layer` are the keys of every architecture that this one reads layer by layer everywhere, so
    that the entry of layer 0 stands for no other layer.
    `gathered` are tensors of the whole model with one slice per trunk layer: (name, which
    dimension of ne holds the slices).
    `empty_blocks`: a block may have no tensors at all.
    `absent_mtp`: a file may count MTP blocks that it does not hold; words tell which llama.cpp
    loads it, where not every known one does.
    `silenced` are tensors that `prove` fills where a layer has to pass its input on, besides those
    that write to the residual stream; `zeroed` are scalars that it sets to 0 in both models.
    `unprovable` tells why a layer that writes zeros does not pass its input on, or why there is
    nothing to compare, where that is so.
    `tails` says where llama.cpp gives the inputs of the layers, if they take nothing but these.
    A window can then be computed from the base's inputs alone.
    `dampers` are the tensors that damp a layer, and `damping` says where llama.cpp reads them; a
    layer with a writer that none of them multiplies cannot be damped.
    """

    name: str
    rules: tuple[Rule, ...]
    source: str
    arrays: tuple[str, ...] = ()
    longer_arrays: tuple[str, ...] = ()
    bare_arrays: tuple[str, ...] = ()
    by_layer: tuple[str, ...] = ()
    gathered: tuple[tuple[str, int], ...] = ()
    empty_blocks: bool = False
    absent_mtp: bool | str = False
    silenced: tuple[Fill, ...] = ()
    zeroed: tuple[str, ...] = ()
    unprovable: str = ""
    tails: str = ""
    dampers: tuple[Damper, ...] = ()
    damping: str = ""


def lost_kinds(
    meant: Collection[str], runs: Collection[str], kept: tuple[str, ...]
) -> list[Conflict]:
    """One conflict for each kind of layer that the map leaves out and llama.cpp cannot do without.

    Its memory has a part for each kind, and aborts where that would be empty.
    """
    return [
        Conflict(f"no layer would run as {kind} any more, and llama.cpp aborts without one")
        for kind in kept
        if kind in meant and kind not in runs
    ]


def without_last(kinds: tuple[str, ...], meta: Metadata, key: str | None) -> tuple[str, ...]:
    """The kinds of all layers but the last, whose number is in `key`."""
    n_last = int(meta.scalar(key, 0)) if key else 0
    return kinds[: max(0, len(kinds) - n_last)]


def kind_conflicts(
    meant: tuple[str, ...],
    runs: tuple[str, ...],
    layer_map: LayerMap,
    rule: str,
    *,
    curable: bool = False,
) -> list[Conflict]:
    """One conflict for the first output that runs as another kind than its source."""
    wrong = [out for out, s in enumerate(layer_map.sources) if runs[out] != meant[s]]
    if not wrong:
        return []
    out = wrong[0]
    others = f" ({len(wrong)} outputs differ in all)" if len(wrong) > 1 else ""
    source = layer_map[out]
    return [
        Conflict(
            f"output {out} would run as {runs[out]}, but it comes from source {source}, "
            f"{meant[source]}{others}: {rule}",
            curable,
        )
    ]
