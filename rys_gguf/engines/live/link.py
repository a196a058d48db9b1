"""The child process of the live engine, and the messages to it."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections.abc import Mapping
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
            try:
                self._socket.settimeout(seconds or self._seconds)
                self._socket.sendall(_LENGTHS.pack(len(text), len(payload)) + text + payload)
                n_json, n_raw = _LENGTHS.unpack(self._receive(_LENGTHS.size))
                if n_json + n_raw > _MAX_BYTES:
                    raise self.failure(f"announces a reply of {n_json + n_raw} bytes")
                reply = json.loads(self._receive(n_json))
                raw = self._receive(n_raw)
            except TimeoutError as e:
                raise self.failure(f"did not answer within {self._seconds:g} s") from e
            except OSError as e:
                if self._closed:
                    raise self.failure("is closed") from e
                self._process.require_alive(f"while it was asked to {do}", 1.0)
                raise self.failure(f"broke off its answer: {e}") from e
            except ValueError as e:
                raise self.failure("answered with something that is not JSON") from e
        if "error" in reply:
            log = [printable(str(line), 160) for line in reply.get("log") or ()][-10:]
            shown = "".join(f"\n  | {line}" for line in log)
            message = f"llama.cpp: {printable(str(reply['error']), 400)}"
            raise EngineFailed(f"{message}; model {printable(self._model)}{shown}", log)
        return reply, raw

    def failure(self, what: str) -> EngineFailed:
        """The error that says what the child did, with its last log lines."""
        return self._process.failure(what)

    def _receive(self, n: int) -> bytes:
        buffer = bytearray(n)
        view = memoryview(buffer)
        done = 0
        while done < n:
            more = self._socket.recv_into(view[done:])
            if not more:
                raise ConnectionResetError("the process has ended")
            done += more
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
