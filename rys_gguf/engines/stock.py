"""llama.cpp's own server for other programs: started, waited for and ended, and no question asked.

It is the server of the package xllamacpp or of a llama.cpp build, with all its arguments. Where
it serves a variant of pointers it runs in a Python process that holds the base; see
`engines/live/child/stock.py`.
"""

from __future__ import annotations

import contextlib
import csv
import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.interpreter import python_file
from rys_gguf.engines.live.library import Library, find_library
from rys_gguf.engines.live.session import HollowFile
from rys_gguf.engines.port import free_port, is_taken, stranger_at
from rys_gguf.engines.process import EngineProcess
from rys_gguf.engines.serving import require_no_backends
from rys_gguf.errors import EngineFailed, InvalidOptions
from rys_gguf.text import printable, quoted

_HOST, _PORT = "127.0.0.1", "8080"
_EVERYWHERE = {"0.0.0.0": _HOST, "::": "::1"}  # noqa: S104 - looked for, and not bound
_MODEL = (
    *("-m", "--model", "-mu", "--model-url", "-hf", "-hfr", "--hf-repo", "-hff", "--hf-file"),
    *("-dr", "--docker-repo", "--models-dir", "--models-preset"),
)
_ALIAS = ("-a", "--alias")
_SECURE = ("--ssl-key-file", "--ssl-cert-file")
_SERVER = "libllama-server-impl.so"
_CHILD = Path(__file__).parent / "live" / "child"
_POLL_SECONDS = 0.05
_HEALTH_SECONDS = 5.0
_SLEEP = "--sleep-idle-seconds"
_SELDOM = "2000000"  # about 23 days, and in milliseconds below 2^31
_LOAD_SECONDS = 600.0
_LOG_BYTES = 1 << 20


class NotPointed(EngineFailed):
    """The server cannot be given a variant of pointers; from a file it may serve it."""


class Busy(EngineFailed):
    """The server goes on answering, and changes nothing meanwhile."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens, and the arguments that are left when this is taken out of them."""

    hosts: tuple[str, ...]
    port: int
    arguments: tuple[str, ...]
    prefix: str = ""
    is_secure: bool = False

    @classmethod
    def of(cls, arguments: Sequence[str]) -> Address:
        """What arguments of llama-server say. Raises InvalidOptions."""
        left = list(arguments)
        for name in left:
            if _option(name) in _MODEL:
                raise InvalidOptions(
                    f"{printable(name)} after --: the model to serve is the one before it"
                )
        hosts = tuple(h.strip() for h in (_taken(left, "--host") or _HOST).split(",") if h.strip())
        port = _taken(left, "--port") or _PORT
        if not hosts or any(host.endswith(".sock") for host in hosts):
            raise InvalidOptions("--host: expected an address such as 127.0.0.1, not a socket")
        if not (port.isdecimal() and int(port) < 1 << 16):
            raise InvalidOptions(f"--port {printable(port)}: expected a number from 0 to 65535")
        return cls(
            hosts,
            int(port) or free_port(),
            tuple(left),
            _taken(list(left), "--api-prefix") or "",
            is_secure=any(_option(name) in _SECURE for name in left),
        )

    @property
    def host(self) -> str:
        """A host that programs of this machine reach it by."""
        return _EVERYWHERE.get(self.hosts[0], self.hosts[0])

    @property
    def url(self) -> str:
        """Where programs of this machine find it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' * self.is_secure}://{host}:{self.port}{self.prefix}"

    def keys(self, environment: Mapping[str, str]) -> set[str]:
        """The API keys that its callers need one of. Raises InvalidOptions."""
        words = list(self.arguments)
        lists = [environment.get("LLAMA_API_KEY", "")]
        # Of several values each one counts.
        while (text := _taken(words, "--api-key", n_most=1)) is not None:
            lists.append(text)
        found = {key for row in csv.reader(lists) for key in row}
        while (name := _taken(words, "--api-key-file", n_most=1)) is not None:
            try:
                lines = Path(name).read_text("utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as e:
                raise InvalidOptions(f"--api-key-file {printable(name)}: cannot be read") from e
            found.update(line for line in lines if not line.startswith("#"))
        return found - {""}

    def require_free(self) -> None:
        """Raise EngineFailed if something else listens there."""
        if any(_option(name) == "--reuse-port" for name in self.arguments):
            return
        for host in self.hosts:
            if is_taken(self.port, host):
                raise EngineFailed(
                    f"port {self.port} of {printable(host)} is taken, or the address is not this "
                    f"machine's: name another one with -- --port N"
                )

    def is_healthy(self) -> bool:
        """Whether a server there says that it is ready."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = self._connection()
            try:
                connection.request("GET", f"{self.prefix}/health")
                return connection.getresponse().status == http.HTTPStatus.OK
            finally:
                connection.close()
        return False

    def _connection(self) -> http.client.HTTPConnection:
        if self.is_secure:
            # The certificate is for others: this asks whether the own process answers.
            context = ssl._create_unverified_context()  # noqa: S323, SLF001
            return http.client.HTTPSConnection(
                self.host, self.port, timeout=_HEALTH_SECONDS, context=context
            )
        return http.client.HTTPConnection(self.host, self.port, timeout=_HEALTH_SECONDS)


