"""Check a finished file against its source, from the two files alone.

Nothing here asks the planner or the writer what they meant to do: the expectations are worked out
from the source and the map, value by value, and every deviation is listed. What is shared is the
table of layer rules; that it agrees with the engine is for the engine to prove.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gguf.constants import GGUFValueType

from rys_gguf.architectures import ALWAYS
from rys_gguf.diff import diff_kvs, show_value
from rys_gguf.errors import InvalidGGUF, InvalidLayerMap, Refused, printable
from rys_gguf.files import Progress, first_difference
from rys_gguf.header import KV, Header, Span, TensorInfo, layer_of, padded, rename
from rys_gguf.layer_map import LayerMap
from rys_gguf.model import Model
from rys_gguf.plan import MAP_KEY, PROVENANCE, SOURCE_KEY, SPEC_KEY
from rys_gguf.rules import CountSwitch, Periodic, Schedule
from rys_gguf.schedule import architecture_of, kinds_of, metadata_of, per_layer_arrays
from rys_gguf.shards import Shards


@dataclass(frozen=True, slots=True)
class Problem:
    """One deviation: the key, tensor or layer it is about, and what is wrong with it."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def find_problems(
    path: str | os.PathLike[str],
    source_path: str | os.PathLike[str],
    spec: str | None = None,
    *,
    progress: Progress = lambda _: None,
) -> list[Problem]:
    """Everything in which the file at `path` is not what the map makes of the source.

    The map is the one recorded in the file; with `spec` it is that one, and a different record is
    a problem. `progress` is called with the bytes each step compared. Raises InvalidLayerMap if
    neither gives a map, InvalidGGUF if the source cannot be read, Refused for an architecture
    without rules.
    """
    with Model(source_path) as source:
        try:
            out = Shards(path)
        except InvalidGGUF as e:
            return [Problem("file", str(e))]
        with out:
            recorded, problems = _recorded_map(out.header, source)
            wanted = LayerMap.parse(spec, source.n_trunk) if spec else recorded
            if wanted is None:
                if problems:
                    return problems
                raise InvalidLayerMap(
                    f"{out.files[0].name}: records no layer map; say what it should be with --blocks "
                    f"or --layers"
                )
            if recorded and wanted != recorded:
                problems.append(
                    Problem(MAP_KEY, f"records {recorded.spec}, expected {wanted.spec}")
                )
            return [
                *problems,
                *_layout_problems(out, source),
                *_kv_problems(out, source, wanted),
                *_kind_problems(out.header, source, wanted),
                *_tensor_problems(out, source, wanted, progress),
            ]


