"""The last step of a write, and what stands in where the platform lacks a call."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rys_gguf import OutputFailed
from rys_gguf.files import copying, output
from rys_gguf.files.output import OutputFile, commit_all
from rys_gguf.files.source import SourceFile, first_difference
from tests.command import leftovers


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Some bytes to copy, in a folder of their own."""
    path = tmp_path / "in" / "source"
    path.parent.mkdir()
    path.write_bytes(os.urandom(600_000))
    return path


def write(source: Path, out: Path, *, force: bool = False) -> None:
    """Copy a file the way models are written."""
    with SourceFile(source) as opened, OutputFile(out, (opened,), 0, force=force) as output:
        output.copy(opened, 0, opened.n_bytes, lambda _: None)
        commit_all([output])


def no_links(*_: object) -> None:
    """os.link of a file system that has none."""
    raise OSError(errno.EPERM, "no links here")


def test_without_hard_links_the_name_is_reserved_first(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT and the like get the same file, and still nothing is replaced."""
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
    """A signal between the file's name and the end of the run leaves nothing behind, as it says."""

    def interrupt(_: Path) -> None:
        assert (tmp_path / "out").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(output, "_sync_folder", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(source, tmp_path / "out")
    assert leftovers(tmp_path, [source.parent]) == set()


def test_another_runs_file_is_not_taken_back(source: Path, tmp_path: Path) -> None:
    """The name belongs to who got it first; the loser cleans up only after itself."""
    out = tmp_path / "out"
    with SourceFile(source) as opened, OutputFile(out, (opened,), 0, force=False) as output:
        out.write_text("theirs")
        with pytest.raises(OutputFailed, match="it was kept"):
            commit_all([output])
    assert out.read_text() == "theirs"
    assert leftovers(tmp_path, [source.parent, out]) == set()


def test_a_source_moved_to_the_outputs_name_is_kept(source: Path, tmp_path: Path) -> None:
    """--force looks again at the end: what was another file may be the source by then."""
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
    """A disk that reports the loss of data only at the sync gets no file with a name."""

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "lost a page")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputFailed, match="lost a page; nothing was written"):
        write(source, tmp_path / "out")
    assert leftovers(tmp_path, [source.parent]) == set()


def test_reserved_room_is_all_used(tmp_path: Path) -> None:
    """What is reserved for a long run is what it fills: no blocks stay behind the file's end."""
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
    """Neither reservation nor write-behind is there on macOS and Windows, or on every disk."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom((17 << 20) + 5))
    monkeypatch.setattr(copying, "_SYNC_FILE_RANGE", None)
    monkeypatch.setattr(copying, "_FALLOCATE", None if code is None else failing(code))
    write(source, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == source.read_bytes()


def test_no_room_to_reserve_is_an_error_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that filled up since it was looked at is named before bytes are moved in vain."""
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


def test_a_folder_that_fails_to_sync_is_an_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that the disk may have lost is not left standing."""
    real, n_synced = os.fsync, 0

    def fail_second(fd: int) -> None:
        nonlocal n_synced
        n_synced += 1
        if n_synced == 2:
            raise OSError(errno.EIO, "Input/output error")
        real(fd)

    monkeypatch.setattr(os, "fsync", fail_second)
    with pytest.raises(OutputFailed, match="cannot be synced"):
        write(source, tmp_path / "out")
    assert leftovers(tmp_path, [source.parent]) == set()


@pytest.mark.parametrize("missing", ["preadv", "pread"])
@pytest.mark.parametrize("at", [0, 262_143, 262_144, 599_999])
def test_the_first_difference_is_found_on_every_platform(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, missing: str
) -> None:
    """At the edges of the pieces too, with and without the calls that Windows lacks."""
    other = tmp_path / "other"
    data = bytearray(source.read_bytes())
    data[at] ^= 1
    other.write_bytes(data)
    monkeypatch.delattr(os, missing)
    with SourceFile(source) as a, SourceFile(other) as b:
        assert first_difference(a, 0, b, 0, a.n_bytes, lambda _: None) == at
        assert first_difference(a, 0, a, 0, a.n_bytes, lambda _: None) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody without rights")
def test_a_folder_that_may_not_be_entered_is_named(source: Path, tmp_path: Path) -> None:
    """No permission to look into the output's folder is a message, not a traceback."""
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
