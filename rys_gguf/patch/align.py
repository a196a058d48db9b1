"""Rewrite a model once so that its variants can share its blocks.

File systems share whole blocks, mostly of 4096 bytes; GGUF aligns tensors to 32. With
`general.alignment` 4096 every tensor of a model, and of every variant of it, starts on a block and
fills whole blocks, and a variant costs no more than the blocks of its header.
"""

from __future__ import annotations

import os
from pathlib import Path

from rys_gguf.files.copying import BLOCK_BYTES
from rys_gguf.files.source import Progress
from rys_gguf.formats.header import Header, with_alignment
from rys_gguf.formats.limits import MIN_ALIGNMENT
from rys_gguf.formats.model import Model
from rys_gguf.patch.plan import PlannedFile
from rys_gguf.patch.tensors import PlannedTensor, layout
from rys_gguf.patch.writer import Written, write_files

# The largest record of ZFS.
_MAX_ALIGNMENT = 1 << 24


def plan_aligned(model: Model, alignment: int = BLOCK_BYTES) -> PlannedFile:
    """The model as one file with that `general.alignment`; every other key and all data stay.

    Raises Refused if the alignment is not a power of two from 32 to 16 MiB, InvalidGGUF if
    llama.cpp would not load the tensor table.
    """
    if alignment & (alignment - 1) or not MIN_ALIGNMENT <= alignment <= _MAX_ALIGNMENT:
        raise model.refuse(
            f"cannot be aligned to {alignment} bytes: a power of two from {MIN_ALIGNMENT} to "
            f"{_MAX_ALIGNMENT} is needed"
        )
    if issues := model.offset_issues():
        raise model.invalid(issues[0])
    old = model.header
    tensors = layout((PlannedTensor(t, t, model.data(t)) for t in old.tensors), alignment)
    kvs = tuple(with_alignment(old.kvs, alignment, old.byteorder))
    header = Header(old.version, old.byteorder, kvs, tuple(t.target for t in tensors))
    return PlannedFile(header, tensors, model.n_trailing_bytes)


def align(
    model: Model,
    out_path: str | os.PathLike[str],
    *,
    alignment: int = BLOCK_BYTES,
    force: bool = False,
    progress: Progress = lambda _: None,
    may_be_link: bool = True,
) -> Written:
    """Write `plan_aligned` to a file, as safely as any output; shards become one file.

    `progress` is called with the bytes each step wrote. A link at `out_path` is written through
    unless `may_be_link` is False. Raises what `plan_aligned` raises, and
    OutputFailed if the output cannot be written; nothing is left behind then.
    """
    file = plan_aligned(model, alignment)
    return write_files(
        model, [file], [Path(out_path)], force=force, progress=progress, may_be_link=may_be_link
    )
