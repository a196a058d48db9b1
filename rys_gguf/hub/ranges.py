"""A file on a server, read as a file on disk is: in blocks, by requests for ranges of bytes."""

from __future__ import annotations

import os
import re
from pathlib import Path

from rys_gguf.errors import ModelUnavailable
from rys_gguf.files.source import SourceFile
from rys_gguf.text import printable, size

BLOCK_BYTES = 1 << 20
# Far more than any header takes, so that a hostile one does not fetch a whole model.
_MAX_BLOCKS = 256
_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})", re.ASCII)


class RangedFile(SourceFile):
    """A file at `url`, which has `n_bytes`; each block that is read is fetched once and kept.

    `path` is what the user calls the file, and names nothing on disk. Every read may raise
    ModelUnavailable.
    """

    def __init__(self, url: str, n_bytes: int, path: str) -> None:
        self.path = Path(path)
        self.name = printable(self.path.name)
        self.n_bytes = n_bytes
        self.fd = -1
        self._url = url
        self._blocks: dict[int, bytes] = {}
        self._etag: str | None = None

    def same_file(self, info: os.stat_result) -> bool:  # noqa: ARG002
        """Never: no file of this machine is it."""
        return False

    def require_unchanged(self) -> None:
        """Nothing to do: each block is checked when it arrives."""

    def _pread(self, n: int, offset: int) -> bytes:
        number, start = divmod(offset, BLOCK_BYTES)
        if offset >= self.n_bytes:
            return b""
        if number not in self._blocks:
            self._blocks[number] = self._fetch(number * BLOCK_BYTES)
        return self._blocks[number][start : start + n]

    def _fetch(self, first: int) -> bytes:
        """The block that begins at byte `first`."""
        from rys_gguf.hub.web import get  # only what is remote needs it

        if len(self._blocks) == _MAX_BLOCKS:
            raise self._fault(
                f"its header is larger than {size(_MAX_BLOCKS * BLOCK_BYTES)}, which no model's is"
            )
        n = min(BLOCK_BYTES, self.n_bytes - first)
        answer = get(self._url, str(self.path), n, range(first, first + n))
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        expected = (first, first + n - 1, self.n_bytes)
        if match is None or tuple(map(int, match.groups())) != expected or len(answer.body) != n:
            raise self._fault(f"the server sent other bytes than {first} to {first + n - 1}")
        etag = answer.headers.get("ETag")
        if self._blocks and etag != self._etag:
            raise self._fault("changed while it was read; run again")
        self._etag = etag
        return answer.body

    def _fault(self, what: str) -> ModelUnavailable:
        return ModelUnavailable(f"{printable(self.path)}: {what}")
