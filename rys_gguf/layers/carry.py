"""Carry a model's metadata through a layer map, and compare each output with its source.

`ModelRules` joins a model's metadata with the rules of its architecture. It is made once per model
and answers every question about what the layers would run as. It knows rules, not architectures,
and touches no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from gguf.constants import GGUFValueType

from rys_gguf.formats.header import KV
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.formats.model import Model
from rys_gguf.layers.architectures import (
    ALWAYS,
    ARCHITECTURES,
    NOT_PER_LAYER,
    PER_LAYER,
    SLIDING,
    SWA_SIZES,
)
from rys_gguf.layers.infer import infer
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.rule import Architecture, Conflict, Metadata, Rescale
from rys_gguf.layers.rules import CountSwitch
from rys_gguf.layers.schedule import Schedule
from rys_gguf.text import printable

_HEADS = "attention.head_count"


@dataclass(frozen=True, slots=True)
class Carried:
    """The metadata of an output, the conflicts that speak against it, and notes for the user.

    `scales` holds the factor of each change of tensor data.
    """

    target: Metadata
    conflicts: tuple[Conflict, ...]
    notes: tuple[str, ...]
    scales: Mapping[Rescale, float]


@dataclass(frozen=True)
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

    @cached_property
    def per_layer_arrays(self) -> Mapping[str, KV]:
        """The KVs under the architecture's prefix that hold one value per block, by their key.

        Raises Refused if a key known to be per layer has a length, a type or a number that
        llama.cpp does not load.
        """
        arch, meta = self.arch, self.meta
        known = {*PER_LAYER, *arch.arrays, *(key for rule in arch.rules for key in rule.arrays())}
        arrays = {}
        for suffix in PER_LAYER:
            if meta.scalar(suffix) is None and min(meta.array(suffix) or (), default=0) < 0:
                raise meta.refused(suffix, "llama.cpp expects numbers from 0")
        for key, kv in meta.kvs.items():
            suffix = key.removeprefix(meta.architecture + ".")
            bare = key in arch.bare_arrays
            if not kv.is_array or suffix in NOT_PER_LAYER or (suffix == key and not bare):
                continue
            if kv.item_type == GGUFValueType.STRING:
                continue  # no engine has a text per layer; a list of that length is a coincidence
            is_known = bare or suffix in known or suffix in arch.longer_arrays
            lengths = self._lengths(suffix) if is_known else (meta.n_trunk, meta.n_blocks)
            if isinstance(kv.raw, bytes) and kv.n_items in lengths:
                arrays[key] = kv
            elif is_known:
                raise meta.refuse(
                    f"{printable(key)} has {kv.n_items} entries for {_blocks(meta, lengths[0])}: "
                    f"the source itself is inconsistent"
                )
        return arrays

    def _lengths(self, suffix: str) -> Sequence[int]:
        """How many entries llama.cpp takes in a per-layer array, the least first."""
        arch, meta = self.arch, self.meta
        if suffix in arch.longer_arrays:
            n_least = meta.n_blocks if suffix in arch.arrays else meta.n_trunk
            return range(n_least, MAX_LAYERS + 1)
        trunk_only = {key for rule in arch.rules for key in rule.trunk_arrays()}
        is_trunk = suffix in arch.bare_arrays or suffix in trunk_only
        return (meta.n_trunk if is_trunk else meta.n_blocks,)

    def carry(self, layer_map: LayerMap, schedule: Schedule) -> Carried:
        """Carry the metadata through the map and compare the kinds on both sides.

        Raises Refused if a per-layer array of the source does not have one value per block.
        """
        source, target = self.meta, self._gathered(layer_map)
        conflicts = [
            *_first_entry_conflicts(self.arch, source, target, layer_map),
            *_first_window_conflicts(self.arch, source, layer_map),
            *_count_conflicts(source, target),
        ]
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
        for key, kv in self.per_layer_arrays.items():
            items = kv.items
            gathered = [items[s] for s in layer_map.sources] + items[source.n_trunk :]
            assert kv.item_type is not None  # it is an array
            gathered = gathered[: max(MAX_LAYERS, n_blocks)]
            kvs[key] = KV.of_items(key, kv.item_type, gathered, kv.byteorder)
        return replace(source, kvs=kvs, n_trunk=len(layer_map))


def metadata_of(model: Model) -> Metadata:
    """A model's metadata as the rules read it."""
    kvs = {kv.key: kv for kv in model.header.kvs}
    return Metadata(
        model.architecture,
        kvs,
        model.n_trunk,
        model.n_mtp,
        model.header.byteorder,
        model.name,
    )


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


