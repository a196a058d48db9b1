"""Whether an output will share blocks of its source on disk, and the room it takes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from rys_gguf.files.copying import can_share
from rys_gguf.formats.model import Model
from rys_gguf.formats.shards import Shards
from rys_gguf.patch.plan import Plan, PlannedFile


@dataclass(frozen=True, slots=True)
class Sharing:
    """Whether the output shares the blocks of its tensors with the source.

    `why_not` is a sentence for the user, empty if they are shared.
    """

    is_shared: bool
    why_not: str


def sharing(plan: Plan, path: str | os.PathLike[str] | None = None) -> Sharing:
    """Try whether the planned output at `path` (by default beside the source) can share blocks.

    A temporary file in the output's folder is made for the trial, and removed.
    """
    source = plan.model.files[0]
    folder = _folder(source.path if path is None else Path(path))
    return Sharing(*can_share(source, folder, plan.model.header.alignment))


def room(model: Model | Shards, file: PlannedFile, path: str | os.PathLike[str]) -> int:
    """Bytes of disk that the file will take at `path`: shared blocks take none."""
    alignment = file.header.alignment
    is_shared, _ = can_share(model.files[0], _folder(path), alignment)
    if not is_shared or model.header.alignment % alignment:
        return file.n_bytes
    return file.n_bytes - sum(t.target.n_bytes & -alignment for t in file.tensors if t.is_copy)


def _folder(path: str | os.PathLike[str]) -> str:
    """The folder of what `path` names, links followed."""
    return os.path.dirname(os.path.realpath(path))
