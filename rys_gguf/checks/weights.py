"""Check the tensors of a finished file against those that its source and the map lead to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from gguf.constants import GGMLQuantizationType

from rys_gguf.checks.comparison import Comparison, Fault
from rys_gguf.files.source import Progress, first_difference
from rys_gguf.formats.header import Span, TensorInfo, layer_of, rename
from rys_gguf.layers.residual import Values, damped_tensors, f32_values, scale_of_all
from rys_gguf.layers.rule import Rescale
from rys_gguf.text import printable

_READ_BYTES = 1 << 20

# By tensor: what is done to it, and the factors of the steps that do it, each of which rounds.
_Rescales = dict[str, tuple[Rescale, tuple[np.float32, ...]]]


@dataclass(frozen=True, slots=True)
class _Expected:
    """A tensor that the output must have: its info, where it comes from in words, and its data.

    The data is that of a source tensor, unchanged or, with `dimension`, with the slices of that
    dimension of ne gathered by the map; or it is `literal` bytes.
    """

    info: TensorInfo
    origin: str
    source: TensorInfo | None = None
    dimension: int | None = None
    literal: bytes = b""


def tensor_faults(pair: Comparison, progress: Progress) -> Iterator[Fault]:
    """Every tensor that is missing, surplus, of another shape or type, or of other data.

    `progress` is called with the bytes each step compared.
    """
    present = {t.name: t for t in pair.out.header.tensors}
    expected = {want.info.name: want for want in _expected(pair)}
    for name in present:
        if name in expected:
            continue
        layer = layer_of(name)
        past = layer is not None and layer >= pair.n_blocks
        what = "is past the last block" if past else "is not expected here"
        yield f"tensor {printable(name)}", what
    for name, want in expected.items():
        if fault := _fault(pair, present.get(name), want, progress):
            yield f"tensor {printable(name)}", fault


def _fault(
    pair: Comparison, have: TensorInfo | None, want: _Expected, progress: Progress
) -> str | None:
    if have is None:
        return f"is missing ({want.origin})"
    info = want.info
    if (have.ne, have.type, have.n_bytes) != (info.ne, info.type, info.n_bytes):
        return (
            f"is {have.type_name} {list(have.ne)}, expected {info.type_name} {list(info.ne)} "
            f"({want.origin})"
        )
    at = _first_difference(pair, want, progress)
    return None if at is None else f"differs from {want.origin} at byte {at} of its data"


def _expected(pair: Comparison) -> Iterator[_Expected]:
    """Every tensor that the output must have."""
    source = pair.source
    gathered = dict(pair.rules.arch.gathered)
    for tensor in source.globals:
        origin = f"source {printable(tensor.name)}"
        dimension = gathered.get(tensor.name)
        if dimension is None:
            yield _Expected(tensor, origin, tensor)
        else:
            info = _resized(tensor, dimension, source.n_trunk, pair.n_trunk)
            yield _Expected(info, f"{origin}, gathered", tensor, dimension)
    rescales = _rescales(pair)
    for out, block in enumerate(pair.layer_map.sources):
        yield from _expected_layer(pair, out, block, rescales)
    for tail in range(source.n_mtp):
        yield from _expected_layer(pair, pair.n_trunk + tail, source.n_trunk + tail, {})


def _expected_layer(
    pair: Comparison, out: int, block: int, rescales: _Rescales
) -> Iterator[_Expected]:
    """The tensors of one output block; `rescales` are the rules' changes of data, by tensor."""
    source = pair.source
    f32 = np.dtype(np.float32).newbyteorder(pair.out.header.byteorder)
    damped = _damped(pair, out, block)
    for tensor in source.layers[block]:
        info = replace(tensor, name=rename(tensor.name, out))
        origin = f"source {printable(tensor.name)}"
        suffix = tensor.name.split(".", 2)[2]
        _, factors = rescales.get(suffix, (None, ()))
        if suffix in damped:
            literal = damped[suffix].astype(f32).tobytes()
            yield _Expected(info, f"{origin}, damped", literal=literal)
        elif not factors:
            yield _Expected(info, origin, tensor)
        else:
            raw = b"".join(source.read(source.data(tensor).span))
            scaled = np.frombuffer(raw, f32)
            for factor in factors:
                scaled = (scaled * factor).astype(f32)
            yield _Expected(info, f"{origin}, rescaled", literal=scaled.tobytes())
    for name, (rescale, factors) in rescales.items():
        if rescale.new:
            literal = np.asarray(factors[:1], f32).tobytes()
            info = TensorInfo(f"blk.{out}.{name}", (1,), int(GGMLQuantizationType.F32), 0, 4)
            yield _Expected(info, "the rule for its layer count", literal=literal)
    held = {tensor.name.split(".", 2)[2] for tensor in source.layers[block]}
    for name in damped.keys() - held:
        scale = damped[name].astype(f32)
        n = scale.size
        info = TensorInfo(f"blk.{out}.{name}", (n,), int(GGMLQuantizationType.F32), 0, 4 * n)
        yield _Expected(info, "the damping of its layer", literal=scale.tobytes())


