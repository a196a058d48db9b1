"""Rules for keys that name layers by number, or tensors by name."""

from __future__ import annotations

from dataclasses import dataclass

from gguf.constants import GGUFValueType

from rys_gguf.formats.header import KV, layer_of, rename
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.rule import Conflict, Metadata, Rule
from rys_gguf.layers.schedule import Schedule


@dataclass(frozen=True, slots=True)
class LayerIndex(Rule):
    """`key` names layers by number (array or scalar); each must be in the map exactly once."""

    key: str
    what: str

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

    def _named(self, meta: Metadata) -> list[int]:
        listed = meta.array(self.key)
        scalar = meta.scalar(self.key)
        return listed if listed is not None else [] if scalar is None else [int(scalar)]


@dataclass(frozen=True, slots=True)
class TensorNames(Rule):
    """`key` (without architecture prefix) lists tensors by name; `parallel` keys have a value each.

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
            copies = _copies(name, source.n_trunk, layer_map)
            picked += [n] * len(copies)
            renamed += copies
        target = target.with_kv(
            KV.of(
                self.key,
                names.type,
                renamed,
                byteorder=names.byteorder,
                item_type=names.item_type,
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


def _copies(name: str, n_trunk: int, layer_map: LayerMap) -> list[str]:
    """The names of a tensor in the output: one per copy of its layer."""
    layer = layer_of(name)
    if layer is None:
        return [name]
    if layer < n_trunk:
        return [rename(name, out) for out in layer_map.outputs_of(layer)]
    return [rename(name, layer + layer_map.n_added)]
