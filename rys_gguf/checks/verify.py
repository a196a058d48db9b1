"""Check a finished file against its source, from the two files alone.

Nothing here asks the planner or the writer for their intentions: the expectations are derived from
the source and the map, value by value, and every deviation is listed. Only the table of layer rules
is shared; whether it agrees with the engine is for the engine to prove.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rys_gguf.checks.comparison import Comparison, Fault
from rys_gguf.checks.keys import key_faults
from rys_gguf.checks.weights import tensor_faults
from rys_gguf.errors import InvalidGGUF, InvalidLayerMap, RysError
from rys_gguf.files.source import Progress
from rys_gguf.formats.header import Header, padded
from rys_gguf.formats.limits import MIN_ALIGNMENT
from rys_gguf.formats.model import Model
from rys_gguf.formats.other_files import companion
from rys_gguf.formats.shards import Shards
from rys_gguf.layers.carry import ModelRules
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.patch.diff import show_value
from rys_gguf.patch.provenance import MAP_KEY, SOURCE_KEY, SPEC_KEY, is_source, recorded_map
from rys_gguf.text import harmless, printable


@dataclass(frozen=True, slots=True)
class Problem:
    """One deviation: the key, tensor or layer that deviates, and what is wrong with it."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{printable(self.where)}: {harmless(self.what)}"


def find_problems(
    path: str | os.PathLike[str],
    source_path: str | os.PathLike[str],
    spec: str | None = None,
    *,
    progress: Progress = lambda _: None,
) -> list[Problem]:
    """Every deviation of the file at `path` from what the map makes of the source.

    The map is the one recorded in the file. A `spec` takes its place, and a record that differs
    from it is a problem. `progress` is called with the bytes each step compared. Raises
    InvalidLayerMap if neither gives a map, InvalidGGUF if the source cannot be read, Refused if the
    source's metadata contradict each other.
    """
    with Model(source_path) as source:
        try:
            out = Shards(path)
        except InvalidGGUF as e:
            return [Problem("file", str(e))]
        with out:
            if what := companion(out.header):
                return [Problem("file", f"is {what}")]
            recorded, faults = _recorded_map(out.header, source)
            wanted = LayerMap.parse(spec, source.n_trunk) if spec else recorded
            if wanted is None:
                if faults:
                    return [Problem(where, what) for where, what in faults]
                raise InvalidLayerMap(
                    f"{out.files[0].name}: records no layer map; give the map it should have "
                    f"with --blocks or --layers"
                )
            if recorded and wanted != recorded:
                faults.append((MAP_KEY, f"records {recorded.spec}, expected {wanted.spec}"))
            rules = ModelRules.of(source, assume_uniform=True)
            pair = Comparison(out, source, wanted, rules)
            faults += [
                *_layout_faults(out, source),
                *key_faults(pair),
                *_kind_faults(pair),
                *tensor_faults(pair, progress),
            ]
            return [Problem(where, what) for where, what in faults]


def n_compared_bytes(path: str | os.PathLike[str]) -> int:
    """How many bytes of tensor data a verification of that file compares."""
    with Shards(path) as shards:
        return sum(t.n_bytes for t in shards.header.tensors)


def _recorded_map(header: Header, source: Model) -> tuple[LayerMap | None, list[Fault]]:
    """The map that the file records, if any, and what is wrong with the record."""
    if header.get(MAP_KEY) is None:
        return None, []
    faults = []
    layer_map = None
    try:
        layer_map = recorded_map(header, source.n_trunk)
    except InvalidLayerMap as e:
        faults.append((MAP_KEY, str(e)))
    spec, origin = header.get(SPEC_KEY), header.get(SOURCE_KEY)
    if layer_map and (spec is None or spec.value != layer_map.spec):
        shown = "missing" if spec is None else show_value(spec)
        faults.append((SPEC_KEY, f"is {shown}, the recorded map says {layer_map.spec}"))
    if not is_source(header, source):
        shown = "is missing" if origin is None else f"{show_value(origin)} is not {source.name}"
        faults.append((SOURCE_KEY, shown))
    return layer_map, faults


def _layout_faults(out: Shards, source: Model) -> Iterator[Fault]:
    header = out.header
    for what, have, want in (
        ("GGUF version", header.version, source.header.version),
        ("byte order", header.byteorder, source.header.byteorder),
    ):
        if have != want:
            yield what, f"is {have}, the source has {want}"
    wanted = source.header.output_alignment
    if MIN_ALIGNMENT <= header.alignment != wanted:
        yield "alignment", f"is {header.alignment}, expected {wanted}"
    for reader in out.readers:
        if int(reader.alignment) < MIN_ALIGNMENT:
            what = f"has alignment {reader.alignment}, llama.cpp needs at least {MIN_ALIGNMENT}"
            yield reader.file.name, what
    for issue in out.offset_issues():
        yield "tensor table", issue
    for reader in out.readers:
        table = reader.header.tensors
        ends = [t.offset + padded(t.n_bytes, int(reader.alignment)) for t in table]
        n_after = reader.file.n_bytes - reader.data_offset - max(ends, default=0)
        expected = source.n_trailing_bytes if len(out.readers) == 1 else 0
        if n_after != expected and table:
            what = f"has {n_after} bytes after the last tensor, expected {expected}"
            yield reader.file.name, what


def _kind_faults(pair: Comparison) -> Iterator[Fault]:
    """Every output must run as its source does, and so must the model as a whole."""
    kvs = {kv.key: kv for kv in pair.out.header.kvs}
    name = pair.out.files[0].name
    target = replace(pair.rules.meta, kvs=kvs, n_trunk=pair.n_trunk, file=name)
    try:
        yield from list(pair.rules.deviations(target, pair.layer_map))
    except RysError as e:
        yield "layer kinds", str(e)
