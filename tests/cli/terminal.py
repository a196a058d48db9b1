"""Run a command on a terminal of its own, as a user at a keyboard does."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import unicodedata
from pathlib import Path

from tests.command import command

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def on_terminal(
    *args: str | Path, columns: int = 100, timeout: float = 120, **environment: str
) -> tuple[int, str]:
    """The exit code, and everything the command printed on a terminal of that width."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environ = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "COLUMNS", "LINES"}}
    process = subprocess.Popen(
        command(*args),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8", **environment},
        start_new_session=True,
    )
    os.close(follower)
    output = bytearray()
    while True:
        try:
            part = os.read(leader, 1 << 16)
        except OSError:  # EIO: nobody holds the other end any more
            break
        if not part:
            break
        output += part
    os.close(leader)
    return process.wait(timeout), output.decode().replace("\r\n", "\n")


def width(line: str) -> int:
    """Columns that a line takes on a terminal; colours take none."""
    text = COLOUR.sub("", line)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
