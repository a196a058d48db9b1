"""Which ports a process and its children listen on, from Linux's /proc."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path

_LISTENS = "0A"


def listening_ports(pid: int) -> set[tuple[str, int]]:
    """Addresses and ports on which the process and all its descendants take connections."""
    inodes = {inode for p in (pid, *descendants(pid)) for inode in _sockets(Path(f"/proc/{p}/fd"))}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS and fields[9] in inodes:
                host, _, port = fields[1].partition(":")
                found.add((_address(host), int(port, 16)))
    return found


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, and those that they have started."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # The name before the last parenthesis may hold anything.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, new = set(), [pid]
    while new:
        new = [child for p in new for child in parents.get(p, ())]
        found.update(new)
    return found


def _sockets(folder: Path) -> set[str]:
    """The inodes of the sockets that a process has open."""
    found = set()
    with contextlib.suppress(OSError):
        for fd in folder.iterdir():
            with contextlib.suppress(OSError):
                kind, _, rest = os.readlink(fd).partition(":[")
                if kind == "socket":
                    found.add(rest.rstrip("]"))
    return found


def _address(text: str) -> str:
    """An address as /proc writes it: words of 32 bits, each in this machine's byte order."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    raw = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, raw)
