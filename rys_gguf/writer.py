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
    for move in plan.moves:
        span, n_padding = move.data.span, move.data.n_padding
        needed = padded(span.n_bytes, alignment) - span.n_bytes
        if n_padding == needed:
            # Padding comes from the source as well, so that neighbours there stay one run.
            yield Span(span.offset, span.n_bytes + needed, span.shard)
        else:
            yield span
            yield bytes(needed)
    if trailing := plan.model.n_trailing_bytes:
        yield Span(plan.model.n_bytes - trailing, trailing)


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
