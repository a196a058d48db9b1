"""Write a plan: the encoded header, then every tensor's bytes, in long runs.

Memory does not depend on the size of the model: data moves inside the kernel or in small pieces.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rys_gguf.files.copying import can_share
from rys_gguf.files.output import OutputFile, commit_all
from rys_gguf.files.source import Progress
from rys_gguf.formats.header import Span, padded, zeros
from rys_gguf.formats.model import Model
from rys_gguf.formats.shards import TensorData, shard_path
from rys_gguf.patch.plan import GatheredTensor, Plan, PlannedFile, split


@dataclass(frozen=True, slots=True)
class Written:
    """The files of a finished output, and how their bytes came to be.

    `n_shared` bytes are blocks of the source and take no room, `n_copied` are the rest.
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
) -> Written:
    """Write the planned model; its files appear only once all are complete.

    One file at `path`, or with `split_max_bytes` shards named after it with at most that much
    tensor data each. `progress` is called with the bytes each step wrote. Raises OutputFailed if
    the output cannot be written (it exists and `force` is not set, it is the source, the disk is
    full), InvalidGGUF if the source ends early or changes meanwhile; nothing is left behind then.
    """
    files = split(plan, split_max_bytes)
    path = Path(path)
    paths = [path]
    if len(files) > 1:
        paths = [shard_path(path, n + 1, len(files)) for n in range(len(files))]
    return write_files(plan.model, files, paths, force=force, progress=progress)


def write_files(
    model: Model,
    files: Sequence[PlannedFile],
    paths: Sequence[Path],
    *,
    force: bool,
    progress: Progress,
) -> Written:
    """Write files planned from `model` to as many paths; all appear, or none. Raises as above."""
    room = sum(_room(model, file, path) for file, path in zip(files, paths, strict=True))
    with contextlib.ExitStack() as stack:
        outputs = [OutputFile(p, model.files, room, force=force) for p in paths]
        for file, output in zip(files, outputs, strict=True):
            # Cleaned up after even if a signal arrives while it is made.
            stack.push(output)
            output.create()
            _write_file(model, file, output, progress)
        model.require_unchanged()
        commit_all(outputs)
    n_shared = sum(output.n_shared for output in outputs)
    n_bytes = sum(file.n_bytes for file in files)
    return Written(tuple(paths), n_shared, n_bytes - n_shared)


def _room(model: Model, file: PlannedFile, path: Path) -> int:
    """Bytes of disk the file will take: what it shares with the source takes none."""
    alignment = file.header.alignment
    shared, _ = can_share(model.files[0], os.path.dirname(os.path.realpath(path)), alignment)
    if not shared or model.header.alignment % alignment:
        return file.n_bytes
    return file.n_bytes - sum(
        planned.target.n_bytes & -alignment for planned in file.tensors if planned.is_copy
    )


def _write_file(model: Model, file: PlannedFile, out: OutputFile, progress: Progress) -> None:
    for piece in _merged(_pieces(model, file)):
        if isinstance(piece, Span):
            out.copy(model.files[piece.shard], piece.offset, piece.n_bytes, progress)
        else:
            out.write(piece)
            progress(len(piece))


def _pieces(model: Model, file: PlannedFile) -> Iterator[bytes | Span]:
    """The file's bytes in order, as literal bytes or spans of the source."""
    yield from file.header.encode()
    for planned in file.tensors:
        n = planned.target.n_bytes
        n_padding = padded(n, file.header.alignment) - n
        if isinstance(planned.data, TensorData) and planned.data.n_padding == n_padding:
            # Padding comes from the source as well, so that neighbours there stay one run.
            span = planned.data.span
            yield Span(span.offset, span.n_bytes + n_padding, span.shard)
            continue
        if isinstance(planned.data, TensorData):
            yield planned.data.span
        elif isinstance(planned.data, GatheredTensor):
            yield from gathered(model, planned.data)
        else:
            yield planned.data
        yield from zeros(n_padding)
    if file.n_trailing_bytes:
        yield Span(model.n_bytes - file.n_trailing_bytes, file.n_trailing_bytes)


def gathered(model: Model, tensor: GatheredTensor) -> Iterator[bytes]:
    """The rows of a gathered tensor, in pieces of about a MiB."""
    span = tensor.data.span
    row_bytes = tensor.n_slices * tensor.slice_bytes
    if row_bytes > 1 << 20:
        # Long slices are read one by one: how long is for the file to say.
        for row, n in itertools.product(range(tensor.n_rows), tensor.gather):
            start = span.offset + row * row_bytes + n * tensor.slice_bytes
            yield from model.read(Span(start, tensor.slice_bytes, span.shard))
        return
    n_rows = max(1, (1 << 20) // row_bytes)
    file = model.files[span.shard]
    for row in range(0, tensor.n_rows, n_rows):
        n = min(n_rows, tensor.n_rows - row)
        raw = file.read(span.offset + row * row_bytes, n * row_bytes)
        rows = np.frombuffer(raw, np.uint8).reshape(n, tensor.n_slices, tensor.slice_bytes)
        yield rows[:, list(tensor.gather)].tobytes()


def _merged(parts: Iterator[bytes | Span]) -> Iterator[bytes | Span]:
    """Join spans that are neighbours in the source."""
    run: Span | None = None
    for part in parts:
        if isinstance(part, bytes):
            if run is not None:
                yield run
                run = None
            yield part
        elif run and part.shard == run.shard and part.offset == run.offset + run.n_bytes:
            run = Span(run.offset, run.n_bytes + part.n_bytes, run.shard)
        else:
            if run is not None:
                yield run
            run = part
    if run is not None:
        yield run
