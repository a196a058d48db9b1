"""Write a plan: the encoded header, then every tensor's bytes, in long runs.

Memory does not depend on the size of the model: data moves inside the kernel or in small pieces.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from rys_gguf.files import OutputFile, Progress
from rys_gguf.header import Span, padded
from rys_gguf.plan import Plan


def write_plan(
    plan: Plan,
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Progress = lambda _: None,
) -> None:
    """Write the planned model to `path`, which appears only once it is complete.

    `progress` is called with the bytes each step wrote. Raises OutputFailed if the output cannot
    be written (it exists and `force` is not set, it is the source, the disk is full), InvalidGGUF
    if the source ends early or changes meanwhile; nothing is left behind then.
    """
    files = plan.model.files
    with OutputFile(path, files, plan.n_bytes, force=force) as out:
        for piece in _merged(pieces(plan)):
            if isinstance(piece, Span):
                out.copy(files[piece.shard], piece.offset, piece.n_bytes, progress)
            else:
                out.write(piece)
                progress(len(piece))
        plan.model.require_unchanged()
        out.commit()


def pieces(plan: Plan) -> Iterator[bytes | Span]:
    """The output's bytes in order, as literal bytes or spans of the source."""
    yield from plan.header.encode()
    alignment = plan.header.alignment
    files = plan.model.files
    for move in plan.moves:
        end = padded(move.span.offset + move.span.n_bytes, alignment)
        n_padded = padded(move.span.n_bytes, alignment)
        # Padding comes from the source as well, so that neighbours in the source stay one run.
        n = min(end, files[move.span.shard].n_bytes) - move.span.offset
        yield Span(move.span.offset, n, move.span.shard)
        if n < n_padded:
            yield bytes(n_padded - n)  # the last tensor of a file may lack its padding
    if trailing := plan.model.n_trailing_bytes:
        yield Span(plan.model.n_bytes - trailing, trailing, len(files) - 1)


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
