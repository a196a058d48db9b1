"""Which layer of a base each layer of a foreign variant is, from the bytes of their tensors.

Tools that record nothing copy tensors all the same. Layers are told apart by what costs least:
first by the shapes and types of their tensors, then by a few KiB of each, and what is left by all
of their bytes. Bytes that differ are never taken to be alike.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from gguf.constants import GGMLQuantizationType

from rys_gguf.files.source import Progress
from rys_gguf.formats.header import Span, TensorInfo
from rys_gguf.formats.model import Model
from rys_gguf.layers.layer_map import LayerMap

_SAMPLE_BYTES = 4096
_SHOWN = 4
_F32 = int(GGMLQuantizationType.F32)


@dataclass(frozen=True, slots=True)
class Recovery:
    """The map that was found, and for each output the source layers that have its bytes.

    Where there are several, the map takes one that makes a run of layers, or else the first;
    `notes` say so.
    """

    layer_map: LayerMap
    candidates: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...]


def recover(variant: Model, base: Model, *, progress: Progress = lambda _: None) -> Recovery:
    """Find the map from a base to a variant; `progress` is called with the bytes each step read.

    Raises Refused, saying what is known of them, if layers of the variant are not the base's byte
    for byte.
    """
    if variant.architecture != base.architecture:
        raise variant.refuse(
            f"is of the architecture {variant.architecture}, {base.name} of {base.architecture}"
        )
    found = [tuple(range(base.n_trunk))] * variant.n_trunk
    for look in (_shapes, _samples, _digests):
        ours, theirs = _looks(variant, look, progress), _looks(base, look, progress)
        found = [
            tuple(s for s in candidates if ours(out) == theirs(s))
            for out, candidates in enumerate(found)
        ]
    if not all(found):
        raise variant.refuse(_strangers(variant, base, found))
    layer_map = LayerMap(base.n_trunk, tuple(_following(found)))
    return Recovery(layer_map, tuple(found), tuple(_ambiguities(found)))


# -- three looks at a layer ----------------------------------------------------------------------

Look = Callable[[Model, Sequence[TensorInfo], Progress], Hashable]


def _looks(model: Model, look: Look, progress: Progress) -> Callable[[int], Hashable]:
    """What a look at a layer of the model sees; each layer is looked at once, if at all."""

    @functools.cache
    def of(layer: int) -> Hashable:
        tensors = sorted(model.layers[layer], key=_suffix)
        return look(model, tensors, progress)

    return of


def _shapes(_: Model, layer: Sequence[TensorInfo], __: Progress) -> Hashable:
    return tuple((_suffix(t), t.type, t.ne, t.n_bytes) for t in layer)


def _samples(model: Model, layer: Sequence[TensorInfo], progress: Progress) -> Hashable:
    spans = []
    for tensor in layer:
        span = model.data(tensor).span
        n = min(_SAMPLE_BYTES, span.n_bytes)
        spans.append(replace(span, offset=span.offset + (span.n_bytes - n) // 2, n_bytes=n))
    return _digest(model, spans, progress)


def _digests(model: Model, layer: Sequence[TensorInfo], progress: Progress) -> Hashable:
    return _digest(model, (model.data(tensor).span for tensor in layer), progress)


def _vectors(model: Model, layer: Sequence[TensorInfo], progress: Progress) -> Hashable:
    """The vectors in F32, which quantising leaves alone: norms and biases."""
    vectors = [t for t in layer if t.type == _F32 and len(t.ne) == 1]
    names = tuple(_suffix(t) for t in vectors)
    return names, _digest(model, (model.data(t).span for t in vectors), progress)


def _digest(model: Model, spans: Iterable[Span], progress: Progress) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    for span in spans:
        for piece in model.read(span):
            digest.update(piece)
            progress(len(piece))
    return digest.digest()


def _suffix(tensor: TensorInfo) -> str:
    return tensor.name.split(".", 2)[2]


# -- what to make of it --------------------------------------------------------------------------


def _following(found: Sequence[tuple[int, ...]]) -> Iterator[int]:
    """Of several candidates one that follows the layer before, or is followed by the next."""
    before = -1
    for out, candidates in enumerate(found):
        after = found[out + 1] if out + 1 < len(found) else ()
        if before + 1 in candidates:
            before += 1
        else:
            before = next((c for c in candidates if c + 1 in after), candidates[0])
        yield before


def _ambiguities(found: Sequence[tuple[int, ...]]) -> Iterator[str]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for out, candidates in enumerate(found):
        if len(candidates) > 1:
            groups.setdefault(candidates, []).append(out)
    for candidates, outs in groups.items():
        are = "s" if len(outs) > 1 else ""
        yield (
            f"source layers {_listed(candidates)} are alike byte for byte: output{are} "
            f"{_listed(outs)} may be any of them"
        )


def _strangers(variant: Model, base: Model, found: Sequence[tuple[int, ...]]) -> str:
    """Why a variant has no map, and what the vectors in F32 say all the same."""
    outs = [out for out, candidates in enumerate(found) if not candidates]
    layers = "layers" if len(outs) > 1 else "layer"
    text = f"{layers} {_listed(outs)} of {variant.n_trunk} are not {base.name}'s byte for byte"
    kinds = [
        {t.type_name for n in range(m.n_trunk) for t in m.layers[n] if len(t.ne) > 1}
        for m in (variant, base)
    ]
    if kinds[0] != kinds[1]:
        ours, theirs = (", ".join(sorted(names)) or "nothing" for names in kinds)
        text += f": they may have been quantised anew ({ours} here, {theirs} there)"
    hint = _hint(variant, base)
    if hint is None:
        return text
    return (
        f"{text}. Their vectors in F32, such as norms, are those of {hint.spec}; bytes do not "
        f"prove more, so name that map yourself if you trust it"
    )


def _hint(variant: Model, base: Model) -> LayerMap | None:
    """The map by which the layers' vectors in F32 are the base's, if there is just one."""
    ours, theirs = (_looks(m, _vectors, lambda _: None) for m in (variant, base))
    by_vectors: dict[Hashable, list[int]] = {}
    for source in range(base.n_trunk):
        by_vectors.setdefault(theirs(source), []).append(source)
    sources = [by_vectors.get(ours(out), []) for out in range(variant.n_trunk)]
    if any(len(candidates) != 1 for candidates in sources):
        return None
    return LayerMap(base.n_trunk, tuple(source for (source,) in sources))


def _listed(numbers: Sequence[int]) -> str:
    """1, 2, 3, 4 and 26 more."""
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    return f"{shown} and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else shown
