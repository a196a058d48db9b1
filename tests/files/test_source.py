"""Files to read: exact reads, errors that name the file, locks, comparisons."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import types
from pathlib import Path

import pytest

from rys_gguf import InvalidGGUF
from rys_gguf.files import source as module
from rys_gguf.files.source import SourceFile, first_difference, lock_file


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Some bytes, more than are compared at a time."""
    path = tmp_path / "source"
    path.write_bytes(os.urandom(600_000))
    return path


def test_a_file_is_called_by_the_name_it_is_given(source: Path) -> None:
    """A file under a temporary name can be called what it will be."""
    with SourceFile(source, "out\x1b.gguf") as opened:
        assert opened.name == "out\\x1b.gguf"
        with pytest.raises(InvalidGGUF, match=r"^out.*: ends at byte 600000, 1 bytes earlier"):
            opened.read(0, 600_001)
    opened.close()  # once more is fine


@pytest.mark.parametrize("missing", ["preadv", "pread"])
def test_a_read_that_fails_is_named(
    source: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """A disk error says which file, and where in it."""

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with SourceFile(source) as opened:
        monkeypatch.delattr(os, missing)
        monkeypatch.setattr(os, "pread" if missing == "preadv" else "read", fail)
        with pytest.raises(InvalidGGUF, match="source: reading at byte 7: Input/output error"):
            opened.read(7, 10)


def test_a_file_that_changed_is_named(source: Path) -> None:
    """Its size or its time is another than when it was opened."""
    with SourceFile(source) as opened:
        opened.require_unchanged()
        os.utime(source, ns=(0, 0))
        with pytest.raises(InvalidGGUF, match="source: changed while it was read"):
            opened.require_unchanged()


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


# -- locks ---------------------------------------------------------------------------------------


def test_a_lock_is_held_until_the_file_is_closed(source: Path) -> None:
    """A second one is not given, whoever asks; afterwards it is."""
    with source.open("rb") as second:
        with source.open("rb") as first:
            assert lock_file(first.fileno())
            assert not lock_file(second.fileno())
        assert lock_file(second.fileno())


def test_a_file_system_without_locks_counts_as_free(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could hold a lock there."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with source.open("rb") as file:
        assert lock_file(file.fileno())


@pytest.mark.parametrize("is_taken", [False, True])
def test_windows_locks_through_its_own_call(
    source: Path, monkeypatch: pytest.MonkeyPatch, is_taken: bool
) -> None:
    """Without fcntl the C runtime's `locking` is asked for the first byte."""
    calls: list[tuple[int, int]] = []

    def locking(_: int, mode: int, n: int) -> None:
        calls.append((mode, n))
        if is_taken:
            raise OSError(errno.EACCES, "Permission denied")

    windows = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    monkeypatch.setattr(module, "fcntl", None)
    with source.open("rb") as file:
        assert lock_file(file.fileno()) == (not is_taken)
    assert calls == [(2, 1)]
