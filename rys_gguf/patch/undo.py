"""Give back the model that a variant was made from, byte for byte.

A variant holds its source's layers, each at least once unless the map drops it, and the record says
what else was changed. The size and the header's SHA-256 on record prove, before a byte is written,
that the header is the source's. The tensors are copies of the variant's own.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from gguf.constants import GGUFValueType

from rys_gguf.errors import InvalidLayerMap
from rys_gguf.files.source import Progress, first_difference
from rys_gguf.formats.header import ALIGNMENT_KEY, KV, Header, Span, TensorInfo, layer_of
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.formats.model import Model
from rys_gguf.formats.shards import Shards, shard_path
from rys_gguf.layers.carry import ModelRules
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.residual import damped_tensors
from rys_gguf.layers.rule import Metadata
from rys_gguf.layers.schedule import Schedule
from rys_gguf.patch.align import MAX_ALIGNMENT
from rys_gguf.patch.plan import PlannedFile, shard_file
from rys_gguf.patch.provenance import (
    LAYERS_KEY,
    MAP_KEY,
    PROVENANCE,
    SHARDS_KEY,
    Origin,
    compose,
    knows_all_layers,
    origins,
    undone,
    unmarked_name,
)
from rys_gguf.patch.tensors import PlannedTensor, layout, plan_tensors
from rys_gguf.patch.writer import Written, write_files
from rys_gguf.text import printable, quoted

# Version 0.1.0 did not list the keys it added at the end; an explicit schedule adds one or two.
_MOST_ADDED = 8


@dataclass(frozen=True, slots=True)
class Undo:
    """What gives a source back: its files, and the output of the variant each layer comes from.

    `origin` is what the variant records of the source. `fault` says why the result would not be
    the source byte for byte; it is empty if it is.
    """

    model: Model
    origin: Origin
    layer_map: LayerMap
    files: tuple[PlannedFile, ...]
    fault: str

    @property
    def n_bytes(self) -> int:
        """Size of all files together."""
        return sum(file.n_bytes for file in self.files)

    @property
    def source_name(self) -> str:
        """The source's name on record, safe to print."""
        return _named(self.origin)

    @property
    def file_name(self) -> str:
        """The source's name on record, without folders, as the name of a new file."""
        recorded = self.origin.source[0] if self.origin.source else ""
        name = PurePath(recorded.replace("\0", "")).name
        return name if name.endswith(".gguf") else "source.gguf"


def plan_undo(model: Model, *, to_base: bool = False, exact: bool = True) -> Undo:
    """Plan to give back the immediate source of a variant, or the original model with `to_base`.

    No tensor data is read. With `exact=False` a source whose header cannot be given back as it was
    is given back with one that means the same. Raises Refused, naming what the variant lacks, or
    InvalidLayerMap if its record is faulty.
    """
    try:
        found = origins(model.header)
    except InvalidLayerMap as e:
        raise InvalidLayerMap(f"{model.name}: {MAP_KEY}: {e}") from e
    if not found:
        raise model.refuse("records no source (rys.layer_map): there is nothing to undo")
    if len(found[-1].layer_map) != model.n_trunk:
        raise model.refuse(
            f"has {model.n_trunk} layers, the map on record makes {len(found[-1].layer_map)}: the "
            f"file was changed after it was made"
        )
    n_steps = len(found) if to_base else 1
    origin = found[n_steps - 1]
    levels = list(_levels(model, found[:n_steps]))
    if any(LAYERS_KEY not in level.kvs for level in levels[1:-1]):
        raise model.refuse(
            "is made of a variant that version 0.1.0 wrote: undo one step after the other"
        )
    inverse = _inverse(model, found, n_steps, levels[-1].n_trunk)
    dropped = _require_data(model, levels, origin)
    arch = ModelRules.of(model, assume_uniform=True).arch
    planned = plan_tensors(model, inverse, arch, {})
    tensors = [
        tensor
        for tensor in _in_order_of_the_source(planned, found[-1], n_steps)
        if layer_of(tensor.target.name) is None
        or tensor.target.name.split(".", 2)[2] not in dropped
    ]
    made = (
        _files(model, kvs, shards, tensors)
        for kvs, shards in _candidates(model, n_steps, inverse)
        if _can_be_aligned(kvs)
    )
    files = next((files for files in made if _is_header_of(model, files, origin)), None)
    fault = _size_fault(model, files, origin) if files else _header_fault(origin)
    if fault and exact:
        raise model.refuse(f"{_named(origin)} cannot be given back byte for byte: {fault}")
    files = files or _equivalent(model, levels, origin, inverse, tensors)
    return Undo(model, origin, inverse, files, fault)


