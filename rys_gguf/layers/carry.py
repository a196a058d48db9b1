"""What every layer would run as, before and after, and whether that is what the map says.

The engine over the table in `architectures`: it carries a model's metadata through a layer map and
compares the kind of each output with the kind of its source. It knows rules, not architectures,
and touches no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gguf.constants import GGUFValueType

from rys_gguf.errors import InvalidLayerMap, Refused
from rys_gguf.formats.header import KV
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.formats.model import Model
from rys_gguf.layers.architectures import ALWAYS, ARCHITECTURES, NOT_PER_LAYER, PER_LAYER
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.rules import Architecture, Conflict, Metadata, Phase, Rescale
from rys_gguf.layers.schedule import Schedule
from rys_gguf.text import printable

# A bound on work for hundreds of layers: what is legal only far away is no neighbour.
_MAX_TRIED = 4096


@dataclass(frozen=True, slots=True)
class Carried:
    """The metadata a map leads to, what speaks against it, and what a user should know of it."""

    target: Metadata
    conflicts: tuple[Conflict, ...]
    notes: tuple[str, ...]
    rescales: tuple[Rescale, ...]


def architecture_of(model: Model, *, assume_uniform: bool = False) -> Architecture:
    """The model's row in the table, or one inferred from the file.

    Raises Refused for an architecture that is not in the table and whose layers do not show how
    they depend on their position, unless told to take them for alike.
    """
    arch = ARCHITECTURES.get(model.architecture)
    return arch or _inferred(model, assume_uniform=assume_uniform)


def _inferred(model: Model, *, assume_uniform: bool) -> Architecture:
    name = printable(model.architecture)
    for tensor in model.globals:
        if tensor.name.startswith(("enc.", "dec.")):
            raise model.refuse(
                f"architecture {name!r} has more than one stack of layers "
                f"({printable(tensor.name)}); only one is repeated here"
            )
    # Numbered, so that what follows compares numbers: every layer with every other at the worst.
    numbers: dict[frozenset[tuple[str, tuple[int, ...]]], int] = {}
    shapes = [
        numbers.setdefault(frozenset((t.name.split(".", 2)[2], t.ne) for t in layer), len(numbers))
        for layer in model.layers[: model.n_trunk]
    ]
    n = len(shapes)
    period = next(p for p in range(1, n + 1) if all(shapes[i] == shapes[i % p] for i in range(n)))
    source = "inferred from the file's tensors"
    if assume_uniform:
        return Architecture(model.architecture, (), source)
    if 1 < period <= n // 2:
        return Architecture(model.architecture, (Phase(period),), source)
    seen = "look alike" if period == 1 else "differ without a period"
    raise model.refuse(
        f"architecture {name!r} is not in the table of layer rules. Its layers {seen}, but the "
        f"engine may run them by position: a wrong guess would load and compute something else.\n"
        f"  --assume-uniform takes every layer for alike; `rys-gguf prove` then settles it"
    )


def metadata_of(model: Model) -> Metadata:
    """A model's metadata as the rules read it."""
    kvs = {kv.key: kv for kv in model.header.kvs}
    return Metadata(model.architecture, kvs, model.n_trunk, model.n_mtp, model.header.byteorder)


def kinds_of(arch: Architecture, meta: Metadata) -> list[tuple[str, ...]]:
    """For every layer of the trunk its kind under each rule that tells layers apart."""
    columns = [kinds for rule in arch.rules if (kinds := rule.kinds(meta)) is not None]
    return [tuple(kinds) for kinds in zip(*columns, strict=True)] or [()] * meta.n_trunk


def reschedule(
    arch: Architecture, source: Metadata, layer_map: LayerMap, schedule: Schedule
) -> Carried:
    """Carry the metadata through the map and compare.

    Raises Refused if a per-layer array of the source does not have one value per block.
    """
    target = _gather(arch, source, layer_map)
    conflicts = _anchor_conflicts(source, target)
    if target.n_trunk + target.n_mtp > MAX_LAYERS:
        n = target.n_trunk + target.n_mtp
        conflicts.append(Conflict(f"{n} blocks are more than llama.cpp's {MAX_LAYERS}"))
    notes = []
    for rule in (*arch.rules, *ALWAYS):
        target = rule.rewrite(source, target, layer_map, schedule)
        if note := rule.note(source, schedule):
            notes.append(note)
    for rule in (*arch.rules, *ALWAYS):
        conflicts += rule.conflicts(source, target, layer_map, schedule)
    rescales: tuple[Rescale, ...] = ()
    if schedule is Schedule.EXPLICIT:
        rescales = tuple(r for rule in arch.rules for r in rule.rescales(source, target))
        notes += [rescale_note(rescale, rescale.factor(source, target)) for rescale in rescales]
    return Carried(target, tuple(conflicts), tuple(notes), rescales)


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


