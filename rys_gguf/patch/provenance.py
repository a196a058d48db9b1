"""The record of how a file was made, the models it was made from, and the maps between them.

`rys.spec`, `rys.layer_map`, `rys.source` and `rys.source_layers` lead to the original model, the
base, also where a variant was patched again. Then `rys.step.*` leads to the immediate source, and
`rys.parent.*` is that source's own record as it stood there. A damped map has the factors of its
layers beside it, as `rys.damping` and `rys.step.damping`. What a plan changes in the header is
kept for `unapply`: the old value of KEY as `rys.was.KEY`, the names of new keys in `rys.added`, and
in `rys.shards` how many tensors each file of a split source held.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gguf.constants import GGUFValueType

from rys_gguf._version import __version__
from rys_gguf.errors import InvalidLayerMap
from rys_gguf.formats.header import KV, ByteOrder, Header, Span
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.formats.model import Model
from rys_gguf.layers.layer_map import LayerMap

PROVENANCE = "rys."
VERSION_KEY = "rys.version"
SPEC_KEY = "rys.spec"
MAP_KEY = "rys.layer_map"
LAYERS_KEY = "rys.source_layers"
SOURCE_KEY = "rys.source"
STEP_SPEC_KEY = "rys.step.spec"
ADDED_KEY = "rys.added"
SHARDS_KEY = "rys.shards"
# In what belongs to a variant: the spec of the map that it followed.
REMAPPED_KEY = "rys.remapped"
# Read by nothing but `unapply`: earlier records and old values.
KEPT_FOR_UNDO = ("rys.parent.", "rys.was.")
_STEP = "rys.step."
_PARENT, _WAS = KEPT_FOR_UNDO
_NAME = "general.name"

_MAP, _DAMPING = "layer_map", "damping"
_STRING, _ARRAY, _INT32 = GGUFValueType.STRING, GGUFValueType.ARRAY, GGUFValueType.INT32
_FLOAT64 = GGUFValueType.FLOAT64


@dataclass(frozen=True, slots=True)
class Origin:
    """A model that a file was made from: what is recorded of it, and the maps that lead from it.

    `source` is its name, its size in bytes and `sha256:...` of its header, or None where the file
    does not say. `steps` lead to the file, the oldest first. `is_base`: the record goes back no
    further.
    """

    source: tuple[str, str, str] | None
    steps: tuple[LayerMap, ...]
    is_base: bool

    @property
    def layer_map(self) -> LayerMap:
        """The map from this model to the file."""
        return functools.reduce(compose, self.steps)

    def names(self, model: Model) -> bool:
        """Whether the record is of this model: its size and its header."""
        if self.source is None or self.source[1] != str(model.n_bytes):
            return False  # without hashing the header
        return self.source[1:] == _identity(model)


def compose(first: LayerMap, second: LayerMap) -> LayerMap:
    """The map that applies `second` to what `first` makes.

    Raises InvalidLayerMap if `second` is for another number of layers.
    """
    if second.n_source != len(first):
        raise InvalidLayerMap(
            f"{second.spec} is for {second.n_source} layers, {first.spec} makes {len(first)}"
        )
    damping = (second.damp(out) * first.damp(s) for out, s in enumerate(second.sources))
    return LayerMap(first.n_source, tuple(first[s] for s in second.sources), tuple(damping))


# -- writing -------------------------------------------------------------------------------------


def with_record(model: Model, layer_map: LayerMap, kvs: Sequence[KV]) -> tuple[KV, ...]:
    """The output's KVs with the name marked and the record: of the source's, and of this step.

    `kvs` are the source's in its order, with the values that they have in the output, and then the
    new ones. The source's own record stays where it is, as that of the parent.
    """
    earlier = valid_origins(model)
    whole = compose(earlier[-1].layer_map, layer_map) if earlier else layer_map
    name = unmarked_name(model.header)
    marked = []
    for kv in kvs:
        if kv.key.startswith(PROVENANCE):
            marked.append(replace(kv, key=_PARENT + kv.key.removeprefix(PROVENANCE)))
        elif kv.key == _NAME and name is not None:
            # A variant that got a name of its own since keeps it.
            label = (layer_map if earlier and name == kv.value else whole).label
            marked.append(KV.of(kv.key, kv.type, f"{name} {label}", byteorder=kv.byteorder))
        else:
            marked.append(kv)
    own = _record(model, earlier, layer_map, whole)
    return (*marked, *own, *_undoing(model, marked))


def unmarked_name(header: Header) -> str | None:
    """general.name without the label of the file's own map; None if it is no short text."""
    kv = header.get(_NAME)
    if kv is None or kv.type != _STRING or isinstance(kv.raw, Span):
        return None
    name = str(kv.value)
    try:
        found = origins(header)
    except InvalidLayerMap:
        return name
    return name.removesuffix(f" {found[-1].layer_map.label}") if found else name