def unapply(
    undo: Undo,
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Progress = lambda _: None,
) -> Written:
    """Write the source that was planned, as safely as any output; shards are named after `path`.

    First the copies of each layer are compared with one another. `progress` is called with the
    bytes each step compared or wrote. Raises InvalidGGUF if copies differ,
    and what `write_files` raises.
    """
    _require_alike(undo, progress)
    path = Path(path)
    paths = [path]
    if len(undo.files) > 1:
        paths = [shard_path(path, n, len(undo.files)) for n in range(1, len(undo.files) + 1)]

    def check(written: Shards) -> None:
        output = Model(written)
        if not undo.fault and not undo.origin.names(output):
            raise output.invalid(f"is not {_named(undo.origin)}")

    return write_files(undo.model, undo.files, paths, force=force, progress=progress, check=check)


def n_compared_bytes(undo: Undo) -> int:
    """How many bytes `unapply` compares before it writes."""
    return sum(a.n_bytes for a, _ in _copies(undo))


# -- layers --------------------------------------------------------------------------------------


def _levels(model: Model, found: Sequence[Origin]) -> Iterator[Metadata]:
    """The metadata of the model and of each source down to the last of `found`."""
    kvs = model.header.kvs
    order, architecture = model.header.byteorder, model.architecture
    held = {kv.key: kv for kv in kvs}
    yield Metadata(architecture, held, model.n_trunk, model.n_mtp, order)
    for origin in found:
        # Version 0.1.0 kept no old values: there the map alone tells the number of layers.
        is_full = LAYERS_KEY in held
        kvs = undone(kvs)
        held = {kv.key: kv for kv in kvs}
        n_trunk = origin.layer_map.n_source
        count = held.get(model.key("block_count"))
        if is_full and count is not None and count.type == GGUFValueType.UINT32:
            n_trunk = max(n_trunk, min(count.value - model.n_mtp, MAX_LAYERS))
        yield Metadata(architecture, held, n_trunk, model.n_mtp, order)


def _inverse(model: Model, found: Sequence[Origin], n_steps: int, n_trunk: int) -> LayerMap:
    """For each layer of the source an output that is a copy of it. Raises Refused if one has none.

    Copies of a layer that the source had several times are as good as one another, but for those
    that are damped.
    """
    origin = found[n_steps - 1]
    outputs = _first_outputs(origin.layer_map)
    if not origin.is_base:
        base = found[-1]
        kept = _first_outputs(base.layer_map)
        before = _reduce(base.steps[: len(base.steps) - n_steps])
        outputs = {
            k: kept[layer]
            for k, layer in enumerate(before.sources)
            if layer in kept and before.damp(k) == 1
        } | outputs
    missing = [n for n in range(n_trunk) if n not in outputs]
    if missing:
        does = "drops or damps" if found[-1].layer_map.damping else "drops"
        raise model.refuse(
            f"{_named(origin)} cannot be given back: the map {does} its layer"
            f"{'s' * (len(missing) > 1)} {_ranges(missing)}, which the file does not hold"
        )
    return LayerMap(model.n_trunk, tuple(outputs[n] for n in range(n_trunk)))


def _first_outputs(layer_map: LayerMap) -> dict[int, int]:
    """The first undamped output of each layer that has one."""
    outputs: dict[int, int] = {}
    for out, source in enumerate(layer_map.sources):
        if layer_map.damp(out) == 1:
            outputs.setdefault(source, out)
    return outputs


def _in_order_of_the_source(
    tensors: Sequence[PlannedTensor], base: Origin, n_steps: int
) -> Iterator[PlannedTensor]:
    """The tensors of layers that are copies of one in the order that the source had them in.

    A step writes the copies of a layer in the order of their numbers, but a later one may renumber
    them, and one output of the variant may stand in for several of them.
    """
    whole = base.layer_map
    order = list(range(whole.n_source))
    for step in base.steps[:-n_steps]:
        order = [out for layer in order for out in step.outputs_of(layer)]
    rank = {layer: n for n, layer in enumerate(order)}

    def layer_of_base(tensor: PlannedTensor) -> int:
        out = layer_of(tensor.source.name) if tensor.source else None
        if out is None:
            return -1  # a tensor of the whole model
        return whole[out] if out < len(whole) else -2 - out  # an MTP block has no copies

    for _, group in itertools.groupby(tensors, layer_of_base):
        yield from sorted(group, key=lambda t: rank.get(layer_of(t.target.name) or 0, 0))


