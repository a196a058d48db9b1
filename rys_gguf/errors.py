"""The one exception family a caller has to know, and text that is safe to print.

Everything the package refuses, and every failure of a file or an engine that it expects, is
a `RysError` whose text is written for the person who typed the command: it names the file, the
key or tensor, what was expected, and where possible what to do. Any other exception is a bug.
"""

from __future__ import annotations

import os
import sys


class RysError(Exception):
    """Base of every error this package raises on purpose."""


class InvalidGGUF(RysError):
    """A file is not a GGUF that llama.cpp would open, or it changed while it was read."""


class InvalidLayerMap(RysError):
    """A layer spec does not parse, or does not fit the model."""


class Refused(RysError):
    """The model and the map are well formed, but the result would not compute what the map says."""


class OutputFailed(RysError):
    """The output could not be written; nothing is left behind and nothing was replaced."""


def printable(text: str | bytes | os.PathLike[str], limit: int = 200) -> str:
    r"""`text` with everything a terminal might act on escaped, at most about `limit` characters.

    Names and values come from files of strangers: control characters, lone surrogates and
    bidirectional overrides must not reach the terminal as they are.

    printable("a\x1b[2Jb") == "a\\x1b[2Jb"
    """
    shown = os.fsdecode(text) if not isinstance(text, str) else text
    cut = len(shown) > limit
    escaped = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown[:limit]
    )
    return escaped + "..." if cut else escaped


def harmless(text: str, limit: int = sys.maxsize) -> str:
    """`text` of any number of lines with each made `printable`: the last guard before printing."""
    return "\n".join(printable(line, limit) for line in text.split("\n"))
