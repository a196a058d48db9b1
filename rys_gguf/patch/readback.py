"""Read a written file back before it gets its name, and compare it with the plan.

The files are opened by the same reader as any model. Sizes, every key, every tensor info, and the
kind that each layer would run as are compared with the plan. Tensor data is not read again;
`rys-gguf verify` compares it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from rys_gguf.errors import InvalidGGUF, OutputFailed, RysError
from rys_gguf.files.output import OutputFile
from rys_gguf.files.source import SourceFile, first_difference
from rys_gguf.formats.header import Header, Span, TensorInfo
from rys_gguf.formats.model import Model
from rys_gguf.formats.reader import HeaderReader
from rys_gguf.formats.shards import Shards
from rys_gguf.layers.carry import metadata_of
from rys_gguf.patch.plan import Plan, PlannedFile
from rys_gguf.patch.provenance import origins
from rys_gguf.text import quoted


def verify_written(
    source: Model | Shards,
    files: Sequence[PlannedFile],
    outputs: Sequence[OutputFile],
    check: Callable[[Shards], None] = lambda _: None,
) -> None:
    """Raise OutputFailed unless the complete, still nameless outputs are what was planned.

    `check` is called with the open outputs, and may raise a RysError of its own.
    """
    with contextlib.ExitStack() as stack:
        try:
            readers = [
                stack.enter_context(HeaderReader(output.temporary, output.name))
                for output in outputs
            ]
            for file, reader in zip(files, readers, strict=True):
                _require_size(file, reader)
                _require_header(file.header, reader)
                _require_header_bytes(source, file.header, reader.file)
            written = Shards(readers)
            if issues := written.offset_issues():
                raise InvalidGGUF(f"{written.files[0].name}: {issues[0]}")
            check(written)
        except RysError as e:
            raise OutputFailed(f"{e}; this is not what was planned, nothing was written") from e


def require_map(plan: Plan, written: Shards) -> None:
    """Raise InvalidGGUF unless each layer of the output is, and runs as, its source by the map."""
    output = Model(written)
    source, layer_map = plan.model, plan.layer_map
    if (output.n_trunk, output.n_mtp) != (len(layer_map), source.n_mtp):
        raise output.invalid(
            f"has {output.n_trunk} layers and {output.n_mtp} MTP blocks, not the planned "
            f"{len(layer_map)} and {source.n_mtp}"
        )
    recorded = origins(output.header)
    if recorded and recorded[0].layer_map != layer_map:
        raise output.invalid("records another layer map than the planned one")
    added = {scale.target.name for scale in plan.tensors if scale.source is None}
    for out, n in enumerate([*layer_map.sources, *range(source.n_trunk, source.block_count)]):
        if _shapes(output.layers[out], added) != _shapes(source.layers[n]):
            raise output.invalid(f"block {out} does not hold the tensors of source block {n}")
    for where, fault in plan.rules.deviations(metadata_of(output), layer_map):
        raise output.invalid(f"{where}: {fault}")


def _shapes(
    tensors: Sequence[TensorInfo], added: set[str] | frozenset[str] = frozenset()
) -> set[tuple[str, tuple[int, ...], int]]:
    """Name within the layer, ne and type of each tensor that was not added by the plan."""
    return {(t.name.split(".", 2)[2], t.ne, t.type) for t in tensors if t.name not in added}


def _require_size(file: PlannedFile, reader: HeaderReader) -> None:
    if reader.file.n_bytes != file.n_bytes:
        raise OutputFailed(
            f"{reader.file.name}: has {reader.file.n_bytes} bytes, not the planned {file.n_bytes}"
        )


def _require_header(planned: Header, reader: HeaderReader) -> None:
    """Compare what the reader finds, value by value, so that the error can name what differs."""
    name, found = reader.file.name, reader.header
    if (found.version, found.byteorder) != (planned.version, planned.byteorder):
        raise OutputFailed(f"{name}: has another GGUF version or byte order")
    if [kv.key for kv in found.kvs] != [kv.key for kv in planned.kvs]:
        raise OutputFailed(f"{name}: has different keys")
    for kv, want in zip(found.kvs, planned.kvs, strict=True):
        same_raw = isinstance(want.raw, Span) or kv.raw == want.raw
        types = (kv.type, kv.item_type, kv.n_items, kv.n_value_bytes)
        if types != (want.type, want.item_type, want.n_items, want.n_value_bytes) or not same_raw:
            raise OutputFailed(f"{name}: key {quoted(kv.key)} has another value")
    if len(found.tensors) != len(planned.tensors):
        raise OutputFailed(f"{name}: has {len(found.tensors)} tensors, not {len(planned.tensors)}")
    for info, expected in zip(found.tensors, planned.tensors, strict=True):
        if info != expected:
            raise OutputFailed(f"{name}: tensor {quoted(expected.name)} has another tensor info")


def _require_header_bytes(source: Model | Shards, planned: Header, file: SourceFile) -> None:
    """Compare the header byte by byte: long values with the source's, padding included."""
    offset = 0
    for piece in planned.encode():
        if isinstance(piece, Span):
            n = piece.n_bytes
            original = source.files[piece.shard]
            at = first_difference(file, offset, original, piece.offset, n, lambda _: None)
        else:
            n = len(piece)
            written = file.read(offset, n)
            pairs = enumerate(zip(written, piece, strict=True)) if written != piece else ()
            at = next((i for i, (a, b) in pairs if a != b), None)
        if at is not None:
            raise OutputFailed(f"{file.name}: byte {offset + at} of the header differs")
        offset += n
