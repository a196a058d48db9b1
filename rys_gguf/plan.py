"""From a model and a map to the whole output, before a byte of it is written.

A plan holds the output's complete header and, for each of its tensors, where in the source the data
comes from. Writing it, showing it and estimating it need nothing else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gguf.constants import GGUFValueType

from rys_gguf import __version__
from rys_gguf.errors import Refused, printable
from rys_gguf.header import (
    KV,
    MAX_NAME_BYTES,
    Header,
    TensorInfo,
    encode_text,
    layer_of,
    padded,
    rename,
)
from rys_gguf.layer_map import LayerMap
from rys_gguf.model import Model, require_complete
from rys_gguf.rules import Metadata, Schedule
from rys_gguf.schedule import architecture_of, metadata_of, refuse, reschedule
from rys_gguf.shards import TensorData

PROVENANCE = "rys."
VERSION_KEY = "rys.version"
SPEC_KEY = "rys.spec"
MAP_KEY = "rys.layer_map"
SOURCE_KEY = "rys.source"

# The labels llama.cpp and its publishers end file names with: Q4_K_M, UD-Q4_K_XL, i1-IQ3_XXS, BF16.
_QUANT_LABEL = re.compile(
    r"[-._](?:UD-|i1-)?(?:I?Q[1-8]_[0-9A-Z_]+|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32|FP16|FP32)"
    r"(?=\.gguf$|-[0-9]{5}-of-[0-9]{5}\.gguf$)",
    re.IGNORECASE,
)
_SHARD = re.compile(r"-[0-9]{5}-of-[0-9]{5}(?=\.gguf$)")


@dataclass(frozen=True, slots=True)
class Move:
    """One tensor of the output: its table row, the source's, and where the data is."""

    target: TensorInfo
    source: TensorInfo
    data: TensorData


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
    moves: tuple[Move, ...]
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
) -> Plan:
    """Plan the output of `layer_map` on `model`; no tensor data is read.

    Raises Refused if the output would not compute what the map says, InvalidGGUF if the source is
    not a model llama.cpp would load.
    """
    row = architecture_of(model)
    require_complete(model)
    if layer_map.n_source != model.n_trunk:
        raise model.refuse(
            f"the map is for {layer_map.n_source} layers, the model has {model.n_trunk}"
        )
    outcome = reschedule(row, metadata_of(model), layer_map, schedule)
    if outcome.conflicts:
        raise refuse(model, row, layer_map, schedule, outcome.conflicts)
    moves = tuple(_moves(model, layer_map))
    header = Header(
        model.header.version,
        model.header.order,
        tuple(_kvs(model, layer_map, outcome.target, provenance=provenance)),
        tuple(move.target for move in moves),
    )
    notes = list(outcome.notes)
    if model.n_trailing_bytes:
        notes.append(f"{model.n_trailing_bytes} bytes after the last tensor are kept at the end")
    return Plan(model, layer_map, schedule, header, moves, tuple(notes))


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


def _moves(model: Model, layer_map: LayerMap) -> Iterator[Move]:
    """The output's tensors in file order.

    Tensors of one layer that stand together stay together: each such group is followed by its
    copies. The source's own order of layers (many files sort them as text) is kept.
    """
    offset = 0
    alignment = model.header.alignment
    for group in _groups(model):
        layer = layer_of(group[0].name)
        outs = (None,) if layer is None else _outputs(model, layer_map, layer)
        for out in outs:
            for source in group:
                name = source.name if out is None else rename(source.name, out)
                if len(encode_text(name)) > MAX_NAME_BYTES:
                    raise Refused(
                        f"{model.name}: tensor {printable(source.name)!r} would be named "
                        f"{printable(name)!r}, longer than {MAX_NAME_BYTES} bytes"
                    )
                target = TensorInfo(name, source.ne, source.type, offset, source.n_bytes)
                yield Move(target, source, model.data(source))
                offset = padded(offset + source.n_bytes, alignment)


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
    own = {kv.key: kv for kv in _provenance(model, layer_map)} if provenance else {}
    for old in model.header.kvs:
        if old.key == "general.name" and provenance and old.type == GGUFValueType.STRING:
            name = f"{old.value} {layer_map.label}"
            yield KV.of(old.key, old.type, name, order=old.order)
        elif old.key in own:
            yield own.pop(old.key)
        elif not old.key.startswith(PROVENANCE):
            # What an earlier run recorded speaks of another file's map; it does not carry over.
            yield target.kvs[old.key]
    known = {kv.key for kv in model.header.kvs}
    yield from (kv for key, kv in target.kvs.items() if key not in known)
    yield from own.values()


def _provenance(model: Model, layer_map: LayerMap) -> Iterator[KV]:
    order = model.header.order
    name = os.fsencode(model.files[0].path.name).decode("utf-8", "surrogateescape")
    source = [name, str(model.n_bytes), f"sha256:{model.header_digest()}"]
    yield KV.of(VERSION_KEY, GGUFValueType.STRING, __version__, order=order)
    yield KV.of(SPEC_KEY, GGUFValueType.STRING, layer_map.spec, order=order)
    yield KV.of(
        MAP_KEY,
        GGUFValueType.ARRAY,
        layer_map.sources,
        order=order,
        item_type=GGUFValueType.INT32,
    )
    yield KV.of(
        SOURCE_KEY, GGUFValueType.ARRAY, source, order=order, item_type=GGUFValueType.STRING
    )
