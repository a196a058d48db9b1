"""Check a finished file against its source, from the two files alone.

Nothing here asks the planner or the writer what they meant to do: the expectations are worked out
from the source and the map, value by value, and every deviation is listed. What is shared is the
table of layer rules; that it agrees with the engine is for the engine to prove.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from gguf.constants import GGMLQuantizationType, GGUFValueType

from rys_gguf.errors import InvalidGGUF, InvalidLayerMap, RysError
from rys_gguf.files.source import Progress, first_difference
from rys_gguf.formats.header import KV, Header, Span, TensorInfo, layer_of, padded, rename
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.formats.model import Model
from rys_gguf.formats.shards import Shards
from rys_gguf.layers.architectures import ALWAYS
from rys_gguf.layers.carry import (
    architecture_of,
    kinds_of,
    metadata_of,
    per_layer_arrays,
    reschedule,
)
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.rules import CountSwitch
from rys_gguf.layers.schedule import Schedule
from rys_gguf.patch.diff import diff_kvs, show_value
from rys_gguf.patch.provenance import (
    MAP_KEY,
    PROVENANCE,
    SOURCE_KEY,
    SPEC_KEY,
    is_source,
    recorded_map,
)
from rys_gguf.text import harmless, printable


@dataclass(frozen=True, slots=True)
class Problem:
    """One deviation: the key, tensor or layer it is about, and what is wrong with it."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{printable(self.where)}: {harmless(self.what)}"


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
                    f"{out.files[0].name}: records no layer map; say what it should be with "
                    f"--blocks or --layers"
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
    """The map on record, and what is wrong with the record."""
    if header.get(MAP_KEY) is None:
        return None, []
    problems = []
    layer_map = None
    try:
        layer_map = recorded_map(header, source.n_trunk)
    except InvalidLayerMap as e:
        problems.append(Problem(MAP_KEY, str(e)))
    spec, origin = header.get(SPEC_KEY), header.get(SOURCE_KEY)
    if layer_map and (spec is None or spec.value != layer_map.spec):
        shown = "missing" if spec is None else show_value(spec)
        problems.append(Problem(SPEC_KEY, f"is {shown}, the map recorded says {layer_map.spec}"))
    if not is_source(header, source):
        shown = "is missing" if origin is None else f"{show_value(origin)} is not {source.name}"
        problems.append(Problem(SOURCE_KEY, shown))
    return layer_map, problems


def _layout_problems(out: Shards, source: Model) -> Iterator[Problem]:
    header = out.header
    for what, found, expected in (
        ("GGUF version", header.version, source.header.version),
        ("byte order", header.byteorder, source.header.byteorder),
        ("alignment", header.alignment, source.header.alignment),
    ):
        if found != expected:
            yield Problem(what, f"is {found}, the source has {expected}")
    for issue in out.offset_issues():
        yield Problem("tensor table", issue)
    for reader in out.readers:
        table = reader.header.tensors
        ends = [t.offset + padded(t.n_bytes, int(reader.alignment)) for t in table]
        n_after = reader.file.n_bytes - reader.data_offset - max(ends, default=0)
        expected = source.n_trailing_bytes if len(out.readers) == 1 else 0
        if n_after != expected and table:
            yield Problem(
                reader.file.name, f"{n_after} bytes after the last tensor, expected {expected}"
            )


