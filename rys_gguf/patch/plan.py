"""From a model and a map to the whole output, before a byte of it is written.

A plan holds the output's complete header and, for each of its tensors, where in the source the data
comes from. Writing it, showing it and estimating its cost need nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gguf.constants import GGUFValueType

from rys_gguf.formats.foreign import loading_notes
from rys_gguf.formats.header import (
    ALIGNMENT_KEY,
    KV,
    Header,
    TensorInfo,
    padded,
    with_alignment,
)
from rys_gguf.formats.limits import MIN_ALIGNMENT
from rys_gguf.formats.model import Model
from rys_gguf.formats.shards import SPLIT_COUNT, SPLIT_KEYS, SPLIT_NO, SPLIT_TENSORS
from rys_gguf.formats.vocabulary import require_vocabulary
from rys_gguf.layers.carry import ModelRules
from rys_gguf.layers.complete import require_complete
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.residual import damped_tensors
from rys_gguf.layers.rule import Architecture, Metadata
from rys_gguf.layers.schedule import Schedule
from rys_gguf.layers.windows import refusal
from rys_gguf.patch.counts import recounted, size_notes
from rys_gguf.patch.memory import Memory, added_memory
from rys_gguf.patch.provenance import MAP_KEY, PROVENANCE, valid_origins, with_record
from rys_gguf.patch.tensors import PlannedTensor, layout, plan_tensors


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file of the output: its header, and its tensors in order."""

    header: Header
    tensors: tuple[PlannedTensor, ...]
    n_trailing_bytes: int = 0

    @property
    def n_bytes(self) -> int:
        """Size of the file."""
        return self.header.data_offset + self.header.n_data_bytes + self.n_trailing_bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about an output that does not need the tensor data.

    `rules` are the source's; `memory` is what the output needs beyond the source.
    """

    model: Model
    rules: ModelRules
    layer_map: LayerMap
    schedule: Schedule
    header: Header
    tensors: tuple[PlannedTensor, ...]
    memory: Memory
    notes: tuple[str, ...]

    @property
    def n_bytes(self) -> int:
        """Size of the output as one file."""
        return self.header.data_offset + self.header.n_data_bytes + self.model.n_trailing_bytes


def make_plan(
    model: Model,
    layer_map: LayerMap,
    *,
    schedule: Schedule = Schedule.PORTABLE,
    provenance: bool = True,
    assume_uniform: bool = False,
    rules: ModelRules | None = None,
) -> Plan:
    """Plan the output of `layer_map` on `model`; no tensor data is read, except vectors to rescale.

    `assume_uniform` takes the layers of an architecture that is not in the table to be alike.
    `rules` saves making the model's rules again where the caller has them.

    Raises Refused if the output would not compute what the map says, InvalidGGUF if the source is
    not a model llama.cpp would load.
    """
    rules = rules or ModelRules.of(model, assume_uniform=assume_uniform)
    if layer_map.n_source != model.n_trunk:
        raise model.refuse(
            f"the map is for {layer_map.n_source} layers, the model has {model.n_trunk}"
        )
    carried = rules.carry(layer_map, schedule)
    if carried.conflicts:
        raise refusal(model, rules, layer_map, schedule, carried.conflicts)
    require_dampable(model, rules, carried.target, layer_map)
    layer_notes = require_complete(model, rules.arch)
    require_vocabulary(model)
    memory = added_memory(model, rules.meta, layer_map)
    tensors = plan_tensors(model, layer_map, rules.arch, carried.scales)
    kvs = tuple(_kvs(model, carried.target, [t.target for t in tensors]))
    if (alignment := model.header.output_alignment) != model.header.alignment:
        kvs = tuple(with_alignment(kvs, alignment, model.header.byteorder))
    if provenance:
        kvs = with_record(model, layer_map, kvs)
    else:
        kvs = tuple(kv for kv in kvs if not kv.key.startswith(PROVENANCE))
    header = Header(
        model.header.version, model.header.byteorder, kvs, tuple(t.target for t in tensors)
    )
    notes = [*carried.notes, *layer_notes, *_damping_notes(model, rules.arch, layer_map)]
    notes += _file_notes(model, header)
    if provenance and model.header.get(MAP_KEY) is not None and not valid_origins(model):
        notes.append(
            f"the record in {model.name} does not fit it; the new one leads to this file, not to "
            f"the model that it was made from"
        )
    return Plan(model, rules, layer_map, schedule, header, tensors, memory, tuple(notes))


def require_dampable(
    model: Model, rules: ModelRules, target: Metadata, layer_map: LayerMap
) -> None:
    """Raise Refused if some factor of a map would not reach all that its layer adds.

    `target` is the metadata of the output.
    """
    for rule in rules.arch.rules:
        for out, lenders in rule.readers(target).items():
            for lender in lenders:
                if layer_map.damp(lender) != 1:
                    raise model.refuse(
                        f"output {lender} cannot be damped: output {out} also reads what it "
                        f"computes besides the residual stream, which no factor reaches"
                    )
    for layer in {s for out, s in enumerate(layer_map.sources) if layer_map.damp(out) != 1}:
        damped_tensors(model, rules.arch, layer)


def _damping_notes(model: Model, arch: Architecture, layer_map: LayerMap) -> Iterator[str]:
    """Which tensors damp the layers, and how many these are."""
    damped = [layer_map[out] for out, factor in enumerate(layer_map.damping) if factor != 1]
    found = {d for layer in set(damped) for d in damped_tensors(model, arch, layer)}
    if damped:
        n = len(damped)
        names = " and ".join(f"blk.N.{name}" for name in sorted({d.tensor for d in found}))
        known = "; older engines do not know all of these" if any(d.n_new for d in found) else ""
        yield f"{n} layer{'s' * (n != 1)} damped by {names}{known}"


def _file_notes(model: Model, header: Header) -> Iterator[str]:
    """What the user should know of the files, whatever the map."""
    yield from loading_notes(model.header)
    yield from size_notes(model.header, header)
    if header.alignment != model.header.alignment:
        yield (
            f"{ALIGNMENT_KEY} is {model.header.alignment}, the output gets {header.alignment}: "
            f"with less llama.cpp may abort; if it does so on the model itself, run "
            f"rys-gguf align MODEL -o BASE --alignment {MIN_ALIGNMENT}"
        )
    if n := model.n_trailing_bytes:
        yield (
            f"{n} bytes after the last tensor are kept at the end of a single file; shards leave "
            f"them out"
        )
    if n := model.n_bytes_between_shards:
        yield f"{n} bytes after the last tensors of the shards are left out"


def split(plan: Plan, max_bytes: int | None) -> tuple[PlannedFile, ...]:
    """The files of a plan, each with at most `max_bytes` of tensor data where that is possible.

    This is llama-gguf-split's scheme: a file is full when the next tensor would exceed the limit.
    The first file holds all keys; each says its number, the number of files, and the number of
    tensors of the model. Bytes after the source's last tensor are left out.
    """
    groups: list[list[PlannedTensor]] = [[]]
    size, alignment = 0, plan.header.alignment
    for tensor in plan.tensors:
        n = padded(tensor.target.n_bytes, alignment)
        if max_bytes is not None and groups[-1] and size + n > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += n
    if len(groups) == 1:
        return (PlannedFile(plan.header, plan.tensors, plan.model.n_trailing_bytes),)
    n_tensors = len(plan.tensors)
    return tuple(
        shard_file(plan.header, n, len(groups), group, n_tensors) for n, group in enumerate(groups)
    )


def shard_file(
    model: Header, n: int, count: int, group: Sequence[PlannedTensor], n_tensors: int
) -> PlannedFile:
    """File `n` (from 0) of `count`, with `group` of the model's `n_tensors` tensors.

    `model` is the header of the model as one file; its tensors are not looked at.
    """
    byteorder = model.byteorder
    own = (
        KV.of(SPLIT_NO, GGUFValueType.UINT16, n, byteorder=byteorder),
        KV.of(SPLIT_COUNT, GGUFValueType.UINT16, count, byteorder=byteorder),
        KV.of(SPLIT_TENSORS, GGUFValueType.INT32, n_tensors, byteorder=byteorder),
    )
    # Each file is read with its own alignment; without the key it would be the default.
    alignment = model.get(ALIGNMENT_KEY)
    kvs = model.kvs if n == 0 else (alignment,) if alignment else ()
    kept = tuple(kv for kv in kvs if kv.key not in SPLIT_KEYS)
    tensors = layout(group, model.alignment)
    header = replace(model, kvs=kept + own, tensors=tuple(t.target for t in tensors))
    return PlannedFile(header, tensors)


def _kvs(model: Model, target: Metadata, tensors: Sequence[TensorInfo]) -> Iterator[KV]:
    """The output's KVs: those of the source in its order, then the new ones."""
    sizes = recounted(model.header, tensors)
    known = {kv.key for kv in model.header.kvs}
    yield from (sizes.get(kv.key, target.kvs[kv.key]) for kv in model.header.kvs)
    yield from (kv for key, kv in target.kvs.items() if key not in known)
