"""The files of a run folder, which may come from a stranger.

A link planted in a folder must not make a sweep write elsewhere, and a pipe or a device must not
block its reader or fill its memory. So files are opened without following links, have to be
regular, and are written to only if they have no other name. Appended lines are synced before
anything relies on them.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rys_gguf.errors import RysError
from rys_gguf.files.source import lock_file, reason
from rys_gguf.text import printable, size

# Far more than a sweep writes; a longer line would be read before it is found to be wrong.
MAX_BYTES = 4 << 30
MAX_LINE = 16 << 20
_PART = ".part"
_CHUNK = 1 << 16


def open_regular(path: Path, flags: int) -> int:
    """A descriptor of a regular file. Raises FileNotFoundError as it is, all else as RysError."""
    safe = flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    safe |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    if path.is_symlink():
        raise RysError(f"{printable(path)}: is a symbolic link; a run's files are regular files")
    try:
        fd = os.open(path, safe, 0o666)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as e:
        raise RysError(f"{printable(path)}: {reason(e)}") from e
    info = os.fstat(fd)
    fault = ""
    if not stat.S_ISREG(info.st_mode):
        fault = "is not a regular file"
    elif flags & (os.O_WRONLY | os.O_RDWR) and info.st_nlink > 1:
        fault = (
            "has another name (a hard link), and that file would change too; replace it by a copy"
        )
    if fault:
        os.close(fd)
        raise RysError(f"{printable(path)}: {fault}")
    return fd


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The complete lines of a file with their numbers, from 1; none if there is no such file.

    A last line without a line end was not written completely, and is left out.
    """
    try:
        fd = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    with os.fdopen(fd, "rb") as file:
        _require_size(path, fd, MAX_BYTES)
        number = 0
        while line := _line(path, file, number + 1):
            number += 1
            if not line.endswith(b"\n"):
                return
            yield number, line


def _line(path: Path, file: IO[bytes], number: int) -> bytes:
    try:
        line = file.readline(MAX_LINE + 1)
    except OSError as e:
        raise RysError(f"{printable(path)}: {reason(e)}") from e
    if len(line) > MAX_LINE:
        raise RysError(f"{printable(path)}, line {number}: is longer than {size(MAX_LINE)}")
    return line


def read_bytes(path: Path, limit: int = MAX_LINE) -> bytes:
    """A file's content. Raises FileNotFoundError as it is, all else as RysError."""
    fd = open_regular(path, os.O_RDONLY)
    with os.fdopen(fd, "rb") as file:
        _require_size(path, fd, limit)
        try:
            return file.read(limit)
        except OSError as e:
            raise RysError(f"{printable(path)}: {reason(e)}") from e


def _require_size(path: Path, fd: int, limit: int) -> None:
    n_bytes = os.fstat(fd).st_size
    if n_bytes > limit:
        raise RysError(f"{printable(path)}: has {size(n_bytes)}, expected at most {size(limit)}")


def cut_half_line(path: Path) -> None:
    """Remove what follows the last line end: a line that was not written completely."""
    try:
        fd = open_regular(path, os.O_RDWR)
    except FileNotFoundError:
        return
    with os.fdopen(fd, "r+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _CHUNK)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        file.truncate(end)


def append(path: Path, data: bytes) -> None:
    """Append and sync; after any failure the file has its old length. Raises RysError."""
    if not data:
        return
    fd = open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        with os.fdopen(fd, "ab", buffering=0) as file:
            before = os.fstat(fd).st_size
            try:
                _write_synced(file, data)
            except BaseException:
                with contextlib.suppress(OSError):
                    file.truncate(before)
                raise
    except OSError as e:
        raise RysError(
            f"{printable(path)}: {reason(e)}; run the same command again to continue"
        ) from e


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that its name stands for all of it or for nothing. Raises OSError."""
    part = path.with_name(path.name + _PART)
    part.unlink(missing_ok=True)
    try:
        # O_EXCL: if anything takes the name meanwhile, such as a link, it is not written to.
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with os.fdopen(fd, "wb", buffering=0) as file:
            _write_synced(file, data)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def is_part_of(name: str, names: tuple[str, ...]) -> bool:
    """Whether a file has one of `names`, or is the rest of an interrupted `write_whole`."""
    return name.removesuffix(_PART) in names


def take_lock(path: Path, flags: int = os.O_CREAT) -> IO[bytes] | None:
    """A file that holds the lock on `path` until it is closed; None if another process does."""
    file = os.fdopen(open_regular(path, os.O_RDWR | flags), "r+b", buffering=0)
    if lock_file(file.fileno()):
        return file
    file.close()
    return None


def _write_synced(file: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    os.fsync(file.fileno())
