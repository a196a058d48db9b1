"""Move bytes from file to file as cheaply as the platform allows; its quirks are handled here.

Data is shared where the file system can share blocks, otherwise moved inside the kernel, otherwise
read and written.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator

from rys_gguf.files.source import BUFFER_BYTES, SourceFile, reason
from rys_gguf.text import printable

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

# Large enough that system calls cost nothing, small enough for smooth progress and prompt Ctrl-C.
CHUNK_BYTES = 8 << 20
# The block size of nearly every file system; ZFS has larger ones.
BLOCK_BYTES = 4096
# Sharing and reserving take no time per byte, but should stop for a signal too.
_SHARE_BYTES = _RESERVE_BYTES = 1 << 30
# _IOW(0x94, 13, struct file_clone_range) of linux/fs.h; Python has the name since 3.12.
_FICLONERANGE = 0x4020940D
# Shorter runs are not worth a call that reserves room for them.
_LONG_RUN_BYTES = 1 << 20

# A way to append up to n bytes of a source from an offset; it returns how many it did.
_Way = Callable[[SourceFile, int, int, int], int]


def can_share(
    source: SourceFile, out_folder: str | os.PathLike[str], alignment: int
) -> tuple[bool, str]:
    """Whether files in `out_folder` can share the tensors of a model aligned to `alignment` bytes.

    This is tried with the source's own first block and a temporary file. The text tells the user
    why sharing is impossible; it is empty if it is possible.
    """
    if not _HAS_CLONE:
        return False, "only Linux can share blocks between parts of files"
    try:
        block = os.statvfs(out_folder).f_bsize
        with tempfile.TemporaryFile(prefix=".rys-", dir=out_folder) as out:
            _clone(source, out.fileno(), 0, min(source.n_bytes, block))
    except OSError as e:
        if e.errno == errno.EXDEV:
            return False, "the output would be on another file system than the model"
        if e.errno in _NO_SHARING:
            return False, "this file system does not share blocks between files"
        return False, f"{printable(out_folder)}: {reason(e)}"
    if alignment % block:
        option = f" --alignment {block}" if block > BLOCK_BYTES else ""
        return False, (
            f"tensors are aligned to {alignment} bytes, this file system's blocks to {block}; "
            f"make an aligned base once: rys-gguf align MODEL -o BASE{option}"
        )
    return True, ""


def copy_bytes(source: SourceFile, out_fd: int, offset: int, n: int) -> Iterator[tuple[int, bool]]:
    """Append n bytes of source to out_fd: the bytes done by each step, and whether it shared them.

    Blocks are shared where source, output and their offsets allow it; the rest goes through
    copy_file_range, which moves data inside the kernel. sendfile and then plain reads stand in
    where the file systems or the platform have no such call. Each step may do less than asked.
    Raises OSError, and InvalidGGUF if the source ends.
    """
    for done in _share(source, out_fd, offset, n):
        yield done, True
        offset, n = offset + done, n - done
    if n >= _LONG_RUN_BYTES:
        _reserve(out_fd, os.lseek(out_fd, 0, os.SEEK_CUR), n)
    ways = _copy_ways()
    while n:
        done = _step(ways, source, out_fd, offset, n)
        yield done, False
        offset, n = offset + done, n - done


def _step(ways: list[_Way], source: SourceFile, out_fd: int, offset: int, n: int) -> int:
    """Copy a piece by the first way that can, and forget those before it."""
    while True:
        try:
            done = ways[0](source, out_fd, offset, min(n, CHUNK_BYTES))
        except OSError as e:
            if len(ways) == 1 or e.errno not in _TRY_ANOTHER_WAY:
                raise
            done = 0
        # Nothing done: the file ended, or the call cannot serve it (procfs, some FUSE). Reading,
        # the last way, tells which: it always makes progress or raises.
        if done:
            return done
        del ways[0]


# EIO is among them because reading and writing separately show which of the two files failed.
_TRY_ANOTHER_WAY = frozenset({
    errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP,
    errno.EPERM, errno.EBADF, errno.ETXTBSY, errno.EIO,
})  # fmt: skip
_HAS_CLONE = sys.platform == "linux"
# EAGAIN comes from ZFS, for blocks that it has not written yet.
_NO_SHARING = _TRY_ANOTHER_WAY | {errno.ENOTTY, errno.EAGAIN}


def _share(source: SourceFile, out_fd: int, offset: int, n: int) -> Iterator[int]:
    """Let out_fd share the whole blocks among n bytes of source, as far as possible."""
    if not _HAS_CLONE:
        return
    block = os.fstatvfs(out_fd).f_bsize
    if offset % block or os.lseek(out_fd, 0, os.SEEK_CUR) % block:
        return
    n -= n % block
    while n:
        size = min(n, _SHARE_BYTES)
        try:
            _clone(source, out_fd, offset, size)
        except OSError as e:
            if e.errno not in _NO_SHARING:
                raise
            return
        yield size
        offset, n = offset + size, n - size


def _clone(source: SourceFile, out_fd: int, offset: int, n: int) -> None:
    """Share n bytes at the position of out_fd, and move it past them."""
    at = os.lseek(out_fd, 0, os.SEEK_CUR)
    argument = struct.pack("=qQQQ", source.fd, offset, n, at)
    fcntl.ioctl(out_fd, getattr(fcntl, "FICLONERANGE", _FICLONERANGE), argument)
    os.lseek(out_fd, at + n, os.SEEK_SET)


def _copy_ways() -> list[_Way]:
    """The ways to copy on this platform, the cheapest first."""
    ways: list[_Way] = []
    if hasattr(os, "copy_file_range"):
        ways.append(lambda s, out, offset, n: os.copy_file_range(s.fd, out, n, offset))
    if hasattr(os, "sendfile") and sys.platform == "linux":  # elsewhere only to sockets
        ways.append(lambda s, out, offset, n: os.sendfile(out, s.fd, offset, n))
    return [*ways, _ReadWrite()]


class _ReadWrite:
    """The way that always works: read a piece and write it."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def __call__(self, source: SourceFile, out_fd: int, offset: int, n: int) -> int:
        n = min(n, BUFFER_BYTES)
        if len(self._buffer) != n:  # the first piece, and the last
            self._buffer = bytearray(n)
        source.read_into(self._buffer, offset)
        view = memoryview(self._buffer)
        done = 0
        while done < n:
            done += os.write(out_fd, view[done:])
        return done


