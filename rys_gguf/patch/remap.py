"""How what belongs to a model follows a layer map: tensor by tensor, and key by key.

A companion goes by the numbers of its model's layers. Each function here takes one kind of it from
the numbers of a source to those of a variant, or refuses: a file that does not fit the source would
be taken by llama.cpp in silence, and do something else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from gguf import quants
from gguf.constants import GGMLQuantizationType, GGUFValueType

from rys_gguf.errors import Refused
from rys_gguf.formats.header import KV, TensorInfo, layer_of, rename
from rys_gguf.formats.model import Model
from rys_gguf.formats.other_files import TARGET_LAYERS, Kind
from rys_gguf.formats.shards import Shards
from rys_gguf.formats.types import BLOCKS
from rys_gguf.layers.architectures import ARCHITECTURES
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.residual import f32_values
from rys_gguf.patch.tensors import PlannedTensor
from rys_gguf.text import printable, quoted

_F32 = GGMLQuantizationType.F32
_EMBEDDING = "token_embd.weight"
_FFN = tuple(
    f"ffn_{part}{of}" for part in ("up", "gate", "down") for of in ("", "_shexp", "_chexp")
)
_ATTENTION_SCALED = ("glm4", "glm4moe", "jais2")
_WHOLE = (GGUFValueType.INT32, GGUFValueType.UINT32)
# The reader of control vectors takes more, such as "direction.5x"; no writer has it.
_DIRECTION = re.compile(r"direction\.([1-9][0-9]{0,8})", re.ASCII)


@dataclass(frozen=True)
class Variant:
    """A variant, the map that leads to it from a source, and the source itself where it is open."""

    model: Model
    layer_map: LayerMap
    source: Model | None = None

    def outputs(self, block: int, what: str) -> tuple[int, ...]:
        """The variant's blocks that are copies of a block of the source; an MTP block is one.

        Raises Refused, saying `what` names the block, if the source has none of that number.
        """
        n_source, n_mtp = self.layer_map.n_source, self.model.n_mtp
        if block < n_source:
            return self.layer_map.outputs_of(block)
        if block < n_source + n_mtp:
            return (block + self.layer_map.n_added,)
        mtp = f" and {n_mtp} MTP blocks" if n_mtp else ""
        raise Refused(
            f"{what} is of block {block}, the source of {self.model.name} has {n_source} "
            f"layers{mtp}: it belongs to another model"
        )

    def weights(self, name: str) -> tuple[str, ...]:
        """The names in the variant of a tensor of the source. Raises Refused as `outputs` does."""
        block = layer_of(name)
        if block is None:
            return (name,)
        return tuple(rename(name, out) for out in self.outputs(block, quoted(name)))

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The variant's tensors by name."""
        return _by_name(self.model)

    def damp(self, block: int) -> float:
        """What multiplies what a block of the variant adds to the residual stream."""
        return self.layer_map.damp(block) if block < len(self.layer_map) else 1.0


@dataclass(frozen=True, slots=True)
class Remapped:
    """A companion for the variant: its keys, its tensors in file order, and notes for the user."""

    kvs: tuple[KV, ...]
    tensors: tuple[PlannedTensor, ...]
    notes: tuple[str, ...] = ()


def remap(kind: Kind, file: Shards, variant: Variant) -> Remapped:
    """A GGUF file of that kind for the variant. Raises Refused if it is not of the source."""
    return _KINDS[kind](file, variant)


# -- LoRA adapters -------------------------------------------------------------------------------


def _lora(file: Shards, variant: Variant) -> Remapped:
    """Source: llama_adapter_lora_init_impl in src/llama-adapter.cpp (b11549)."""
    name = _text(file, "general.architecture")
    if name != variant.model.architecture:
        raise Refused(
            f"is for the architecture {quoted(name)}, {variant.model.name} is "
            f"{quoted(variant.model.architecture)}"
        )
    tensors = _by_name(file)
    rows = ARCHITECTURES.get(variant.model.architecture)
    gathered = {tensor for tensor, _ in rows.gathered} if rows else set()
    planned: list[PlannedTensor] = []
    for info in file.header.tensors:
        weight, _, part = info.name.rpartition(".")
        if part not in ("lora_a", "lora_b"):
            if not info.name.endswith("_norm.weight"):  # llama.cpp passes over these
                raise Refused(f"tensor {quoted(info.name)} is neither lora_a nor lora_b")
            weight = info.name
        elif weight in gathered:
            raise Refused(f"changes {quoted(weight)}, which holds a slice of every layer")
        else:
            other = tensors.get(f"{weight}.{'lora_b' if part == 'lora_a' else 'lora_a'}")
            if other is None:
                raise Refused(f"has only one of the two tensors for {quoted(weight)}")
            a, b = (info, other) if part == "lora_a" else (other, info)
            _require_pair(variant, weight, a, b)
        for out in variant.weights(weight):
            target = replace(info, name=out + info.name.removeprefix(weight))
            factor = _factor(variant, out) if part == "lora_b" else 1.0
            data = file.data[info.name] if factor == 1 else _times(file, info, factor)
            planned.append(PlannedTensor(target, info, data))
    return Remapped(file.header.kvs, tuple(planned))