def _kv_problems(out: Shards, source: Model, layer_map: LayerMap) -> Iterator[Problem]:
    header = out.header
    arch = architecture_of(source, assume_uniform=True)
    meta = metadata_of(source)
    n_blocks = len(layer_map) + source.n_mtp
    arrays = per_layer_arrays(arch, meta)
    # What the rules write besides (counts that move, pins, lists of names), under either schedule:
    # both are right as long as every layer runs as its source, which is checked on its own.
    targets = [reschedule(arch, meta, layer_map, s).target.kvs for s in Schedule]
    ruled = {
        key: [target.get(key) for target in targets]
        for key in {key for target in targets for key in target}
        if key not in arrays
        and key != source.key("block_count")
        and any(target.get(key) != meta.kvs.get(key) for target in targets)
    }
    adjusted = {
        source.key(key): targets[0][source.key(key)].items
        for rule in arch.rules
        for key in rule.adjusted()
        if source.key(key) in arrays
    }
    kept = [kv for kv in source.header.kvs if not kv.key.startswith(PROVENANCE)]
    found = [kv for kv in header.kvs if not kv.key.startswith(PROVENANCE)]
    with_record = header.get(MAP_KEY) is not None
    for change in diff_kvs(kept, found, lambda a, b: _same_value(out, b, source, a)):
        key, old, new = change.key, change.old, change.new
        where = printable(key)
        # Compared with what they must be below, changed or not.
        if key in ruled or key in arrays or key == source.key("block_count"):
            continue
        if new is None:
            yield Problem(where, "is missing, the source has it")
        elif old is None:
            yield Problem(where, f"is new: {show_value(new)}")
        elif key == "general.name" and with_record and _is_marked(old, new):
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
    for key, options in ruled.items():
        new = header.get(key)
        if new not in options:
            shown = "is missing" if new is None else f"is {new.type_name} {show_value(new)}"
            wanted = next(kv for kv in options if kv is not None)
            yield Problem(key, f"{shown}, the map makes it {wanted.type_name} {show_value(wanted)}")
    for key, old in arrays.items():
        new = header.get(key)
        if new is None:
            yield Problem(key, "is missing, the source has it")
        else:
            yield from _array_problems(old, new, source, layer_map, adjusted.get(key, []))


def _array_problems(
    old: KV, new: KV, source: Model, layer_map: LayerMap, adjusted: list[bytes]
) -> Iterator[Problem]:
    """Entries that are not their source's, nor what a rule of the table makes of them."""
    if new.item_type != old.item_type or isinstance(new.raw, Span):
        yield Problem(new.key, f"is {new.type_name}, the source has {old.type_name}")
        return
    n_tail = max(0, old.n_items - source.n_trunk)
    expected_from = [*layer_map.sources, *(source.n_trunk + i for i in range(n_tail))]
    expected_from = expected_from[: max(MAX_LAYERS, len(layer_map) + source.n_mtp)]
    if new.n_items != len(expected_from):
        yield Problem(new.key, f"has {new.n_items} entries, expected {len(expected_from)}")
    before, after = old.items, new.items
    values, new_values = old.value, new.value
    for out, (entry, src) in enumerate(zip(after, expected_from, strict=False)):
        if entry != before[src] and entry not in adjusted[out : out + 1]:
            yield Problem(
                f"{new.key}[{out}]", f"is {new_values[out]}, source layer {src} has {values[src]}"
            )


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
    arch = architecture_of(source, assume_uniform=True)
    meta = metadata_of(source)
    target = replace(meta, kvs={kv.key: kv for kv in header.kvs}, n_trunk=len(layer_map))
    try:
        have, want = kinds_of(arch, target), kinds_of(arch, meta)
    except RysError as e:
        yield Problem("layer kinds", str(e))
        return
    for out, src in enumerate(layer_map.sources):
        if have[out] != want[src]:
            yield Problem(
                f"layer {out}",
                f"runs as {', '.join(have[out])}; source {src} is {', '.join(want[src])}",
            )
    for rule in (*arch.rules, *ALWAYS):
        if isinstance(rule, CountSwitch):
            # A switch that a change of data makes up for is judged by that data.
            for conflict in rule.conflicts(meta, target, layer_map, Schedule.EXPLICIT):
                yield Problem("layer count", conflict.text)


def _tensor_problems(
    out: Shards, source: Model, layer_map: LayerMap, progress: Progress
) -> Iterator[Problem]:
    found = {t.name: t for t in out.header.tensors}
    expected = {want.info.name: want for want in _expected(out, source, layer_map)}
    for name in found.keys() - expected.keys():
        layer = layer_of(name)
        past = layer is not None and layer >= len(layer_map) + source.n_mtp
        yield Problem(
            f"tensor {printable(name)}",
            "is past the last block" if past else "is not expected here",
        )
    for name, want in expected.items():
        where = f"tensor {printable(name)}"
        have = found.get(name)
        if have is None:
            yield Problem(where, f"is missing ({want.origin})")
        elif (have.ne, have.type, have.n_bytes) != (
            want.info.ne,
            want.info.type,
            want.info.n_bytes,
        ):
            yield Problem(
                where,
                f"is {have.type_name} {list(have.ne)}, expected {want.info.type_name} "
                f"{list(want.info.ne)} ({want.origin})",
            )
        else:
            at = _data_difference(out, source, want, progress)
            if at is not None:
                yield Problem(where, f"differs from {want.origin} at byte {at} of its data")


