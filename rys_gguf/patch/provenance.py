"""The record of how a file was made: rys.version, rys.spec, rys.layer_map and rys.source."""

from __future__ import annotations

import os
from collections.abc import Iterator

from gguf.constants import GGUFValueType

from rys_gguf._version import __version__
from rys_gguf.errors import InvalidLayerMap
from rys_gguf.formats.header import KV, Header, Span
from rys_gguf.formats.model import Model
from rys_gguf.layers.layer_map import LayerMap

PROVENANCE = "rys."
VERSION_KEY = "rys.version"
SPEC_KEY = "rys.spec"
MAP_KEY = "rys.layer_map"
SOURCE_KEY = "rys.source"


def record(model: Model, layer_map: LayerMap) -> Iterator[KV]:
    """The KVs that record a map and its source: file name, size, SHA-256 of the header."""
    byteorder = model.header.byteorder
    string, array = GGUFValueType.STRING, GGUFValueType.ARRAY
    name = os.fsencode(model.files[0].path.name).decode("utf-8", "surrogateescape")
    source = [name, str(model.n_bytes), _digest(model)]
    yield KV.of(VERSION_KEY, string, __version__, byteorder=byteorder)
    yield KV.of(SPEC_KEY, string, layer_map.spec, byteorder=byteorder)
    yield KV.of(
        MAP_KEY, array, layer_map.sources, byteorder=byteorder, item_type=GGUFValueType.INT32
    )
    yield KV.of(SOURCE_KEY, array, source, byteorder=byteorder, item_type=string)


def recorded_map(header: Header, n_source: int) -> LayerMap | None:
    """The map that a file records, or None if it records none.

    Raises InvalidLayerMap if the record is not a map of `n_source` layers.
    """
    kv = header.get(MAP_KEY)
    if kv is None:
        return None
    if kv.item_type != GGUFValueType.INT32 or isinstance(kv.raw, Span):
        raise InvalidLayerMap(f"is {kv.type_name}, expected ARRAY[INT32]")
    return LayerMap(n_source, tuple(kv.value))


def recorded_source(header: Header) -> tuple[str, str, str] | None:
    """Name, size in bytes and the header's `sha256:...` of the recorded source, or None."""
    kv = header.get(SOURCE_KEY)
    parts = tuple(kv.value) if kv and kv.item_type == GGUFValueType.STRING else ()
    return parts if len(parts) == 3 else None  # noqa: PLR2004 - as `record` writes them


def is_source(header: Header, source: Model) -> bool:
    """Whether the recorded source has the size and the header of that model."""
    recorded = recorded_source(header)
    return recorded is not None and recorded[1:] == (str(source.n_bytes), _digest(source))


def _digest(model: Model) -> str:
    return f"sha256:{model.header_digest()}"


def resolve_layer_map(variant: Model, source: Model | None, spec: str | None = None) -> LayerMap:
    """The map from `source` to `variant`: `spec` if given, else the one the variant records.

    Without the source the record alone has to do; only a source tells how many layers the last
    ones of a map that drops them had. Raises InvalidLayerMap if there is no map, or it does not
    fit the models.
    """
    n_source = _least_source(variant.header) if source is None else source.n_trunk
    try:
        layer_map = (
            LayerMap.parse(spec, n_source) if spec else recorded_map(variant.header, n_source)
        )
    except InvalidLayerMap as e:
        raise InvalidLayerMap(str(e) if spec else f"{variant.name}: {MAP_KEY}: {e}") from e
    if layer_map is None:
        cure = "--source names the model it was made from" if source is None else (
            "say what it should be with --blocks or --layers"
        )  # fmt: skip
        raise InvalidLayerMap(f"{variant.name}: records no layer map; {cure}")
    if len(layer_map) != variant.n_trunk:
        base = "its source" if source is None else source.name
        raise InvalidLayerMap(
            f"{variant.name}: has {variant.n_trunk} layers, {layer_map.spec} makes "
            f"{len(layer_map)} of {base}"
        )
    return layer_map


def _least_source(header: Header) -> int:
    """The smallest number of layers a source can have, by the map on record."""
    kv = header.get(MAP_KEY)
    if kv is None or kv.item_type != GGUFValueType.INT32 or isinstance(kv.raw, Span):
        return 1
    return 1 + max(kv.value, default=0)
