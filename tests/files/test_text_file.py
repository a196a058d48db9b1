"""Text files of users, and of strangers: regular, of bearable size, and text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rys_gguf.errors import RysError
from rys_gguf.files.text_file import MAX_BYTES, read_text


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"a\nb\n", "a\nb\n"), (b"\xef\xbb\xbfa", "a"), (b"a\r\nb\rc", "a\nb\nc"), (b"", "")],
)
def test_text_is_text(tmp_path: Path, data: bytes, text: str) -> None:
    """Files of any editor read alike; a link that the user names is followed."""
    (tmp_path / "real").write_bytes(data)
    (tmp_path / "link").symlink_to("real")
    assert read_text(tmp_path / "real", "the list") == text
    assert read_text(tmp_path / "link", "the list") == text


def test_what_would_block_or_fill_the_memory_is_refused(tmp_path: Path) -> None:
    """A pipe that nobody writes to, a device without end, a folder, and terabytes of holes."""
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(RysError, match="cannot read the list: not a regular file"):
            read_text(path, "the list")
    with pytest.raises(RysError, match=r"at most 64\.0 MiB are read"):
        read_text(tmp_path / "huge", "the list")


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    """A missing file, and the first byte that is not UTF-8."""
    with pytest.raises(RysError, match="none: cannot read the list: No such file"):
        read_text(tmp_path / "none", "the list")
    (tmp_path / "binary").write_bytes(b"ab\xff")
    with pytest.raises(RysError, match=r"the list is not UTF-8 text \(byte 2\)"):
        read_text(tmp_path / "binary", "the list")
