"""Carry a model's metadata through a layer map, and compare each output with its source.

`ModelRules` joins a model's metadata with the rules of its architecture. It is made once per model
and answers every question about what the layers would run as. It knows rules, not architectures,
and touches no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from gguf.constants import GGUFValueType

from rys_gguf.errors import Refused
from rys_gguf.formats.header import KV
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.formats.model import Model
from rys_gguf.layers.architectures import ALWAYS, ARCHITECTURES, NOT_PER_LAYER, PER_LAYER
from rys_gguf.layers.infer import infer
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.rule import Architecture, Conflict, Metadata, Rescale
from rys_gguf.layers.rules import CountSwitch
from rys_gguf.layers.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Carried:
    """The metadata of an output, the conflicts that speak against it, and notes for the user.

    `scales` holds the factor of each change of tensor data.
    """

    target: Metadata
    conflicts: tuple[Conflict, ...]
    notes: tuple[str, ...]
    scales: Mapping[Rescale, float]


@dataclass(frozen=True, slots=True)
class ModelRules:
    """A model's metadata and the rules of its architecture."""

    arch: Architecture
    meta: Metadata

    @classmethod
    def of(cls, model: Model, *, assume_uniform: bool = False) -> ModelRules:
        """The rules from the table, or inferred from the file.

        Raises Refused for an architecture that is not in the table and whose layers do not show
        how they depend on their position, unless `assume_uniform` takes them to be alike.
        """
        arch = ARCHITECTURES.get(model.architecture)
        return cls(arch or infer(model, assume_uniform=assume_uniform), metadata_of(model))

    @property
    def kinds(self) -> list[tuple[str, ...]]:
        """For every trunk layer its kind under each rule that tells layers apart."""
        columns = [k for rule in self.arch.rules if (k := rule.kinds(self.meta)) is not None]
        return [tuple(kinds) for kinds in zip(*columns, strict=True)] or [()] * self.meta.n_trunk

    @property
    def in_words(self) -> tuple[str, ...]:
        """The rules that hold for this model, in words; at least one sentence."""
        texts = [text for rule in self.arch.rules if (text := rule.describe(self.meta))]
        return tuple(texts) or ("every layer alike",)

    def per_layer_arrays(self) -> dict[str, KV]:
        """The KVs under the architecture's prefix that hold one value per block, by their key.

        Raises Refused if a key known to be per layer has another length than the number of blocks.
        """
        arch, meta = self.arch, self.meta
        n_blocks = meta.n_trunk + meta.n_mtp
        known = {*PER_LAYER, *arch.arrays, *(key for rule in arch.rules for key in rule.arrays())}
        arrays = {}
        for key, kv in meta.kvs.items():
            suffix = key.removeprefix(meta.architecture + ".")
            bare = key in arch.bare_arrays
            if not kv.is_array or suffix in NOT_PER_LAYER or (suffix == key and not bare):
                continue
            if kv.item_type == GGUFValueType.STRING:
                continue  # no engine has a text per layer; a list of that length is a coincidence
            may_be_longer = suffix in arch.longer_arrays or key in arch.longer_arrays
            longer = kv.n_items > n_blocks and may_be_longer
            if isinstance(kv.raw, bytes) and (kv.n_items in (n_blocks, meta.n_trunk) or longer):
                arrays[key] = kv
            elif bare or suffix in known or suffix in arch.longer_arrays:
                raise Refused(
                    f"{key} has {kv.n_items} entries for {n_blocks} blocks: the source itself is "
                    f"inconsistent"
                )
        return arrays

    def carry(self, layer_map: LayerMap, schedule: Schedule) -> Carried:
        """Carry the metadata through the map and compare the kinds on both sides.

        Raises Refused if a per-layer array of the source does not have one value per block.
        """
        source, target = self.meta, self._gathered(layer_map)
        conflicts = _anchor_conflicts(source, target)
        n_blocks = target.n_trunk + target.n_mtp
        if n_blocks > MAX_LAYERS:
            conflicts.append(Conflict(f"{n_blocks} blocks are more than llama.cpp's {MAX_LAYERS}"))
        notes = []
        rules = (*self.arch.rules, *ALWAYS)
        for rule in rules:
            target = rule.rewrite(source, target, layer_map, schedule)
            if note := rule.note(source, schedule):
                notes.append(note)
        for rule in rules:
            conflicts += rule.conflicts(source, target, layer_map, schedule)
        scales: dict[Rescale, float] = {}
        if schedule is Schedule.EXPLICIT:
            rescales = (r for rule in self.arch.rules for r in rule.rescales(source, target))
            scales = {rescale: rescale.factor(source, target) for rescale in rescales}
            notes += [rescale_note(rescale, factor) for rescale, factor in scales.items()]
        return Carried(target, tuple(conflicts), tuple(notes), scales)

    def deviations(self, target: Metadata, layer_map: LayerMap) -> Iterator[tuple[str, str]]:
        """Where an output with the metadata `target` would not run as the map says.

        Each deviation is a pair: its subject ("layer 4", "layer count") and what is wrong with it.
        How the metadata came about makes no difference, so this also judges files of other tools.
        Raises Refused if `target` holds values that llama.cpp would not load.
        """
        if target.n_trunk != len(layer_map):
            yield "layer count", f"is {target.n_trunk}, the map has {len(layer_map)} layers"
            return
        runs, meant = replace(self, meta=target).kinds, self.kinds
        for out, source in enumerate(layer_map.sources):
            if runs[out] != meant[source]:
                have, want = ", ".join(runs[out]), ", ".join(meant[source])
                yield f"layer {out}", f"runs as {have}; source {source} is {want}"
        for rule in (*self.arch.rules, *ALWAYS):
            if isinstance(rule, CountSwitch):
                # A switch that a change of data makes up for is judged by that data.
                for c in rule.conflicts(self.meta, target, layer_map, Schedule.EXPLICIT):
                    yield "layer count", c.text

    def _gathered(self, layer_map: LayerMap) -> Metadata:
        """block_count and every per-layer array through the map: new[out] = old[map[out]].

        Entries for MTP blocks stay behind those of the trunk, and so does a surplus where the key
        may have one, up to llama.cpp's 512 entries.
        """
        source = self.meta
        kvs = dict(source.kvs)
        count = kvs[source.architecture + ".block_count"]
        n_blocks = len(layer_map) + source.n_mtp
        kvs[count.key] = KV.of(count.key, count.type, n_blocks, byteorder=count.byteorder)
        for key, kv in self.per_layer_arrays().items():
            items = kv.items
            gathered = [items[s] for s in layer_map.sources] + items[source.n_trunk :]
            assert kv.item_type is not None  # it is an array
            gathered = gathered[: max(MAX_LAYERS, n_blocks)]
            kvs[key] = KV.of_items(key, kv.item_type, gathered, kv.byteorder)
        return replace(source, kvs=kvs, n_trunk=len(layer_map))


def metadata_of(model: Model) -> Metadata:
    """A model's metadata as the rules read it."""
    kvs = {kv.key: kv for kv in model.header.kvs}
    return Metadata(model.architecture, kvs, model.n_trunk, model.n_mtp, model.header.byteorder)


def rescale_note(rescale: Rescale, factor: float) -> str:
    """What a change of tensor data does, in words."""
    if rescale.new:
        return (
            f"blk.N.{rescale.tensor} {factor:.7g} added to every layer: the layer count would "
            "change it otherwise"
        )
    return (
        f"blk.N.{rescale.tensor} multiplied by {factor:.7g}: undoes what the new layer count does"
    )


def _anchor_conflicts(source: Metadata, target: Metadata) -> list[Conflict]:
    """llama.cpp takes model-wide sizes from entry 0 of these arrays (llama-model.h, n_head())."""
    return [
        Conflict(
            f"{source.architecture}.{suffix} starts with {new[0]} instead of {old[0]}: llama.cpp "
            f"sizes the whole model by layer 0"
        )
        for suffix in PER_LAYER
        if (old := source.array(suffix)) and (new := target.array(suffix)) and old[0] != new[0]
    ]