def _require_pair(variant: Variant, weight: str, a: TensorInfo, b: TensorInfo) -> None:
    is_embedding = weight == _EMBEDDING
    for out in variant.weights(weight):
        tensor = variant.tensors.get(out)
        if tensor is None:
            raise Refused(f"changes {quoted(weight)}, which {variant.model.name} does not have")
        wide = (_dim(b, 1), _dim(a, 1)) if is_embedding else (_dim(a, 0), _dim(b, 1))
        if wide != (_dim(tensor, 0), _dim(tensor, 1)) or (
            not is_embedding and _dim(a, 1) != _dim(b, 0)
        ):
            raise Refused(
                f"changes {quoted(weight)} of shape {list(wide)}, that of {variant.model.name} has "
                f"shape {list(tensor.ne)}"
            )


def _factor(variant: Variant, weight: str) -> float:
    """What multiplies the weight in the variant but not in its source, and not what is added to it.

    A damped layer, for one, has a scale behind its weight. llama.cpp mostly adds what an adapter
    adds behind that scale (build_lora_mm in src/llama-graph.cpp, b11549).
    """
    block = layer_of(weight)
    if _is_scaled(variant.model.architecture, weight):
        return 1.0
    scale = variant.tensors.get(f"{weight.removesuffix('.weight')}.scale")
    if block is None or scale is None:
        return 1.0
    if variant.source is None:
        raise Refused(
            f"changes {quoted(weight)}, which {quoted(scale.name)} multiplies in "
            f"{variant.model.name}: name the model it was made from with --source, to compare them"
        )
    layer_map = variant.layer_map
    of = layer_map[block] if block < len(layer_map) else block - layer_map.n_added
    old = _by_name(variant.source).get(rename(scale.name, of))
    values = f32_values(variant.model, scale)
    before = np.ones_like(values) if old is None else f32_values(variant.source, old)
    if before.shape != values.shape or not before.all():
        raise Refused(f"cannot be scaled as {quoted(scale.name)} is: the source's has other shape")
    factors = values / before
    if not np.allclose(factors, factors[0], rtol=1e-5):
        raise Refused(f"cannot be scaled as {quoted(scale.name)} is: it has several factors")
    return 1.0 if np.isclose(factors[0], 1, rtol=1e-6) else float(factors[0])


def _is_scaled(architecture: str, weight: str) -> bool:
    """Whether the scale behind a weight multiplies what an adapter adds as well.

    Source: build_ffn and build_attn in src/llama-graph.cpp, src/models/bitnet.cpp (b11549).
    """
    name = weight.split(".")[-2]
    if name == "attn_output":
        return architecture in _ATTENTION_SCALED
    return name in _FFN and architecture != "bitnet"


# -- importance matrices -------------------------------------------------------------------------

_STATISTICS = ".stats"
_SUMS = (".in_sum2", ".in_sum")
_COUNTS = ".counts"
_SCHEMA = "imatrix.stats_schema"