def _damped(pair: Comparison, out: int, block: int) -> dict[str, Values]:
    """The values that damp an output, by tensor; those of each step round."""
    factors = []
    for step in reversed(pair.steps):
        if out >= len(step):
            return {}  # an MTP block
        factors.append(step.damp(out))
        out = step[out]
    if all(factor == 1 for factor in factors):
        return {}
    source = pair.source
    tensors = damped_tensors(source, pair.rules.arch, block)
    of_all = scale_of_all(source, block, tensors)
    held = {t.name.split(".", 2)[2]: t for t in source.layers[block]}
    values = {
        d.tensor: np.ones(d.n_new, np.float32) if d.n_new else f32_values(source, held[d.tensor])
        for d in tensors
    }
    for factor in reversed(factors):
        if factor != 1:
            values = {d.tensor: d.values(values[d.tensor], factor, of_all) for d in tensors}
            of_all = next((float(values[d.tensor][0]) for d in tensors if d.of_all), 1.0)
    return values


def _rescales(pair: Comparison) -> _Rescales:
    """The changes of tensor data that the rules ask for at each step, by tensor."""
    found: _Rescales = {}
    before = pair.rules.meta
    for step in pair.steps:
        after = replace(before, n_trunk=len(step))
        for rescale in (r for rule in pair.rules.arch.rules for r in rule.rescales(before, after)):
            _, factors = found.get(rescale.tensor, (rescale, ()))
            factor = np.float32(rescale.factor(before, after))
            found[rescale.tensor] = rescale, (*factors, factor)
        before = after
    return found


def _resized(tensor: TensorInfo, dimension: int, n_source: int, n_out: int) -> TensorInfo:
    ne = list(tensor.ne)
    ne[dimension] = ne[dimension] // n_source * n_out
    return replace(tensor, ne=tuple(ne), n_bytes=tensor.n_bytes // n_source * n_out)


def _first_difference(pair: Comparison, want: _Expected, progress: Progress) -> int | None:
    """The first byte at which a tensor's data is not what is expected, None if it is."""
    here = pair.out.data[want.info.name].span
    file = pair.out.files[here.shard]
    if want.source is None:
        data = file.read(here.offset, here.n_bytes)
        progress(len(data))
        pairs = enumerate(zip(data, want.literal, strict=True))
        return next((n for n, (x, y) in pairs if x != y), None)
    there = pair.source.data(want.source).span
    if want.dimension is not None:
        n_rows = int(np.prod(want.source.ne[want.dimension + 1 :], dtype=np.int64))
        return _gathered_difference(pair, here, there, n_rows, progress)
    return first_difference(
        file, here.offset, pair.source.files[there.shard], there.offset, there.n_bytes, progress
    )


def _gathered_difference(
    pair: Comparison, here: Span, there: Span, n_rows: int, progress: Progress
) -> int | None:
    """The same for a tensor of `n_rows` rows, each of one slice per trunk layer."""
    out, source = pair.out.files[here.shard], pair.source.files[there.shard]
    n_source, n_out = pair.source.n_trunk, pair.n_trunk
    width = there.n_bytes // (n_rows * n_source)
    step = max(1, _READ_BYTES // (width * n_source))
    for row in range(0, n_rows, step):
        n = min(step, n_rows - row)
        at = row * width * n_out
        have = out.read(here.offset + at, n * width * n_out)
        base = source.read(there.offset + row * width * n_source, n * width * n_source)
        gathered = np.frombuffer(base, np.uint8).reshape(n, n_source, width)
        want = gathered[:, list(pair.layer_map.sources)].reshape(-1)
        differing = np.flatnonzero(np.frombuffer(have, np.uint8) != want)
        if differing.size:
            return at + int(differing[0])
        progress(len(have))
    return None
