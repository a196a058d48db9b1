"""Check the keys of a finished file against those that its source and the map lead to."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from gguf.constants import GGUFValueType

from rys_gguf.checks.comparison import Comparison, Fault
from rys_gguf.files.source import first_difference
from rys_gguf.formats.header import ALIGNMENT_KEY, KV, Span
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.formats.model import Model
from rys_gguf.formats.shards import Shards
from rys_gguf.layers.rule import Metadata
from rys_gguf.layers.schedule import Schedule
from rys_gguf.patch.counts import recounted
from rys_gguf.patch.diff import diff_kvs, show_value
from rys_gguf.patch.provenance import MAP_KEY, PROVENANCE, unmarked_name
from rys_gguf.text import printable

# Either schedule at every step of a long chain: few of the results differ.
_MAX_TARGETS = 16


def key_faults(pair: Comparison) -> Iterator[Fault]:
    """Every key that is not what it must be; of our own files also a changed order of the keys.

    Raises Refused if a per-layer array of the source does not have one value per block.
    """
    source, rules = pair.source, pair.rules
    count_key = source.key("block_count")
    arrays = rules.per_layer_arrays
    # The rules may write other keys as well: counts that move, pins, lists of names. Either
    # schedule is right as long as every layer runs as its source, which is checked separately.
    targets = _targets(pair)
    ruled = {
        key: [target.get(key) for target in targets]
        for key in {key for target in targets for key in target}
        if key not in arrays
        and key != count_key
        and any(target.get(key) != rules.meta.kvs.get(key) for target in targets)
    }
    adjustable = {source.key(key) for rule in rules.arch.rules for key in rule.adjusted()}
    others = {*ruled, *arrays, count_key}
    if source.header.output_alignment != source.header.alignment:
        others.add(ALIGNMENT_KEY)  # raised for llama.cpp; the layout is checked separately
    yield from _kept_faults(pair, others)
    yield from _count_faults(pair)
    yield from _ruled_faults(pair, ruled)
    for key, old in arrays.items():
        # One step after the other may leave less behind the last block than one for all.
        if len(pair.steps) > 1 and pair.out.header.get(key) in [t.get(key) for t in targets]:
            continue
        adjusted = targets[0][key].items if key in adjustable else ()
        yield from _array_faults(pair, old, adjusted)


def _targets(pair: Comparison) -> list[Mapping[str, KV]]:
    """The KVs that the steps lead to, each under either schedule; equal ones are listed once."""
    metas = [pair.rules.meta]
    for step in pair.steps:
        reached: list[Metadata] = []
        for meta, schedule in itertools.product(metas[:_MAX_TARGETS], Schedule):
            target = replace(pair.rules, meta=meta).carry(step, schedule).target
            if target not in reached:
                reached.append(target)
        metas = reached
    return [meta.kvs for meta in metas]


def _kept_faults(pair: Comparison, others: AbstractSet[str]) -> Iterator[Fault]:
    """Keys that must be those of the source, all but `others`, and the order of all.

    Nothing reads the order, so a tool that records no map may have one of its own.
    """
    sizes = recounted(pair.source.header, pair.out.header.tensors)
    kept = [kv for kv in pair.source.header.kvs if not kv.key.startswith(PROVENANCE)]
    present = [kv for kv in pair.out.header.kvs if not kv.key.startswith(PROVENANCE)]
    for change in diff_kvs(kept, present, lambda a, b: _same_value(pair.out, b, pair.source, a)):
        if change.key in others or _is_marked_name(pair, change.old, change.new):
            continue
        if change.new is None or change.new != sizes.get(change.key):
            yield printable(change.key), _describe(change.old, change.new)
    if pair.out.header.get(MAP_KEY) is None:
        return
    common = {kv.key for kv in kept} & {kv.key for kv in present}
    if [kv.key for kv in present if kv.key in common] != [
        kv.key for kv in kept if kv.key in common
    ]:
        yield "keys", "are in a different order from the source's"


def _describe(old: KV | None, new: KV | None) -> str:
    if new is None:
        return "is missing, the source has it"
    if old is None:
        return f"is new: {show_value(new)}"
    if isinstance(new.raw, Span) and new.type_name == old.type_name:
        return f"{show_value(new)} differ from the source's"
    return f"is {new.type_name} {show_value(new)}, the source has {old.type_name} {show_value(old)}"


def _is_marked_name(pair: Comparison, old: KV | None, new: KV | None) -> bool:
    """Whether this is the model's name with the layer spec appended, as the patch writes it."""
    name = unmarked_name(pair.source.header)
    return (
        name is not None
        and old is not None
        and new is not None
        and new.key == "general.name"
        and pair.out.header.get(MAP_KEY) is not None
        and old.type == new.type == GGUFValueType.STRING
        and not isinstance(new.raw, Span)
        and str(new.value).startswith((f"{name} rys_", f"{old.value} rys_"))
    )


def _same_value(out: Shards, a: KV, source: Model, b: KV) -> bool:
    if not isinstance(a.raw, Span) or not isinstance(b.raw, Span):
        return a.raw == b.raw
    n, m = a.raw.n_bytes, b.raw.n_bytes
    file = source.files[b.raw.shard]
    return n == m and (
        first_difference(out.files[0], a.raw.offset, file, b.raw.offset, n, lambda _: None) is None
    )


def _count_faults(pair: Comparison) -> Iterator[Fault]:
    key = pair.source.key("block_count")
    count = pair.out.header.get(key)
    if count is None:
        yield key, "is missing, the source has it"
    elif count.type != GGUFValueType.UINT32 or count.value != pair.n_blocks:
        shown = f"{count.type_name} {show_value(count)}"
        yield key, f"is {shown}, the map makes {pair.n_blocks} blocks"


def _ruled_faults(pair: Comparison, ruled: Mapping[str, Sequence[KV | None]]) -> Iterator[Fault]:
    """Keys that a rule changes must have the value of one of the schedules."""
    for key, options in ruled.items():
        new = pair.out.header.get(key)
        if new not in options:
            shown = "is missing" if new is None else f"is {new.type_name} {show_value(new)}"
            wanted = next(kv for kv in options if kv is not None)
            yield key, f"{shown}, the map makes it {wanted.type_name} {show_value(wanted)}"


def _array_faults(pair: Comparison, old: KV, adjusted: Sequence[bytes]) -> Iterator[Fault]:
    """Entries that are neither their source's nor those that a rule of the table makes."""
    new = pair.out.header.get(old.key)
    if new is None:
        yield old.key, "is missing, the source has it"
        return
    if new.item_type != old.item_type or isinstance(new.raw, Span):
        yield new.key, f"is {new.type_name}, the source has {old.type_name}"
        return
    n_trunk = pair.source.n_trunk
    n_tail = max(0, old.n_items - n_trunk)
    expected_from = [*pair.layer_map.sources, *(n_trunk + i for i in range(n_tail))]
    expected_from = expected_from[: max(MAX_LAYERS, pair.n_blocks)]
    if new.n_items != len(expected_from):
        yield new.key, f"has {new.n_items} entries, expected {len(expected_from)}"
    before, after = old.items, new.items
    old_values, new_values = old.value, new.value
    for out, (entry, src) in enumerate(zip(after, expected_from, strict=False)):
        if entry != before[src] and entry not in adjusted[out : out + 1]:
            what = f"is {new_values[out]}, source layer {src} has {old_values[src]}"
            yield f"{new.key}[{out}]", what