def _imatrix(file: Shards, variant: Variant) -> Remapped:
    """Source: save_imatrix in tools/imatrix/imatrix.cpp, common/imatrix-loader.cpp (b11549).

    Sums and counts are copied. The statistics that newer builds write beside them compare a layer
    with the one before it; they are left out, and llama-imatrix makes them again from the sums.
    """
    known = Known(variant)
    planned = []
    names = _by_name(file)
    for info in file.header.tensors:
        weight, dot, part = info.name.rpartition(".")
        if dot + part == _STATISTICS:
            continue
        if dot + part not in (*_SUMS, _COUNTS):
            raise Refused(f"tensor {quoted(info.name)} is no sum and no count")
        if info.type != _F32:
            raise Refused(f"tensor {quoted(info.name)} is {info.type_name}, expected F32")
        if _SUMS[0] != dot + part and weight + _SUMS[0] not in names:
            raise Refused(f"has {quoted(info.name)}, but no {quoted(weight + _SUMS[0])}")
        if weight + _COUNTS not in names:
            raise Refused(f"has {quoted(info.name)}, but no {quoted(weight + _COUNTS)}")
        n_values = 0 if dot + part == _COUNTS else info.n_elements
        for out in known.weights(weight, n_values):
            target = replace(info, name=out + dot + part)
            planned.append(PlannedTensor(target, info, file.data[info.name]))
    kvs = tuple(kv for kv in file.header.kvs if kv.key != _SCHEMA)
    return Remapped(kvs, tuple(planned), known.notes())


class Known:
    """Which weights of an importance matrix the variant has."""

    def __init__(self, variant: Variant) -> None:
        self._variant = variant
        self._strangers: dict[str, None] = {}
        self._n_known = 0

    def weights(self, name: str, n_values: int = 0) -> tuple[str, ...]:
        """The weight's names in the variant, and a check of the number of values if there are any.

        llama-quantize wants one for each input of each expert. Raises Refused.
        """
        found = self._variant.weights(name)
        for out in found:
            tensor = self._variant.tensors.get(out)
            if tensor is None:
                self._strangers[name] = None
                continue
            self._n_known += 1
            expected = _dim(tensor, 0) * _dim(tensor, 2)
            if n_values not in (0, expected):
                raise Refused(
                    f"has {n_values} values for {quoted(name)}, that of "
                    f"{self._variant.model.name} takes {expected}"
                )
        return found

    def notes(self) -> tuple[str, ...]:
        """What the user should know. Raises Refused if the variant has none of the weights."""
        if not self._strangers:
            return ()
        first, n = next(iter(self._strangers)), len(self._strangers)
        if not self._n_known:
            raise Refused(
                f"is of weights such as {quoted(first)}, none of which {self._variant.model.name} "
                f"has: it belongs to another model"
            )
        more = f" and {n - 1} more" if n > 1 else ""
        where = self._variant.model.name
        return (f"{quoted(first)}{more}: no such weight in {where}; llama-quantize skips it",)


# -- control vectors -----------------------------------------------------------------------------


def _control_vector(file: Shards, variant: Variant) -> Remapped:
    """Source: common_control_vector_load_one in common/common.cpp, src/llama-adapter.cpp (b11549).

    `direction.N` is added to the output of layer N; there is none for layer 0.
    """
    width = variant.model.scalar("embedding_length")
    planned = []
    for info in file.header.tensors:
        match = _DIRECTION.fullmatch(info.name)
        if match is None:
            raise Refused(f"tensor {quoted(info.name)}: expected direction.<number from 1>")
        if info.type != _F32 or info.ne != (width,):
            raise Refused(
                f"tensor {quoted(info.name)} is {info.type_name} of shape {list(info.ne)}, "
                f"{variant.model.name} takes F32 of shape [{width}]"
            )
        if int(match[1]) >= variant.layer_map.n_source:
            raise Refused(
                f"has {quoted(info.name)}; the source of {variant.model.name} has layers "
                f"0..{variant.layer_map.n_source - 1}: it belongs to another model"
            )
        for out in variant.outputs(int(match[1]), quoted(info.name)):
            if out == 0:
                raise Refused(
                    f"has {quoted(info.name)} for source layer {match[1]}, which is the first in "
                    f"{variant.model.name}; llama.cpp adds no direction behind the first layer"
                )
            damp = variant.damp(out)
            data = file.data[info.name] if damp == 1 else _times(file, info, damp)
            target = replace(info, name=f"direction.{out}")
            planned.append(PlannedTensor(target, info, data))
    kvs = tuple(
        KV.of(kv.key, kv.type, len(planned), byteorder=kv.byteorder)
        if kv.key == "controlvector.layer_count" and kv.type in _WHOLE
        else kv
        for kv in file.header.kvs
    )
    notes = ["--control-vector-layer-range counts the layers of the variant"]
    hint = _text(file, "controlvector.model_hint")
    if hint and hint != variant.model.architecture:
        notes.append(f"was made for {quoted(hint)}, {variant.model.name} is another architecture")
    return Remapped(kvs, tuple(planned), tuple(notes))


