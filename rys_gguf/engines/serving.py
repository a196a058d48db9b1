"""Start llama.cpp's HTTP server with one model, and exchange JSON with it.

The prebuilt `xllamacpp` package and any llama-server binary serve the same API, each in a process
of its own. The server is ready once it names the model it was started with.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import time
from pathlib import Path
from typing import Any

from rys_gguf.engines.base import EngineOptions, no_next_token
from rys_gguf.engines.connection import Connection
from rys_gguf.engines.interpreter import python_file
from rys_gguf.engines.live.library import package_version
from rys_gguf.engines.port import free_port, is_taken, stranger_at
from rys_gguf.engines.process import EngineProcess
from rys_gguf.errors import EngineFailed
from rys_gguf.text import printable, quoted

_POLL_SECONDS = 0.02
_HEALTH_SECONDS = 2.0
_PORTS_TRIED = 3
_BACKEND = re.compile(r"(lib)?ggml-.*\.(so|dll|dylib)", re.DOTALL)
# Weights are mapped and never read, and no device is touched.
_TEXTS_ONLY = ("--no-repack", "--device", "none")
_CHILD = Path(__file__).with_name("child.py")
# What llama-server says of models without a KV cache or state (server-context.cpp, b11549).
_NO_LOGITS = b"does not support logits computation"

Json = dict[str, Any]


def require_no_backends(binary: Path) -> None:
    """A llama-server built with loadable backends runs those of the current folder as well.

    Raises EngineFailed if there are any.
    Source: ggml/src/ggml-backend-reg.cpp, ggml_backend_load_best (b11549).
    """
    names: list[str] = []
    with contextlib.suppress(OSError):  # the server cannot look into such a folder either
        folder = Path.cwd().resolve()
        names = [] if folder == binary.resolve().parent else os.listdir(folder)
    for name in filter(_BACKEND.fullmatch, names):
        raise EngineFailed(
            f"{printable(binary.name)} was not started: it would run {printable(name)} of the "
            f"current folder; call rys-gguf in another one"
        )


class Server:
    """A server for one model. `build` is its program, version and build once it has started.

    Every method raises EngineFailed, with the last log lines, if the server does not do its part,
    and Refused if the model is of a kind that predicts no next token.
    """

    def __init__(self, model: str | os.PathLike[str], options: EngineOptions) -> None:
        self.model = Path(model).absolute()
        self.options = options
        self.build = ""
        # Without a key, every user of the machine and every web page could ask the engine.
        self.key = secrets.token_hex(16)
        self._connection = Connection(free_port(), self.key)
        self._process: EngineProcess | None = None
        self._closed = False

    @property
    def url(self) -> str:
        """The address it serves at while it runs."""
        return f"http://127.0.0.1:{self._connection.port}"

    @property
    def process(self) -> EngineProcess:
        """Its process. Raises EngineFailed before the start and after the end."""
        if self._closed or self._process is None:
            raise self.failure("is closed" if self._closed else "was not started")
        return self._process

    def start(self) -> None:
        """Start the process and wait until it serves the model.

        Nobody can keep a port free for another process: if a stranger takes it first, the start is
        tried again on another one.
        """
        for tries_left in reversed(range(_PORTS_TRIED)):
            try:
                self._start()
            except EngineFailed:  # noqa: PERF203 - a start takes longer
                if self._process is not None:
                    self._process.stop()
                if self._closed or not tries_left or not is_taken(self._connection.port):
                    raise
                self._connection.close()
                self._connection = Connection(free_port(), self.key)
            else:
                return

    def _start(self) -> None:
        if self._closed:
            raise self.failure("is closed")
        if (binary := self.options.binary) is not None:
            require_no_backends(binary)
        name = "llama.cpp (xllamacpp)" if binary is None else binary.name
        environment = {**dict(self.options.environment), "LLAMA_API_KEY": self.key}
        self._process = EngineProcess(self._command(), environment, name, self.model.name)
        if self._closed:  # by another thread just now, which found no process to stop
            self._process.stop()
        self._wait_until_healthy()
        self._require_own_port()
        self._check_identity()

    def close(self) -> None:
        """End the process, whatever it is doing; safe to call twice and from any thread."""
        self._closed = True
        if self._process is not None:
            self._process.stop()
        self._connection.close()

    def ask(self, method: str, path: str, body: Any = None) -> Json:
        """Send a request, with a body of JSON if it is not None, and return the reply."""
        process = self.process
        # Its port is free for others once it has ended, and they must not get the key.
        process.require_alive(f"before it was asked {path}")
        seconds = self.options.answer_seconds
        try:
            status, raw = self._connection.request(method, path, body, seconds)
        except TimeoutError as e:
            raise self.failure(f"did not answer {path} within {seconds:g} s") from e
        except (OSError, http.client.HTTPException) as e:
            process.require_alive(f"while it answered {path}")
            raise self.failure(f"broke off its answer to {path}: {e}") from e
        if status != http.HTTPStatus.OK and _NO_LOGITS in raw:
            raise no_next_token(self.model.name)
        try:
            reply = json.loads(raw)
        except (ValueError, RecursionError) as e:
            raise self.failure(f"answered {path} with something that is not JSON") from e
        if status != http.HTTPStatus.OK or not isinstance(reply, dict):
            text = printable(raw[:300])
            raise self.failure(f"answered {path} with status {status}: {text}")
        return reply

    def failure(self, what: str) -> EngineFailed:
        """The error that says what the server did, with its last log lines."""
        if self._process is not None:
            return self._process.failure(what)
        return EngineFailed(f"the engine {what}; model {printable(self.model.name)}")

    def _command(self) -> list[str]:
        options = self.options
        port = self._connection.port
        if options.binary is None:
            settings = {
                "model": str(self.model),
                "port": port,
                "n_ctx": options.n_ctx,
                "n_threads": options.n_threads,
                "n_ubatch": options.n_ubatch,
                "texts_only": options.texts_only,
            }
            return python_file(_CHILD, json.dumps(settings))
        return [
            str(options.binary),
            *("--model", str(self.model)),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--ctx-size", str(options.n_ctx), "--parallel", "1", "--no-warmup"),
            *(("--threads", str(options.n_threads)) if options.n_threads else ()),
            *(("--ubatch-size", str(options.n_ubatch)) if options.n_ubatch else ()),
            *(_TEXTS_ONLY if options.texts_only else ()),
            *options.arguments,
        ]

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + self.options.load_seconds
        while time.monotonic() < deadline:
            self.process.require_alive("while it loaded")
            with contextlib.suppress(OSError, http.client.HTTPException):
                # Without the key, as nobody knows yet who answers.
                status, _ = self._connection.request(
                    "GET", "/health", None, _HEALTH_SECONDS, with_key=False
                )
                if status == http.HTTPStatus.OK:
                    return
            time.sleep(_POLL_SECONDS)
        raise self.failure(f"did not finish loading within {self.options.load_seconds:g} s")

    def _require_own_port(self) -> None:
        """Another user may have taken the port just before our server: such a one gets no key."""
        port = self._connection.port
        if (user := stranger_at(port)) is not None:
            raise self.failure(f"lost its port {port} to a process of user {user}")

    def _check_identity(self) -> None:
        """Another server may hold the port: only one that names our model is ours."""
        properties = self.ask("GET", "/props")
        self.process.require_alive("right after it loaded")
        served = properties.get("model_path")
        if not isinstance(served, str) or Path(served).absolute() != self.model:
            raise self.failure(f"serves {quoted(str(served))}, not {quoted(self.model)}")
        binary = self.options.binary
        program = f"xllamacpp {package_version()}" if binary is None else binary.name
        self.build = f"{program} ({properties.get('build_info') or 'unknown build'})"
