"""The tensors of an output: where each one's data comes from, and where it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from gguf.constants import GGMLQuantizationType

from rys_gguf.errors import InvalidGGUF
from rys_gguf.formats.header import (
    TensorInfo,
    encode_text,
    layer_of,
    padded,
    rename,
)
from rys_gguf.formats.limits import MAX_NAME_BYTES
from rys_gguf.formats.model import Model
from rys_gguf.formats.shards import TensorData
from rys_gguf.formats.types import tensor_bytes
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.residual import Values, damped_tensors, f32_values, scale_of_all
from rys_gguf.layers.rule import Architecture, Rescale
from rys_gguf.text import quoted

_F32 = int(GGMLQuantizationType.F32)


@dataclass(frozen=True, slots=True)
class GatheredTensor:
    """A tensor of the whole model that holds one slice per trunk layer, gathered by the map.

    Each of `n_rows` rows consists of `n_slices` slices of `slice_bytes`. Slice number `gather[out]`
    becomes slice number `out` of the output's row.
    """

    data: TensorData
    n_rows: int
    n_slices: int
    slice_bytes: int
    gather: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Change:
    """In an output block the F32 tensor `blk.N.{tensor}` gets the values that `change` makes of it.

    With `n_new` it is a new tensor, made of so many ones, behind `blk.N.{behind}`.
    """

    tensor: str
    change: Callable[[Values], Values]
    n_new: int = 0
    behind: str = ""


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of the output: its tensor info, the source's (None if it is new), and its data.

    The data is a place in the source, slices of such a place, or the bytes themselves where a
    value had to change.
    """

    target: TensorInfo
    source: TensorInfo | None
    data: TensorData | GatheredTensor | bytes

    @property
    def is_copy(self) -> bool:
        """Whether the data is an unchanged tensor of the source, under any name."""
        return isinstance(self.data, TensorData)


def layout(tensors: Iterable[PlannedTensor], alignment: int) -> tuple[PlannedTensor, ...]:
    """The tensors with their offsets: each follows the padded end of the one before it."""
    placed = []
    offset = 0
    for tensor in tensors:
        placed.append(replace(tensor, target=replace(tensor.target, offset=offset)))
        offset = padded(offset + tensor.target.n_bytes, alignment)
    return tuple(placed)


def plan_tensors(
    model: Model, layer_map: LayerMap, arch: Architecture, scales: Mapping[Rescale, float]
) -> tuple[PlannedTensor, ...]:
    """The output's tensors in file order, with their offsets.

    Tensors of one layer that stand together stay together: each such group is followed by its
    copies. Otherwise the source's order of layers is kept; many files sort them as text.
    Raises Refused for a tensor that cannot be renamed, gathered or rescaled, and for a layer that
    cannot be damped.
    """
    _require_rescalable(model, scales)
    everywhere = tuple(
        _Change(r.tensor, partial(_times, factor), int(r.new), _weight_of(r))
        for r, factor in scales.items()
    )
    slices = dict(arch.gathered)
    tensors: list[PlannedTensor] = []
    for group in _groups(model):
        layer = layer_of(group[0].name)
        if layer is None:
            tensors += (_of_the_model(model, layer_map, t, slices.get(t.name)) for t in group)
            continue
        for out in _outputs(model, layer_map, layer):
            changes: tuple[_Change, ...] = ()
            if out < len(layer_map):
                changes = (*everywhere, *_damping(model, arch, layer, layer_map.damp(out)))
            for source in group:
                tensors += _of_a_layer(model, source, out, changes)
    return layout(tensors, model.header.output_alignment)


def _groups(model: Model) -> Iterator[list[TensorInfo]]:
    """Runs of tensors of one layer, or of none, in file order."""
    group: list[TensorInfo] = []
    for tensor in model.header.tensors:
        if group and layer_of(group[0].name) != layer_of(tensor.name):
            yield group
            group = []
        group.append(tensor)
    if group:
        yield group


def _outputs(model: Model, layer_map: LayerMap, layer: int) -> tuple[int, ...]:
    """The output blocks that a source block becomes; an MTP block stays behind the trunk."""
    if layer >= model.n_trunk:
        return (layer + layer_map.n_added,)
    return layer_map.outputs_of(layer)


