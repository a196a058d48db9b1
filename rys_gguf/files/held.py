"""Temporary files and folders, locked while they are in use: what is not was left behind.

Under a name that begins with `held_prefix` there is only what is locked, or what a process left
that was killed. The name of the machine is part of it, because on a network file system a lock may
mean nothing to other machines.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import stat
import zlib
from pathlib import Path

from rys_gguf.files.source import lock_file

# A link is not followed, and a pipe is not waited for.
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def held_prefix() -> str:
    """The beginning of the names that processes of this machine give to what they hold."""
    return f".rys-held-{zlib.crc32(platform.node().encode()):08x}-"


def hold(fd: int, path: Path) -> bool:
    """Lock what was made under such a name; False if it was removed in the moment before that.

    `fd` is open on it, and holds the lock until the last copy of it is closed.
    """
    if os.name == "nt":  # nobody could write what is locked, and nothing is looked for
        return True
    lock_file(fd)
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def remove_left(place: Path) -> None:
    """Remove what processes of this user on this machine left in a folder when they were killed.

    Nothing is removed where a lock means nothing: on some network file systems, and on Windows.
    """
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):  # as of a folder that cannot be listed
        for path in place.glob(f"{held_prefix()}*"):
            _remove_unless_held(path)


def _remove_unless_held(path: Path) -> None:
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        fd = os.open(path, _FLAGS)
        stack.callback(os.close, fd)
        info = os.fstat(fd)
        if info.st_uid != os.getuid() or not lock_file(fd) or _can_lock_again(path):
            return
        if stat.S_ISDIR(info.st_mode):
            shutil.rmtree(path)
        elif stat.S_ISREG(info.st_mode):
            path.unlink()


def _can_lock_again(path: Path) -> bool:
    fd = os.open(path, _FLAGS)
    try:
        return lock_file(fd)
    finally:
        os.close(fd)
