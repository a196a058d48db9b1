"""The ways in which llama.cpp lets a layer's computation depend on where the layer stands.

An architecture is a row of data (see `architectures`) made of these rules. A rule carries its part
of a header's metadata through a layer map (`rewrite`), says what every layer would run as
(`kinds`), and lists what speaks against the result (`conflicts`). None of them knows an
architecture by name or touches a file.

Keys are given without the architecture's prefix throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gguf.constants import GGUFValueType

from rys_gguf.errors import Refused
from rys_gguf.formats.header import KV, SCALAR_FORMAT, ByteOrder, layer_of, rename
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.schedule import Schedule
from rys_gguf.text import printable

_FLOATS = (GGUFValueType.FLOAT32, GGUFValueType.FLOAT64)


@dataclass(frozen=True, slots=True)
class Conflict:
    """One reason why the result would not compute what the map says.

    `curable` says whether an explicit schedule removes it, `final` that no other map would.
    """

    text: str
    curable: bool = False
    final: bool = False


@dataclass(frozen=True)
class Metadata:
    """What the engine would read of one header: its KVs, and how many layers of which sort."""

    architecture: str
    kvs: Mapping[str, KV]
    n_trunk: int
    n_mtp: int
    byteorder: ByteOrder = "<"

    def kv(self, suffix: str) -> KV | None:
        """The KV `{architecture}.{suffix}`."""
        return self.kvs.get(f"{self.architecture}.{suffix}")

    def scalar(self, suffix: str, default: Any = None) -> Any:
        """A whole number's value; `default` if the key is missing or an array.

        Raises Refused for any other value: llama.cpp does not load such a model either.
        """
        kv = self.kv(suffix)
        if kv is None or kv.is_array:
            return default
        value = kv.value
        if not isinstance(value, int) or value < 0:
            raise Refused(
                f"{printable(kv.key)} is {kv.type_name} {printable(str(value))}; llama.cpp expects "
                f"a whole number from 0"
            )
        return value

    def array(self, suffix: str) -> list[Any] | None:
        """The numbers of an array, or None if the key is missing or a scalar.

        Raises Refused for other items than numbers, and for more of them than llama.cpp takes.
        """
        kv = self.kv(suffix)
        if kv is None or not kv.is_array:
            return None
        are_numbers = kv.item_type in SCALAR_FORMAT and kv.n_items <= MAX_LAYERS
        items = list(kv.value) if are_numbers else []
        if not are_numbers or (kv.item_type in _FLOATS and not all(map(math.isfinite, items))):
            raise Refused(
                f"{printable(kv.key)} is {kv.type_name}; llama.cpp expects at most {MAX_LAYERS} "
                f"numbers"
            )
        return items

    def positive(self, suffix: str) -> bool:
        """Whether a scalar is there and above zero."""
        return (self.scalar(suffix) or 0) > 0

    @property
    def n_vocab(self) -> int:
        """Entries of the vocabulary, 0 if there is none."""
        kv = self.kvs.get("tokenizer.ggml.tokens")
        return kv.n_items if kv else 0

    def with_kv(self, kv: KV) -> Metadata:
        """This metadata with one KV replaced or added at the end."""
        return replace(self, kvs={**self.kvs, kv.key: kv})

    def with_scalar(self, suffix: str, type_: GGUFValueType, value: Any) -> Metadata:
        """This metadata with one scalar of the architecture replaced or added."""
        key = f"{self.architecture}.{suffix}"
        return self.with_kv(KV.of(key, type_, value, byteorder=self.byteorder))


@dataclass(frozen=True, slots=True)
class Rescale:
    """A change of data that undoes what the engine derives: `tensor` of every trunk layer.

    The F32 tensor `blk.N.{tensor}` is multiplied by `factor(source, target)`, or with `new` added
    to each layer as a scalar of that value.
    """

    tensor: str
    factor: Callable[[Metadata, Metadata], float]
    new: bool = False


# Where a rule holds: always (None), where a key is positive, or where a function says so.
Condition = str | Callable[[Metadata], bool] | None


def holds(when: Condition, meta: Metadata) -> bool:
    """Whether a condition is met by this model."""
    if when is None:
        return True
    return meta.positive(when) if isinstance(when, str) else when(meta)


class Rule:
    """What every rule can be asked; a rule overrides what it has something to say about."""

    __slots__ = ()

    def kinds(self, meta: Metadata) -> tuple[str, ...] | None:
        """What each trunk layer runs as, or None if this rule does not tell layers apart."""
        return None

    def describe(self, meta: Metadata) -> str | None:
        """The rule as it holds for this model, in words; None where it does not."""
        return None

    def arrays(self) -> tuple[str, ...]:
        """Keys of this rule that hold one value per block when they are arrays."""
        return ()

    def adjusted(self) -> tuple[str, ...]:
        """Those arrays of which an entry may be another than its source's."""
        return ()

    def rewrite(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> Metadata:
        """`target` with what this rule has to change in it."""
        return target

    def note(self, source: Metadata, schedule: Schedule) -> str | None:
        """What the user should know about the change this rule made."""
        return None

    def rescales(self, source: Metadata, target: Metadata) -> list[Rescale]:
        """Changes of tensor data an explicit schedule makes."""
        return []

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        """Why `target` would not compute what the map says."""
        meant, runs = self.kinds(source), self.kinds(target)
        if meant is None or runs is None:
            return []
        return _kind_conflicts(meant, runs, layer_map, self.describe(source) or "")

    def statement(self) -> str | None:
        """The rule in words, without a model at hand; None if there is nothing to tell."""
        return None

    def limit(self, schedule: Schedule) -> str | None:
        """What a window has to respect, in a few words; None for nothing, "none": none is legal."""
        return None


@dataclass(frozen=True, slots=True)
class Periodic(Rule):
    """Of every `default` layers (or of the number in `period_key`) one is `special`.

    It is number `at` of its period, the last one with -1; the others are `regular`. Where `when`
    does not hold every layer is alike, special unless `otherwise` says what. Where `array`
    names a key that spells the kinds out (true = regular), an engine that knows the key reads it
    instead of the position; `array_read_by` says which do and what the others make of such a file.
    `whole` demands that a whole number of periods stays one.
    """

    special: str
    regular: str
    default: int
    period_key: str | None = None
    at: int = -1
    when: Condition = None
    otherwise: str | None = None
    array: str | None = None
    array_read_by: str = ""
    whole: bool = False

    def arrays(self) -> tuple[str, ...]:
        return (self.array,) if self.array else ()

    def applies(self, meta: Metadata) -> bool:
        """Whether layers differ at all in this model."""
        return holds(self.when, meta)

    def period(self, meta: Metadata) -> int:
        """Layers per period, in force where no array says otherwise."""
        return int(meta.scalar(self.period_key, self.default)) if self.period_key else self.default

    def by_position(self, meta: Metadata) -> tuple[str, ...]:
        """Kind of every trunk layer as an engine computes it that reads no array."""
        if not self.applies(meta):
            return (self.otherwise or self.special,) * meta.n_trunk
        period = self.period(meta)
        if period == 0:  # set_swa_pattern(0): no layer is special
            return (self.regular,) * meta.n_trunk
        at = self.at % period
        kinds = [self.regular] * meta.n_trunk
        kinds[at::period] = [self.special] * len(range(at, meta.n_trunk, period))
        return tuple(kinds)

    def kinds(self, meta: Metadata) -> tuple[str, ...]:
        """Kind of every trunk layer as a current llama.cpp computes it."""
        listed = meta.array(self.array) if self.array and self.applies(meta) else None
        if listed is None:
            return self.by_position(meta)
        # Read into a zeroed array without a length check: a short one leaves the tail special.
        listed = listed[: meta.n_trunk] + [0] * (meta.n_trunk - len(listed))
        return tuple(self.regular if flag else self.special for flag in listed)

    def describe(self, meta: Metadata) -> str:
        if not self.applies(meta):
            lacking = f" (no {self.when})" if isinstance(self.when, str) else ""
            return f"every layer {self.otherwise or self.special}{lacking}"
        if self.array and meta.array(self.array) is not None:
            return f"{meta.architecture}.{self.array} lists the kind of each layer"
        return self.describe_position(meta)

    def describe_position(self, meta: Metadata) -> str:
        """What decides the kinds where no array does: the period, and who says it."""
        period = self.period(meta)
        where = {0: "first", -1: "last"}.get(self.at, f"number {self.at + 1}")
        if self.period_key and isinstance(meta.scalar(self.period_key), int):
            said = f"{meta.architecture}.{self.period_key} {period}"
        else:
            said = f"period {period}, fixed in llama.cpp for {meta.architecture}"
        return f"{self.special} on the {where} layer of every {period} ({said})"

    def rewrite(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> Metadata:
        """Spell the kinds out if asked to; an array the source has was gathered already."""
        if not self._spells_out(source, schedule) or target.array(str(self.array)) is not None:
            return target
        kinds = self.kinds(source)
        flags = [kinds[s] == self.regular for s in layer_map.sources] + [False] * source.n_mtp
        key = f"{source.architecture}.{self.array}"
        return target.with_kv(
            KV.of(
                key,
                GGUFValueType.ARRAY,
                flags,
                byteorder=source.byteorder,
                item_type=GGUFValueType.BOOL,
            )
        )

    def note(self, source: Metadata, schedule: Schedule) -> str | None:
        if not self._spells_out(source, schedule):
            return None
        return f"{source.architecture}.{self.array} lists each layer's kind: {self.array_read_by}"

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        meant = self.kinds(source)
        # A source whose array says what its position says runs on engines that do not know the key
        # as well; a portable variant keeps that. One whose array differs never did.
        portable = schedule is Schedule.PORTABLE and meant == self.by_position(source)
        runs = self.by_position(target) if portable else self.kinds(target)
        curable = portable and self.array is not None
        found = _kind_conflicts(
            meant, runs, layer_map, self.describe_position(source), curable=curable
        )
        period = self.period(source)
        demanded = self.whole and portable and self.applies(source) and period
        if demanded and source.n_trunk % period == 0 and target.n_trunk % period:
            found.append(
                Conflict(
                    f"{target.n_trunk} layers are not divisible by {self.period_key} {period}; "
                    f"the source's {source.n_trunk} are",
                    curable,
                )
            )
        return found

    def _spells_out(self, source: Metadata, schedule: Schedule) -> bool:
        return schedule is Schedule.EXPLICIT and bool(self.array) and self.applies(source)

    def statement(self) -> str:
        where = {0: "first", -1: "last"}.get(self.at, f"number {self.at + 1}")
        said = f"{self.period_key}, default {self.default}" if self.period_key else "fixed"
        only = f"; only where {self.when} is set" if isinstance(self.when, str) else ""
        listed = f"; {self.array} may list the kinds" if self.array else ""
        return (
            f"{self.special} on the {where} of every {self.default} layers ({said}), "
            f"{self.regular} on the others{only}{listed}"
        )

    def limit(self, schedule: Schedule) -> str | None:
        if schedule is Schedule.EXPLICIT and self.array:
            return None
        key = f" ({self.period_key})" if self.period_key else ""
        return f"kinds of period {self.default}{key}"


@dataclass(frozen=True, slots=True)
class Listed(Rule):
    """A per-layer array is the only form: `nonzero` where its entry is not 0, else `zero`.

    The array is gathered like every other, so any map is legal; the rule shows the kinds and
    checks them. Where the key is missing or a scalar, every layer is alike. With `at_end` the last
    output must not be `zero`.
    """

    key: str
    nonzero: str
    zero: str
    at_end: bool = False

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        kinds = self.kinds(target)
        if not self.at_end or kinds is None or kinds[-1] == self.nonzero:
            return Rule.conflicts(self, source, target, layer_map, schedule)
        out = len(layer_map) - 1
        return [
            Conflict(f"output {out} (source {layer_map[out]}) is {self.zero} and cannot be last")
        ]

    def arrays(self) -> tuple[str, ...]:
        return (self.key,)

    def kinds(self, meta: Metadata) -> tuple[str, ...] | None:
        listed = meta.array(self.key)
        if listed is None:
            return None
        listed = listed[: meta.n_trunk] + [0] * (meta.n_trunk - len(listed))
        return tuple(self.nonzero if entry else self.zero for entry in listed)

    def describe(self, meta: Metadata) -> str | None:
        if meta.array(self.key) is None:
            return None
        return f"{meta.architecture}.{self.key} lists the kind of each layer"

    def statement(self) -> str:
        return f"{self.nonzero} where {self.key} is not 0, {self.zero} where it is"


@dataclass(frozen=True, slots=True)
class Leading(Rule):
    """The first K layers are `inside`, the others `outside`; `key` holds K and moves with the map.

    The new K is the number of outputs whose source is inside; those outputs must come first.
    """

    key: str
    inside: str
    outside: str

    def count(self, meta: Metadata) -> int:
        """K, at most the number of layers."""
        return min(int(meta.scalar(self.key, 0)), meta.n_trunk)

    def kinds(self, meta: Metadata) -> tuple[str, ...] | None:
        k = self.count(meta)
        if not k:
            return None
        return (self.inside,) * k + (self.outside,) * (meta.n_trunk - k)

    def describe(self, meta: Metadata) -> str | None:
        k = self.count(meta)
        if not k:
            return None
        return f"the first {k} layers {self.inside} ({meta.architecture}.{self.key})"

    def rewrite(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> Metadata:
        k = self.count(source)
        kv = source.kv(self.key)
        if not k or kv is None or kv.is_array:
            return target
        return target.with_scalar(self.key, kv.type, sum(s < k for s in layer_map.sources))

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        k = self.count(source)
        # K may become 0: then no output is inside and nothing can be out of place.
        wrong = _first_out_of_place([s < k for s in layer_map.sources])
        if wrong is None:
            return []
        return [
            Conflict(
                f"output {wrong} (source {layer_map[wrong]}) is {self.inside}, but follows a layer "
                f"that is {self.outside}: {self.key} can only say that the first layers are "
                f"{self.inside}; a window must lie on one side of layer {k}"
            )
        ]

    def statement(self) -> str:
        return f"the first layers are {self.inside} ({self.key}, which moves), then {self.outside}"

    def limit(self, schedule: Schedule) -> str | None:
        return f"one side of {self.key}"


@dataclass(frozen=True, slots=True)
class Anchored(Rule):
    """The first layers are tied to their positions by `why`: each stays where it is, once.

    `count` is their number, or the key that holds it.
    """

    count: int | str
    why: str

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        k = self.count if isinstance(self.count, int) else int(source.scalar(self.count, 0))
        k = min(k, source.n_trunk)
        for out in range(max(k, len(layer_map))):
            here = layer_map[out] if out < len(layer_map) else None
            if (out < k and here != out) or (out >= k and here is not None and here < k):
                return [
                    Conflict(
                        f"output {out} would be source {here}, but the first "
                        f"{'layer stays' if k == 1 else f'{k} layers stay'} in place: {self.why}"
                    )
                ]
        return []

    def describe(self, meta: Metadata) -> str | None:
        k = self.count if isinstance(self.count, int) else int(meta.scalar(self.count, 0))
        return f"the first {k} stay in place: {self.why}" if k else None

    def statement(self) -> str:
        return f"the first layers ({self.count}) stay in place: {self.why}"

    def limit(self, schedule: Schedule) -> str | None:
        return f"behind the first {self.count}"


@dataclass(frozen=True, slots=True)
class TiedTail(Rule):
    """The last D layers (the number in `key`) are tied to the end by `why`: each once, in order."""

    key: str
    why: str

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        d = min(int(source.scalar(self.key, 0)), source.n_trunk)
        first = source.n_trunk - d
        tail = list(range(first, source.n_trunk))
        if not d or (
            list(layer_map.sources[-d:]) == tail and all(s < first for s in layer_map.sources[:-d])
        ):
            return []
        return [Conflict(f"the last {d} layers stay last, each once: {self.why}")]

    def statement(self) -> str:
        return f"the last layers ({self.key}) stay last: {self.why}"

    def limit(self, schedule: Schedule) -> str | None:
        return f"before the last {self.key}"


@dataclass(frozen=True, slots=True)
class SharedTail(Rule):
    """The last S layers (the number in `key`) reuse the K/V of the two layers before them.

    S moves with the map. Sliding layers read the second-last layer with own K/V, full layers the
    last, so both must stay what they are.
    """

    key: str
    own: str = "own K/V"
    shared: str = "shared K/V"

    def first(self, meta: Metadata) -> int:
        """The first layer without K/V of its own."""
        return meta.n_trunk - min(int(meta.scalar(self.key, 0)), meta.n_trunk)

    def kinds(self, meta: Metadata) -> tuple[str, ...] | None:
        b = self.first(meta)
        if b == meta.n_trunk:
            return None
        return (self.own,) * b + (self.shared,) * (meta.n_trunk - b)

    def describe(self, meta: Metadata) -> str | None:
        b = self.first(meta)
        if b == meta.n_trunk:
            return None
        return f"layers from {b} on reuse the K/V of layers {b - 2} and {b - 1} ({self.key})"

    def rewrite(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> Metadata:
        b = self.first(source)
        kv = source.kv(self.key)
        if b == source.n_trunk or kv is None:
            return target
        return target.with_scalar(self.key, kv.type, sum(s >= b for s in layer_map.sources))

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        b = self.first(source)
        if b == source.n_trunk:
            return []
        wrong = _first_out_of_place([s < b for s in layer_map.sources])
        if wrong is not None:
            return [
                Conflict(
                    f"output {wrong} (source {layer_map[wrong]}) has K/V of its own, but follows a "
                    f"layer that reuses another's: a window must lie on one side of layer {b}"
                )
            ]
        new_b = sum(s < b for s in layer_map.sources)
        last = layer_map.sources[max(0, new_b - 2) : new_b]
        if new_b < len(layer_map) and last != (b - 2, b - 1):
            return [
                Conflict(
                    f"layers from {b} on reuse the K/V of source layers {b - 2} and {b - 1}, which "
                    f"must stay the two before them; the map puts {list(last)} there"
                )
            ]
        return []

    def statement(self) -> str:
        return f"the last layers ({self.key}, which moves) reuse the K/V of the two before them"

    def limit(self, schedule: Schedule) -> str | None:
        return f"one side of the last {self.key}"


@dataclass(frozen=True, slots=True)
class BoundToPreceding(Rule):
    """A layer whose entry in `key` is 0 works with what the nearest layer before it with 1 chose.

    `by_default` lists the entries of a source without the key (which is then written, so that they
    do not depend on the position); None means all 1. `users`, if given, are the layers that take
    part, as the positive entries of that array.
    """

    key: str
    what: str
    by_default: Callable[[Metadata], list[int] | None] = lambda _: None
    users: str | None = None
    when: Condition = None

    def arrays(self) -> tuple[str, ...]:
        return (self.key,)

    def flags(self, meta: Metadata) -> list[int] | None:
        """1 where a layer chooses for itself; None if every layer does."""
        if not holds(self.when, meta):
            return None
        listed = meta.array(self.key)
        if listed is None:
            scalar = meta.scalar(self.key)
            listed = [scalar] * meta.n_trunk if scalar is not None else self.by_default(meta)
        return None if listed is None else [int(bool(f)) for f in listed[: meta.n_trunk]]

    def kinds(self, meta: Metadata) -> tuple[str, ...] | None:
        flags = self.flags(meta)
        if flags is None:
            return None
        return tuple(f"own {self.what}" if f else f"shared {self.what}" for f in flags)

    def describe(self, meta: Metadata) -> str | None:
        if self.flags(meta) is None:
            return None
        return f"layers without their own {self.what} use that of the nearest before them"

    def rewrite(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> Metadata:
        if source.kv(self.key) is not None:
            return target
        flags = self.flags(source)
        if flags is None:
            return target
        return target.with_kv(
            KV.of(
                f"{source.architecture}.{self.key}",
                GGUFValueType.ARRAY,
                [bool(flags[s]) for s in layer_map.sources],
                byteorder=source.byteorder,
                item_type=GGUFValueType.BOOL,
            )
        )

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        flags = self.flags(source)
        if flags is None:
            return []
        takes_part = [True] * source.n_trunk
        if self.users and (entries := source.array(self.users)) is not None:
            takes_part = [entry > 0 for entry in entries[: source.n_trunk]]
        chooser: list[int | None] = []
        last = None
        for n in range(source.n_trunk):
            last = n if flags[n] and takes_part[n] else last
            chooser.append(last)
        last = None
        for out, s in enumerate(layer_map.sources):
            last = s if flags[s] and takes_part[s] else last
            if takes_part[s] and not flags[s] and last != chooser[s]:
                return [
                    Conflict(
                        f"output {out} (source {s}) would use the {self.what} of source {last} "
                        f"instead of {chooser[s]}: a window must start on a layer with its own "
                        f"{self.what}, or hold none"
                    )
                ]
        return []

    def statement(self) -> str:
        return f"a layer without its own {self.what} ({self.key}) uses the nearest before it"

    def limit(self, schedule: Schedule) -> str | None:
        return f"starting on an own {self.what}, or holding none"


@dataclass(frozen=True, slots=True)
class LayerIndex(Rule):
    """`key` names layers by number (array or scalar); each stands exactly once in the map."""

    key: str
    what: str

    def _named(self, meta: Metadata) -> list[int]:
        listed = meta.array(self.key)
        scalar = meta.scalar(self.key)
        return listed if listed is not None else [] if scalar is None else [int(scalar)]

    def rewrite(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> Metadata:
        kv = source.kv(self.key)
        if kv is None or any(len(layer_map.outputs_of(n)) != 1 for n in self._named(source)):
            return target
        moved = [layer_map.outputs_of(n)[0] for n in self._named(source)]
        if kv.is_array:
            return target.with_kv(
                KV.of(kv.key, kv.type, moved, byteorder=kv.byteorder, item_type=kv.item_type)
            )
        return target.with_scalar(self.key, kv.type, moved[0])

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        return [
            Conflict(
                f"source {n} is {self.what} ({self.key}), of which there can be only one; the map "
                f"has it {len(layer_map.outputs_of(n))} times"
            )
            for n in self._named(source)
            if n < source.n_trunk and len(layer_map.outputs_of(n)) != 1
        ]

    def statement(self) -> str:
        return f"{self.what} is a layer named by its number ({self.key}, which moves)"

    def limit(self, schedule: Schedule) -> str | None:
        return f"without {self.what}"


@dataclass(frozen=True, slots=True)
class CountSwitch(Rule):
    """llama.cpp computes or loads something else when the number of trunk layers is in `counts`.

    With None every count is a case of its own.
    No key overrides it, so a map may not cross it, unless an explicit schedule can make up for it
    in the data (`repair`). `applies` says whether the two behaviours differ for this model at all.
    """

    counts: Container[int] | None
    what: str
    applies: Callable[[Metadata], bool] = lambda _: True
    repair: Rescale | None = None

    def crossed(self, source: Metadata, target: Metadata) -> bool:
        """Whether the map changes the behaviour."""
        old, new = source.n_trunk, target.n_trunk
        crossed = (
            old != new if self.counts is None else (old in self.counts) != (new in self.counts)
        )
        return crossed and self.applies(source)

    def rescales(self, source: Metadata, target: Metadata) -> list[Rescale]:
        return [self.repair] if self.repair and self.crossed(source, target) else []

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        repaired = self.repair is not None and schedule is Schedule.EXPLICIT
        if repaired or not self.crossed(source, target):
            return []
        return [
            Conflict(
                f"{source.n_trunk} -> {target.n_trunk} layers would change {self.what}",
                curable=self.repair is not None,
            )
        ]

    def statement(self) -> str:
        return f"the number of layers decides {self.what}"

    def limit(self, schedule: Schedule) -> str | None:
        if schedule is Schedule.EXPLICIT and self.repair:
            return None
        if self.counts is None:
            return "same layer count"
        if isinstance(self.counts, range):
            return f"not across {self.counts.start} layers"
        numbers = sorted(n for n in range(1, MAX_LAYERS + 1) if n in self.counts)
        return f"not to or from {' or '.join(map(str, numbers))} layers"


@dataclass(frozen=True, slots=True)
class Pin(Rule):
    """A value llama.cpp derives from the layer count where `key` is missing; written as it was.

    `value` gives what the engine uses for the source, or None where nothing has to be said.
    """

    key: str
    type: GGUFValueType
    value: Callable[[Metadata], Any]

    def rewrite(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> Metadata:
        if source.kv(self.key) is not None or (value := self.value(source)) is None:
            return target
        return target.with_scalar(self.key, self.type, value)

    def note(self, source: Metadata, schedule: Schedule) -> str | None:
        if source.kv(self.key) is not None or (value := self.value(source)) is None:
            return None
        return (
            f"{source.architecture}.{self.key} {value:g} written: without it llama.cpp derives "
            f"another value from the new layer count"
        )

    def statement(self) -> str:
        return f"{self.key} is written as it was, or the layer count would change it"


@dataclass(frozen=True, slots=True)
class Injection(Rule):
    """`key` lists what is added to each layer's input, -1 for nothing; layer 0 never gets any.

    A copy of layer 0 further back therefore gets -1, and a layer that is given something cannot
    become layer 0.
    """

    key: str

    def arrays(self) -> tuple[str, ...]:
        return (self.key,)

    def adjusted(self) -> tuple[str, ...]:
        return (self.key,)

    def rewrite(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> Metadata:
        kv, entries = target.kv(self.key), target.array(self.key)
        if kv is None or entries is None:
            return target
        for out, s in enumerate(layer_map.sources):
            if out and s == 0:
                entries[out] = -1
        return target.with_kv(
            KV.of(kv.key, kv.type, entries, byteorder=kv.byteorder, item_type=kv.item_type)
        )

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        entries = source.array(self.key)
        first = layer_map[0]
        if entries is None or first == 0 or entries[first] < 0:
            return []
        return [Conflict(f"source {first} is given image features ({self.key}), layer 0 never is")]

    def statement(self) -> str:
        return f"layers but the first may be given image features ({self.key})"


@dataclass(frozen=True, slots=True)
class Looped(Rule):
    """The whole stack runs as often as `key` says, each time with slots of its own.

    llama.cpp has 512 slots in all.
    """

    key: str

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        n = target.n_trunk * int(source.scalar(self.key, 1))
        if n <= MAX_LAYERS:
            return []
        return [Conflict(f"{self.key} times the layers makes {n}, llama.cpp stops at {MAX_LAYERS}")]

    def statement(self) -> str:
        return f"the whole stack runs {self.key} times, copies as well"


@dataclass(frozen=True, slots=True)
class Phase(Rule):
    """Layers whose tensors differ with a period of `period`: each output keeps its source's phase.

    For architectures nobody has read: what else the position decides probably has this period.
    """

    period: int

    def kinds(self, meta: Metadata) -> tuple[str, ...]:
        return tuple(f"layer {il % self.period} of a period" for il in range(meta.n_trunk))

    def describe(self, meta: Metadata) -> str:
        return f"the layers' tensors repeat with a period of {self.period}"


@dataclass(frozen=True, slots=True)
class TensorNames(Rule):
    """`key` (no architecture prefix) lists tensors by name, `parallel` keys hold a value for each.

    An entry for a layer's tensor becomes one entry per output copy.
    """

    key: str
    parallel: tuple[str, ...] = ()

    def rewrite(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> Metadata:
        names = source.kvs.get(self.key)
        if names is None or names.item_type != GGUFValueType.STRING:
            return target
        picked: list[int] = []
        renamed: list[str] = []
        for n, name in enumerate(names.value):
            layer = layer_of(name)
            if layer is None:
                outs: tuple[int | None, ...] = (None,)
            elif layer < source.n_trunk:
                outs = layer_map.outputs_of(layer)
            else:
                outs = (layer + layer_map.n_added,)
            for out in outs:
                picked.append(n)
                renamed.append(name if out is None else rename(name, out))
        target = target.with_kv(
            KV.of(
                self.key, names.type, renamed, byteorder=names.byteorder, item_type=names.item_type
            )
        )
        for key in self.parallel:
            kv = source.kvs.get(key)
            if kv is not None and kv.item_type is not None and kv.n_items == names.n_items:
                items = kv.items
                target = target.with_kv(
                    KV.of_items(key, kv.item_type, [items[n] for n in picked], kv.byteorder)
                )
        return target


@dataclass(frozen=True, slots=True)
class Unsupported(Rule):
    """No map is legal, for the reason given, where `when` holds."""

    why: str
    when: Condition = None

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        return [Conflict(self.why, final=True)] if holds(self.when, source) else []

    def describe(self, meta: Metadata) -> str | None:
        return f"no map is possible: {self.why}" if holds(self.when, meta) else None

    def statement(self) -> str:
        return f"refused: {self.why}"

    def limit(self, schedule: Schedule) -> str | None:
        if self.when is None:
            return "none"
        return f"none with {self.when}" if isinstance(self.when, str) else "none in some models"


@dataclass(frozen=True, slots=True)
class Architecture:
    """One row of the table: the rules of an architecture and where in llama.cpp they stand.

    `arrays` are per-layer keys beyond those that every architecture has and those of the rules;
    `longer_arrays` may have more entries than blocks, the surplus stays; `bare_arrays` have no
    architecture prefix. `gathered` are tensors of the whole model with one slice per trunk layer:
    (name, which ne holds the slices). `empty_blocks` says that a block may have no tensors at all,
    `absent_mtp` that a file may count MTP blocks it does not hold. `unprovable` says why a layer
    that writes zeros does not pass its input on, where that is so.
    """

    name: str
    rules: tuple[Rule, ...]
    source: str
    arrays: tuple[str, ...] = ()
    longer_arrays: tuple[str, ...] = ()
    bare_arrays: tuple[str, ...] = ()
    gathered: tuple[tuple[str, int], ...] = ()
    empty_blocks: bool = False
    absent_mtp: bool = False
    unprovable: str = ""


def _kind_conflicts(
    meant: tuple[str, ...],
    runs: tuple[str, ...],
    layer_map: LayerMap,
    rule: str,
    *,
    curable: bool = False,
) -> list[Conflict]:
    """One conflict for the first output that runs as something else than its source."""
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


def _first_out_of_place(inside: list[bool]) -> int | None:
    """The first True after a False."""
    seen_outside = False
    for out, here in enumerate(inside):
        if here and seen_outside:
            return out
        seen_outside = seen_outside or not here
    return None
