"""A small HTTP endpoint beside a served variant: what it is, and another one in its place.

It is for programs of this machine. Web pages are strangers here, also those that reach it by a name
of their own for 127.0.0.1, or that send what needs no permission from a browser.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from rys_gguf.engines.port import is_taken
from rys_gguf.engines.stock import Busy, StockServer
from rys_gguf.errors import EngineFailed, RysError
from rys_gguf.layers.layer_map import join_blocks
from rys_gguf.patch.plan import Plan
from rys_gguf.serve.variant import change_plan
from rys_gguf.text import printable

Json = dict[str, Any]

PATH = "/rys"
_HOST = "127.0.0.1"
_NAMES = (_HOST, "localhost")
_MAX_BYTES = 1 << 16
_READ_SECONDS = 10.0
# How long a change waits for what is being answered.
_IDLE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Control:
    """What the endpoint speaks for: a server of a plan, and the keys that callers must have.

    `make_plan` makes the plan of a spec, None for the model as it is, and a damping factor; without
    it nothing changes.
    """

    server: StockServer
    plan: Plan
    keys: Collection[str] = ()
    make_plan: Callable[[str | None, float], Plan] | None = None
    idle_seconds: float = _IDLE_SECONDS


@contextlib.contextmanager
def controlled(control: Control, port: int) -> Iterator[str]:
    """The address of the endpoint at a port of 127.0.0.1, 0 for any. Raises EngineFailed."""
    kind = type("_Handler", (_Handler,), {"served": _Served(control)})
    try:
        endpoint = _Endpoint((_HOST, port), kind)
    except OSError as e:
        raise _is_taken(port) from e
    with endpoint:
        threading.Thread(target=endpoint.serve_forever, daemon=True).start()
        try:
            yield f"http://{_HOST}:{endpoint.server_port}{PATH}"
        finally:
            endpoint.shutdown()


def require_free(port: int) -> None:
    """Raise EngineFailed if something else listens there; 0 is any free port."""
    if port and is_taken(port):
        raise _is_taken(port)


def _is_taken(port: int) -> EngineFailed:
    return EngineFailed(f"port {port} of {_HOST} is taken: name another one with --control")


class _Served:
    """What is served now; threads may share it."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self._plan = control.plan
        self._lock = threading.Lock()

    def about(self) -> Json:
        """What is served, as JSON; names are those of `plan --json`."""
        plan, server = self._plan, self.control.server
        layer_map = plan.layer_map
        return {
            "model": plan.model.name,
            "architecture": plan.model.architecture,
            "spec": layer_map.spec,
            "schedule": plan.schedule.value,
            "n_layers": [layer_map.n_source, len(layer_map)],
            "layer_map": layer_map.sources,
            "seam": layer_map.seams(),
            "memory": {
                "kv_per_token": plan.memory.kv_per_token,
                "state": plan.memory.state,
                "weights": 0 if server.headers else plan.memory.weights,
            },
            "engine": "pointers" if server.headers else "file",
            "server": server.address.url,
            "allows_changes": self.control.make_plan is not None,
        }

    def change(self, wish: Json) -> Json:
        """Serve what is wished for, and say what that is. Raises RysError, _Wrong."""
        if self.control.make_plan is None:
            raise _Wrong(
                HTTPStatus.FORBIDDEN, "changes are off: start the server with --allow-changes"
            )
        spec, damp = _spec(wish)
        if not self._lock.acquire(blocking=False):
            raise Busy("another change is under way; ask again when it is done")
        try:
            plan = self.control.make_plan(spec, damp)
            change_plan(self.control.server, plan, self.control.idle_seconds)
            self._plan = plan
            return {**self.about(), "notes": plan.notes}
        finally:
            self._lock.release()


