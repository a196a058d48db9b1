"""A Hub on 127.0.0.1: lists of files, redirects to a second server, ranges; it may misbehave."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote, urlsplit

COMMIT = "0123456789abcdef" * 2 + "01234567"
_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]+)")


@dataclass
class Request:
    """A request that a server got."""

    host: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Hub:
    """What the Hub holds and how it behaves; `requests` are those of both servers, in order.

    `status` answers every request for a file with that code; `ranges` False sends whole files;
    `cut` leaves that many bytes out of every answer with a range; `etags` are taken one by one.
    `fields` replace those of an answer with a range. `location` is where files are sent on to, by
    default the second server.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    info: bytes | None = None
    list_status: int = 200
    status: int | None = None
    ranges: bool = True
    cut: int = 0
    shift: int = 0
    etags: list[str] = field(default_factory=list)
    location: str | None = None
    fields: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    storage: str = ""

    def listing(self, repo: str) -> bytes:
        """The answer to a question for a repository."""
        siblings = [{"rfilename": path, "size": n_bytes} for path, n_bytes in self._sizes(repo)]
        return json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode()

    def tree(self, repo: str) -> bytes:
        """The same, as huggingface_hub asks for it before it downloads."""
        entries = [
            {"type": "file", "path": path, "size": n_bytes, "oid": "0" * 40}
            for path, n_bytes in self._sizes(repo)
        ]
        return json.dumps(entries).encode()

    def _sizes(self, repo: str) -> Iterator[tuple[str, int]]:
        for path, content in self.files.items():
            if path.startswith(f"{repo}/"):
                yield path.removeprefix(f"{repo}/"), len(content)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: Hub, *, is_storage: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.is_storage = hub, is_storage
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        fields = self.headers
        hub.requests.append(
            Request(fields["Host"], self.path, fields["Range"], fields["Authorization"])
        )
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/main", path):
            body = hub.info if hub.info is not None else hub.listing(match[1])
            self._answer(hub.list_status, body)
        elif match := re.fullmatch(rf"/api/models/([^/]+/[^/]+)/tree/{COMMIT}", path):
            self._answer(200, hub.tree(match[1]))
        elif hub.status is not None:
            self._answer(hub.status, b"")
        elif self.server.is_storage:
            self._file(hub, hub.files[path.removeprefix("/")])
        elif match := re.fullmatch(rf"/([^/]+/[^/]+)/resolve/(?:main|{COMMIT})/(.+)", path):
            file = f"{match[1]}/{match[2]}"
            # What huggingface_hub wants to know before it downloads.
            about = {"X-Repo-Commit": COMMIT, "X-Linked-ETag": f'"{zlib.crc32(file.encode())}"'}
            about["X-Linked-Size"] = str(len(hub.files.get(file, b"")))
            location = hub.location or f"{hub.storage}/{quote(file)}"
            self._answer(302, b"", {"Location": location, **about})
        else:
            self._answer(404, b"")

    do_HEAD = do_GET  # noqa: N815 - the name that the standard library looks for

    def _file(self, hub: Hub, content: bytes) -> None:
        match = _RANGE.fullmatch(self.headers["Range"] or "")
        if match is None or not hub.ranges:
            self._answer(200, content)
            return
        first, last = int(match[1]) + hub.shift, int(match[2]) + hub.shift
        part = content[first : last + 1]
        etag = hub.etags.pop(0) if hub.etags else "same"
        place = {
            "Content-Range": f"bytes {first}-{last}/{len(content)}",
            "ETag": etag,
            **hub.fields,
        }
        self._answer(206, part, place, cut=hub.cut)

    def _answer(
        self, status: int, body: bytes, fields: dict[str, str] | None = None, *, cut: int = 0
    ) -> None:
        self.send_response(status)
        for name, value in (fields or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (fields or {}):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        with contextlib.suppress(OSError):  # the reader had enough
            self.wfile.write(body[: len(body) - cut])

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Both servers, with their addresses in `hub`."""
    servers = [_Server(hub, is_storage=is_storage) for is_storage in (False, True)]
    hub.url, hub.storage = (server.url for server in servers)
    threads = [threading.Thread(target=s.serve_forever, args=(0.01,)) for s in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
