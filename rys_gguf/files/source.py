"""Files to read: opened once, read with pread, checked for change.

They are never memory-mapped: a mapped file that shrinks kills the process with SIGBUS, while a
short read becomes an error message.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from rys_gguf.errors import InvalidGGUF
from rys_gguf.text import printable

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

Progress = Callable[[int], None]

# Two buffers of this size stay in the processor's cache between being read and being used.
BUFFER_BYTES = 256 << 10


class SourceFile:
    """A regular file open for reading, with the size it had when it was opened.

    Messages call it `name`, by default the name it has on disk. Raises InvalidGGUF if it cannot be
    opened.
    """

    def __init__(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        self.path = Path(path)
        self.name = printable(self.path.name if name is None else name)
        try:
            # O_NONBLOCK: opening a FIFO must not wait for a writer.
            flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            self.fd = os.open(self.path, flags | getattr(os, "O_CLOEXEC", 0))
        except OSError as e:
            raise InvalidGGUF(f"{printable(self.path)}: {reason(e)}") from e
        info = os.fstat(self.fd)
        if not stat.S_ISREG(info.st_mode):
            self.close()
            raise InvalidGGUF(f"{printable(self.path)}: not a regular file")
        self.n_bytes = info.st_size
        self._opened = info

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> SourceFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def read(self, offset: int, n: int) -> bytes:
        """Exactly `n` bytes from `offset`. Raises InvalidGGUF if the file ends before that."""
        parts = []
        while n:
            part = self._pread(n, offset)
            if not part:
                raise InvalidGGUF(
                    f"{self.name}: ends at byte {offset}, {n} bytes earlier than its header says"
                )
            parts.append(part)
            offset, n = offset + len(part), n - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_into(self, buffer: bytearray, offset: int) -> None:
        """Fill `buffer` from `offset`. Raises InvalidGGUF if the file ends before it is full."""
        done = 0
        with contextlib.suppress(AttributeError, OSError):  # reading again reports it
            done = os.preadv(self.fd, [buffer], offset)
        if done < len(buffer):
            buffer[done:] = self.read(offset + done, len(buffer) - done)

    def _pread(self, n: int, offset: int) -> bytes:
        try:
            if hasattr(os, "pread"):
                return os.pread(self.fd, n, offset)
            os.lseek(self.fd, offset, os.SEEK_SET)
            return os.read(self.fd, n)
        except OSError as e:
            raise InvalidGGUF(f"{self.name}: reading at byte {offset}: {reason(e)}") from e

    def same_file(self, info: os.stat_result) -> bool:
        """Whether `info` describes this very file, under any name."""
        return os.path.samestat(self._opened, info)

    def require_unchanged(self) -> None:
        """Raise InvalidGGUF if size or modification time differ from when the file was opened."""
        now = os.fstat(self.fd)
        if (now.st_size, now.st_mtime_ns) != (self._opened.st_size, self._opened.st_mtime_ns):
            raise InvalidGGUF(
                f"{self.name}: changed while it was read; run again when it is complete"
            )


def lock_file(fd: int) -> bool:
    """Lock an open file until it is closed; False if another process holds the lock.

    A file system without locks counts as free.
    """
    try:
        if fcntl is not None:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
    except OSError as e:
        return e.errno not in _TAKEN
    return True


_TAKEN = frozenset({errno.EAGAIN, errno.EACCES, errno.EDEADLK})


def first_difference(
    a: SourceFile, a_offset: int, b: SourceFile, b_offset: int, n: int, progress: Progress
) -> int | None:
    """Position of the first of `n` bytes in which two files differ; None if all are equal.

    `progress` is called with the number of equal bytes of each step.
    """
    left, right = bytearray(), bytearray()
    for done in range(0, n, BUFFER_BYTES):
        size = min(BUFFER_BYTES, n - done)
        if len(left) != size:  # the first piece, and the last
            left, right = bytearray(size), bytearray(size)
        a.read_into(left, a_offset + done)
        b.read_into(right, b_offset + done)
        if left != right:
            return done + next(
                i for i, (x, y) in enumerate(zip(left, right, strict=True)) if x != y
            )
        progress(size)
    return None


def reason(error: OSError) -> str:
    """What went wrong, in the system's words."""
    return error.strerror or str(error)