def _spec(wish: Json) -> tuple[str | None, float]:
    """The spec and the factor that a request names, as --blocks, --layers and --damp do."""
    if not wish:
        return None, 1.0
    blocks, layers, damp = wish.get("blocks", []), wish.get("layers"), wish.get("damp", 1.0)
    if unknown := sorted(wish.keys() - {"blocks", "layers", "damp"}):
        raise _wrong(f"{printable(unknown[0])} means nothing here")
    if isinstance(blocks, str):
        blocks = [blocks]
    is_text = layers is None or isinstance(layers, str)
    if not (isinstance(blocks, list) and all(isinstance(b, str) for b in blocks) and is_text):
        raise _wrong("blocks or layers is not text")
    if bool(blocks) == (layers is not None):
        raise _wrong("it names both blocks and layers, or neither")
    if isinstance(damp, bool) or not isinstance(damp, (int, float)) or not 0 <= damp <= 1:
        raise _wrong("damp is not a number from 0 to 1")
    return (join_blocks(blocks) if blocks else f"layers:{layers}"), float(damp)


class _Wrong(Exception):
    """A request that is answered with a status and one message."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def _wrong(what: str) -> _Wrong:
    return _Wrong(
        HTTPStatus.BAD_REQUEST,
        f'{what}: expected {{"blocks": "10,14"}} or {{"layers": "0..13,10..29"}}, with "damp" if '
        f"copies are to be damped, or {{}} for the model as it is",
    )


class _Endpoint(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # what still waits for an idle server ends with the program
    allow_reuse_address = True


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    served: ClassVar[_Served]
    timeout = _READ_SECONDS
    server_version = "rys-gguf"
    sys_version = ""

    def do_GET(self) -> None:
        """Say what is served."""
        self._answer(self.served.about)

    def do_POST(self) -> None:
        """Serve something else."""
        self._answer(lambda: self.served.change(self._wish()))

    do_PUT = do_POST  # noqa: N815 - the base class looks for these names

    def _answer(self, make: Callable[[], Json]) -> None:
        status, body = HTTPStatus.OK, {}
        try:
            self._require_friend()
            body = make()
        except _Wrong as e:
            status, body = e.status, _error(e.status, str(e))
        except Busy as e:
            status, body = HTTPStatus.CONFLICT, _error(HTTPStatus.CONFLICT, str(e))
        except EngineFailed as e:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            body = _error(status, str(e))
        except RysError as e:
            status, body = HTTPStatus.BAD_REQUEST, _error(HTTPStatus.BAD_REQUEST, str(e))
        self._send(status, body)

    def _require_friend(self) -> None:
        """Raise _Wrong for other paths, for web pages and for callers without a key."""
        host = self.headers.get("Host", "").lower()
        if host.rpartition(":")[0] not in _NAMES and host not in _NAMES:
            raise _Wrong(HTTPStatus.FORBIDDEN, f"this is for programs that ask {_HOST}")
        # "none" is a user who typed the address.
        is_page = self.headers.get("Sec-Fetch-Site", "none") != "none"
        if is_page or self.headers.get("Origin") is not None:
            raise _Wrong(HTTPStatus.FORBIDDEN, "this is not for web pages")
        keys = self.served.control.keys
        given = self.headers.get("Authorization", "") or self.headers.get("X-Api-Key", "")
        given = given.removeprefix("Bearer ")
        if keys and not any(hmac.compare_digest(given.encode(), key.encode()) for key in keys):
            raise _Wrong(HTTPStatus.UNAUTHORIZED, "the server's API key is missing or wrong")
        if self.path != PATH:
            raise _Wrong(HTTPStatus.NOT_FOUND, f"there is only {PATH}")

    def _wish(self) -> Json:
        """The object that the request holds. Raises _Wrong."""
        if self.headers.get_content_type() != "application/json":
            raise _Wrong(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected the Content-Type application/json"
            )
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise _Wrong(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        if len(length) > len(str(_MAX_BYTES)) or int(length) > _MAX_BYTES:
            raise _Wrong(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {_MAX_BYTES} bytes"
            )
        try:
            wish = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise _wrong("that is not JSON") from None
        except OSError:
            raise _Wrong(HTTPStatus.REQUEST_TIMEOUT, "the request ends too early") from None
        if not isinstance(wish, dict):
            raise _wrong("that is not a JSON object")
        return wish

    def _send(self, status: HTTPStatus, body: Json) -> None:
        data = json.dumps(body).encode() + b"\n"
        with contextlib.suppress(OSError):  # whoever asked may be gone
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing: stderr is for what the program says."""


def _error(status: HTTPStatus, message: str) -> Json:
    """An error as llama.cpp's server words it."""
    return {"error": {"code": status.value, "message": message}}
