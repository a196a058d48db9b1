"""From a model and a map to the whole output, before a byte of it is written.

A plan holds the output's complete header and, for each of its tensors, where in the source the data
comes from. Writing it, showing it and estimating it need nothing else.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType, GGUFValueType

from rys_gguf.errors import InvalidGGUF
from rys_gguf.formats.header import (
    KV,
    Header,
    TensorInfo,
    encode_text,
    layer_of,
    padded,
    rename,
    tensor_bytes,
)
from rys_gguf.formats.limits import MAX_NAME_BYTES
from rys_gguf.formats.model import Model
from rys_gguf.formats.shards import SPLIT_COUNT, SPLIT_KEYS, SPLIT_NO, SPLIT_TENSORS, TensorData
from rys_gguf.layers.carry import architecture_of, metadata_of, refuse, reschedule
from rys_gguf.layers.complete import require_complete
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.rules import Architecture, Metadata, Rescale
from rys_gguf.layers.schedule import Schedule
from rys_gguf.patch.provenance import PROVENANCE, record
from rys_gguf.text import printable

_F32 = int(GGMLQuantizationType.F32)
# Far above any vector of a model: what is rescaled is held in memory.
_MAX_RESCALED_BYTES = 1 << 24

# The labels llama.cpp and its publishers end file names with: Q4_K_M, UD-Q4_K_XL, i1-IQ3_XXS, BF16.
_QUANT_LABEL = re.compile(
    r"[-._](?:UD-|i1-)?(?:I?Q[1-8]_[0-9A-Z_]+|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32|FP16|FP32)"
    r"(?=\.gguf$|-[0-9]{5}-of-[0-9]{5}\.gguf$)",
    re.IGNORECASE,
)
_SHARD = re.compile(r"-[0-9]{5}-of-[0-9]{5}(?=\.gguf$)")


@dataclass(frozen=True, slots=True)
class GatheredTensor:
    """A tensor of the whole model that holds one slice per trunk layer, gathered by the map.

    Each of `n_rows` rows is `n_slices` slices of `slice_bytes`; `gather[out]` is the slice that
    comes `out`-th in the output's row.
    """

    data: TensorData
    n_rows: int
    n_slices: int
    slice_bytes: int
    gather: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of the output: its table row, the source's (None if it is new), and its data.

    The data is a place in the source, slices of such a place, or, where a value had to change, the
    bytes themselves.
    """

    target: TensorInfo
    source: TensorInfo | None
    data: TensorData | GatheredTensor | bytes

    @property
    def is_copy(self) -> bool:
        """Whether the data is the source's as it stands, under another name or not."""
        return isinstance(self.data, TensorData)


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file of the output: its header and the tensors it holds, in order."""

    header: Header
    tensors: tuple[PlannedTensor, ...]
    n_trailing_bytes: int = 0

    @property
    def n_bytes(self) -> int:
        """Size of the file."""
        return self.header.data_offset + self.header.n_data_bytes + self.n_trailing_bytes


@dataclass(frozen=True, slots=True)
class Memory:
    """What the output needs at load beyond the source, in bytes; negative if layers are dropped.

    `kv_per_token` counts 16-bit K and V of the layers that have them; None where the header does
    not say enough. `state` is the recurrent state of linear layers, per sequence.
    """

    weights: int
    kv_per_token: int | None
    state: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about an output file that does not need the tensor data."""

    model: Model
    layer_map: LayerMap
    schedule: Schedule
    header: Header
    tensors: tuple[PlannedTensor, ...]
    notes: tuple[str, ...]

    @property
    def n_bytes(self) -> int:
        """Size of the output file."""
        return self.header.data_offset + self.header.n_data_bytes + self.model.n_trailing_bytes

    @property
    def memory(self) -> Memory:
        """What the added layers cost when the model is loaded."""
        meta = metadata_of(self.model)
        costs = [layer_memory(self.model, meta, n) for n in range(self.model.n_trunk)]
        times = [len(self.layer_map.outputs_of(n)) - 1 for n in range(self.model.n_trunk)]
        kv = [cost.kv_per_token for cost in costs]
        return Memory(
            sum(cost.weights * t for cost, t in zip(costs, times, strict=True)),
            None if None in kv else sum((k or 0) * t for k, t in zip(kv, times, strict=True)),
            sum(cost.state * t for cost, t in zip(costs, times, strict=True)),
        )


