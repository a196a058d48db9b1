"""The child process of the live engine, and the messages to it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rys_gguf.engines.interpreter import python_file
from rys_gguf.engines.live.library import Library
from rys_gguf.engines.process import EngineProcess
from rys_gguf.errors import EngineFailed
from rys_gguf.text import printable

Json = dict[str, Any]

_CHILD = Path(__file__).with_name("child")
_LENGTHS = struct.Struct("<QQ")
# Far above the logits of any batch: what announces more is not our child's reply.
_MAX_BYTES = 1 << 34
_MAX_JSON_BYTES = 1 << 28
_PIECE_BYTES = 1 << 20
# A reused graph of CUDA goes on computing with the weights that it was captured with
# (ggml_cuda_graph_update_required, ggml/src/ggml-cuda/ggml-cuda.cu, b11549).
_ENVIRONMENT = {"LLAMA_GRAPH_REUSE_DISABLE": "1"}


class Link:
    """A child process that has opened llama.cpp's library, and answers one message at a time.

    `model` is the name that error messages give. Threads may share it. Every method raises
    EngineFailed, with the last log lines, if the child does not do its part.
    """

    def __init__(
        self, library: Library, model: str, environment: Mapping[str, str], seconds: float
    ) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._closed = False
        self._broken = ""
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._socket.settimeout(seconds)
        self._seconds = seconds
        settings = {
            "socket": theirs.fileno(),
            "library": str(library.path),
            "backends": None if library.backends is None else str(library.backends),
        }
        try:
            self._process = EngineProcess(
                python_file(_CHILD, json.dumps(settings)),
                {**environment, **_ENVIRONMENT},
                f"llama.cpp ({library.name})",
                model,
                inherited=(theirs.fileno(),),
            )
        except EngineFailed:
            ours.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """The id of the child process."""
        return self._process.pid

    def close(self) -> None:
        """End the process, whatever it is doing; safe to call twice and from any thread."""
        self._closed = True
        self._process.stop()
        # A thread that waits for a reply wakes up now, because the other end is gone.
        with self._lock:
            self._socket.close()

    def ask(
        self, do: str, payload: bytes = b"", *, seconds: float | None = None, **fields: Any
    ) -> tuple[Json, bytes]:
        """Send a message, and return the reply and its raw bytes."""
        if self._closed:
            raise self.failure("is closed")
        text = json.dumps({"do": do, **fields}).encode()
        with self._lock:
            if self._broken:
                raise self.failure(self._broken)
            try:
                self._socket.settimeout(seconds or self._seconds)
                self._socket.sendall(_LENGTHS.pack(len(text), len(payload)) + text + payload)
                reply, raw = self._reply()
            except (OSError, ValueError, RecursionError, MemoryError) as e:
                raise self._break(do, e, seconds or self._seconds) from e
        if "error" in reply:
            raise self._refusal(reply)
        return reply, raw

    def _reply(self) -> tuple[Json, bytes]:
        n_json, n_raw = _LENGTHS.unpack(self._receive(_LENGTHS.size))
        if n_json > _MAX_JSON_BYTES or n_raw > _MAX_BYTES:
            raise ValueError(f"announced a reply of {n_json + n_raw} bytes")
        try:
            reply = json.loads(self._receive(n_json))
        except (ValueError, RecursionError):
            raise ValueError("answered with something that is not JSON") from None
        if not isinstance(reply, dict):
            raise ValueError("answered with something that is no JSON object")  # noqa: TRY004
        return reply, self._receive(n_raw)

    def _break(self, do: str, error: Exception, seconds: float) -> EngineFailed:
        """The error of a conversation that cannot go on: a late reply would answer the next."""
        if self._closed:
            return self.failure("is closed")
        if isinstance(error, TimeoutError):
            self._broken = f"did not answer within {seconds:g} s"
        elif isinstance(error, OSError):
            self._broken = f"broke off its answer: {error}"
            try:
                self._process.require_alive(f"while it was asked to {do}", 1.0)
            except EngineFailed as e:
                self._broken = "has ended"
                return e
        else:
            self._broken = str(error) or "gave an answer that does not fit into memory"
        self._process.stop()
        return self.failure(self._broken)

    def _refusal(self, reply: Json) -> EngineFailed:
        """The error that says what llama.cpp did not do."""
        lines = reply.get("log")
        log = [printable(str(line), 160) for line in lines[-10:]] if isinstance(lines, list) else []
        shown = "".join(f"\n  | {line}" for line in log)
        message = f"llama.cpp: {printable(str(reply['error']), 400)}"
        return EngineFailed(f"{message}; model {printable(self._model)}{shown}", log)

    @contextlib.contextmanager
    def reading(self, what: str) -> Iterator[None]:
        """Raise EngineFailed if a reply about something does not have the expected form."""
        try:
            yield
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as e:
            raise self.failure(f"gave an answer about {what} that does not fit") from e

    def failure(self, what: str) -> EngineFailed:
        """The error that says what the child did, with its last log lines."""
        return self._process.failure(what)

    def _receive(self, n: int) -> bytes:
        # Memory grows with what comes, and not with what was announced.
        buffer = bytearray()
        while len(buffer) < n:
            more = self._socket.recv(min(n - len(buffer), _PIECE_BYTES))
            if not more:
                raise ConnectionResetError("the process has ended")
            buffer += more
        return bytes(buffer)


def physical_cores() -> int:
    """The cores of this process that share no other's arithmetic units, as llama.cpp counts them.

    Source: common_cpu_get_num_physical_cores in common/common.cpp (b11549).
    """
    try:
        usable = os.sched_getaffinity(0)
    except AttributeError:
        return max(1, (os.cpu_count() or 2) // 2)
    groups = set()
    for cpu in usable:
        path = f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings"
        try:
            groups.add(Path(path).read_text("ascii").strip())
        except OSError:
            return len(usable)
    return max(1, len(groups))