def _reserve(fd: int, offset: int, n: int) -> None:
    """Let the file system find room for the next `n` bytes, beyond the file's end.

    Without it ext4 looks for room page by page, and writing takes longer than `cp`. Raises OSError
    if there is no room. Where room cannot be reserved nothing happens: the alternatives,
    posix_fallocate and on FAT a reservation that moves the file's end, would write zeros.
    """
    if _FALLOCATE is None:
        return
    for done in range(0, n, _RESERVE_BYTES):
        size = min(_RESERVE_BYTES, n - done)
        if _FALLOCATE(fd, _KEEP_SIZE, ctypes.c_int64(offset + done), ctypes.c_int64(size)):
            error = ctypes.get_errno()
            if error in _NO_ROOM:
                raise OSError(error, os.strerror(error))
            return


def start_writing(fd: int, offset: int, n: int) -> None:
    """Let the disk start on complete bytes while the next ones are copied.

    The sync at the end then has little left to wait for, which saves a third of the time of a
    large file. It is only a hint: the sync reports errors, and on other systems than Linux nothing
    happens.
    """
    if _SYNC_FILE_RANGE is not None:
        _SYNC_FILE_RANGE(fd, ctypes.c_int64(offset), ctypes.c_int64(n), _SYNC_FILE_RANGE_WRITE)


_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
# fallocate64: with 32-bit glibc the plain name takes 32-bit offsets.
_FALLOCATE = getattr(_LIBC, "fallocate64", None) or getattr(_LIBC, "fallocate", None)
_KEEP_SIZE = 1  # linux/falloc.h
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_SYNC_FILE_RANGE = getattr(_LIBC, "sync_file_range", None)
_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