# -- draft models --------------------------------------------------------------------------------


def _draft(file: Shards, variant: Variant) -> Remapped:
    """EAGLE-3 and DFlash read hidden states of their target, the inputs of `target_layers`.

    The input of layer t is what layer t-1 gives. Where that layer runs more than once its last pass
    counts: in front of the repeated layers nothing changes, and behind them the drafter reads what
    the rest of the model reads.

    Source: src/models/eagle3.cpp and dflash.cpp, llama_context::extract_layer_inputs (b11549).
    """
    arch = _text(file, "general.architecture")
    key = f"{arch}.{TARGET_LAYERS}"
    listed = file.header.get(key)
    if listed is None or listed.item_type not in _WHOLE or not isinstance(listed.raw, bytes):
        shown = "missing" if listed is None else listed.type_name
        raise Refused(f"{printable(key)} is {shown}, expected an array of INT32")
    width, of_target = variant.model.scalar("embedding_length"), f"{arch}.target_hidden_size"
    hidden = file.header.get(of_target) or file.header.get(f"{arch}.embedding_length")
    if hidden is not None and not hidden.is_array and hidden.value != width:
        raise Refused(
            f"{printable(hidden.key)} is {hidden.value}, {variant.model.name} has embeddings of "
            f"{width}: it belongs to another model"
        )
    layers = [_input_of(layer, variant, printable(key)) for layer in listed.value]
    assert listed.item_type is not None
    new = KV.of(key, listed.type, layers, byteorder=listed.byteorder, item_type=listed.item_type)
    tensors = (PlannedTensor(t, t, file.data[t.name]) for t in file.header.tensors)
    kvs = tuple(new if kv.key == key else kv for kv in file.header.kvs)
    note = f"{printable(key)} {list(listed.value)} -> {layers}"
    return Remapped(kvs, tuple(tensors), (note,))


def _input_of(layer: int, variant: Variant, key: str) -> int:
    """The layer of the variant whose input is that of a layer of the source."""
    n_source = variant.layer_map.n_source
    if not 0 <= layer <= n_source:
        raise Refused(
            f"{key} names layer {layer}, the source of {variant.model.name} has layers "
            f"0..{n_source - 1}: it belongs to another model"
        )
    if layer == 0:
        return 0
    passes = variant.layer_map.outputs_of(layer - 1)
    if not passes:
        raise Refused(
            f"{key} names the output of layer {layer - 1}, which {variant.model.name} leaves out"
        )
    return passes[-1] + 1


_KINDS: Mapping[Kind, Callable[[Shards, Variant], Remapped]] = {
    Kind.LORA: _lora,
    Kind.IMATRIX: _imatrix,
    Kind.CONTROL_VECTOR: _control_vector,
    Kind.DRAFT: _draft,
}


# -- what they share -----------------------------------------------------------------------------


def _by_name(file: Model | Shards) -> dict[str, TensorInfo]:
    return {tensor.name: tensor for tensor in file.header.tensors}


def _dim(tensor: TensorInfo, n: int) -> int:
    return tensor.ne[n] if n < len(tensor.ne) else 1


def _text(file: Shards, key: str) -> str:
    kv = file.header.get(key)
    return str(kv.value) if kv is not None and kv.type == GGUFValueType.STRING else ""


def _times(file: Shards, info: TensorInfo, factor: float) -> bytes:
    """The data of a tensor, multiplied and rounded to its type. Raises Refused for a rare type."""
    raw = np.frombuffer(b"".join(file.read(file.data[info.name].span)), np.uint8)
    if file.header.byteorder != "<" or info.type not in BLOCKS:
        raise Refused(
            f"tensor {quoted(info.name)} is {info.type_name}, which cannot be scaled here"
        )
    n_weights, n_bytes = BLOCKS[info.type]
    type_ = GGMLQuantizationType(info.type)
    try:
        rows = raw.reshape(-1, info.ne[0] // n_weights * n_bytes)
        values = quants.dequantize(rows, type_) * np.float32(factor)
        return quants.quantize(values, type_).tobytes()
    except NotImplementedError as e:
        raise Refused(f"tensor {quoted(info.name)} is {info.type_name}: {e}") from e
