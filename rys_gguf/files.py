"""Files that are safe to read from and to write to: the only module that touches the disk.

Input: a regular file, opened once, read with pread. It is never memory-mapped: a mapped file
that shrinks kills the process with SIGBUS, a short read is an error message.

Output: a fresh file under a short random name in the output's own folder, synced, and given its
name in one step that cannot replace anything unless asked to.

In between, data is shared where the file system can share blocks, else moved inside the kernel,
else read and written. What the platform offers is chosen here and nowhere else.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import stat
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from rys_gguf.errors import InvalidGGUF, OutputFailed, printable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Progress = Callable[[int], None]

# Large enough that system calls cost nothing, small enough for smooth progress and prompt Ctrl-C.
CHUNK_BYTES = 8 << 20
# The block size of nearly every file system; ZFS has larger ones.
BLOCK_BYTES = 4096
# Sharing and reserving take no time per byte, but should stop for a signal too.
_SHARE_BYTES = _RESERVE_BYTES = 1 << 30
# _IOW(0x94, 13, struct file_clone_range) of linux/fs.h; Python has the name since 3.12.
_FICLONERANGE = 0x4020940D
# Two buffers of this size stay in the processor's cache between reading and using them.
_BUFFER_BYTES = 256 << 10
# Shorter runs are not worth a call that reserves room for them.
_LONG_RUN_BYTES = 1 << 20


class SourceFile:
    """A regular file open for reading, with the size it had when it was opened."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.name = printable(self.path.name)
        try:
            # O_NONBLOCK: opening a FIFO must not wait for a writer.
            flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            self.fd = os.open(self.path, flags | getattr(os, "O_CLOEXEC", 0))
        except OSError as e:
            raise InvalidGGUF(f"{printable(self.path)}: {_reason(e)}") from e
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
        with contextlib.suppress(AttributeError, OSError):  # what fails is read again, and said
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
            raise InvalidGGUF(f"{self.name}: reading at byte {offset}: {_reason(e)}") from e

    def same_file(self, info: os.stat_result) -> bool:
        """Whether `info` describes this very file, under whatever name."""
        return os.path.samestat(self._opened, info)

    def require_unchanged(self) -> None:
        """Raise InvalidGGUF if size or modification time differ from when the file was opened."""
        now = os.fstat(self.fd)
        if (now.st_size, now.st_mtime_ns) != (self._opened.st_size, self._opened.st_mtime_ns):
            raise InvalidGGUF(
                f"{self.name}: changed while it was read; run again when it is complete"
            )


def commit_all(outputs: Sequence[OutputFile]) -> None:
    """Give several complete files their names, or none of them."""
    try:
        for output in outputs:
            output.commit()
    except BaseException:
        # Also the one that a signal stopped between having its name and saying so.
        for output in outputs:
            output.withdraw()
        raise


def lock_file(fd: int) -> bool:
    """Take the only lock there is on an open file, until it is closed; False if it is taken."""
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
    """Position of the first of `n` bytes in which two files differ, None if there is none."""
    left, right = bytearray(), bytearray()
    for done in range(0, n, _BUFFER_BYTES):
        size = min(_BUFFER_BYTES, n - done)
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