def _record(
    model: Model, earlier: Sequence[Origin], layer_map: LayerMap, whole: LayerMap
) -> Iterator[KV]:
    """The map and its source; where the source is a variant, also the last step on its own."""
    order = model.header.byteorder
    name = os.fsencode(model.files[0].path.name).decode("utf-8", "surrogateescape")
    here = (name, *_identity(model))
    yield KV.of(VERSION_KEY, _STRING, __version__, byteorder=order)
    base = earlier[-1].source if earlier else None
    is_known = not earlier or knows_all_layers(model.header)
    shown = whole if is_known else replace(whole, n_source=MAX_LAYERS)  # as a path, not windows
    yield from _map_and_source(PROVENANCE, shown, base or here, order)
    if is_known:
        yield KV.of(LAYERS_KEY, GGUFValueType.UINT32, whole.n_source, byteorder=order)
    if earlier:
        yield from _map_and_source(_STEP, layer_map, here, order)


def _map_and_source(
    prefix: str, layer_map: LayerMap, source: Sequence[str], order: ByteOrder
) -> Iterator[KV]:
    yield KV.of(prefix + "spec", _STRING, layer_map.spec, byteorder=order)
    yield KV.of(prefix + _MAP, _ARRAY, layer_map.sources, byteorder=order, item_type=_INT32)
    if factors := layer_map.damping:
        yield KV.of(prefix + _DAMPING, _ARRAY, factors, byteorder=order, item_type=_FLOAT64)
    yield KV.of(prefix + "source", _ARRAY, source, byteorder=order, item_type=_STRING)


def _undoing(model: Model, kvs: Sequence[KV]) -> Iterator[KV]:
    """What the header alone does not tell `unapply`: old values, new keys, tensors per file."""
    order = model.header.byteorder
    before = {kv.key: kv for kv in model.header.kvs}
    carried = [kv for kv in kvs if not kv.key.startswith(PROVENANCE)]
    for kv in carried:
        old = before.get(kv.key)
        if old is not None and old != kv:
            yield replace(old, key=_WAS + old.key)
    added = [kv.key for kv in carried if kv.key not in before]
    if added:
        yield KV.of(ADDED_KEY, _ARRAY, added, byteorder=order, item_type=_STRING)
    if len(model.files) > 1:
        shards = [model.data(tensor).span.shard for tensor in model.header.tensors]
        counts = [shards.count(n) for n in range(len(model.files))]
        yield KV.of(SHARDS_KEY, _ARRAY, counts, byteorder=order, item_type=_INT32)


def _identity(model: Model) -> tuple[str, str]:
    return str(model.n_bytes), f"sha256:{model.header_digest()}"


# -- reading -------------------------------------------------------------------------------------


