"""Requests: what a server may do to them, and where the token goes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from rys_gguf.errors import ModelUnavailable
from rys_gguf.hub import ranges, web
from rys_gguf.hub.ranges import RangedFile
from tests.hub.server import COMMIT, Hub

CONTENT = bytes(range(256)) * 64
TOKEN = "hf_notatokenatall"


@pytest.fixture
def file(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> RangedFile:
    """A file on the Hub, in blocks of 4096 bytes."""
    monkeypatch.setattr(ranges, "BLOCK_BYTES", 4096)
    hub.files["o/r/m.gguf"] = CONTENT
    return RangedFile(f"{hub.url}/o/r/resolve/{COMMIT}/m.gguf", len(CONTENT), "hf:o/r/m.gguf")


def test_a_file_is_read_as_one_on_disk(file: RangedFile) -> None:
    """Any span, across blocks, and past the end the message of a file that is too short."""
    for offset, n in ((0, 10), (4090, 5000), (len(CONTENT) - 3, 3), (12288, 4096), (5, 0)):
        assert file.read(offset, n) == CONTENT[offset : offset + n]
        buffer = bytearray(n)
        file.read_into(buffer, offset)
        assert buffer == CONTENT[offset : offset + n]
    with pytest.raises(Exception, match=r"m\.gguf: ends at byte 16384, 1 bytes earlier"):
        file.read(len(CONTENT) - 3, 4)


def test_a_block_is_fetched_once(hub: Hub, file: RangedFile) -> None:
    """What was read is remembered, and what was not read is not fetched."""
    for _ in range(3):
        file.read(4000, 200)
    at_storage = [r.range for r in hub.requests if r.host in hub.storage]
    assert at_storage == ["bytes=0-4095", "bytes=4096-8191"]


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ({"ranges": False}, "sends whole files only, not the bytes asked for"),
        ({"cut": 1}, "broke off after 4095 of 4096 bytes; run again"),
        ({"shift": 8}, "the server sent other bytes than 0 to 4095"),
        ({"status": 401}, "wants a token, or has no such repository"),
        ({"status": 403}, "gives no access; accept the model's terms"),
        ({"status": 404}, "has no such repository or file; check the name"),
        ({"status": 416}, "has a shorter file than it said; run again"),
        ({"status": 429}, "has had too many requests; wait a few minutes"),
        ({"status": 500}, "answers HTTP 500"),
        ({"location": "ftp://127.0.0.1/x"}, "cannot be read: sends on to ftp://127"),
        ({"location": "file:///etc/passwd"}, "answers HTTP 302"),
        ({"location": "http://127.0.0.1:9/x"}, "cannot be read: Connection refused"),
        ({"location": "http://127.0.0.1:1x/"}, "cannot be read: "),
    ],
)
def test_what_a_server_does_wrong_is_one_message(
    hub: Hub, file: RangedFile, behaviour: dict[str, object], message: str
) -> None:
    """It names the file, and says what to do."""
    for name, value in behaviour.items():
        setattr(hub, name, value)
    with pytest.raises(ModelUnavailable, match=message) as e:
        file.read(0, 10)
    assert str(e.value).startswith("hf:o/r/m.gguf: ")
    assert "\n" not in str(e.value)


def test_an_endless_redirect_ends(hub: Hub, file: RangedFile) -> None:
    """A server that sends on to itself is left."""
    hub.location = f"{hub.url}/o/r/resolve/{COMMIT}/m.gguf"
    with pytest.raises(ModelUnavailable, match="answers HTTP 302"):
        file.read(0, 10)


def test_a_file_that_changes_is_not_read_on(hub: Hub, file: RangedFile) -> None:
    """Blocks of two files would make a header that nobody wrote."""
    hub.etags = ["one", "two"]
    with pytest.raises(ModelUnavailable, match="changed while it was read; run again"):
        file.read(0, 5000)


def test_a_file_of_another_size_is_refused(hub: Hub, file: RangedFile) -> None:
    """The list said how long it is."""
    hub.files["o/r/m.gguf"] = CONTENT + b"x"
    with pytest.raises(ModelUnavailable, match="the server sent other bytes"):
        file.read(0, 10)


@pytest.mark.parametrize("field", ["Content-Length", "Content-Range"])
def test_a_number_of_any_length_is_one_message(hub: Hub, file: RangedFile, field: str) -> None:
    """Python turns no more than 4300 digits into a number."""
    hub.fields[field] = "bytes 0-1/" * (field == "Content-Range") + "9" * 5000
    with pytest.raises(ModelUnavailable, match=r"^hf:o/r/m\.gguf: "):
        file.read(0, 10)


def test_a_header_does_not_fetch_a_model(file: RangedFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile header may claim any length."""
    monkeypatch.setattr(ranges, "_MAX_BLOCKS", 2)
    file.read(0, 8192)
    with pytest.raises(ModelUnavailable, match=r"its header is larger than 8\.0 KiB"):
        file.read(8192, 1)


def test_a_server_that_is_silent_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits forever."""
    monkeypatch.setattr(web, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/m.gguf"
        with pytest.raises(ModelUnavailable, match="cannot be read: timed out"):
            RangedFile(url, 10, "m.gguf").read(0, 10)


def test_a_token_goes_to_the_hub_only(
    hub: Hub, file: RangedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server that the Hub sends on to never sees it."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    file.read(0, 10)
    assert [(r.host in hub.url, r.token) for r in hub.requests] == [
        (True, f"Bearer {TOKEN}"),
        (False, None),
    ]


def test_a_token_stays_with_a_redirect_on_the_hub(
    hub: Hub, file: RangedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository may have been renamed."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.location = f"{hub.url}/api/models/o/r/revision/main"
    with pytest.raises(ModelUnavailable):
        file.read(0, 10)
    assert [r.token for r in hub.requests] == [f"Bearer {TOKEN}"] * 2


def test_a_token_that_was_stored_is_used(hub: Hub, file: RangedFile, home: Path) -> None:
    """`hf auth login` writes it there."""
    path = home / ".cache" / "huggingface" / "token"
    path.parent.mkdir(parents=True)
    path.write_text(TOKEN + "\n")
    file.read(0, 10)
    assert hub.requests[0].token == f"Bearer {TOKEN}"


def test_a_token_cannot_smuggle_a_header(
    hub: Hub, file: RangedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it shown."""
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\r\nX-Evil: 1")
    with pytest.raises(ModelUnavailable, match="the token in HF_TOKEN") as e:
        file.read(0, 10)
    assert TOKEN not in str(e.value)
    assert hub.requests == []
