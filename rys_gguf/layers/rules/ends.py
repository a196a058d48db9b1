"""Rules for the first and the last layers of a model, which differ from the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.rule import Conflict, Metadata, Rule
from rys_gguf.layers.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Leading(Rule):
    """The first K layers are `inside`, the others `outside`; `key` holds K, which the map changes.

    The new K is the number of outputs whose source is inside; those outputs must come first.
    """

    key: str
    inside: str
    outside: str

    def count(self, meta: Metadata) -> int:
        """K, at most the number of layers."""
        return min(int(meta.scalar(self.key, 0)), meta.n_trunk)

    def kinds(self, meta: Metadata) -> tuple[str, ...]:
        k = self.count(meta)
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
        if not k or kv is None:
            return target
        # A count beyond the trunk also covers MTP blocks, which stay behind it.
        n_beyond = int(source.scalar(self.key, 0)) - k
        inside = sum(s < k for s in layer_map.sources)
        return target.with_scalar(self.key, kv.type, inside + n_beyond)

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
        k = min(self._number(source), source.n_trunk)
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
        k = self._number(meta)
        return f"the first {k} stay in place: {self.why}" if k else None

    def statement(self) -> str:
        return f"the first layers ({self.count}) stay in place: {self.why}"

    def limit(self, schedule: Schedule) -> str | None:
        return f"after the first {self.count}"

    def _number(self, meta: Metadata) -> int:
        return self.count if isinstance(self.count, int) else int(meta.scalar(self.count, 0))


@dataclass(frozen=True, slots=True)
class TiedTail(Rule):
    """The last D layers (the number in `key`) are tied to the end by `why`: each once, in order.

    llama.cpp wants D to be less than the number of layers.
    """

    key: str
    why: str

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        d = int(source.scalar(self.key, 0))
        if d >= source.n_trunk:
            raise source.refused(self.key, f"expected less than the {source.n_trunk} layers")
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

    The map changes S. Sliding layers read the second-last layer with own K/V and full layers the
    last, so these two must stay in their places.
    """

    key: str
    own: str = "own K/V"
    shared: str = "shared K/V"

    def first(self, meta: Metadata) -> int:
        """The first layer without K/V of its own.

        Raises Refused if fewer than two layers are left to give theirs (gemma4.cpp; with more than
        all layers llama.cpp would give each its own after all).
        """
        b = meta.n_trunk - int(meta.scalar(self.key, 0))
        if b < min(meta.n_trunk, 2):
            raise meta.refused(
                self.key, f"of {meta.n_trunk} layers the first two or more need K/V of their own"
            )
        return b

    def kinds(self, meta: Metadata) -> tuple[str, ...]:
        b = self.first(meta)
        return (self.own,) * b + (self.shared,) * (meta.n_trunk - b)

    def readers(self, meta: Metadata) -> Mapping[int, tuple[int, ...]]:
        b = self.first(meta)
        lenders = tuple(range(max(0, b - 2), b))
        return dict.fromkeys(range(b, meta.n_trunk), lenders)

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


def _first_out_of_place(inside: list[bool]) -> int | None:
    """The position of the first True that follows a False."""
    seen_outside = False
    for out, here in enumerate(inside):
        if here and seen_outside:
            return out
        seen_outside = seen_outside or not here
    return None