def make_plan(
    model: Model,
    layer_map: LayerMap,
    *,
    schedule: Schedule = Schedule.PORTABLE,
    provenance: bool = True,
    assume_uniform: bool = False,
) -> Plan:
    """Plan the output of `layer_map` on `model`; no tensor data is read, but for a few scales.

    `assume_uniform` takes the layers of an architecture without a row in the table for alike.

    Raises Refused if the output would not compute what the map says, InvalidGGUF if the source is
    not a model llama.cpp would load.
    """
    arch = architecture_of(model, assume_uniform=assume_uniform)
    if layer_map.n_source != model.n_trunk:
        raise model.refuse(
            f"the map is for {layer_map.n_source} layers, the model has {model.n_trunk}"
        )
    carried = reschedule(arch, metadata_of(model), layer_map, schedule)
    if carried.conflicts:
        raise refuse(model, arch, layer_map, schedule, carried.conflicts)
    require_complete(model, arch)
    _require_rescalable(model, carried.rescales)
    meta = metadata_of(model)
    for n in range(model.n_trunk):
        layer_memory(model, meta, n)  # sizes that are no numbers are refused here, not at the end
    scales = {r: r.factor(meta, carried.target) for r in carried.rescales}
    tensors = tuple(_tensors(model, layer_map, arch, scales))
    header = Header(
        model.header.version,
        model.header.byteorder,
        tuple(_kvs(model, layer_map, carried.target, provenance=provenance)),
        tuple(planned.target for planned in tensors),
    )
    notes = list(carried.notes)
    if model.n_trailing_bytes:
        notes.append(f"{model.n_trailing_bytes} bytes after the last tensor are kept at the end")
    return Plan(model, layer_map, schedule, header, tensors, tuple(notes))


def _require_rescalable(model: Model, rescales: tuple[Rescale, ...]) -> None:
    """Raise Refused unless every trunk layer has what is to be rescaled, or to get a scale."""
    for rescale in rescales:
        base = rescale.tensor.rpartition(".")[0] + ".weight" if rescale.new else rescale.tensor
        for n, layer in enumerate(model.layers[: model.n_trunk]):
            parts = {t.name.split(".", 2)[2] for t in layer}
            if base not in parts or (rescale.new and rescale.tensor in parts):
                what = f"has no {base}" if base not in parts else f"has a {rescale.tensor} already"
                raise model.refuse(
                    f"block {n} {what}: what the new layer count does to it cannot be undone"
                )


def split(plan: Plan, max_bytes: int | None) -> tuple[PlannedFile, ...]:
    """The files of a plan, each with at most `max_bytes` of tensor data if that can be.

    llama-gguf-split's scheme: a file is full when the next tensor would exceed the limit; the first
    holds all keys, each says its number, the count, and the number of tensors of the model.
    """
    groups: list[list[PlannedTensor]] = [[]]
    size = 0
    for planned in plan.tensors:
        n = padded(planned.target.n_bytes, plan.header.alignment)
        if max_bytes is not None and groups[-1] and size + n > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(planned)
        size += n
    if len(groups) == 1:
        return (PlannedFile(plan.header, plan.tensors, plan.model.n_trailing_bytes),)
    return tuple(_shard(plan, n, len(groups), group) for n, group in enumerate(groups))


def _shard(plan: Plan, n: int, count: int, tensors: list[PlannedTensor]) -> PlannedFile:
    byteorder, alignment = plan.header.byteorder, plan.header.alignment
    own = (
        KV.of(SPLIT_NO, GGUFValueType.UINT16, n, byteorder=byteorder),
        KV.of(SPLIT_COUNT, GGUFValueType.UINT16, count, byteorder=byteorder),
        KV.of(SPLIT_TENSORS, GGUFValueType.INT32, len(plan.tensors), byteorder=byteorder),
    )
    # Each file is read with its own alignment; without the key it would be the default.
    aligned = plan.header.get("general.alignment")
    kvs = plan.header.kvs if n == 0 else (aligned,) if aligned else ()
    offset = 0
    placed = []
    for planned in tensors:
        placed.append(replace(planned, target=replace(planned.target, offset=offset)))
        offset = padded(offset + planned.target.n_bytes, alignment)
    kept = tuple(kv for kv in kvs if kv.key not in SPLIT_KEYS)
    header = replace(plan.header, kvs=kept + own, tensors=tuple(m.target for m in placed))
    return PlannedFile(header, tuple(placed))


