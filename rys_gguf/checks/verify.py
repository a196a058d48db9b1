"""Check a finished file against its source, from the two files alone.

Nothing here asks the planner or the writer for their intentions: the expectations are derived from
the source and the map, value by value, and every deviation is listed. Only the table of layer rules
is shared; whether it agrees with the engine is for the engine to prove.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gguf.constants import GGUFValueType

from rys_gguf.checks.comparison import Comparison, Fault
from rys_gguf.checks.keys import key_faults
from rys_gguf.checks.weights import tensor_faults
from rys_gguf.errors import InvalidGGUF, InvalidLayerMap, RysError
from rys_gguf.files.source import Progress
from rys_gguf.formats.header import KV, Header, Span, padded
from rys_gguf.formats.limits import MIN_ALIGNMENT
from rys_gguf.formats.model import Model
from rys_gguf.formats.other_files import companion
from rys_gguf.formats.shards import Shards
from rys_gguf.layers.carry import ModelRules
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.patch.diff import show_value
from rys_gguf.patch.provenance import (
    MAP_KEY,
    SOURCE_KEY,
    SPEC_KEY,
    STEP_SPEC_KEY,
    compose,
    origin_of,
    origins,
)
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
            steps, faults = _recorded_steps(out.header, source)
            recorded = functools.reduce(compose, steps) if steps else None
            wanted = recorded
            # A second step may take back the first: what is left has a spec that parses to nothing.
            if spec and (recorded is None or spec != recorded.spec):
                wanted = LayerMap.parse(spec, source.n_trunk)
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
            if wanted != recorded:
                steps = (wanted,)
            pair = Comparison(out, source, wanted, rules, steps)
            faults += [
                *_layout_faults(pair),
                *key_faults(pair),
                *_kind_faults(pair),
                *tensor_faults(pair, progress),
            ]
            return [Problem(where, what) for where, what in faults]


def n_compared_bytes(path: str | os.PathLike[str]) -> int:
    """How many bytes of tensor data a verification of that file compares."""
    with Shards(path) as shards:
        return sum(t.n_bytes for t in shards.header.tensors)


def source_role(path: str | os.PathLike[str], source_path: str | os.PathLike[str]) -> str:
    """What the source is to a variant that was patched more than once; empty for any other.

    Raises InvalidGGUF if the source cannot be read.
    """
    with Model(source_path) as source:
        try:
            with Shards(path) as out:
                found = origins(out.header)
        except (InvalidGGUF, InvalidLayerMap):
            return ""  # `find_problems` says what is wrong
        if len(found) < 2:  # noqa: PLR2004 - the one model that every variant records
            return ""
        for n_steps, origin in enumerate(found, 1):
            if origin.names(source):
                middle = "its immediate source" if n_steps == 1 else f"{n_steps} steps before it"
                return "the original model it was made from" if origin.is_base else middle
    return ""


def _recorded_steps(header: Header, source: Model) -> tuple[tuple[LayerMap, ...], list[Fault]]:
    """The maps on record from this source to the file, if any, and what is wrong with the record.

    The source may be the immediate one or any before it: its size and header tell.
    """
    if header.get(MAP_KEY) is None:
        return (), []
    try:
        origin = origin_of(header, source)
    except InvalidLayerMap as e:
        return (), [(MAP_KEY, str(e))]
    if origin is None:
        return (), []
    faults = []
    key = SPEC_KEY if origin.is_base else STEP_SPEC_KEY
    recorded = origin.layer_map if origin.is_base else origin.steps[-1]
    spec = header.get(key)
    if not _spells(spec, recorded):
        shown = "missing" if spec is None else show_value(spec)
        faults.append((key, f"is {shown}, the recorded map says {recorded.spec}"))
    if not origin.names(source):
        recorded_as = origin.source[0] if origin.source else ""
        shown = f'"{printable(recorded_as)}"' if recorded_as else "missing"
        faults.append(
            (SOURCE_KEY, f"is {shown}, whose size or header is not that of {source.name}")
        )
    return origin.steps, faults


def _spells(spec: KV | None, layer_map: LayerMap) -> bool:
    """Whether this is the map's spec, in either notation."""
    if spec is None or spec.type != GGUFValueType.STRING or isinstance(spec.raw, Span):
        return False
    try:
        return spec.value == layer_map.spec or (
            LayerMap.parse(str(spec.value), layer_map.n_source) == layer_map
        )
    except InvalidLayerMap:
        return False


def _layout_faults(pair: Comparison) -> Iterator[Fault]:
    out, source = pair.out, pair.source
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
        # A model between the two may have been split, which leaves these bytes out.
        if n_after != expected and table and not (len(pair.steps) > 1 and n_after == 0):
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
