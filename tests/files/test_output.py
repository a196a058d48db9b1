"""The last steps of a write, and the substitutes on platforms that lack a call."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rys_gguf import OutputFailed
from rys_gguf.files import copying, held, output
from rys_gguf.files.held import held_prefix
from rys_gguf.files.output import OutputFile, commit_all
from rys_gguf.files.source import SourceFile
from tests.command import leftovers


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Some bytes to copy, in a folder of their own."""
    path = tmp_path / "in" / "source"
    path.parent.mkdir()
    path.write_bytes(os.urandom(600_000))
    return path


def write(source: Path, out: Path, *, force: bool = False) -> None:
    """Copy a file in the way in which models are written."""
    with SourceFile(source) as opened, OutputFile(out, (opened,), 0, force=force) as output:
        output.copy(opened, 0, opened.n_bytes, lambda _: None)
        commit_all([output])


def no_links(*_: object) -> None:
    """os.link of a file system that has none."""
    raise OSError(errno.EPERM, "no links here")


def test_without_hard_links_the_name_is_reserved_first(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT and similar systems get the same file, and no existing file is replaced."""
    monkeypatch.setattr(os, "link", no_links)
    out = tmp_path / "out"
    write(source, out)
    assert out.read_bytes() == source.read_bytes()
    with pytest.raises(OutputFailed, match="exists already"):
        write(source, out)
    assert leftovers(tmp_path, [source.parent, out]) == set()


def test_a_reservation_that_comes_to_nothing_is_taken_back(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the reserved name cannot be used after all, no empty file stays there."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputFailed, match="the disk is gone"):
        write(source, tmp_path / "out")
    assert leftovers(tmp_path, [source.parent]) == set()


def test_an_interruption_after_the_naming_takes_the_name_back(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal after the file has its name leaves nothing behind, as the message says."""

    def interrupt(_: Path) -> None:
        assert (tmp_path / "out").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(output, "_sync_folder", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(source, tmp_path / "out")
    assert leftovers(tmp_path, [source.parent]) == set()


def test_another_runs_file_is_not_taken_back(source: Path, tmp_path: Path) -> None:
    """The first run to take the name keeps it; the other cleans up its own file only."""
    out = tmp_path / "out"
    with SourceFile(source) as opened, OutputFile(out, (opened,), 0, force=False) as output:
        out.write_text("theirs")
        with pytest.raises(OutputFailed, match="it was kept"):
            commit_all([output])
    assert out.read_text() == "theirs"
    assert leftovers(tmp_path, [source.parent, out]) == set()


def test_a_source_moved_to_the_outputs_name_is_kept(source: Path, tmp_path: Path) -> None:
    """--force checks again at the end, because the file to replace may be the source by then."""
    out = tmp_path / "out"
    out.write_text("old")
    data = source.read_bytes()
    with SourceFile(source) as opened, OutputFile(out, (opened,), 0, force=True) as output:
        source.replace(out)
        with pytest.raises(OutputFailed, match="source model itself"):
            commit_all([output])
    assert out.read_bytes() == data


def test_a_sync_that_fails_is_an_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a disk reports lost data only at the sync, the file does not get its name."""

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "lost a page")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputFailed, match="lost a page; nothing was written"):
        write(source, tmp_path / "out")
    assert leftovers(tmp_path, [source.parent]) == set()


def test_reserved_room_is_all_used(tmp_path: Path) -> None:
    """A long run fills all the room reserved for it; no blocks stay behind the file's end."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom((3 << 20) + 5))
    write(source, tmp_path / "out")
    written = (tmp_path / "out").stat()
    assert (tmp_path / "out").read_bytes() == source.read_bytes()
    assert written.st_blocks * 512 - written.st_size <= 1 << 16


@pytest.mark.parametrize("code", [None, errno.EOPNOTSUPP])
def test_where_no_room_can_be_reserved_the_file_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    """macOS, Windows and some file systems have neither reservation nor write-behind."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom((17 << 20) + 5))
    monkeypatch.setattr(copying, "_SYNC_FILE_RANGE", None)
    monkeypatch.setattr(copying, "_FALLOCATE", None if code is None else failing(code))
    write(source, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == source.read_bytes()


def test_no_room_to_reserve_is_an_error_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that filled up after the check is reported before any byte is copied."""
    source = tmp_path / "source"
    source.write_bytes(bytes(3 << 20))
    monkeypatch.setattr(copying, "_FALLOCATE", failing(errno.ENOSPC))
    monkeypatch.delattr(os, "copy_file_range")
    monkeypatch.delattr(os, "sendfile")
    monkeypatch.delattr(os, "write")
    with pytest.raises(OutputFailed, match="No space left"):
        write(source, tmp_path / "out")
    assert leftovers(tmp_path, [source]) == set()


def failing(code: int) -> Callable[..., int]:
    """A call of the C library that fails with this errno."""

    def call(*_: object) -> int:
        ctypes.set_errno(code)
        return -1

    return call


def failing_second(code: int) -> Callable[[int], None]:
    """An os.fsync whose second call, that of the folder, fails with this errno."""
    real, calls = os.fsync, itertools.count(1)

    def fsync(fd: int) -> None:
        if next(calls) == 2:
            raise OSError(code, os.strerror(code))
        real(fd)

    return fsync


def test_a_folder_that_fails_to_sync_is_an_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the disk may have lost the name, the name is taken back."""
    monkeypatch.setattr(os, "fsync", failing_second(errno.EIO))
    with pytest.raises(OutputFailed, match="cannot be synced"):
        write(source, tmp_path / "out")
    assert leftovers(tmp_path, [source.parent]) == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody without rights")
def test_a_folder_that_may_not_be_entered_is_named(source: Path, tmp_path: Path) -> None:
    """A folder without permission leads to a message, not a traceback."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o700)
    tmp_path.chmod(0o755)
    with SourceFile(source) as opened:
        os.seteuid(65534)
        try:
            with pytest.raises(OutputFailed, match=r"out|locked"):
                OutputFile(locked / "out", (opened,), 0, force=True)
        finally:
            os.seteuid(0)


def test_a_folder_that_is_gone_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same holds for a relative path in a folder that was removed."""
    with SourceFile(source) as opened:
        with pytest.raises(OutputFailed, match="none: no such folder"):
            OutputFile(tmp_path / "none" / "out", (opened,), 0, force=False)
        here = tmp_path / "here"
        here.mkdir()
        monkeypatch.chdir(here)
        here.rmdir()
        with pytest.raises(OutputFailed, match="out: No such file"):
            OutputFile("out", (opened,), 0, force=False)


def test_a_folder_that_takes_no_files_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says that the folder cannot be written to."""
    real = os.open

    def refuse(path: str | os.PathLike[str], flags: int, *mode: int) -> int:
        if str(path).endswith(".tmp"):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OutputFailed, match="cannot write here: Read-only file system"):
        write(source, tmp_path / "out")
    assert leftovers(tmp_path, [source.parent]) == set()


def test_room_is_looked_for_before_a_byte_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has both numbers; if the system cannot tell, writing is tried."""
    free = shutil.disk_usage(tmp_path).free
    with SourceFile(source) as opened:
        with pytest.raises(OutputFailed, match=rf"{free * 2} bytes needed, [0-9]+ free"):
            OutputFile(tmp_path / "out", (opened,), free * 2, force=False)

        def unknown(_: object) -> object:
            raise OSError(errno.ENOSYS, "not here")

        monkeypatch.setattr(shutil, "disk_usage", unknown)
        OutputFile(tmp_path / "out", (opened,), free * 2, force=False)


def test_an_error_that_no_reservation_avoids_is_raised(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only file systems without hard links get the other way of naming."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OutputFailed, match="out: No space left on device; nothing was written"):
        write(source, tmp_path / "out")
    assert leftovers(tmp_path, [source.parent]) == set()


@pytest.mark.parametrize("works", [True, False])
def test_macos_syncs_through_the_drives_cache(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    """F_FULLFSYNC is used where it exists, fsync where the file system cannot do it."""
    calls: list[str] = []

    class MacOS:
        """The part of fcntl that matters here."""

        F_FULLFSYNC = 51

        @staticmethod
        def fcntl(_: int, operation: int) -> None:
            """Sync the drive, if it works."""
            calls.append(f"fcntl {operation}")
            if not works:
                raise OSError(errno.ENOTSUP, "not here")

    monkeypatch.setattr(output, "fcntl", MacOS)
    monkeypatch.setattr(os, "fsync", lambda _: calls.append("fsync"))
    write(source, tmp_path / "out")
    # The last one is the folder's.
    assert calls == ["fcntl 51", "fsync"] if works else ["fcntl 51", "fsync", "fsync"]
    assert (tmp_path / "out").read_bytes() == source.read_bytes()


def test_a_folder_that_cannot_be_synced_at_all_is_no_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems have no such operation; the file itself is synced."""
    monkeypatch.setattr(os, "fsync", failing_second(errno.EINVAL))
    write(source, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == source.read_bytes()


def test_windows_names_a_file_by_a_rename_that_replaces_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows rename refuses a taken name; this test only sees that it is called."""
    out = tmp_path / "out"
    with SourceFile(source) as opened, OutputFile(out, (opened,), 0, force=False) as written:
        written.copy(opened, 0, 100, lambda _: None)
        with monkeypatch.context() as windows:
            windows.setattr(os, "name", "nt")
            windows.delattr(os, "link")
            written.commit()
    assert out.read_bytes() == source.read_bytes()[:100]
    assert leftovers(tmp_path, [source.parent, out]) == set()


def test_only_files_that_nobody_writes_are_removed(tmp_path: Path) -> None:
    """One that is being written stays and gets its name, however many others come and go."""
    left = tmp_path / f"{held_prefix()}0123456789ab.tmp"
    left.write_bytes(b"half")
    new = tmp_path / ".rys-0123456789ab.tmp"
    new.write_bytes(b"of an earlier version, or of somebody else")
    with OutputFile(tmp_path / "slow", (), 0, force=False) as slow:
        assert not left.exists()
        slow.write(b"slow")
        with OutputFile(tmp_path / "fast", (), 0, force=False) as fast:
            fast.write(b"fast")
            assert {slow.temporary, fast.temporary} < set(tmp_path.iterdir())
            fast.commit()
        slow.commit()
    assert sorted(p.name for p in tmp_path.iterdir()) == [new.name, "fast", "slow"]


def test_a_file_that_is_removed_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may take it for one that was left behind."""
    made = []

    def late(fd: int) -> bool:
        (path,) = tmp_path.iterdir()
        made.append(path)
        if len(made) == 1:
            path.unlink()
        return True

    monkeypatch.setattr(held, "lock_file", late)
    with OutputFile(tmp_path / "out", (), 0, force=False) as out:
        assert out.temporary == made[1] != made[0]
        out.write(b"x")
        out.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
