"""Rules for per-layer arrays that list what each layer does, or gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gguf.constants import GGUFValueType

from rys_gguf.formats.header import KV
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.rule import (
    Condition,
    Conflict,
    Metadata,
    Rule,
    holds,
    lost_kinds,
    without_last,
)
from rys_gguf.layers.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Listed(Rule):
    """A layer is `nonzero` where its entry in `key` is not 0, else `zero`; there is no other form.

    The array is gathered like every other, so any map is legal; the rule shows the kinds and
    checks them. Where the key is missing or a scalar, all layers are alike. With `at_end` the last
    output must not be `zero`. Of the kinds in `kept` a layer must be left; the last layers,
    the number in `but_last`, are none of them.
    """

    key: str
    nonzero: str
    zero: str
    at_end: bool = False
    kept: tuple[str, ...] = ()
    but_last: str | None = None

    def arrays(self) -> tuple[str, ...]:
        return (self.key,)

    def kinds(self, meta: Metadata) -> tuple[str, ...] | None:
        flags = meta.flags(self.key)
        if flags is None:
            return None
        return tuple(self.nonzero if flag else self.zero for flag in flags)

    def describe(self, meta: Metadata) -> str | None:
        if meta.array(self.key) is None:
            return None
        return f"{meta.architecture}.{self.key} lists the kind of each layer"

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        meant, runs = self.kinds(source), self.kinds(target)
        if meant is None or runs is None:
            return []
        if not self.at_end or runs[-1] == self.nonzero:
            conflicts = Rule.conflicts(self, source, target, layer_map, schedule)
            others = without_last(meant, source, self.but_last)
            left = without_last(runs, target, self.but_last)
            return [*conflicts, *lost_kinds(others, left, self.kept)]
        out = len(layer_map) - 1
        return [
            Conflict(f"output {out} (source {layer_map[out]}) is {self.zero} and cannot be last")
        ]

    def statement(self) -> str:
        return f"{self.nonzero} where {self.key} is not 0, {self.zero} where it is"


@dataclass(frozen=True, slots=True)
class Needed(Rule):
    """If a layer of the source is `what`, one of the output must be: llama.cpp aborts otherwise.

    Such a layer has these numbers in `entries`, pairs of an array's key and a number.
    """

    what: str
    entries: tuple[tuple[str, int], ...]

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        lists = [(source.array(key), number) for key, number in self.entries]
        meant = tuple(
            self.what if all(items and items[n] == number for items, number in lists) else ""
            for n in range(source.n_trunk)
        )
        return lost_kinds(meant, {meant[s] for s in layer_map.sources}, (self.what,))


@dataclass(frozen=True, slots=True)
class BoundToPreceding(Rule):
    """A layer with 0 in `key` uses the choice of the nearest layer before it with 1.

    `by_default` lists the entries of a source that lacks the key; they are then written into the
    output, so that they no longer depend on the position. None means that all are 1. `users`
    names an array whose entries other than 0 are the layers that take part; without it all do.
    llama.cpp wants one entry per trunk layer, none for MTP blocks.
    """

    key: str
    what: str
    by_default: Callable[[Metadata], list[int] | None] = lambda _: None
    users: str | None = None
    when: Condition = None

    def arrays(self) -> tuple[str, ...]:
        return (self.key,)

    def trunk_arrays(self) -> tuple[str, ...]:
        return (self.key,)

    def flags(self, meta: Metadata) -> list[bool] | None:
        """Which layers choose for themselves; None if every layer does."""
        if not holds(self.when, meta):
            return None
        listed = meta.array(self.key)
        if listed is None:
            scalar = meta.scalar(self.key)
            listed = [scalar] * meta.n_trunk if scalar is not None else self.by_default(meta)
        if listed is None:
            return None
        if len(listed) < meta.n_trunk:
            raise meta.refused(self.key, f"expected an entry for each of {meta.n_trunk} layers")
        return [bool(entry) for entry in listed[: meta.n_trunk]]

    def kinds(self, meta: Metadata) -> tuple[str, ...] | None:
        flags = self.flags(meta)
        if flags is None:
            return None
        return tuple(f"own {self.what}" if flag else f"shared {self.what}" for flag in flags)

    def readers(self, meta: Metadata) -> Mapping[int, tuple[int, ...]]:
        flags = self.flags(meta)
        if flags is None:
            return {}
        takes_part = self._takes_part(meta)
        choosers = enumerate(self._choosers(flags, takes_part))
        return {n: (c,) for n, c in choosers if takes_part[n] and c is not None and c != n}

    def describe(self, meta: Metadata) -> str | None:
        if self.flags(meta) is None:
            return None
        return f"layers without their own {self.what} use that of the nearest before them"

    def rewrite(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> Metadata:
        flags = self.flags(source)
        if source.kv(self.key) is not None or flags is None:
            return target
        return target.with_flags(self.key, [flags[s] for s in layer_map.sources])

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        flags = self.flags(source)
        if flags is None:
            return []
        takes_part = self._takes_part(source)
        chooser = self._choosers(flags, takes_part)
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
        return f"starting on a layer with its own {self.what}, or holding none"

    def _takes_part(self, meta: Metadata) -> list[bool]:
        """Which layers choose or use a choice."""
        if self.users and (entries := meta.array(self.users)) is not None:
            entries = entries[: meta.n_trunk]
            return [bool(entry) for entry in entries] + [False] * (meta.n_trunk - len(entries))
        return [True] * meta.n_trunk

    @staticmethod
    def _choosers(flags: list[bool], takes_part: list[bool]) -> list[int | None]:
        """For every layer the last one up to it that chooses, None if there is none."""
        choosers: list[int | None] = []
        last = None
        for n, (flag, part) in enumerate(zip(flags, takes_part, strict=False)):
            last = n if flag and part else last
            choosers.append(last)
        return choosers


@dataclass(frozen=True, slots=True)
class Injection(Rule):
    """`key` lists what is added to each layer's input, -1 for nothing; layer 0 never gets any.

    A copy of layer 0 further back therefore gets -1, and a layer that is given something cannot
    become layer 0. llama.cpp reads the entries as INT32, whatever their sign in the file.
    """

    key: str

    def entries(self, meta: Metadata) -> list[int] | None:
        """The entries as llama.cpp reads them; None if the key is missing or a scalar."""
        items, kv = meta.array(self.key), meta.kv(self.key)
        if items is None or kv is None:
            return None
        if kv.item_type == GGUFValueType.BOOL:
            raise meta.refused(self.key, "expected numbers, -1 for nothing")
        return [n - 2**32 if n >= 2**31 else n for n in items]

    def arrays(self) -> tuple[str, ...]:
        return (self.key,)

    def adjusted(self) -> tuple[str, ...]:
        return (self.key,)

    def rewrite(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> Metadata:
        kv = target.kv(self.key)
        if kv is None or self.entries(source) is None:
            return target
        entries = self.entries(target) or []
        for out, s in enumerate(layer_map.sources):
            if out and s == 0:
                entries[out] = -1
        if kv.item_type == GGUFValueType.UINT32:
            entries = [n % 2**32 for n in entries]
        return target.with_kv(
            KV.of(kv.key, kv.type, entries, byteorder=kv.byteorder, item_type=kv.item_type)
        )

    def conflicts(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> list[Conflict]:
        entries = self.entries(source)
        first = layer_map[0]
        if entries is None or first == 0 or entries[first] < 0:
            return []
        return [
            Conflict(f"source {first} is given image features ({self.key}), which layer 0 never is")
        ]

    def statement(self) -> str:
        return f"layers but the first may be given image features ({self.key})"