def _reduce(steps: Sequence[LayerMap]) -> LayerMap:
    first, *rest = steps
    for step in rest:
        first = compose(first, step)
    return first


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers in words: 3, 5..7."""
    parts = []
    for _, group in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}")
    return ", ".join(parts)


def _require_data(model: Model, levels: Sequence[Metadata], origin: Origin) -> frozenset[str]:
    """The tensors of a layer that the steps added. Raises Refused if a step changed one."""
    rules = ModelRules.of(model, assume_uniform=True).arch.rules
    added = set()
    for after, before in itertools.pairwise(levels):
        for rescale in (r for rule in rules for r in rule.rescales(before, after)):
            if not rescale.new:
                raise model.refuse(
                    f"{_named(origin)} cannot be given back: --schedule explicit multiplied "
                    f"blk.N.{rescale.tensor} by a factor and rounded it, and the file does not "
                    f"hold the old values"
                )
            added.add(rescale.tensor)
    return frozenset(added)


# -- header --------------------------------------------------------------------------------------


def _candidates(
    model: Model, n_steps: int, inverse: LayerMap
) -> Iterator[tuple[tuple[KV, ...], tuple[int, ...]]]:
    """The KVs that the source may have had, and its tensors per file (empty: one file).

    The first are those on record; then come those that are left if the variant was aligned later,
    and those that the map leads to, for files of version 0.1.0.
    """
    starts = [model.header.kvs]
    if model.header.kvs[-1].key == ALIGNMENT_KEY:
        starts.append(model.header.kvs[:-1])
    for kvs in starts:
        shards: tuple[int, ...] = ()
        for _ in range(n_steps):
            shards = _shards(kvs)
            kvs = undone(kvs)  # noqa: PLW2901 - one step further back
        yield kvs, shards
    if model.header.get(LAYERS_KEY) is None:
        derived = tuple(_derived(model, inverse))
        for n_added in range(min(_MOST_ADDED, len(derived))):
            yield derived[: len(derived) - n_added], ()


def _shards(kvs: Sequence[KV]) -> tuple[int, ...]:
    """How many tensors each file of the immediate source held; empty if it was one file."""
    for kv in kvs:
        if kv.key == SHARDS_KEY and kv.item_type == GGUFValueType.INT32:
            return () if isinstance(kv.raw, Span) else tuple(kv.value)
    return ()


def _equivalent(
    model: Model,
    levels: Sequence[Metadata],
    origin: Origin,
    inverse: LayerMap,
    tensors: Sequence[PlannedTensor],
) -> tuple[PlannedFile, ...]:
    """One file with a header that may differ from the source's, but runs every layer as it did.

    Raises Refused if the record does not tell how the source's layers ran.
    """
    rules = ModelRules.of(model, assume_uniform=True)
    is_whole = model.header.get(LAYERS_KEY) is not None
    kvs = tuple(levels[-1].kvs.values()) if is_whole else tuple(_derived(model, inverse))
    count = next((kv for kv in kvs if kv.key == model.key("block_count")), None)
    n_blocks = len(inverse) + model.n_mtp
    if not knows_all_layers(model.header) or count is None or count.value != n_blocks:
        raise model.refuse(f"does not record how many layers {_named(origin)} had")
    if not _can_be_aligned(kvs):
        raise model.refuse(f"does not record a {ALIGNMENT_KEY} that a file can have")
    meta = replace(levels[-1], kvs={kv.key: kv for kv in kvs})
    for where, fault in replace(rules, meta=meta).deviations(levels[0], origin.layer_map):
        raise model.refuse(f"does not record how {_named(origin)} ran: {where} {fault}")
    return _files(model, kvs, (), tensors)


def _derived(model: Model, inverse: LayerMap) -> Iterator[KV]:
    """The KVs that the way back through the map makes of the variant's, without a record."""
    rules = ModelRules.of(model, assume_uniform=True)
    target = rules.carry(inverse, Schedule.PORTABLE).target
    name = unmarked_name(model.header)
    for kv in model.header.kvs:
        if kv.key.startswith(PROVENANCE):
            continue
        if kv.key == "general.name" and name is not None:
            yield KV.of(kv.key, kv.type, name, byteorder=kv.byteorder)
        else:
            yield target.kvs[kv.key]