def origins(header: Header) -> tuple[Origin, ...]:
    """The models a file records that it was made from: its immediate source first, the base last.

    Empty if it records no map. Raises InvalidLayerMap if the record is no map, or its steps do not
    lead to the map on record.
    """
    kvs = {kv.key: kv for kv in header.kvs}
    if MAP_KEY not in kvs:
        return ()
    found: list[Origin] = []
    steps: tuple[LayerMap, ...] = ()
    prefix = PROVENANCE
    while f"{prefix}step.{_MAP}" in kvs:
        parent = kvs.get(f"{prefix}parent.{_MAP}")
        n_parent = parent.n_items if parent else 0
        steps = (_map_at(kvs, f"{prefix}step.", n_parent), *steps)
        found.append(Origin(_source_at(kvs, f"{prefix}step.source"), steps, is_base=False))
        prefix += "parent."
    n_base = _n_layers(kvs)
    base = Origin(
        _source_at(kvs, SOURCE_KEY),
        (_map_at(kvs, prefix, n_base), *steps),
        is_base=True,
    )
    recorded = _map_at(kvs, PROVENANCE, n_base)
    if base.layer_map != recorded:
        raise InvalidLayerMap(
            f"is {recorded.spec}, but the steps on record make {base.layer_map.spec}"
        )
    return (*found, base)


def valid_origins(model: Model) -> tuple[Origin, ...]:
    """The origins of a variant; empty if it records none, or the record does not fit the model."""
    try:
        found = origins(model.header)
    except InvalidLayerMap:
        return ()
    fits = found and len(found[-1].layer_map) == model.n_trunk and found[-1].source is not None
    return found if fits else ()


def origin_of(header: Header, source: Model) -> Origin | None:
    """Which of the models on record `source` is, by size and header; None without a record.

    If it is none of them, the one with as many layers is taken, or else the base; `Origin.names`
    tells. Raises InvalidLayerMap if the record is faulty or does not fit the source.
    """
    found = origins(header)
    if not found:
        return None
    n = source.n_trunk
    alike = [o for o in found if o.steps[0].n_source == n]
    exact = next((o for o in found if o.names(source)), None)
    origin = exact or (alike or found)[-1]
    first, *rest = origin.steps
    # Version 0.1.0 did not record how many layers its source had.
    return replace(origin, steps=(replace(first, n_source=n), *rest))


def recorded_map(header: Header, n_source: int) -> LayerMap | None:
    """The map from the original model that a file records, or None if it records none.

    Raises InvalidLayerMap if the record is not a map of `n_source` layers.
    """
    kvs = {kv.key: kv for kv in header.kvs}
    return _map_at(kvs, PROVENANCE, n_source) if MAP_KEY in kvs else None


def recorded_source(header: Header) -> tuple[str, str, str] | None:
    """Name, size in bytes and the header's `sha256:...` of the original model, or None."""
    return _source_at({kv.key: kv for kv in header.kvs}, SOURCE_KEY)


def is_source(header: Header, source: Model) -> bool:
    """Whether the original model on record has the size and the header of that model."""
    recorded = recorded_source(header)
    return recorded is not None and recorded[1:] == _identity(source)


def resolve_layer_map(variant: Model, source: Model | None, spec: str | None = None) -> LayerMap:
    """The map from `source` to `variant`: `spec` if given, else the one the variant records.

    The source may be any of the models on record. Without one the map from the original model is
    meant; of a file of version 0.1.0 the record does not tell how many layers that had if the map
    drops the last ones. Raises InvalidLayerMap if there is no map, or it does not fit the models.
    """
    try:
        layer_map = _resolve(variant, source, spec)
    except InvalidLayerMap as e:
        raise InvalidLayerMap(str(e) if spec else f"{variant.name}: {MAP_KEY}: {e}") from e
    if layer_map is None:
        cure = "--source names the model it was made from" if source is None else (
            "say what it should be with --blocks or --layers, or let rys-gguf recover find it"
        )  # fmt: skip
        raise InvalidLayerMap(f"{variant.name}: records no layer map; {cure}")
    if len(layer_map) != variant.n_trunk:
        base = "its source" if source is None else source.name
        raise InvalidLayerMap(
            f"{variant.name}: has {variant.n_trunk} layers, {layer_map.spec} makes "
            f"{len(layer_map)} of {base}"
        )
    return layer_map


