"""Zero-ablation: copies of a model in which some layers write nothing to the residual stream.

Such a layer passes its input on unchanged.
"""

from __future__ import annotations

import contextlib
import shutil
import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType

from rys_gguf.errors import RysError
from rys_gguf.files.copying import copy_bytes
from rys_gguf.files.folder import private_folder
from rys_gguf.formats.header import KV, Span, TensorInfo, encode_text
from rys_gguf.formats.model import Model
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.residual import (
    Values,
    damped_tensors,
    f32_values,
    residual_writers,
    scale_of_all,
)
from rys_gguf.layers.rule import Architecture
from rys_gguf.text import printable

# Each step that damps a tensor rounds it, by at most 2^-24 of it.
_ROUNDING = 2.0**-20


@dataclass(frozen=True, slots=True)
class Edit:
    """New bytes for a tensor or for the value of a key, and where in the files these are.

    None stands for zeros.
    """

    target: TensorInfo | KV
    span: Span
    data: bytes | None = None


def silence(model: Model, arch: Architecture, layers: Iterable[int]) -> Iterator[Edit]:
    """The edits that make these layers write nothing; some are in the header, and always there.

    All-zero bytes are zeros in every quantisation llama.cpp has. Raises Refused if a tensor that
    must hold other values is not F32.
    """
    yield from (edit for key in arch.zeroed if (edit := _zeroed(model, key)))
    fills = {fill.tensor: fill for fill in arch.silenced}
    f32 = np.dtype(np.float32).newbyteorder(model.header.byteorder)
    for layer in layers:
        tensors = model.layers[layer]
        yield from (Edit(tensor, model.data(tensor).span) for tensor in residual_writers(tensors))
        for tensor in tensors:
            fill = fills.get(tensor.name.split(".", 2)[2])
            if fill is None:
                continue
            if tensor.type != GGMLQuantizationType.F32:
                shown = f"{printable(tensor.name)} is {tensor.type_name}"
                raise model.refuse(f"not provable this way: {shown}, expected F32")
            values = fill.values(int(np.prod(tensor.ne)))
            yield Edit(tensor, model.data(tensor).span, np.asarray(values, f32).tobytes())


def _zeroed(model: Model, suffix: str) -> Edit | None:
    """The edit that makes a scalar of the header zero; None if the key is missing."""
    kv = model.header.get(model.key(suffix))
    if kv is None or not isinstance(kv.raw, bytes):
        return None
    order = model.header.byteorder
    key = encode_text(kv.key)
    stored = struct.pack(f"{order}Q", len(key)) + key + struct.pack(f"{order}I", kv.type) + kv.raw
    header = model.files[0].read(0, model.header.data_offset)
    offset = header.index(stored) + len(stored) - len(kv.raw)
    return Edit(kv, Span(offset, len(kv.raw)))


def disturb(model: Model, layers: Iterable[int], silenced: Iterable[Edit]) -> Iterator[Edit]:
    """The edits that halve every other value of these layers' F32 vectors, but for those silenced.

    They change nothing that a layer passes on if all it would add is silenced.
    """
    settled = {edit.span for edit in silenced}
    f32 = np.dtype(np.float32).newbyteorder(model.header.byteorder)
    for layer in layers:
        for tensor in model.layers[layer]:
            span = model.data(tensor).span
            is_vector = tensor.type == GGMLQuantizationType.F32 and max(tensor.ne) == np.prod(
                tensor.ne
            )
            if is_vector and span not in settled:
                values = np.frombuffer(b"".join(model.read(span)), f32).copy()
                values[::2] /= 2
                yield Edit(tensor, span, values.tobytes())


def nudge(model: Model, tensors: Collection[str], by: float) -> Iterator[Edit]:
    """The edits that multiply the F32 tensors `blk.N.{tensor}` of every trunk layer by 1 + `by`."""
    f32 = np.dtype(np.float32).newbyteorder(model.header.byteorder)
    for layer in model.layers[: model.n_trunk]:
        for tensor in layer:
            is_f32 = tensor.type == GGMLQuantizationType.F32
            if is_f32 and tensor.name.split(".", 2)[2] in tensors:
                span = model.data(tensor).span
                values = np.frombuffer(b"".join(model.read(span)), f32).astype(np.float64)
                yield Edit(tensor, span, (values * (1 + by)).astype(f32).tobytes())


