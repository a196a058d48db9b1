"""Ways to move bytes: sharing where it is possible, and what stands in for it."""

from __future__ import annotations

import errno
import os
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from rys_gguf import InvalidGGUF, OutputFailed
from rys_gguf.files import copying
from rys_gguf.files.copying import BLOCK_BYTES, can_share, copy_bytes
from rys_gguf.files.output import OutputFile
from rys_gguf.files.source import SourceFile

Clone = Callable[[SourceFile, int, int, int], None]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten blocks of bytes, and a piece of another."""
    path = tmp_path / "source"
    path.write_bytes(os.urandom(10 * BLOCK_BYTES + 100))
    return path


def cloning(calls: list[tuple[int, int]]) -> Clone:
    """The clone of a file system that shares blocks, here by copying them; calls are noted."""

    def clone(source: SourceFile, out_fd: int, offset: int, n: int) -> None:
        calls.append((offset, n))
        os.write(out_fd, source.read(offset, n))

    return clone


def failing(code: int, after: int = 0) -> Clone:
    """A clone that fails with this errno from a number of calls on."""
    calls: list[tuple[int, int]] = []
    clone = cloning(calls)

    def fail(source: SourceFile, out_fd: int, offset: int, n: int) -> None:
        if len(calls) >= after:
            raise OSError(code, os.strerror(code))
        clone(source, out_fd, offset, n)

    return fail


def copied(source: Path, out: Path, offset: int, n: int, at: int = 0) -> tuple[bytes, int]:
    """Copy n bytes behind `at` others: the bytes that arrive, and how many of them were shared."""
    with SourceFile(source) as opened, OutputFile(out, (opened,), 0, force=False) as output:
        output.write(bytes(at))
        output.copy(opened, offset, n, lambda _: None)
        output.commit()
        return out.read_bytes()[at:], output.n_shared


# -- sharing -------------------------------------------------------------------------------------


def test_whole_blocks_are_shared_and_the_rest_is_copied(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the last piece, which fills no block, is moved."""
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(copying, "_clone", cloning(calls))
    monkeypatch.setattr(copying, "_SHARE_BYTES", 4 * BLOCK_BYTES)
    content = source.read_bytes()
    assert copied(source, tmp_path / "out", 0, len(content)) == (content, 10 * BLOCK_BYTES)
    assert calls == [(0, 4 * 4096), (4 * 4096, 4 * 4096), (8 * 4096, 2 * 4096)]


@pytest.mark.parametrize(("offset", "at"), [(1, 0), (0, 1), (100, 100)])
def test_bytes_off_the_blocks_are_copied(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int, at: int
) -> None:
    """Blocks can be shared only where they start at multiples of their size in both files."""
    monkeypatch.setattr(copying, "_clone", failing(errno.EIO))
    expected = source.read_bytes()[offset : offset + 8192]
    assert copied(source, tmp_path / "out", offset, 8192, at) == (expected, 0)


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EXDEV, errno.EAGAIN])
def test_a_file_system_that_stops_sharing_copies_the_rest(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Some blocks may be shared and others not."""
    monkeypatch.setattr(copying, "_clone", failing(code, after=2))
    monkeypatch.setattr(copying, "_SHARE_BYTES", BLOCK_BYTES)
    content = source.read_bytes()
    assert copied(source, tmp_path / "out", 0, len(content)) == (content, 2 * BLOCK_BYTES)


def test_a_disk_that_is_full_while_sharing_is_an_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copying instead would fail as well, later."""
    monkeypatch.setattr(copying, "_clone", failing(errno.ENOSPC))
    with pytest.raises(OutputFailed, match="No space left"):
        copied(source, tmp_path / "out", 0, 8192)


def test_without_clone_everything_is_copied(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only Linux has a call that shares parts of files."""
    monkeypatch.setattr(copying, "_HAS_CLONE", False)
    content = source.read_bytes()
    assert copied(source, tmp_path / "out", 0, len(content)) == (content, 0)
    with SourceFile(source) as opened:
        assert can_share(opened, tmp_path, 4096) == (
            False,
            "only Linux can share blocks between parts of files",
        )


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (errno.EXDEV, "the output would be on another file system than the model"),
        (errno.EOPNOTSUPP, "this file system does not share blocks between files"),
        (errno.EROFS, "Read-only file system"),
    ],
)
def test_why_blocks_cannot_be_shared_is_said(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, why: str
) -> None:
    """The reason is for the user, and nothing of the trial stays in the folder."""
    monkeypatch.setattr(copying, "_clone", failing(code))
    with SourceFile(source) as opened:
        is_shared, text = can_share(opened, tmp_path, 4096)
    assert not is_shared
    assert why in text
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("block", "alignment", "option"),
    [(4096, 4096, None), (4096, 8192, None), (4096, 32, ""), (16384, 4096, " --alignment 16384")],
)
def test_tensors_must_be_aligned_to_blocks(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    block: int,
    alignment: int,
    option: str | None,
) -> None:
    """Where they are not, the text names the command that makes an aligned base."""
    file_system = namedtuple("file_system", ["f_bsize"])  # noqa: PYI024 - stands in for a struct
    monkeypatch.setattr(os, "statvfs", lambda _: file_system(block))
    monkeypatch.setattr(copying, "_clone", cloning([]))
    with SourceFile(source) as opened:
        is_shared, text = can_share(opened, tmp_path, alignment)
    assert is_shared == (option is None) == (text == "")
    if option is not None:
        assert text.endswith(f"rys-gguf align MODEL -o BASE{option}")


# -- copying -------------------------------------------------------------------------------------


def unable(*_: object) -> int:
    """A call that the file systems at hand do not have."""
    raise OSError(errno.EXDEV, "not between these")


def nothing(*_: object) -> int:
    """A call that copies nothing, as copy_file_range does from procfs."""
    return 0


@pytest.mark.parametrize("copy_file_range", [unable, nothing])
@pytest.mark.parametrize("sendfile", [unable, nothing])
def test_reading_stands_in_for_calls_that_cannot(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    copy_file_range: Callable[..., int],
    sendfile: Callable[..., int],
) -> None:
    """Each way gives up on its own, and the file is the same."""
    monkeypatch.setattr(os, "copy_file_range", copy_file_range)
    monkeypatch.setattr(os, "sendfile", sendfile)
    content = source.read_bytes()
    assert copied(source, tmp_path / "out", 3, 9000) == (content[3:9003], 0)


def test_an_error_that_no_other_way_avoids_is_raised(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is full for every call."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(OutputFailed, match=r"out: No space left.*nothing was written"):
        copied(source, tmp_path / "out", 1, 100)


def test_a_source_that_ends_early_is_named(source: Path, tmp_path: Path) -> None:
    """The kernel's calls end silently; reading says where the file ended."""
    with SourceFile(source) as opened, (tmp_path / "out").open("wb") as out:
        os.truncate(source, 5000)
        with pytest.raises(InvalidGGUF, match="source: ends at byte 5000, 5000 bytes earlier"):
            list(copy_bytes(opened, out.fileno(), 0, 10_000))
