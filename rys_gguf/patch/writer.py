"""Write a plan: the encoded header, then every tensor's bytes, in runs as long as possible.

Memory does not depend on the size of the model: data moves inside the kernel or in small pieces.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rys_gguf.files.output import OutputFile, commit_all
from rys_gguf.files.source import Progress
from rys_gguf.formats.header import Span, padded, zeros
from rys_gguf.formats.model import Model
from rys_gguf.formats.shards import Shards, TensorData, shard_path
from rys_gguf.patch.plan import Plan, PlannedFile, split
from rys_gguf.patch.readback import require_map, verify_written
from rys_gguf.patch.sharing import room
from rys_gguf.patch.tensors import GatheredTensor

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Written:
    """The files of a finished output, and how their bytes got there.

    `n_shared` bytes are blocks of the source and take no room; `n_copied` are the rest.
    """

    paths: tuple[Path, ...]
    n_shared: int
    n_copied: int


def write_plan(
    plan: Plan,
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    split_max_bytes: int | None = None,
    progress: Progress = lambda _: None,
    may_be_link: bool = True,
) -> Written:
    """Write the planned model; its files appear only once all are complete and verified.

    The output is one file at `path`, or with `split_max_bytes` shards named after it, with at most
    that much tensor data each. `progress` is called with the bytes each step wrote. A link at
    `path` is written through unless `may_be_link` is False; one under the name of a shard never
    is. Raises OutputFailed if the output cannot be written (it exists and `force` is not set, it is
    the source, the disk is full, it does not read back as planned), InvalidGGUF if the source ends
    early or changes meanwhile; nothing is left behind then.
    """
    files = split(plan, split_max_bytes)
    path = Path(path)
    paths = [path]
    if len(files) > 1:
        paths = [shard_path(path, n + 1, len(files)) for n in range(len(files))]
    return write_files(
        plan.model,
        files,
        paths,
        force=force,
        progress=progress,
        may_be_link=may_be_link and len(files) == 1,
        check=lambda output: require_map(plan, output),
    )


def write_files(
    model: Model | Shards,
    files: Sequence[PlannedFile],
    paths: Sequence[Path],
    *,
    force: bool,
    progress: Progress,
    may_be_link: bool = True,
    check: Callable[[Shards], None] = lambda _: None,
) -> Written:
    """Write files planned from `model` to as many paths; all appear, or none.

    Before the files get their names their headers are read back, and `check` is called with the
    open files. Raises as `write_plan`, and what `check` raises as OutputFailed.
    """
    n_room = sum(room(model, file, path) for file, path in zip(files, paths, strict=True))
    with contextlib.ExitStack() as stack:
        outputs = [
            OutputFile(p, model.files, n_room, force=force, may_be_link=may_be_link) for p in paths
        ]
        for file, output in zip(files, outputs, strict=True):
            # Entered first, so that a signal while the file is made leaves nothing behind.
            stack.push(output)
            output.create()
            _write_file(model, file, output, progress)
        model.require_unchanged()
        verify_written(model, files, outputs, check)
        commit_all(outputs)
    n_shared = sum(output.n_shared for output in outputs)
    n_bytes = sum(file.n_bytes for file in files)
    return Written(tuple(paths), n_shared, n_bytes - n_shared)


def _write_file(
    model: Model | Shards, file: PlannedFile, out: OutputFile, progress: Progress
) -> None:
    for piece in _merged(_pieces(model, file)):
        if isinstance(piece, Span):
            out.copy(model.files[piece.shard], piece.offset, piece.n_bytes, progress)
        else:
            out.write(piece)
            progress(len(piece))


def _pieces(model: Model | Shards, file: PlannedFile) -> Iterator[bytes | Span]:
    """The file's bytes in order, as literal bytes or spans of the source."""
    yield from file.header.encode()
    alignment = file.header.alignment
    for tensor in file.tensors:
        n = tensor.target.n_bytes
        n_padding = padded(n, alignment) - n
        data = tensor.data
        if isinstance(data, TensorData) and data.n_padding == n_padding:
            # Padding comes from the source as well, so that neighbours there stay one run.
            yield Span(data.span.offset, data.span.n_bytes + n_padding, data.span.shard)
            continue
        if isinstance(data, TensorData):
            yield data.span
        elif isinstance(data, GatheredTensor):
            yield from gathered(model, data)
        else:
            yield data
        yield from zeros(n_padding)
    if file.n_trailing_bytes:
        yield Span(model.n_bytes - file.n_trailing_bytes, file.n_trailing_bytes)


def gathered(model: Model | Shards, tensor: GatheredTensor) -> Iterator[bytes]:
    """The rows of a gathered tensor, in pieces of about a MiB."""
    span = tensor.data.span
    row_bytes = tensor.n_slices * tensor.slice_bytes
    if row_bytes > _PIECE_BYTES:
        # Read slice by slice: nothing but the file bounds the length of a row.
        for row, n in itertools.product(range(tensor.n_rows), tensor.gather):
            start = span.offset + row * row_bytes + n * tensor.slice_bytes
            yield from model.read(Span(start, tensor.slice_bytes, span.shard))
        return
    n_rows = max(1, _PIECE_BYTES // row_bytes)
    file = model.files[span.shard]
    for row in range(0, tensor.n_rows, n_rows):
        n = min(n_rows, tensor.n_rows - row)
        raw = file.read(span.offset + row * row_bytes, n * row_bytes)
        rows = np.frombuffer(raw, np.uint8).reshape(n, tensor.n_slices, tensor.slice_bytes)
        yield rows[:, list(tensor.gather)].tobytes()


def _merged(pieces: Iterable[bytes | Span]) -> Iterator[bytes | Span]:
    """Join spans that are neighbours in the source."""
    pending: Span | None = None
    for piece in pieces:
        if isinstance(piece, Span) and pending and _follows(piece, pending):
            pending = Span(pending.offset, pending.n_bytes + piece.n_bytes, pending.shard)
            continue
        if pending is not None:
            yield pending
        pending = piece if isinstance(piece, Span) else None
        if isinstance(piece, bytes):
            yield piece
    if pending is not None:
        yield pending


def _follows(span: Span, before: Span) -> bool:
    return span.shard == before.shard and span.offset == before.offset + before.n_bytes
