"""Text files that a user names: suites, lists of windows, reports of checks."""

from __future__ import annotations

import os

from rys_gguf.errors import InvalidGGUF, RysError
from rys_gguf.files.source import SourceFile
from rys_gguf.text import printable, size

# Far more than anybody writes by hand or generates for a sweep.
MAX_BYTES = 64 << 20


def read_text(path: str | os.PathLike[str], what: str, limit: int = MAX_BYTES) -> str:
    r"""The text of a regular file of at most `limit` bytes; line ends become `\n`, a BOM goes.

    A pipe would block its reader and a device fill the memory, so both are refused. Raises
    RysError, which calls the content `what`: "cannot read the suite".
    """
    name = printable(path)
    try:
        with SourceFile(path) as file:
            if file.n_bytes > limit:
                raise RysError(
                    f"{name}: cannot read {what}: it has {size(file.n_bytes)}, at most "
                    f"{size(limit)} are read"
                )
            data = file.read(0, file.n_bytes)
    except InvalidGGUF as e:  # missing, not a regular file, or it shrank
        raise RysError(f"{name}: cannot read {what}: {str(e).rpartition(': ')[2]}") from e
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise RysError(f"{name}: {what} is not UTF-8 text (byte {e.start})") from e
    return text.replace("\r\n", "\n").replace("\r", "\n")
