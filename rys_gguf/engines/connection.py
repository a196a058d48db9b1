"""HTTP to a server on this machine, over connections that are kept open between requests."""

from __future__ import annotations

import http.client
import json
from collections import deque
from typing import Any


class Connection:
    """Sends requests with an API key to one port of 127.0.0.1.

    Threads may share it: each request takes an idle connection or opens one.
    """

    def __init__(self, port: int, key: str) -> None:
        self.port = port
        self._key = key
        self._idle: deque[http.client.HTTPConnection] = deque()

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def request(
        self, method: str, path: str, body: Any, seconds: float, *, with_key: bool = True
    ) -> tuple[int, bytes]:
        """The status and body of the reply; `body` is sent as JSON unless it is None.

        Raises TimeoutError if nothing arrives for `seconds`, OSError and HTTPException.
        """
        headers = {"Content-Type": "application/json"}
        if with_key:
            headers["Authorization"] = f"Bearer {self._key}"
        message = (method, path, None if body is None else json.dumps(body), headers)
        try:
            idle = self._idle.pop()
        except IndexError:
            return self._send(self._open(), message, seconds)
        try:
            return self._send(idle, message, seconds)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            # The server may close a connection that was idle for a while. A new one tells whether
            # it is still there.
            return self._send(self._open(), message, seconds)

    def _open(self) -> http.client.HTTPConnection:
        # Unlike urllib it knows no proxies: nothing leaves the machine, whatever the environment.
        return http.client.HTTPConnection("127.0.0.1", self.port)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        message: tuple[str, str, str | None, dict[str, str]],
        seconds: float,
    ) -> tuple[int, bytes]:
        try:
            connection.timeout = seconds
            if connection.sock is not None:
                connection.sock.settimeout(seconds)
            connection.request(*message)
            reply = connection.getresponse()
            content = reply.read()
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return reply.status, content
