"""A conversation tells the server what was said before, and takes an answer piece by piece."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, cast

import pytest

from rys_gguf.engines.conversation import Conversation
from rys_gguf.engines.stock import Address, StockServer
from rys_gguf.errors import EngineFailed


class Stand(HTTPServer):
    """A server that replies with `lines`, and remembers what it was asked."""

    lines: tuple[str, ...] = ()
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    @property
    def address(self) -> Address:
        """Where it listens."""
        return Address.of(["--port", str(self.server_port)])


class Handler(BaseHTTPRequestHandler):
    """Answers a request of a Stand."""

    def do_POST(self) -> None:
        """Reply, and close the connection."""
        stand = cast("Stand", self.server)
        stand.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        stand.keys.append(self.headers["Authorization"])
        self.send_response(stand.status)
        self.end_headers()
        self.wfile.write("".join(f"{line}\n\n" for line in stand.lines).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def stand() -> Iterator[Stand]:
    """A stand-in for llama.cpp's server."""
    with Stand() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def piece(**delta: str | None) -> str:
    """A piece of an answer as llama.cpp sends it."""
    return "data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": None}]})


def conversation(stand: Stand) -> Conversation:
    """One with the stand-in."""
    return Conversation(cast("StockServer", stand), "secret")


def test_what_was_said_is_told(stand: Stand) -> None:
    """The answers are part of it, and what the model thought is not."""
    talk = conversation(stand)
    stand.lines = (
        piece(role="assistant", content=None), piece(reasoning_content="Hm."), piece(content="Yes"),
        piece(content="!"), "data: [DONE]",
    )  # fmt: skip
    assert list(talk.answer("Are you there?")) == ["Hm.", "Yes", "!"]
    assert list(talk.answer("Still?")) == ["Hm.", "Yes", "!"]
    said = [(m["role"], m["content"]) for m in stand.asked[1]["messages"]]
    assert said == [("user", "Are you there?"), ("assistant", "Yes!"), ("user", "Still?")]
    assert stand.keys == ["Bearer secret"] * 2


@pytest.mark.parametrize(
    ("status", "line", "message"),
    [
        (503, '{"error": "Loading\x1b[2J"}', r"does not answer: .*Loading\\x1b"),
        (200, "data: {", "something that is no answer"),
        (200, "data: []", "something that is no answer"),
        (200, 'data: {"choices": [7]}', "something that is no answer"),
        (200, 'data: {"choices": [{"delta": 7}]}', "something that is no answer"),
    ],
)
def test_a_server_that_gives_no_answer_is_an_error(
    stand: Stand, status: int, line: str, message: str
) -> None:
    """What it said instead is safe to print; what was asked is not part of the conversation."""
    talk = conversation(stand)
    stand.status, stand.lines = status, (line,)
    with pytest.raises(EngineFailed, match=message):
        list(talk.answer("a"))
    stand.status, stand.lines = 200, ("data: [DONE]",)
    assert not list(talk.answer("b"))
    assert [m["content"] for m in stand.asked[-1]["messages"]] == ["b"]


def test_a_server_that_has_ended_is_an_error(stand: Stand) -> None:
    """The reason is the system's."""
    talk = conversation(stand)
    stand.server_close()
    with pytest.raises(EngineFailed, match="broke off its answer"):
        list(talk.answer("a"))