def default_output(model: Model, layer_map: LayerMap) -> Path:
    """Beside the source, with the map before the quantisation label.

    Qwen3.5-2B-UD-Q4_K_XL.gguf and blocks:8,12 give Qwen3.5-2B-rys_8-11-UD-Q4_K_XL.gguf.
    """
    path = model.files[0].path
    name = path.name
    match = _QUANT_LABEL.search(name)
    at = match.start() if match else len(_SHARD.sub("", name)) - len(".gguf")
    if not name.endswith(".gguf"):
        at = len(name)
    return path.with_name(_SHARD.sub("", f"{name[:at]}-{layer_map.label}{name[at:]}"))


def layer_memory(model: Model, meta: Metadata, layer: int) -> Memory:
    """What one trunk layer needs when loaded.

    K and V widths: llama-hparams.cpp, n_embd_k_gqa and n_embd_v_gqa; recurrent state: n_embd_r and
    n_embd_s, in 32-bit floats.
    """
    tensors = model.layers[layer]
    parts = {t.name.split(".")[2] for t in tensors}
    weights = sum(t.n_bytes for t in tensors)
    if "ssm_conv1d" in parts:
        inner, d_state = meta.scalar("ssm.inner_size", 0), meta.scalar("ssm.state_size", 0)
        conv = inner + 2 * meta.scalar("ssm.group_count", 0) * d_state
        floats = (meta.scalar("ssm.conv_kernel", 1) - 1) * conv + d_state * inner
        return Memory(weights, 0, 4 * floats)
    heads = _per_layer(meta, "attention.head_count", layer)
    if not heads:
        return Memory(weights, None, 0)
    width = meta.scalar("embedding_length", 0) // heads
    n_kv = _per_layer(meta, "attention.head_count_kv", layer, heads)
    k, v = meta.scalar("attention.key_length", width), meta.scalar("attention.value_length", width)
    if meta.scalar("attention.kv_lora_rank"):
        return Memory(weights, None, 0)
    return Memory(weights, 2 * n_kv * (k + v), 0)


def _per_layer(meta: Metadata, suffix: str, layer: int, default: int = 0) -> int:
    values = meta.array(suffix)
    return int(values[layer] if values else meta.scalar(suffix, default))


def _tensors(
    model: Model, layer_map: LayerMap, arch: Architecture, scales: dict[Rescale, float]
) -> Iterator[PlannedTensor]:
    """The output's tensors in file order.

    Tensors of one layer that stand together stay together: each such group is followed by its
    copies. The source's own order of layers (many files sort them as text) is kept.
    """
    gathered = dict(arch.gathered)
    offset = 0
    for group in _groups(model):
        layer = layer_of(group[0].name)
        outs = (None,) if layer is None else _outputs(model, layer_map, layer)
        for out in outs:
            for source in group:
                for planned in _copies(model, layer_map, source, out, gathered, scales):
                    yield replace(planned, target=replace(planned.target, offset=offset))
                    offset = padded(offset + planned.target.n_bytes, model.header.alignment)


def _copies(
    model: Model,
    layer_map: LayerMap,
    source: TensorInfo,
    out: int | None,
    gathered: dict[str, int],
    scales: dict[Rescale, float],
) -> Iterator[PlannedTensor]:
    """What one source tensor becomes as part of output block `out` (None: of the whole model)."""
    data = model.data(source)
    if out is None:
        if source.name in gathered:
            yield _slice(model, layer_map, source, gathered[source.name])
        else:
            yield PlannedTensor(source, source, data)
        return
    name = rename(source.name, out)
    if len(encode_text(name)) > MAX_NAME_BYTES:
        raise model.refuse(
            f"tensor {printable(source.name)!r} would be named {printable(name)!r}, longer than "
            f"{MAX_NAME_BYTES} bytes"
        )
    target = replace(source, name=name)
    suffix = source.name.split(".", 2)[2]
    in_trunk = out < len(layer_map)
    for rescale, factor in scales.items() if in_trunk else ():
        if not rescale.new and suffix == rescale.tensor:
            yield PlannedTensor(target, source, scaled(model, source, factor))
            break
    else:
        yield PlannedTensor(target, source, data)
    for rescale, factor in scales.items() if in_trunk else ():
        if rescale.new and suffix == rescale.tensor.rpartition(".")[0] + ".weight":
            new = TensorInfo(rename(name, out)[: -len("weight")] + "scale", (1,), _F32, 0, 4)
            yield PlannedTensor(new, None, struct.pack(model.header.byteorder + "f", factor))