def _blocks(meta: Metadata, n: int) -> str:
    """What `n` entries stand for, in words."""
    if not meta.n_mtp:
        return f"{n} blocks"
    return f"{n} layers" if n == meta.n_trunk else f"{n} blocks, MTP blocks included"


def _count_conflicts(source: Metadata, target: Metadata) -> Iterator[Conflict]:
    """Numbers of blocks with which llama.cpp aborts (llama-model.cpp, load_hparams)."""
    if target.n_blocks > MAX_LAYERS:
        yield Conflict(f"{target.n_blocks} blocks are more than llama.cpp's {MAX_LAYERS}")
    n_mtp = source.scalar("nextn_predict_layers", 0)
    if n_mtp > target.n_blocks:
        yield Conflict(
            f"{source.architecture}.nextn_predict_layers is {n_mtp}, and llama.cpp refuses a model "
            f"of fewer layers, though it has no MTP blocks; keep at least {n_mtp} layers"
        )


def _first_entry_conflicts(
    arch: Architecture, source: Metadata, target: Metadata, layer_map: LayerMap
) -> Iterator[Conflict]:
    """Where entry 0 of an array also stands for other layers, and would be another one.

    n_head(), n_ff() and the like without a layer are those of layer 0 (llama-hparams.h).
    """
    if layer_map[0] == 0:
        return
    for suffix in PER_LAYER:
        old, new = source.array(suffix), target.array(suffix)
        if not old or not new or old[0] == new[0]:
            continue
        if suffix in arch.by_layer and (suffix != _HEADS or _heads_are_free(source, old, new)):
            continue
        yield Conflict(
            f"{source.architecture}.{suffix} starts with {new[0]} instead of {old[0]}: llama.cpp "
            f"sizes the whole model by layer 0"
        )


def _first_window_conflicts(
    arch: Architecture, source: Metadata, layer_map: LayerMap
) -> Iterator[Conflict]:
    """Where a layer of the other attention would come first, whose sizes then stand for all.

    n_rot() and n_embd_head_k() without a layer are those of layer 0, which depend on whether that
    one has a sliding window (llama-hparams.cpp).
    """
    if layer_map[0] == 0:
        return
    sizes = {key: source.scalar(key) for key in SWA_SIZES if key not in arch.by_layer}
    own = [key for key, n in sizes.items() if n not in (None, source.scalar(key[:-4]))]
    kinds = [k for rule in arch.rules if (k := rule.kinds(source)) is not None]
    if own and any((k[0] == SLIDING) != (k[layer_map[0]] == SLIDING) for k in kinds):
        yield from (
            Conflict(
                f"source {layer_map[0]} would be the first layer, whose attention is not that of "
                f"layer 0, and {source.architecture}.{key} is {sizes[key]}: llama.cpp sizes the "
                f"whole model by layer 0"
            )
            for key in own
        )


def _heads_are_free(source: Metadata, old: list[int], new: list[int]) -> bool:
    """Whether the sizes of heads stay as they are though layer 0 has another number of them.

    llama.cpp divides by that number where no key gives the sizes, and takes 0 for a model without
    attention (llama-model.cpp, load_hparams).
    """
    given = all(source.kv(f"attention.{key}") for key in ("key_length", "value_length"))
    return given and old[0] > 0 and new[0] > 0