def _of_the_model(
    model: Model, layer_map: LayerMap, source: TensorInfo, dim: int | None
) -> PlannedTensor:
    """A tensor that belongs to no layer; dimension `dim` of its ne, if any, is sliced by layer."""
    data = model.data(source)
    if dim is None:
        return PlannedTensor(source, source, data)
    n = model.n_trunk
    shown = f"tensor {quoted(source.name)}"
    if dim >= len(source.ne) or source.ne[dim] % n or not source.n_bytes:
        raise model.refuse(f"{shown} has shape {list(source.ne)}, expected {n} slices")
    n_rows = 1
    for size in source.ne[dim + 1 :]:
        n_rows *= size
    slice_bytes, rest = divmod(source.n_bytes, n_rows * n)
    try:
        cut = tensor_bytes(source.type, (source.ne[dim] // n, 1)) if dim == 0 else 0
    except InvalidGGUF as e:
        raise model.refuse(f"{shown}: a layer's slice has {e}; it cannot be cut") from e
    if rest or cut is None:
        raise model.refuse(f"{shown} is {source.type_name}; it cannot be cut into layers")
    ne = list(source.ne)
    ne[dim] = ne[dim] // n * len(layer_map)
    target = replace(source, ne=tuple(ne), n_bytes=n_rows * slice_bytes * len(layer_map))
    gathered = GatheredTensor(data, n_rows, n, slice_bytes, layer_map.sources)
    return PlannedTensor(target, source, gathered)


def _times(factor: float, values: Values) -> Values:
    return np.asarray(values * np.float32(factor), np.float32)


def _damping(model: Model, arch: Architecture, layer: int, factor: float) -> Iterator[_Change]:
    """What damps a layer by a factor."""
    if factor != 1:
        damped = damped_tensors(model, arch, layer)
        of_all = scale_of_all(model, layer, damped)
        for d in damped:
            change = partial(d.values, damp=factor, of_all=of_all)
            yield _Change(d.tensor, change, d.n_new, d.behind)


def _of_a_layer(
    model: Model, source: TensorInfo, out: int, changes: Iterable[_Change]
) -> Iterator[PlannedTensor]:
    """What one source tensor becomes in output block `out`: itself, perhaps with a scale."""
    name = rename(source.name, out)
    if len(encode_text(name)) > MAX_NAME_BYTES:
        raise model.refuse(
            f"tensor {quoted(source.name)} would be named {quoted(name)}, longer than "
            f"{MAX_NAME_BYTES} bytes"
        )
    suffix = source.name.split(".", 2)[2]
    data: TensorData | bytes = model.data(source)
    added = []
    for change in changes:
        if not change.n_new and suffix == change.tensor:
            data = _stored(model, change.change(f32_values(model, source)))
        elif change.n_new and suffix == change.behind:
            n = change.n_new
            info = TensorInfo(f"blk.{out}.{change.tensor}", (n,), _F32, 0, 4 * n)
            values = change.change(np.ones(n, np.float32))
            added.append(PlannedTensor(info, None, _stored(model, values)))
    yield PlannedTensor(replace(source, name=name), source, data)
    yield from added


def _weight_of(rescale: Rescale) -> str:
    """The weight behind which a new scale is put."""
    return rescale.tensor.rpartition(".")[0] + ".weight"


def _require_rescalable(model: Model, scales: Mapping[Rescale, float]) -> None:
    """Raise Refused unless every trunk layer has the tensor to rescale, or lacks the new scale."""
    for rescale in scales:
        base = _weight_of(rescale) if rescale.new else rescale.tensor
        for n, layer in enumerate(model.layers[: model.n_trunk]):
            suffixes = {t.name.split(".", 2)[2] for t in layer}
            if base in suffixes and not (rescale.new and rescale.tensor in suffixes):
                continue
            fault = f"has no {base}" if base not in suffixes else f"has a {rescale.tensor} already"
            raise model.refuse(
                f"block {n} {fault}: what the new layer count does to it cannot be undone"
            )


def _stored(model: Model, values: Values) -> bytes:
    return values.astype(np.dtype(np.float32).newbyteorder(model.header.byteorder)).tobytes()