def redamp(
    variant: Model, source: Model, layer_map: LayerMap, arch: Architecture, factor: float
) -> Iterator[Edit]:
    """The edits that damp the damped outputs of a variant by `factor` instead.

    Raises Refused if the variant lacks a tensor that damps.
    """
    f32 = np.dtype(np.float32).newbyteorder(variant.header.byteorder)
    for out, damped in enumerate(layer_map.damping):
        if damped != 1:
            for tensor, values in _damping(variant, source, layer_map, arch, out, factor):
                yield Edit(tensor, variant.data(tensor).span, values.astype(f32).tobytes())


def misdamped(
    variant: Model, source: Model, layer_map: LayerMap, arch: Architecture
) -> Iterator[int]:
    """The outputs of a variant that are damped by another factor than the map says.

    Raises as `redamp`.
    """
    for out, factor in enumerate(layer_map.damping):
        wanted = _damping(variant, source, layer_map, arch, out, factor) if factor != 1 else ()
        if not all(
            np.allclose(f32_values(variant, tensor), values, rtol=_ROUNDING, atol=0)
            for tensor, values in wanted
        ):
            yield out


def _damping(
    variant: Model,
    source: Model,
    layer_map: LayerMap,
    arch: Architecture,
    out: int,
    factor: float,
) -> Iterator[tuple[TensorInfo, Values]]:
    """The tensors of an output that damp it, and their values for a factor."""
    held = {t.name.split(".", 2)[2]: t for t in variant.layers[out]}
    layer = layer_map[out]
    original = {t.name.split(".", 2)[2]: t for t in source.layers[layer]}
    tensors = damped_tensors(source, arch, layer)
    of_all = scale_of_all(source, layer, tensors)
    for damped in tensors:
        tensor = held.get(damped.tensor)
        n = damped.n_new
        values = np.ones(n, np.float32) if n else f32_values(source, original[damped.tensor])
        is_f32 = tensor is not None and tensor.type == GGMLQuantizationType.F32
        if tensor is None or not is_f32 or np.prod(tensor.ne) != values.size:
            raise variant.refuse(
                f"blk.{out}.{damped.tensor}, which damps output {out}, is missing or is not of "
                f"{values.size} F32 numbers; verify tells more"
            )
        yield tensor, damped.values(values, factor, of_all)


@contextlib.contextmanager
def edited_copy(model: Model, edits: Iterable[Edit], folder: Path) -> Iterator[Path]:
    """The path of a copy with these edits; of the model itself if there are none.

    The copy is removed on leaving. Raises RysError if it cannot be written.
    """
    edits = tuple(edits)
    if not edits:
        yield model.files[0].path
        return
    with contextlib.ExitStack() as stack:
        try:
            # In a folder of its own the copy keeps its name, by which llama.cpp finds shards.
            path = _write_edited(model, edits, stack.enter_context(private_folder(folder)))
        except OSError as e:
            reason = e.strerror or str(e)
            raise RysError(f"{printable(folder)}: cannot make a silenced copy: {reason}") from e
        yield path


def require_room(folder: Path, n_bytes: int) -> int:
    """The free bytes in a folder. Raises RysError if an edited copy of `n_bytes` does not fit."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise RysError(
            f"{printable(folder)}: a silenced copy needs {n_bytes} bytes, {free} are free; "
            f"choose another folder with --workdir"
        )
    return free


def _write_edited(model: Model, edits: Iterable[Edit], folder: Path) -> Path:
    paths = [folder / file.path.name for file in model.files]
    for file, path in zip(model.files, paths, strict=True):
        with path.open("wb") as out:
            for _ in copy_bytes(file, out.fileno(), 0, file.n_bytes):
                pass
    for edit in edits:
        _write(paths[edit.span.shard], edit)
    return paths[0]


def _write(path: Path, edit: Edit) -> None:
    zeros = bytes(1 << 20)
    n_bytes = edit.span.n_bytes
    with path.open("r+b") as file:
        file.seek(edit.span.offset)
        if edit.data is not None:
            file.write(edit.data[:n_bytes])
            return
        for done in range(0, n_bytes, len(zeros)):
            file.write(zeros[: n_bytes - done])
