"""Ports: free ones are free, and a stranger at one is seen."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from rys_gguf.engines.port import free_port, is_taken, stranger_at

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"
ROW = "   0: {address}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 "
MINE = 1000


def table(path: Path, owner: int, address: str = "0100007F", state: str = "0A") -> Path:
    """A table in which `owner` listens on port 8080."""
    row = ROW.format(address=address, port=8080, state=state)
    path.write_text(f"{HEADER}\n{row} {owner}        0 1618 1 00000000fe48b3c4 100 0 0 10 0\n")
    return path


def test_a_free_port_can_be_served() -> None:
    """And is taken while somebody does."""
    port = free_port()
    assert not is_taken(port)
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
        assert is_taken(port)
        assert stranger_at(port) is None


@pytest.mark.parametrize(
    ("owner", "address", "state", "stranger"),
    [
        (MINE, "0100007F", "0A", None),
        (0, "0100007F", "0A", None),  # root
        (1001, "0100007F", "0A", 1001),
        (1001, "00000000", "0A", 1001),  # on every interface, this one too
        (1001, "0B00A8C0", "0A", None),  # on another interface
        (1001, "0100007F", "01", None),  # a connection
    ],
)
def test_only_another_user_who_listens_is_a_stranger(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: int,
    address: str,
    state: str,
    stranger: int | None,
) -> None:
    """Root may serve for us, and connections serve nobody."""
    monkeypatch.setattr(os, "getuid", lambda: MINE)
    path = table(tmp_path / "tcp", owner, address, state)
    assert stranger_at(8080, path) == stranger
    assert stranger_at(8081, path) is None


def test_without_a_table_nobody_is_a_stranger(tmp_path: Path) -> None:
    """Other systems do not tell whose a port is."""
    assert stranger_at(8080, tmp_path / "none") is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_real_table_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen by somebody else, our own server is a stranger's."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        mine = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: mine + 1)
        expected = mine or None  # root is nobody's stranger
        assert stranger_at(server.getsockname()[1]) == expected