class OutputFile:
    """A file that exists under its name only once it is complete.

    with OutputFile(path, inputs, n_bytes, force=False) as out:
        out.write(...); out.copy(source, offset, n)
        out.commit()

    Leaving the block without `commit` removes everything. `n_bytes` is the room it will need; of
    what was copied `n_shared` bytes are blocks of the source and took none. Raises OutputFailed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        inputs: tuple[SourceFile, ...],
        n_bytes: int,
        *,
        force: bool,
    ) -> None:
        self.name = printable(Path(path).name)
        try:
            # Writing through a symbolic link writes what it points to, as cp and the shell do.
            self.path = Path(os.path.realpath(path))
        except OSError as e:  # a relative path in a folder that is gone
            raise OutputFailed(f"{self.name}: {_reason(e)}") from e
        self.name = printable(self.path.name)
        self.n_shared = 0
        self._n_appended = 0
        self._n_sent = 0  # of those, how many the disk was told to begin with
        self._inputs = inputs
        self._force = force
        self._fd = -1
        self._tmp: Path | None = None
        self._made: os.stat_result | None = None
        self._check_target()
        self._check_space(n_bytes)

    def __enter__(self) -> OutputFile:
        self.create()
        return self

    def create(self) -> None:
        """Make the file, under its random name."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        flags |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        tmp = self.path.parent / f".rys-{secrets.token_hex(6)}.tmp"
        self._tmp = tmp
        try:
            self._fd = os.open(tmp, flags, 0o666)
        except OSError as e:
            self._tmp = None
            raise OutputFailed(
                f"{printable(self.path.parent)}: cannot write here: {_reason(e)}"
            ) from e
        self._made = os.fstat(self._fd)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            # A complete file is closed by now; what this one could not keep is of no interest.
            with contextlib.suppress(OSError):
                self._close()
        finally:
            if self._tmp is not None:
                with contextlib.suppress(OSError):
                    self._tmp.unlink()
                self._tmp = None
        if isinstance(error, OSError):
            raise OutputFailed(f"{self.name}: {_reason(error)}; nothing was written") from error

    def write(self, data: bytes) -> None:
        """Append `data`, however many system calls it takes."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self._n_appended += len(data)

    def copy(self, source: SourceFile, offset: int, n: int, progress: Progress) -> None:
        """Append `n` bytes of `source` from `offset`: shared, or copied inside the kernel."""
        for done, is_shared in copy_bytes(source, self._fd, offset, n):
            self.n_shared += done if is_shared else 0
            self._n_appended += done
            if self._n_appended - self._n_sent >= CHUNK_BYTES:
                _start_writing(self._fd, self._n_sent, self._n_appended - self._n_sent)
                self._n_sent = self._n_appended
            progress(done)

    def commit(self) -> None:
        """Sync the file and give it its name; replaces an existing file only with `force`."""
        assert self._tmp is not None
        _sync(self._fd)
        self._close()
        if self._force:
            # Looked at again: what stood here when the run began may have been swapped since.
            self._check_target()
            os.replace(self._tmp, self.path)
        else:
            self._name_without_clobbering(self._tmp)
        self._tmp = None
        _sync_folder(self.path.parent)

    def withdraw(self) -> None:
        """Take the file's name away again if it has it, unless it replaced another."""
        if self._force or self._made is None:
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(self._made, os.lstat(self.path)):
                self.path.unlink()

    def _name_without_clobbering(self, tmp: Path) -> None:
        try:
            if os.name == "nt":
                tmp.rename(self.path)  # refuses an existing name, unlike POSIX rename
                return
            os.link(tmp, self.path)
        except FileExistsError as e:
            raise OutputFailed(
                f"{self.name}: somebody else wrote this file meanwhile; theirs was kept"
            ) from e
        except OSError as e:
            if e.errno not in _NO_LINKS:
                raise
            # No hard links here (FAT, some network and FUSE file systems): reserve, then replace.
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            try:
                os.replace(tmp, self.path)
            except BaseException:
                self.path.unlink()
                raise
        else:
            tmp.unlink()

    def _check_target(self) -> None:
        if not os.path.isdir(self.path.parent):
            raise OutputFailed(f"{printable(self.path.parent)}: no such folder")
        info = self._require_replaceable()
        if info is None:
            return
        if any(source.same_file(info) for source in self._inputs):
            raise OutputFailed(
                f"{self.name}: is the source model itself; choose another output (not even --force "
                f"replaces the source)"
            )
        if not self._force:
            raise OutputFailed(f"{self.name}: exists already; --force replaces it")

    def _require_replaceable(self) -> os.stat_result | None:
        try:
            info = os.lstat(self.path)
        except FileNotFoundError:
            return None
        except OSError as e:
            raise OutputFailed(f"{self.name}: {_reason(e)}") from e
        if not stat.S_ISREG(info.st_mode):
            raise OutputFailed(f"{self.name}: is not a regular file; choose another output")
        return info

    def _check_space(self, n_bytes: int) -> None:
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(self.path.parent).free
            if free < n_bytes:
                raise OutputFailed(
                    f"{printable(self.path.parent)}: {n_bytes} bytes needed, {free} free; "
                    f"choose another folder with -o"
                )

    def _close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def can_share(
    source: SourceFile, out_folder: str | os.PathLike[str], alignment: int
) -> tuple[bool, str]:
    """Whether files in `out_folder` can share the tensors of a model aligned to `alignment` bytes.

    Tried with the source's own first block and a file that is gone again at once. The text says why
    not, in words for the user; it is empty if sharing is possible.
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
        return False, f"{printable(out_folder)}: {_reason(e)}"
    if alignment % block:
        option = f" --alignment {block}" if block > BLOCK_BYTES else ""
        return False, (
            f"tensors are aligned to {alignment} bytes, this file system's blocks to {block}; "
            f"make an aligned base once: rys-gguf align MODEL -o BASE{option}"
        )
    return True, ""


def copy_bytes(source: SourceFile, out_fd: int, offset: int, n: int) -> Iterator[tuple[int, bool]]:
    """Append n bytes of source to out_fd: the bytes done by each step, and whether it shared them.

    Shared where source, output and their offsets let blocks be; the rest by copy_file_range, which
    moves data inside the kernel; sendfile and then plain reads stand in where the file systems or
    the platform have no such call. Each may do less than asked. Raises OSError, InvalidGGUF if the
    source ends.
    """
    for done in _share(source, out_fd, offset, n):
        yield done, True
        offset, n = offset + done, n - done
    if n >= _LONG_RUN_BYTES:
        _reserve(out_fd, os.lseek(out_fd, 0, os.SEEK_CUR), n)
    ways = _copy_ways()
    for step in ways:
        while n:
            try:
                done = step(source, out_fd, offset, min(n, CHUNK_BYTES))
            except OSError as e:
                if step is ways[-1] or e.errno not in _TRY_ANOTHER_WAY:
                    raise
                break
            if done == 0:
                # The file ended, or the call cannot serve this file (procfs, some FUSE): reading
                # tells which.
                break
            yield done, False
            offset, n = offset + done, n - done
        if not n:
            return


# EIO: reading and writing by themselves tell which of the two files it was.
_TRY_ANOTHER_WAY = frozenset({
    errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP,
    errno.EPERM, errno.EBADF, errno.ETXTBSY, errno.EIO,
})  # fmt: skip
_HAS_CLONE = sys.platform == "linux"
# EAGAIN: ZFS, of blocks it has not written yet.
_NO_SHARING = _TRY_ANOTHER_WAY | {errno.ENOTTY, errno.EAGAIN}
_NO_LINKS = frozenset({
    errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK,
})  # fmt: skip


def _share(source: SourceFile, out_fd: int, offset: int, n: int) -> Iterator[int]:
    """Let out_fd share the whole blocks of n bytes of source, as far as that goes."""
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
    """Share n bytes at the position of out_fd, and move it behind them."""
    at = os.lseek(out_fd, 0, os.SEEK_CUR)
    argument = struct.pack("=qQQQ", source.fd, offset, n, at)
    fcntl.ioctl(out_fd, getattr(fcntl, "FICLONERANGE", _FICLONERANGE), argument)
    os.lseek(out_fd, at + n, os.SEEK_SET)


def _copy_ways() -> list[Callable[[SourceFile, int, int, int], int]]:
    ways: list[Callable[[SourceFile, int, int, int], int]] = []
    if hasattr(os, "copy_file_range"):
        ways.append(lambda s, out, offset, n: os.copy_file_range(s.fd, out, n, offset))
    if hasattr(os, "sendfile") and sys.platform == "linux":  # elsewhere only to sockets
        ways.append(lambda s, out, offset, n: os.sendfile(out, s.fd, offset, n))
    return [*ways, _ReadWrite()]


class _ReadWrite:
    """The way that always works: read a piece, write it."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def __call__(self, source: SourceFile, out_fd: int, offset: int, n: int) -> int:
        n = min(n, _BUFFER_BYTES)
        if len(self._buffer) != n:  # the first piece, and the last
            self._buffer = bytearray(n)
        source.read_into(self._buffer, offset)
        view = memoryview(self._buffer)
        done = 0
        while done < n:
            done += os.write(out_fd, view[done:])
        return done


def _reserve(fd: int, offset: int, n: int) -> None:
    """Let the file system find room for the `n` bytes that come next, beyond the file's end.

    Without it ext4 looks for room page by page, and the same write takes longer than `cp`. Raises
    OSError if there is no room. Where room cannot be reserved nothing happens: posix_fallocate,
    and on FAT a reservation that moves the file's end, would write zeros instead.
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


def _start_writing(fd: int, offset: int, n: int) -> None:
    """Let the disk begin with bytes that are complete while the next are copied.

    The sync at the end then has little left to wait for: a third of the time of a large file. Only
    a hint: errors are the sync's to report, and elsewhere than on Linux nothing happens.
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


def _sync(fd: int) -> None:
    if hasattr(fcntl, "F_FULLFSYNC"):
        # macOS: fsync there leaves the data in the drive's cache. Not every file system can do it.
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


def _sync_folder(folder: Path) -> None:
    # Not every platform and file system lets a folder be opened or synced; the file itself is.
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        except OSError as e:
            if e.errno == errno.EIO:
                raise OutputFailed(f"{printable(folder)}: cannot be synced: {_reason(e)}") from e
        finally:
            os.close(fd)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
