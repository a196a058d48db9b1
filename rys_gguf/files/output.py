"""Files to write: each appears under its name only once it is complete.

A new file with a short random name in the output's own folder is filled and synced. It then gets
its name in one step, which cannot replace another file unless asked to. Until then it is locked.
Such files that are not locked were left there by processes that were killed, and are removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rys_gguf.errors import OutputFailed
from rys_gguf.files.copying import CHUNK_BYTES, copy_bytes, start_writing
from rys_gguf.files.held import held_prefix, hold, remove_left
from rys_gguf.files.source import Progress, SourceFile, reason
from rys_gguf.text import printable

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

_NO_LINKS = frozenset({
    errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK,
})  # fmt: skip


def commit_all(outputs: Sequence[OutputFile]) -> None:
    """Give several complete files their names, or none of them."""
    try:
        for output in outputs:
            output.commit()
    except BaseException:
        # All of them: a signal may have stopped one between getting its name and returning.
        for output in outputs:
            output.withdraw()
        raise


class OutputFile:
    """A file that exists under its name only once it is complete.

    with OutputFile(path, inputs, n_bytes, force=False) as out:
        out.write(...); out.copy(source, offset, n)
        out.commit()

    Leaving the block without `commit` removes everything. `n_bytes` is the room the file will need.
    `n_shared` counts the copied bytes that are blocks of the source and took no room. A link is
    written through, as cp and the shell do, unless `may_be_link` is False: under a name that the
    user did not type it may have been planted. Raises OutputFailed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        inputs: tuple[SourceFile, ...],
        n_bytes: int,
        *,
        force: bool,
        may_be_link: bool = True,
    ) -> None:
        self.name = printable(Path(path).name)
        folder, name = os.path.split(path)
        try:
            self.path = Path(
                os.path.realpath(path)
                if may_be_link
                else os.path.join(os.path.realpath(folder), name)
            )
        except OSError as e:  # a relative path in a folder that is gone
            raise OutputFailed(f"{self.name}: {reason(e)}") from e
        self.name = printable(self.path.name)
        self.n_shared = 0
        self._n_appended = 0
        self._n_sent = 0  # of those, how many the disk was told to start on
        self._inputs = inputs
        self._force = force
        self._fd = self._lock = -1
        self._tmp: Path | None = None
        self._made: os.stat_result | None = None
        self._check_target()
        self._check_space(n_bytes)

    def __enter__(self) -> OutputFile:
        self.create()
        return self

    def create(self) -> None:
        """Make the file under its random name."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        flags |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        try:
            while self._tmp is None:
                self._tmp = self.path.parent / f"{held_prefix()}{secrets.token_hex(6)}.tmp"
                self._fd = os.open(self._tmp, flags, 0o666)
                self._made = os.fstat(self._fd)
                # The file is closed before it gets its name, and must be locked until it has it.
                self._lock = os.dup(self._fd)
                if not hold(self._lock, self._tmp):
                    self._discard()
        except OSError as e:
            if self._fd < 0:  # what has this name is not ours
                self._tmp = None
            self._discard()
            raise OutputFailed(
                f"{printable(self.path.parent)}: cannot write here: {reason(e)}"
            ) from e
        remove_left(self.path.parent)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._discard()
        if isinstance(error, OSError):
            raise OutputFailed(f"{self.name}: {reason(error)}; nothing was written") from error

    @property
    def temporary(self) -> Path:
        """Where the file is until `commit` gives it its name."""
        assert self._tmp is not None, "made by create, gone after commit"
        return self._tmp

    def write(self, data: bytes) -> None:
        """Append `data`, in as many system calls as it takes."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self._n_appended += len(data)

    def copy(self, source: SourceFile, offset: int, n: int, progress: Progress) -> None:
        """Append `n` bytes of `source` from `offset`, shared or copied inside the kernel.

        `progress` is called with the number of bytes each step appended.
        """
        for done, is_shared in copy_bytes(source, self._fd, offset, n):
            self.n_shared += done if is_shared else 0
            self._n_appended += done
            if self._n_appended - self._n_sent >= CHUNK_BYTES:
                start_writing(self._fd, self._n_sent, self._n_appended - self._n_sent)
                self._n_sent = self._n_appended
            progress(done)

    def commit(self) -> None:
        """Sync the file and give it its name; replaces an existing file only with `force`."""
        assert self._tmp is not None
        _sync(self._fd)
        self._close()
        if self._force:
            # Check again: another file may have taken this name since the run began.
            self._check_target()
            os.replace(self._tmp, self.path)
        else:
            self._name_without_clobbering(self._tmp)
        self._tmp = None
        self._unlock()
        _sync_folder(self.path.parent)

    def withdraw(self) -> None:
        """Take the name away again if this file has it and replaced no other."""
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
                f"{self.name}: another process wrote this file meanwhile; it was kept"
            ) from e
        except OSError as e:
            if e.errno not in _NO_LINKS:
                raise
            # No hard links (FAT, some network and FUSE file systems): reserve the name first.
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
            raise OutputFailed(f"{self.name}: {reason(e)}") from e
        if stat.S_ISLNK(info.st_mode):
            raise OutputFailed(f"{self.name}: is a link; remove it, or name another output")
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

    def _discard(self) -> None:
        """Remove it, unless it has its name by now."""
        try:
            # A complete file is closed by now; an incomplete one may fail to close.
            with contextlib.suppress(OSError):
                self._close()
        finally:
            if self._tmp is not None:
                with contextlib.suppress(OSError):
                    self._tmp.unlink()
                self._tmp = None
            self._unlock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            fd, self._lock = self._lock, -1
            os.close(fd)

    def _close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def _sync(fd: int) -> None:
    if hasattr(fcntl, "F_FULLFSYNC"):
        # macOS, where fsync leaves the data in the drive's cache. Not every file system can do it.
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


def _sync_folder(folder: Path) -> None:
    # Not every platform and file system can open or sync a folder; the file itself is synced.
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        except OSError as e:
            if e.errno == errno.EIO:
                raise OutputFailed(f"{printable(folder)}: cannot be synced: {reason(e)}") from e
        finally:
            os.close(fd)