def _can_be_aligned(kvs: Sequence[KV]) -> bool:
    """Whether general.alignment is one that files have: a power of two, and none that fills disks.

    What is on record may come from somebody else.
    """
    kv = next((kv for kv in kvs if kv.key == ALIGNMENT_KEY), None)
    if kv is None:
        return True
    if kv.type != GGUFValueType.UINT32:
        return False
    alignment = int(kv.value)
    return 0 < alignment <= MAX_ALIGNMENT and alignment & (alignment - 1) == 0


def _files(
    model: Model, kvs: tuple[KV, ...], shards: Sequence[int], tensors: Sequence[PlannedTensor]
) -> tuple[PlannedFile, ...]:
    header = Header(model.header.version, model.header.byteorder, kvs, ())
    if sum(shards) == len(tensors) and all(n >= 0 for n in shards):
        ends = list(itertools.accumulate(shards))
        return tuple(
            shard_file(header, n, len(shards), tensors[end - size : end], len(tensors))
            for n, (size, end) in enumerate(zip(shards, ends, strict=True))
        )
    placed = layout(tensors, header.alignment)
    header = replace(header, tensors=tuple(t.target for t in placed))
    return (PlannedFile(header, placed, model.n_trailing_bytes),)


def _is_header_of(model: Model, files: Sequence[PlannedFile], origin: Origin) -> bool:
    digest = hashlib.sha256()
    for piece in (piece for file in files for piece in file.header.encode()):
        for part in model.read(piece) if isinstance(piece, Span) else (piece,):
            digest.update(part)
    return origin.source is not None and origin.source[2] == f"sha256:{digest.hexdigest()}"


def _header_fault(origin: Origin) -> str:
    if origin.source is None:
        return "the file does not record its size and header"
    return (
        "the header that the file leads to is not the one on record (another SHA-256): one of the "
        "two was changed after the variant was made, or the record does not hold all of it"
    )


def _size_fault(model: Model, files: Sequence[PlannedFile], origin: Origin) -> str:
    assert origin.source is not None  # or its header would not have been found
    n = sum(file.n_bytes for file in files)
    if origin.source[1] == str(n):
        return ""
    return (
        f"it had {printable(origin.source[1], 20)} bytes and its header and tensors make {n}: it "
        f"ended with bytes, or without padding, that {model.name} does not hold"
    )


def _named(origin: Origin) -> str:
    return printable(origin.source[0], 200) if origin.source else "its source"


# -- data ----------------------------------------------------------------------------------------


def _copies(undo: Undo) -> Iterator[tuple[TensorInfo, TensorInfo]]:
    """Pairs of tensors that are the same in outputs which are copies of one layer."""
    layers = undo.model.layers
    arch = ModelRules.of(undo.model, assume_uniform=True).arch
    origin = undo.origin.layer_map
    for n, out in enumerate(undo.layer_map.sources):
        kept = {t.name.split(".", 2)[2]: t for t in layers[out]}
        for other in origin.outputs_of(n):
            if other == out:
                continue
            is_damped = origin.damp(other) != 1
            damped = damped_tensors(undo.model, arch, other) if is_damped else ()
            differing = {d.tensor for d in damped}
            for tensor in layers[other]:
                suffix = tensor.name.split(".", 2)[2]
                twin = kept.get(suffix)
                if twin and twin.n_bytes == tensor.n_bytes and suffix not in differing:
                    yield twin, tensor


def _require_alike(undo: Undo, progress: Progress) -> None:
    """Raise InvalidGGUF if copies of a layer differ: it is not known which of them is right."""
    model = undo.model
    for a, b in _copies(undo):
        here, there = model.data(a).span, model.data(b).span
        at = first_difference(
            model.files[here.shard],
            here.offset,
            model.files[there.shard],
            there.offset,
            a.n_bytes,
            progress,
        )
        if at is not None:
            raise model.invalid(
                f"tensors {quoted(a.name)} and {quoted(b.name)} are copies of one, but "
                f"differ at byte {at}: the file was changed after it was made"
            )
