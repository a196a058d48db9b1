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
    """`key` names layers by number (array or scalar); each must be in the map exactly once.

    MTP blocks may be named as well; they stay behind the trunk.
    """

    key: str
    what: str

    def rewrite(
        self, source: Metadata, target: Metadata, layer_map: LayerMap, schedule: Schedule
    ) -> Metadata:
        kv = source.kv(self.key)
        outputs = [_outputs(n, source.n_trunk, layer_map) for n in self._named(source)]
        if kv is None or any(len(copies) != 1 for copies in outputs):
            return target
        moved = [copies[0] for copies in outputs]
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
        kv = meta.kv(self.key)
        if kv is not None and kv.item_type == GGUFValueType.BOOL:
            raise meta.refused(self.key, "expected the numbers of layers")
        named = listed if listed is not None else [] if scalar is None else [int(scalar)]
        n_blocks = meta.n_trunk + meta.n_mtp
        for n in named:
            if not 0 <= n < n_blocks:
                raise meta.refused(self.key, f"it names block {n}, the file has {n_blocks} blocks")
        return named


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


def _outputs(block: int, n_trunk: int, layer_map: LayerMap) -> tuple[int, ...]:
    """Where a block of the source is in the output: its copies; an MTP block stays last."""
    return layer_map.outputs_of(block) if block < n_trunk else (block + layer_map.n_added,)


def _copies(name: str, n_trunk: int, layer_map: LayerMap) -> list[str]:
    """The names of a tensor in the output: one per copy of its layer."""
    layer = layer_of(name)
    if layer is None:
        return [name]
    return [rename(name, out) for out in _outputs(layer, n_trunk, layer_map)]