def legal_windows(
    arch: Architecture, source: Metadata, schedule: Schedule, n_layers: int
) -> Iterator[tuple[int, int]]:
    """The half-open windows of `n_layers` layers that may be repeated."""
    for i in range(source.n_trunk - n_layers + 1):
        if is_legal(arch, source, (i, i + n_layers), schedule):
            yield i, i + n_layers


def is_legal(
    arch: Architecture, source: Metadata, window: tuple[int, int], schedule: Schedule
) -> bool:
    """Whether repeating a half-open window computes what it says."""
    try:
        layer_map = LayerMap.from_blocks([window], source.n_trunk)
    except InvalidLayerMap:
        return False
    return not reschedule(arch, source, layer_map, schedule).conflicts


def nearest_windows(
    arch: Architecture,
    source: Metadata,
    window: tuple[int, int],
    schedule: Schedule,
    limit: int = 3,
) -> list[tuple[int, int]]:
    """The legal windows that differ least from `window`, by how far both ends move."""
    i0, j0 = window
    n = source.n_trunk
    candidates = [(i, j) for i in range(n) for j in range(i + 1, n + 1) if (i, j) != window]
    candidates.sort(
        key=lambda w: (abs(w[0] - i0) + abs(w[1] - j0), abs(w[1] - w[0] - (j0 - i0)), w)
    )
    found = (w for w in candidates[:_MAX_TRIED] if is_legal(arch, source, w, schedule))
    return [w for w, _ in zip(found, range(limit), strict=False)]


def refuse(
    model: Model,
    arch: Architecture,
    layer_map: LayerMap,
    schedule: Schedule,
    conflicts: tuple[Conflict, ...],
) -> Refused:
    """The refusal: every reason, and the nearest windows that would pass."""
    if final := [conflict.text for conflict in conflicts if conflict.final]:
        name = printable(model.architecture)
        return model.refuse(f"no layers of {name!r} can be repeated: " + "\n  ".join(final))
    lines = [f"{layer_map.spec} would not compute what it says (schedule {schedule.value})"]
    lines += [conflict.text for conflict in conflicts]
    source = metadata_of(model)
    windows = layer_map.windows() or ()
    if len(windows) == 1:
        nearest = nearest_windows(arch, source, windows[0], schedule)
        n = source.n_trunk
        none = "no window of this model" if n * (n + 1) // 2 <= _MAX_TRIED else "no window near it"
        lines.append(
            "nearest legal windows: " + ", ".join(f"blocks:{i},{j}" for i, j in nearest)
            if nearest
            else f"{none} is legal under this schedule"
        )
    if schedule is Schedule.PORTABLE and conflicts and all(c.curable for c in conflicts):
        carried = reschedule(arch, source, layer_map, Schedule.EXPLICIT)
        lines += [f"or --schedule explicit: {note}" for note in carried.notes]
    return model.refuse("\n  ".join(lines))


def per_layer_arrays(arch: Architecture, meta: Metadata) -> dict[str, KV]:
    """The KVs under the architecture's prefix that hold one value per block, by their key.

    Raises Refused for a key known to be per layer whose length is not the number of blocks.
    """
    n_blocks = meta.n_trunk + meta.n_mtp
    known = {*PER_LAYER, *arch.arrays, *(key for rule in arch.rules for key in rule.arrays())}
    found = {}
    for key, kv in meta.kvs.items():
        suffix = key.removeprefix(meta.architecture + ".")
        bare = key in arch.bare_arrays
        if not kv.is_array or suffix in NOT_PER_LAYER or (suffix == key and not bare):
            continue
        if kv.item_type == GGUFValueType.STRING:
            continue  # no engine has a text per layer; a list of that length is a coincidence
        longer = kv.n_items > n_blocks and (
            suffix in arch.longer_arrays or key in arch.longer_arrays
        )
        if isinstance(kv.raw, bytes) and (kv.n_items in (n_blocks, meta.n_trunk) or longer):
            found[key] = kv
        elif bare or suffix in known or suffix in arch.longer_arrays:
            raise Refused(
                f"{key} has {kv.n_items} entries for {n_blocks} blocks: the source itself is "
                f"inconsistent"
            )
    return found


def _gather(arch: Architecture, source: Metadata, layer_map: LayerMap) -> Metadata:
    """block_count and every per-layer array through the map: new[out] = old[map[out]].

    Entries for MTP blocks stay behind the trunk's, and so does a surplus where the key may have
    one, up to llama.cpp's 512 entries.
    """
    kvs = dict(source.kvs)
    count = kvs[source.architecture + ".block_count"]
    n_out = len(layer_map)
    kvs[count.key] = KV.of(count.key, count.type, n_out + source.n_mtp, byteorder=count.byteorder)
    for key, kv in per_layer_arrays(arch, source).items():
        items = kv.items
        gathered = [items[s] for s in layer_map.sources] + items[source.n_trunk :]
        limit = max(MAX_LAYERS, n_out + source.n_mtp)
        assert kv.item_type is not None  # it is an array
        kvs[key] = KV.of_items(key, kv.item_type, gathered[:limit], kv.byteorder)
    return replace(source, kvs=kvs, n_trunk=n_out)


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
