"""A conversation with a model that llama.cpp's own server serves."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

from rys_gguf.engines.stock import StockServer
from rys_gguf.errors import EngineFailed
from rys_gguf.text import printable

_DATA, _END = b"data: ", b"[DONE]"
_ANSWER_SECONDS = 600.0


class Conversation:
    """What was said so far; the server answers through the model's chat template.

    `key` is the one that the server asks for, if it does.
    """

    def __init__(self, server: StockServer, key: str = "") -> None:
        self._address = server.address
        self._key = key
        self._messages: list[dict[str, str]] = []

    def answer(self, text: str) -> Iterator[str]:
        """Say something: the pieces of the answer, as they are written. Raises EngineFailed.

        What a thinking model thinks is among them, but no part of the conversation.
        """
        messages = [*self._messages, {"role": "user", "content": text}]
        said = ""
        for delta in self._deltas(messages):
            content = delta.get("content")
            if isinstance(content, str):
                said += content
            piece = content or delta.get("reasoning_content")
            if isinstance(piece, str):
                yield piece
        self._messages = [*messages, {"role": "assistant", "content": said}]

    def _deltas(self, messages: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
        address = self._address
        connection = http.client.HTTPConnection(address.host, address.port, timeout=_ANSWER_SECONDS)
        body = json.dumps({"messages": messages, "stream": True})
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        try:
            connection.request("POST", f"{address.prefix}/v1/chat/completions", body, headers)
            reply = connection.getresponse()
            if reply.status != http.HTTPStatus.OK:
                raise EngineFailed(f"the server does not answer: {printable(reply.read(400))}")
            for line in reply:
                if line.startswith(_DATA) and not line.startswith(_DATA + _END):
                    for choice in json.loads(line[len(_DATA) :]).get("choices", ()):
                        yield dict(choice["delta"])
        except (OSError, http.client.HTTPException) as e:
            raise EngineFailed(f"the server broke off its answer: {e}") from e
        except (ValueError, LookupError, TypeError, AttributeError) as e:
            raise EngineFailed("the server answered with something that is no answer") from e
        finally:
            connection.close()
