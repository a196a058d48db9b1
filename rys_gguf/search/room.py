"""The disk that a sweep needs, checked before anything is measured."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from rys_gguf.errors import OutputFailed
from rys_gguf.files.copying import can_share
from rys_gguf.formats.model import Model
from rys_gguf.runs.candidate import Candidate
from rys_gguf.text import printable

# What a header may grow by, in names, tables and room to grow further.
_HEADER_BYTES = 256 << 10


def bytes_needed(
    model: Model, candidates: Sequence[Candidate], folder: Path, n_combined: int = 1
) -> int:
    """Bytes on disk for the largest working file and, beside it, the largest finalist's file.

    As many as `n_combined` candidates may come together in one. Of blocks that are shared with the
    model only what differs counts. Workers side by side need as much each.
    """
    each = model.header.data_offset + _HEADER_BYTES
    shared, _ = can_share(model.files[0], _existing(folder), model.header.alignment)
    if not shared:
        layers = [sum(t.n_bytes for t in layer) for layer in model.layers]
        trunk = sum(layers[: model.n_trunk])
        largest = max(sum(layers[s] for s in c.layer_map.sources) for c in candidates)
        each += model.header.n_data_bytes + n_combined * (largest - trunk)
    return 2 * each


def bytes_free(folder: Path) -> int:
    """Free bytes where a run's folder is or will be; an earlier sweep's working files are free."""
    free = shutil.disk_usage(_existing(folder)).free
    with contextlib.suppress(OSError), os.scandir(folder / "work") as entries:
        free += sum(e.stat(follow_symlinks=False).st_size for e in entries)
    return free


def require_room(
    model: Model, candidates: Sequence[Candidate], folder: Path, n_combined: int = 1
) -> None:
    """Raise OutputFailed if `folder` is none, or a sweep's files cannot be written there or fit."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise OutputFailed(f"{printable(folder)}: is not a folder; choose another one with -o")
    existing = _existing(folder)
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputFailed(
            f"{printable(existing)}: cannot be written to; choose another folder with -o"
        )
    needed, free = bytes_needed(model, candidates, folder, n_combined), bytes_free(folder)
    if free < needed:
        raise OutputFailed(
            f"{printable(folder)}: {needed} bytes needed for the working file and a finalist's "
            f"file, {free} free; choose another folder with -o"
        )


def _existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    folder = folder.absolute()
    return next(p for p in (folder, *folder.parents) if p.is_dir())