@dataclass(frozen=True, slots=True)
class _Expected:
    """A tensor the output must have: its row, where that comes from in words, and its data.

    The data is a source tensor's as it stands, a source tensor's with the slices of its rows in
    `gather`, or `literal` bytes.
    """

    info: TensorInfo
    origin: str
    source: TensorInfo | None = None
    gather: tuple[int, ...] | None = None
    literal: bytes | None = None


def _expected(out: Shards, source: Model, layer_map: LayerMap) -> Iterator[_Expected]:
    """Every tensor the output must have."""
    arch = architecture_of(source, assume_uniform=True)
    gathered = dict(arch.gathered)
    for tensor in source.globals:
        origin = f"source {printable(tensor.name)}"
        if tensor.name not in gathered:
            yield _Expected(tensor, origin, tensor)
            continue
        ne = list(tensor.ne)
        ne[gathered[tensor.name]] = ne[gathered[tensor.name]] // source.n_trunk * len(layer_map)
        n_bytes = tensor.n_bytes // source.n_trunk * len(layer_map)
        info = replace(tensor, ne=tuple(ne), n_bytes=n_bytes)
        yield _Expected(info, f"{origin}, gathered", tensor, layer_map.sources)
    meta = metadata_of(source)
    rescales = {
        rescale.tensor: rescale
        for rule in arch.rules
        for rescale in rule.rescales(meta, replace(meta, n_trunk=len(layer_map)))
    }
    factor = {
        name: np.float32(r.factor(meta, replace(meta, n_trunk=len(layer_map))))
        for name, r in rescales.items()
    }
    f32 = np.dtype(np.float32).newbyteorder(out.header.byteorder)
    blocks = [*layer_map.sources, *range(source.n_trunk, source.block_count)]
    for n, block in enumerate(blocks):
        for tensor in source.layers[block]:
            info = replace(tensor, name=rename(tensor.name, n))
            suffix = tensor.name.split(".", 2)[2]
            origin = f"source {printable(tensor.name)}"
            if suffix in rescales and n < len(layer_map):
                raw = b"".join(source.read(source.data(tensor).span))
                scaled = np.frombuffer(raw, f32) * factor[suffix]
                literal = scaled.astype(f32).tobytes()
                yield _Expected(info, f"{origin}, rescaled", literal=literal)
            else:
                yield _Expected(info, origin, tensor)
        for name, rescale in rescales.items():
            if rescale.new and n < len(layer_map):
                literal = np.asarray([factor[name]], f32).tobytes()
                info = TensorInfo(f"blk.{n}.{name}", (1,), int(GGMLQuantizationType.F32), 0, 4)
                yield _Expected(info, "the rule for its layer count", literal=literal)


def _data_difference(out: Shards, source: Model, want: _Expected, progress: Progress) -> int | None:
    """Where an output tensor's data is not what is expected, None if it is."""
    here = out.data[want.info.name].span
    file = out.files[here.shard]
    if want.source is None or want.literal is not None:
        data = file.read(here.offset, here.n_bytes)
        literal = want.literal or b""
        pairs = enumerate(zip(data, literal, strict=True))
        return next((n for n, (x, y) in pairs if x != y), None)
    there = source.data(want.source).span
    if want.gather is None:
        return first_difference(
            file,
            here.offset,
            source.files[there.shard],
            there.offset,
            there.n_bytes,
            progress,
        )
    n_slices, n_out = source.n_trunk, len(want.gather)
    dim = dict(architecture_of(source).gathered)[want.source.name]
    n_rows = 1
    for size in want.source.ne[dim + 1 :]:
        n_rows *= size
    width = there.n_bytes // (n_rows * n_slices)
    step = max(1, (1 << 20) // (width * n_slices))
    for row in range(0, n_rows, step):
        n = min(step, n_rows - row)
        at = row * width * n_out
        have = file.read(here.offset + at, n * width * n_out)
        base = source.files[there.shard].read(
            there.offset + row * width * n_slices, n * width * n_slices
        )
        left = np.frombuffer(have, np.uint8).reshape(n, n_out, width)
        right = np.frombuffer(base, np.uint8).reshape(n, n_slices, width)
        for k, s in enumerate(want.gather):
            if not np.array_equal(left[:, k], right[:, s]):
                return at + k * width
        progress(len(have))
    return None