def scaled(model: Model, tensor: TensorInfo, factor: float) -> bytes:
    """The data of an F32 vector multiplied by `factor`. Raises Refused for another tensor."""
    if tensor.type != _F32 or tensor.n_bytes > _MAX_RESCALED_BYTES:
        raise model.refuse(
            f"tensor {printable(tensor.name)!r} is {tensor.type_name} of {tensor.n_bytes} bytes; "
            f"only vectors in F32 can be rescaled"
        )
    dtype = np.dtype(np.float32).newbyteorder(model.header.byteorder)
    values = np.frombuffer(b"".join(model.read(model.data(tensor).span)), dtype)
    return bytes((values * np.float32(factor)).astype(dtype).tobytes())


def _slice(model: Model, layer_map: LayerMap, source: TensorInfo, dim: int) -> PlannedTensor:
    n = model.n_trunk
    shown = f"tensor {printable(source.name)!r}"
    if dim >= len(source.ne) or source.ne[dim] % n or not source.n_bytes:
        raise model.refuse(f"{shown} has shape {list(source.ne)}, expected {n} slices")
    rows = 1
    for size in source.ne[dim + 1 :]:
        rows *= size
    slice_bytes, rest = divmod(source.n_bytes, rows * n)
    try:
        whole = tensor_bytes(source.type, (source.ne[dim] // n, 1)) if dim == 0 else 0
    except InvalidGGUF as e:
        raise model.refuse(f"{shown}: a layer's slice has {e}; it cannot be cut") from e
    if rest or whole is None:
        raise model.refuse(f"{shown} is {source.type_name}; it cannot be cut into layers")
    ne = list(source.ne)
    ne[dim] = ne[dim] // n * len(layer_map)
    n_bytes = rows * slice_bytes * len(layer_map)
    target = replace(source, ne=tuple(ne), n_bytes=n_bytes)
    return PlannedTensor(
        target, source, GatheredTensor(model.data(source), rows, n, slice_bytes, layer_map.sources)
    )


def _groups(model: Model) -> Iterator[list[TensorInfo]]:
    group: list[TensorInfo] = []
    for tensor in model.header.tensors:
        if group and layer_of(group[0].name) != layer_of(tensor.name):
            yield group
            group = []
        group.append(tensor)
    if group:
        yield group


def _outputs(model: Model, layer_map: LayerMap, layer: int) -> tuple[int, ...]:
    """Where a source block goes: a trunk layer by the map, an MTP block to the new tail."""
    if layer >= model.n_trunk:
        return (layer + layer_map.n_added,)
    return layer_map.outputs_of(layer)


def _kvs(model: Model, layer_map: LayerMap, target: Metadata, *, provenance: bool) -> Iterator[KV]:
    """The output's KVs: the source's, in its order, then what is new."""
    own = {kv.key: kv for kv in record(model, layer_map)} if provenance else {}
    for old in model.header.kvs:
        if old.key == "general.name" and provenance and old.type == GGUFValueType.STRING:
            name = f"{old.value} {layer_map.label}"
            yield KV.of(old.key, old.type, name, byteorder=old.byteorder)
        elif old.key in own:
            yield own.pop(old.key)
        elif not old.key.startswith(PROVENANCE):
            # What an earlier run recorded speaks of another file's map; it does not carry over.
            yield target.kvs[old.key]
    known = {kv.key for kv in model.header.kvs}
    yield from (kv for key, kv in target.kvs.items() if key not in known)
    yield from own.values()