class StockServer:
    """A server of the file `model` under the name `alias`. Use it as a context manager.

    With a `base` the file is the last of the `headers` of a variant, whose weights are the base's;
    those before it are for a base that holds its embedding twice, and are tried first. `folder` is
    a private one, for files that the process reads. If it is `changeable`, other headers of the
    base may follow; `headers` are those that it serves. Methods raise EngineFailed with the last
    log lines, and NotPointed.
    """

    def __init__(
        self,
        model: Path,
        alias: str,
        options: EngineOptions,
        folder: Path,
        base: Path | None = None,
        headers: Sequence[HollowFile] = (),
        *,
        changeable: bool = False,
    ) -> None:
        self.folder = folder
        self.address = Address.of(options.arguments)
        self._model = model
        self._alias = alias
        self._options = options
        self._report = folder / "report.json"
        self._settings = folder / "settings.json"
        self._base = base
        self.headers = headers
        self._changeable = changeable
        self._socket: socket.socket | None = None
        self._process: EngineProcess | None = None

    def __enter__(self) -> StockServer:
        """Start it, and wait until it is ready, however long it loads."""
        self.address.require_free()
        binary = self._options.binary
        name = "llama.cpp (xllamacpp)" if binary is None else binary.name
        environment = dict(self._options.environment)
        try:
            with self._connection_for_changes() as inherited:
                command = self._command(*inherited)
                self._process = EngineProcess(command, environment, name, self._alias, inherited)
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process; safe to call twice."""
        if self._process is not None:
            self._process.stop()
        if self._socket is not None:
            self._socket.close()

    def change(self, headers: Sequence[HollowFile], seconds: float) -> None:
        """Serve the variant of other headers from now on; what is being answered ends before.

        The server does so within a second after its last answer. Raises Busy if it is not idle
        for that many seconds; it goes on then as before.
        """
        assert self._process is not None
        if self._socket is None:
            raise NotPointed("this server was not started for changes")
        message = {"headers": [_described(header) for header in headers], "seconds": seconds}
        try:
            self._socket.settimeout(seconds + _LOAD_SECONDS)
            with self._socket.makefile("rw") as file:
                file.write(json.dumps(message) + "\n")
                file.flush()
                reply = json.loads(file.readline())
        except (OSError, ValueError) as e:
            self._process.require_alive("while it changed", 1.0)
            # A late reply would answer the next question, so there will be none.
            self._process.stop()
            raise self._process.failure("did not change, and was ended") from e
        if "error" in reply:
            raise NotPointed(printable(str(reply["error"]), 400))
        if not reply.get("changed"):
            raise Busy(f"something was being answered for {seconds:g} s, so nothing was changed")
        self.headers = headers

    def wait(self) -> None:
        """Wait until the process ends, which it should not do by itself: raises EngineFailed."""
        assert self._process is not None
        while True:
            self._process.require_alive("while it served", 60.0)
            self._process.trim_log(_LOG_BYTES)

    @property
    def pid(self) -> int:
        """The id of its process."""
        assert self._process is not None
        return self._process.pid

    def _wait_until_ready(self) -> None:
        process = self._process
        assert process is not None
        while not (self._is_pointed() and self.address.is_healthy()):
            try:
                process.require_alive("while it loaded", _POLL_SECONDS)
            except EngineFailed:  # noqa: PERF203 - a load takes longer
                self._is_pointed()  # raises the reason if that is one
                raise
        process.require_alive("right after it loaded")
        if (user := stranger_at(self.address.port)) is not None:
            raise process.failure(f"lost its port to a process of user {user}")

    def _is_pointed(self) -> bool:
        """Whether the variant has its weights. Raises NotPointed if it does not get them."""
        if not self.headers:
            return True
        try:
            report = json.loads(self._report.read_bytes())
        except FileNotFoundError:
            return False
        if "error" in report:
            raise NotPointed(printable(str(report["error"]), 400))
        return True

    @contextlib.contextmanager
    def _connection_for_changes(self) -> Iterator[tuple[int, ...]]:
        """The other end of a socket, for a process that is started in the block."""
        if not self._changeable:
            yield ()
            return
        self._socket, theirs = socket.socketpair()
        with theirs:
            yield (theirs.fileno(),)

    def _command(self, number: int | None = None) -> list[str]:
        address = self.address
        is_named = any(_option(word) in _ALIAS for word in address.arguments)
        arguments = [
            *("--model", str(self._model)),
            *(() if is_named else ("--alias", self._alias.replace(",", "_"))),
            *("--host", ",".join(address.hosts), "--port", str(address.port)),
            *(("--threads", str(self._options.n_threads)) if self._options.n_threads else ()),
            *address.arguments,
        ]
        binary = self._options.binary
        if binary is not None:
            require_no_backends(binary)
            if not self.headers:
                return [str(binary), *arguments]
        library = find_library(binary)
        settings: dict[str, Any] = {
            "library": str(library.path),
            "backends": None if library.backends is None else str(library.backends),
            "server": None if binary is None else str(server_library(library)),
            "model": str(self._model),
            "arguments": arguments + self._settled(),
            "base": None if self._base is None else str(self._base),
            "headers": [_described(header) for header in self.headers],
            "report": str(self._report),
            "socket": number,
        }
        # A file, since a command line has no room for the names of many tensors.
        with open(
            os.open(self._settings, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w"
        ) as file:
            json.dump(settings, file)
        return python_file(_CHILD, json.dumps({"stock": str(self._settings)}))

    def _settled(self) -> list[str]:
        """The arguments that are not the user's to choose."""
        # Whether it fits was seen without the base, and would load the model a second time.
        words = ["--fit", "off"] if self.headers else []
        if self._changeable:
            # It changes where it sleeps, see engines/live/child/change.py.
            given = _taken(list(self.address.arguments), _SLEEP) or ""
            words += [_SLEEP, given if given.isdecimal() else _SELDOM]
        return words


def _described(header: HollowFile) -> dict[str, Any]:
    """A header as the process reads it."""
    return {"path": str(header.path), "pairs": header.pairs, "pattern": header.pattern}


def server_library(library: Library) -> Path:
    """The library beside llama.cpp's that has the server as a function. Raises NotPointed."""
    path = library.path.parent / _SERVER
    if not path.is_file():
        raise NotPointed(f"there is no {_SERVER} beside {quoted(library.path)}")
    return path


def _option(word: str) -> str:
    """An option as llama.cpp reads it: underscores are hyphens."""
    return word.replace("_", "-") if word.startswith("--") else word


def _taken(arguments: list[str], name: str, n_most: int | None = None) -> str | None:
    """The value of an option, the last of at most `n_most`; they are taken out."""
    value = None
    while n_most != 0 and name in (names := [_option(word) for word in arguments]):
        n_most = None if n_most is None else n_most - 1
        at = names.index(name)
        if at + 1 == len(arguments):
            raise InvalidOptions(f"{name} after -- needs a value")
        value = arguments[at + 1]
        del arguments[at : at + 2]
    return value
