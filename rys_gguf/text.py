"""Words that are safe to print, whatever file they come from, and numbers as people read them."""

from __future__ import annotations

import os
import sys


def printable(text: str | bytes | os.PathLike[str], limit: int = 200) -> str:
    r"""`text` with everything a terminal might act on escaped, at most about `limit` characters.

    Names and values come from files of strangers: control characters, lone surrogates and
    bidirectional overrides must not reach the terminal as they are.

    printable("a\x1b[2Jb") == "a\\x1b[2Jb"
    """
    shown = os.fsdecode(text) if not isinstance(text, str) else text
    cut = len(shown) > limit
    shown = shown[:limit]
    if not shown.isprintable():
        shown = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown
        )
    return shown + "..." if cut else shown


def quoted(text: str | bytes | os.PathLike[str], limit: int = 200) -> str:
    """`text` made printable, in quotes; repr would escape the escapes again."""
    return f"'{printable(text, limit)}'"


def harmless(text: str, limit: int = sys.maxsize) -> str:
    """`text` of any number of lines with each made `printable`: the last guard before printing."""
    return "\n".join(printable(line, limit) for line in text.split("\n"))


def size(n: int, *, sign: bool = False) -> str:
    """A number of bytes for people, in powers of 1024; with `sign` as a change."""
    power = min(max(0, abs(n).bit_length() - 1) // 10, 4)
    unit = ("B", "KiB", "MiB", "GiB", "TiB")[power]
    text = f"{abs(n) / 1024**power:.{1 if power else 0}f} {unit}"
    return ("-" if n < 0 else "+" if sign else "") + text


def duration(seconds: float) -> str:
    """A length of time for people: 45 s, 12 min, 3 h 20 min."""
    if seconds < 100:  # noqa: PLR2004 - longer is easier to read in minutes
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"  # noqa: PLR2004
