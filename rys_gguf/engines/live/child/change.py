"""Change the variant that llama.cpp's own server serves, while nothing is being answered.

The server unloads its model once it has been idle for long (--sleep-idle-seconds), and loads it
again at the next request. Both happen in its loop, under the lock that new tasks need. When another
variant is wanted, the clock of that loop jumps, so that it unloads at once, and a wake-up follows,
so that it loads again at once: the other one. Requests that come meanwhile wait for that.

A request that has begun but not yet reached the loop may still use the vocabulary. Such requests
are known, and the clock does not jump while there are any.

Source: tools/server/server-queue.cpp and server-context.cpp (b11434 and b11549).
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from ctypes import c_bool, c_int, c_int64, c_void_p
from typing import Any

from llama import Failure  # type: ignore[import-not-found]
from mapping import redirect  # type: ignore[import-not-found]

Json = dict[str, Any]

_CLOCK = "ggml_time_ms"
_LOOP = "_ZN12server_queue10start_loopEl"
_WAIT = "_ZN12server_queue19wait_until_no_sleepEv"
_POST = "_ZN12server_queue4postEOSt6vectorI11server_taskSaIS1_EEb"
_POST_ONE = "_ZN22server_response_reader9post_taskEO11server_taskb"
_STOP = "_ZN22server_response_reader4stopEv"
_TYPES: dict[str, Any] = {
    _CLOCK: ctypes.CFUNCTYPE(c_int64),
    _LOOP: ctypes.CFUNCTYPE(None, c_void_p, c_int64),
    _WAIT: ctypes.CFUNCTYPE(None, c_void_p),
    _POST: ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_bool),
    _POST_ONE: ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_bool),
    _STOP: ctypes.CFUNCTYPE(None, c_void_p),
}
_JUMP_MS = 1 << 32  # longer than any time that it may idle, which is a number of 31 bits
_POLL_SECONDS = 0.01


class Changes:
    """The server's loop, and the headers of the variant that it is to load next, if there is one.

    `callers` are the libraries that the server consists of. Raises Failure if they do not call
    what has to be redirected.
    """

    def __init__(self, callers: list[str]) -> None:
        self._wanted: list[Json] | None = None
        self._queue: int | None = None
        self._loop_thread: int | None = None
        self._beginning: set[int] = set()
        self._jumped = 0
        hooks = {
            _CLOCK: self._now,
            _LOOP: self._run,
            _WAIT: self._begin,
            _POST: self._post,
            _POST_ONE: self._post_one,
            _STOP: self._stop,
        }
        library = ctypes.CDLL(callers[0])
        self._originals = {name: _TYPES[name]((name, library)) for name in hooks}
        functions = {name: _TYPES[name](hook) for name, hook in hooks.items()}
        found = set().union(*(redirect(caller, functions) for caller in callers))
        if missing := sorted(functions.keys() - found):
            raise Failure(f"its server does not call {missing[0]}, which changes need")

    def serve(self, number: int, change: Callable[[Json], Json]) -> None:
        """Answer the messages at a socket in a thread, and end this process with the parent."""
        threading.Thread(target=_serve, args=(number, change), daemon=True).start()

    def swap(self, wanted: list[Json], seconds: float) -> bool:
        """Let the server load `wanted`; False if it has not been idle for some seconds."""
        self._wanted = wanted
        deadline = time.monotonic() + seconds
        while self._is_open() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            self._wake()
        is_late = self.take() is not None
        self._wake()  # should it just have unloaded the one it had
        return not is_late

    def take(self) -> list[Json] | None:
        """What is wanted, which then is not wanted any more."""
        wanted, self._wanted = self._wanted, None
        return wanted

    def _is_open(self) -> bool:
        return self._wanted is not None

    def _wake(self) -> None:
        if self._queue is not None:
            self._originals[_WAIT](self._queue)

    # -- what the server calls in place of its own functions --------------------------------------

    def _now(self) -> int:
        """ggml_time_ms. Each call of a jumping clock is later than the last by more than enough."""
        now = int(self._originals[_CLOCK]())
        if self._wanted is None or self._beginning or threading.get_ident() != self._loop_thread:
            return now
        self._jumped += _JUMP_MS
        return now + self._jumped

    def _run(self, queue: int, idle_ms: int) -> None:
        self._loop_thread, self._queue = threading.get_ident(), queue
        self._originals[_LOOP](queue, idle_ms)

    def _begin(self, queue: int) -> None:
        # Before the lock is taken in there: whoever has it next will know of this request.
        self._beginning.add(threading.get_ident())
        self._originals[_WAIT](queue)

    def _post(self, queue: int, tasks: int, is_first: bool) -> int:  # noqa: FBT001 - C calls it
        number = int(self._originals[_POST](queue, tasks, is_first))
        self._beginning.discard(threading.get_ident())
        return number

    def _post_one(self, reader: int, task: int, is_first: bool) -> None:  # noqa: FBT001 - as above
        self._originals[_POST_ONE](reader, task, is_first)
        self._beginning.discard(threading.get_ident())

    def _stop(self, reader: int) -> None:
        self._originals[_STOP](reader)
        self._beginning.discard(threading.get_ident())


def _serve(number: int, change: Callable[[Json], Json]) -> None:
    with socket.socket(fileno=number) as connection, connection.makefile("rw") as file:
        for line in file:
            try:
                reply = change(json.loads(line))
            except Exception as e:  # noqa: BLE001 - whatever it is, the parent has to know
                reply = {"error": str(e) or type(e).__name__}
            file.write(json.dumps(reply) + "\n")
            file.flush()
    os._exit(1)  # the parent is gone
