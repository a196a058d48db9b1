"""Folders for temporary files. What a process that was killed left behind, the next one removes."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rys_gguf.files.held import held_prefix, hold, remove_left


@contextlib.contextmanager
def private_folder(place: Path | None = None) -> Iterator[Path]:
    """A folder that only this user may look into, and which is gone in the end.

    It is in the folder `place`, by default in that of the system. As long as it is in use it is
    locked. Those of this user at the same place that nobody has locked any more are removed.
    Raises OSError if it cannot be made.
    """
    with contextlib.ExitStack() as stack:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=held_prefix(), dir=place))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            if os.name == "nt":  # opens no folders
                break
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, fd)
                if hold(fd, folder):
                    break
        remove_left(folder.parent)
        yield folder


def beside(model: Path) -> Path | None:
    """The folder of a model, where variants may share its blocks; None if it cannot be written."""
    folder = model.resolve().parent
    return folder if os.access(folder, os.W_OK | os.X_OK) else None
