"""Folders for temporary files. What a process that was killed left behind, the next one removes."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rys_gguf.files.source import lock_file

_NEW, _HELD = ".rys-new-", ".rys-held-"


@contextlib.contextmanager
def private_folder(place: Path | None = None) -> Iterator[Path]:
    """A folder that only this user may look into, and which is gone in the end.

    It is in the folder `place`, by default in that of the system. As long as it is in use it is
    locked. Those of this user at the same place that nobody has locked any more are removed.
    Raises OSError if it cannot be made.
    """
    made = Path(tempfile.mkdtemp(prefix=_NEW, dir=place))
    with contextlib.ExitStack() as stack:
        locks = stack.enter_context(_locked(made))
        # Under this name it is looked for, so it gets it with its lock.
        folder = made.rename(made.with_name(_HELD + made.name.removeprefix(_NEW)))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if locks:
            _remove_left(folder.parent)
        yield folder


def beside(model: Path) -> Path | None:
    """The folder of a model, where variants may share its blocks; None if it cannot be written."""
    folder = model.resolve().parent
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def _remove_left(place: Path) -> None:
    for path in place.glob(f"{_HELD}*"):
        with contextlib.suppress(OSError), _locked(path) as is_left:
            if is_left and path.stat().st_uid == os.getuid():
                shutil.rmtree(path)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether the folder is locked inside the block, which it was not before."""
    flags = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        fd = os.open(folder, flags)
    except OSError:  # such as Windows, which opens no folders
        yield False
        return
    try:
        yield lock_file(fd) and not _can_lock_again(folder, flags)
    finally:
        os.close(fd)


def _can_lock_again(folder: Path, flags: int) -> bool:
    """Whether a lock means nothing on this file system."""
    fd = os.open(folder, flags)
    try:
        return lock_file(fd)
    finally:
        os.close(fd)