def n_compared_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes of tensor data a verification of that file compares."""
    with Shards(path) as shards:
        return sum(t.n_bytes for t in shards.header.tensors)


def _recorded_map(header: Header, source: Model) -> tuple[LayerMap | None, list[Problem]]:
    kv = header.get(MAP_KEY)
    if kv is None:
        return None, []
    problems = []
    layer_map = None
    if kv.item_type != GGUFValueType.INT32 or isinstance(kv.raw, Span):
        problems.append(Problem(MAP_KEY, f"is {kv.type_name}, expected ARRAY[INT32]"))
    else:
        try:
            layer_map = LayerMap(source.n_trunk, tuple(kv.value))
        except InvalidLayerMap as e:
            problems.append(Problem(MAP_KEY, str(e)))
    spec = header.get(SPEC_KEY)
    if layer_map and (spec is None or spec.value != layer_map.spec):
        shown = "missing" if spec is None else show_value(spec)
        problems.append(Problem(SPEC_KEY, f"is {shown}, the map recorded says {layer_map.spec}"))
    origin = header.get(SOURCE_KEY)
    if origin is None or origin.item_type != GGUFValueType.STRING:
        problems.append(Problem(SOURCE_KEY, "is missing, though the file records a layer map"))
    elif list(origin.value)[1:] != [str(source.n_bytes), f"sha256:{source.header_digest()}"]:
        problems.append(
            Problem(SOURCE_KEY, f"{show_value(origin, full=True)} is not {source.name}")
        )
    return layer_map, problems


def _layout_problems(out: Shards, source: Model) -> Iterator[Problem]:
    header = out.header
    for what, found, expected in (
        ("GGUF version", header.version, source.header.version),
        ("byte order", header.order, source.header.order),
        ("alignment", header.alignment, source.header.alignment),
    ):
        if found != expected:
            yield Problem(what, f"is {found}, the source has {expected}")
    for issue in out.offset_issues():
        yield Problem("tensor table", issue)
    for reader in out.readers:
        table = reader.header.tensors
        ends = [t.offset + padded(t.n_bytes, header.alignment) for t in table]
        n_after = reader.file.n_bytes - reader.data_offset - max(ends, default=0)
        expected = source.n_trailing_bytes if len(out.readers) == 1 else 0
        if n_after != expected and table:
            yield Problem(
                reader.file.name, f"{n_after} bytes after the last tensor, expected {expected}"
            )


def _kv_problems(out: Shards, source: Model, layer_map: LayerMap) -> Iterator[Problem]:
    header = out.header
    row = architecture_of(source)
    meta = metadata_of(source)
    n_blocks = len(layer_map) + source.n_mtp
    arrays = per_layer_arrays(row, meta)
    spelled_out = {
        source.key(rule.array) for rule in row.rules if isinstance(rule, Periodic) and rule.array
    }
    kept = [kv for kv in source.header.kvs if not kv.key.startswith(PROVENANCE)]
    found = [kv for kv in header.kvs if not kv.key.startswith(PROVENANCE)]
    with_record = header.get(MAP_KEY) is not None
    for change in diff_kvs(kept, found, lambda a, b: _same_value(out, b, source, a)):
        key, old, new = change.key, change.old, change.new
        where = printable(key)
        if new is None:
            yield Problem(where, "is missing, the source has it")
        elif old is None:
            if key not in spelled_out:
                yield Problem(where, f"is new: {show_value(new)}")
            else:
                yield from _length_problem(new, n_blocks)
        elif (
            # Compared with what they must be below, changed or not.
            key == source.key("block_count")
            or key in arrays
            or (key == "general.name" and with_record and _is_marked(old, new))
        ):
            continue
        elif isinstance(new.raw, Span) and new.type_name == old.type_name:
            yield Problem(where, f"{show_value(new)} differ from the source's")
        else:
            yield Problem(
                where,
                f"is {new.type_name} {show_value(new)}, the source has {old.type_name} "
                f"{show_value(old)}",
            )
    if [kv.key for kv in found if source.header.get(kv.key)] != [
        kv.key for kv in kept if header.get(kv.key)
    ]:
        yield Problem("keys", "stand in another order than in the source")
    count = header.get(source.key("block_count"))
    if count is not None and (count.type != GGUFValueType.UINT32 or count.value != n_blocks):
        yield Problem(
            count.key, f"is {count.type_name} {show_value(count)}, the map makes {n_blocks} blocks"
        )
    for key, old in arrays.items():
        if (new := header.get(key)) is not None:
            yield from _array_problems(old, new, source, layer_map)


def _array_problems(old: KV, new: KV, source: Model, layer_map: LayerMap) -> Iterator[Problem]:
    if new.item_type != old.item_type or isinstance(new.raw, Span):
        yield Problem(new.key, f"is {new.type_name}, the source has {old.type_name}")
        return
    n_tail = max(0, old.n_items - source.n_trunk)
    expected_from = [*layer_map.sources, *(source.n_trunk + i for i in range(n_tail))]
    if new.n_items != len(expected_from):
        yield Problem(new.key, f"has {new.n_items} entries, expected {len(expected_from)}")
    before, after = old.items, new.items
    values, new_values = old.value, new.value
    for out, (entry, src) in enumerate(zip(after, expected_from, strict=False)):
        if entry != before[src]:
            yield Problem(
                f"{new.key}[{out}]", f"is {new_values[out]}, source layer {src} has {values[src]}"
            )


def _length_problem(kv: KV, n_blocks: int) -> Iterator[Problem]:
    if kv.item_type != GGUFValueType.BOOL or kv.n_items != n_blocks:
        yield Problem(kv.key, f"is {kv.type_name}, expected ARRAY[BOOL, {n_blocks}]")


def _is_marked(old: KV, new: KV) -> bool:
    return (
        old.type == new.type == GGUFValueType.STRING
        and not isinstance(new.raw, Span)
        and str(new.value).startswith(f"{old.value} rys_")
    )


def _same_value(out: Shards, a: KV, source: Model, b: KV) -> bool:
    if not isinstance(a.raw, Span) or not isinstance(b.raw, Span):
        return a.raw == b.raw
    n, m = a.raw.n_bytes, b.raw.n_bytes
    file = source.files[b.raw.shard]
    return n == m and (
        first_difference(out.files[0], a.raw.offset, file, b.raw.offset, n, lambda _: None) is None
    )


def _kind_problems(header: Header, source: Model, layer_map: LayerMap) -> Iterator[Problem]:
    """Every output must run as its source does, and so must the model as a whole."""
    row = architecture_of(source)
    meta = metadata_of(source)
    target = replace(meta, kvs={kv.key: kv for kv in header.kvs}, n_trunk=len(layer_map))
    try:
        have, want = kinds_of(row, target), kinds_of(row, meta)
    except (Refused, TypeError) as e:
        yield Problem("layer kinds", str(e))
        return
    for out, src in enumerate(layer_map.sources):
        if have[out] != want[src]:
            yield Problem(
                f"layer {out}",
                f"runs as {', '.join(have[out])}; source {src} is {', '.join(want[src])}",
            )
    for rule in (*row.rules, *ALWAYS):
        if isinstance(rule, CountSwitch):
            for conflict in rule.conflicts(meta, target, layer_map, Schedule.EXPLICIT):
                yield Problem("layer count", conflict.text)


def _tensor_problems(
    out: Shards, source: Model, layer_map: LayerMap, progress: Progress
) -> Iterator[Problem]:
    found = {t.name: t for t in out.header.tensors}
    expected = dict(_expected(source, layer_map))
    for name in found.keys() - expected.keys():
        layer = layer_of(name)
        past = layer is not None and layer >= len(layer_map) + source.n_mtp
        yield Problem(
            f"tensor {printable(name)}",
            "is past the last block" if past else "is not expected here",
        )
    for name, origin in expected.items():
        where = f"tensor {printable(name)}"
        have = found.get(name)
        if have is None:
            yield Problem(where, f"is missing (source {printable(origin.name)})")
        elif (have.ne, have.type, have.n_bytes) != (origin.ne, origin.type, origin.n_bytes):
            yield Problem(
                where,
                f"is {have.type_name} {list(have.ne)}, source {printable(origin.name)} is "
                f"{origin.type_name} {list(origin.ne)}",
            )
        else:
            here, there = out.data[name].span, source.data(origin).span
            at = first_difference(
                out.files[here.shard],
                here.offset,
                source.files[there.shard],
                there.offset,
                there.n_bytes,
                progress,
            )
            if at is not None:
                yield Problem(
                    where, f"differs from source {printable(origin.name)} at byte {at} of its data"
                )


def _expected(source: Model, layer_map: LayerMap) -> Iterator[tuple[str, TensorInfo]]:
    """Every tensor name the output must have, and the source tensor it is a copy of."""
    for tensor in source.globals:
        yield tensor.name, tensor
    blocks = [*layer_map.sources, *range(source.n_trunk, source.block_count)]
    for out, block in enumerate(blocks):
        for tensor in source.layers[block]:
            yield rename(tensor.name, out), tensor
