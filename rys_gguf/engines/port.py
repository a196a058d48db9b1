"""Ports of 127.0.0.1: find a free one, and see who serves one."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_TABLE = Path("/proc/net/tcp")
_LISTENS = "0A"
_LOOPBACK = ("0100007F", "7F000001")  # as little and as big machines write it
_EVERYWHERE = "00000000"
_ROOT = 0


def free_port() -> int:
    """A port that nobody serves. Nobody can keep it free for another process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_taken(port: int, host: str = "127.0.0.1") -> bool:
    """Whether some process listens on that port of an address of this machine."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            # Connections that have just ended do not count. Windows gives the option another
            # meaning.
            if os.name == "posix":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError:
        return True
    return False


def stranger_at(port: int, table: Path = _TABLE) -> int | None:
    """The id of another user who serves that port, None if nobody else does.

    Root does not count: it may run a server for us, and needs no port to read our memory. Only
    Linux tells whose a port is (proc_pid_net(5)); elsewhere the answer is None.
    """
    try:
        lines = table.read_text("ascii").splitlines()[1:]
    except (OSError, UnicodeDecodeError):
        return None
    for fields in map(str.split, lines):
        address, _, number = fields[1].partition(":")
        owner = int(fields[7])
        if (
            fields[3] == _LISTENS
            and int(number, 16) == port
            and address in (*_LOOPBACK, _EVERYWHERE)
            and owner not in (os.getuid(), _ROOT)
        ):
            return owner
    return None