def _resolve(variant: Model, source: Model | None, spec: str | None) -> LayerMap | None:
    if spec:
        n_source = _n_layers({kv.key: kv for kv in variant.header.kvs})
        return LayerMap.parse(spec, n_source if source is None else source.n_trunk)
    if source is None:
        found = origins(variant.header)
        return found[-1].layer_map if found else None
    origin = origin_of(variant.header, source)
    return origin.layer_map if origin else None


def knows_all_layers(header: Header) -> bool:
    """Whether the record tells how many layers the original model had.

    Version 0.1.0 recorded only the map, which does not tell if it may have dropped the last ones.
    """
    spec = header.get(SPEC_KEY)
    is_text = spec is not None and spec.type == _STRING and not isinstance(spec.raw, Span)
    is_windows = spec is not None and is_text and str(spec.value).startswith("blocks:")
    return is_windows or header.get(LAYERS_KEY) is not None


def _map_at(kvs: Mapping[str, KV], prefix: str, n_source: int) -> LayerMap:
    kv, factors = kvs.get(prefix + _MAP), kvs.get(prefix + _DAMPING)
    if kv is None:
        raise InvalidLayerMap(f"{prefix}{_MAP} is missing")
    if kv.item_type != _INT32 or isinstance(kv.raw, Span):
        raise InvalidLayerMap(f"is {kv.type_name}, expected ARRAY[INT32]")
    if factors is None:
        return LayerMap(n_source, tuple(kv.value))
    if factors.item_type != _FLOAT64 or isinstance(factors.raw, Span):
        raise InvalidLayerMap(
            f"its {prefix}{_DAMPING} is {factors.type_name}, expected ARRAY[FLOAT64]"
        )
    return LayerMap(n_source, tuple(kv.value), tuple(factors.value))


def _source_at(kvs: Mapping[str, KV], key: str) -> tuple[str, str, str] | None:
    kv = kvs.get(key)
    is_short = kv is not None and kv.item_type == _STRING and not isinstance(kv.raw, Span)
    parts = tuple(kv.value) if kv and is_short else ()
    return parts if len(parts) == 3 else None  # noqa: PLR2004 - as `with_record` writes them


def _n_layers(kvs: Mapping[str, KV]) -> int:
    """How many layers the original model had, at least as many as the map on record names."""
    kv, recorded = kvs.get(MAP_KEY), kvs.get(LAYERS_KEY)
    least = 1
    if kv is not None and kv.item_type == _INT32 and not isinstance(kv.raw, Span):
        least += max(kv.value, default=0)
    if recorded is None or recorded.type != GGUFValueType.UINT32:
        return least
    return max(least, min(int(recorded.value), MAX_LAYERS))


# -- undoing -------------------------------------------------------------------------------------


def undone(kvs: Sequence[KV]) -> tuple[KV, ...]:
    """The immediate source's KVs in its order, as far as the record of the last step holds them."""
    was = {kv.key.removeprefix(_WAS): kv for kv in kvs if kv.key.startswith(_WAS)}
    added = next((kv for kv in kvs if kv.key == ADDED_KEY), None)
    is_list = added is not None and added.item_type == _STRING
    new = frozenset(added.value) if added and is_list else frozenset[str]()
    source = []
    for kv in kvs:
        if kv.key.startswith(_PARENT):
            source.append(replace(kv, key=PROVENANCE + kv.key.removeprefix(_PARENT)))
        elif kv.key in was:
            source.append(replace(was[kv.key], key=kv.key))
        elif not kv.key.startswith(PROVENANCE) and kv.key not in new:
            source.append(kv)
    return tuple(source)
