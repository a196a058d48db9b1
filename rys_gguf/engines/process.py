"""The engine's process: start it, see whether it lives, read its log, stop it.

It runs apart from ours so that a model that makes llama.cpp abort ends as an error message.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from queue import SimpleQueue

from rys_gguf.errors import EngineFailed
from rys_gguf.text import printable

_LOG_LINES = 10
_LOG_TAIL = 8192
_STOP_SECONDS = 5.0


class EngineProcess:
    """A running engine. `name` and `model` are what error messages call it.

    It inherits the file descriptors `inherited`, and then sees by itself when their other ends are
    gone. Without any, Linux ends it when our process ends. Raises EngineFailed if the command
    cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        name: str,
        model: str,
        inherited: Sequence[int] = (),
    ) -> None:
        self._name = name
        self._model = model
        self._lock = threading.Lock()
        self._stopped = False
        # A file and not a pipe: the engine would stop at a full pipe unless somebody kept reading.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        self._last_lines: list[str] = []

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                # Without a backtrace an abort ends at once with its assertion as the last line.
                env={**os.environ, "GGML_NO_BACKTRACE": "1", **environment},
                stdout=self._log,
                stderr=subprocess.STDOUT,
                pass_fds=inherited,
                # Outside the terminal's process group Ctrl-C reaches only us; we stop the engine.
                start_new_session=True,
                # It makes one system call and nothing else, which is safe between fork and exec.
                preexec_fn=_die_with_parent if with_parent else None,  # noqa: PLW1509
            )

        with_parent = sys.platform == "linux" and not inherited
        try:
            self._process = _in_lasting_thread(start) if with_parent else start()
        except OSError as e:
            self._log.close()
            raise EngineFailed(f"{printable(command[0])}: {e.strerror or e}") from e

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def stop(self) -> None:
        """Ask it to end, then kill it; safe to call twice and from any thread."""
        with self._lock:
            if self._stopped:
                return
            try:
                _signal_group(self._process, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_STOP_SECONDS)
            finally:
                _signal_group(self._process, getattr(signal, "SIGKILL", signal.SIGTERM))
                self._process.wait()
                self._last_lines = self._read_log()
                self._log.close()
                self._stopped = True

    def require_alive(self, when: str, seconds: float = 0.0) -> None:
        """Raise EngineFailed, saying `when`, if it has ended, or does within some seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(seconds)
            raise self.failure(f"ended {when} ({_ending(code)})")

    def trim_log(self, n_bytes: int) -> None:
        """Forget what it logged once that takes more than about `n_bytes` on disk."""
        # The process goes on writing where it was, behind a hole, which only Windows fills.
        if getattr(os.fstat(self._log.fileno()), "st_blocks", 0) * 512 > n_bytes:
            self._log.truncate(0)

    def failure(self, what: str) -> EngineFailed:
        """The error that says what went wrong, with the last log lines."""
        lines = self.last_lines()
        log = "".join(f"\n  | {line}" for line in lines)
        if any(_MISALIGNED in line for line in lines):
            log += f"\n  {_ALIGN}"
        message = f"{printable(self._name)} {what}; model {printable(self._model)}{log}"
        return EngineFailed(message, lines)

    def last_lines(self) -> list[str]:
        """The last lines it logged, safe to print."""
        with self._lock:
            return self._last_lines if self._stopped else self._read_log()

    def _read_log(self) -> list[str]:
        size = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), _LOG_TAIL, max(0, size - _LOG_TAIL))
        lines = tail.lstrip(b"\0").decode("utf-8", "replace").splitlines()  # less the hole
        return [printable(line, 160) for line in lines if line.strip()][-_LOG_LINES:]


# The assertion of ggml_backend_cpu_buffer_from_ptr in ggml/src/ggml-backend.cpp (b11549).
_MISALIGNED = "% TENSOR_ALIGNMENT == 0"
_ALIGN = (
    "general.alignment is below 32 and the data start elsewhere: "
    "rys-gguf align MODEL -o BASE --alignment 32 makes a base that loads"
)


def _ending(code: int) -> str:
    """What a process's return code says: an exit code, or the signal that ended it."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return f"signal {-code}"


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    """Signal the engine and its children: llama-server may be a wrapper script."""
    if not hasattr(os, "killpg"):
        process.terminate()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)  # it leads a session of its own


def _die_with_parent() -> None:
    # prctl(PR_SET_PDEATHSIG, SIGKILL): an engine must not outlive a parent that was killed.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _in_lasting_thread(start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """What `start` gives in a thread that lasts as long as we: to Linux that thread is the parent.

    Whoever opened an engine in a thread of a pool would lose it together with that thread.
    """
    started: Future[subprocess.Popen[bytes]] = Future()

    def run() -> None:
        try:
            started.set_result(start())
        except BaseException as e:  # noqa: BLE001 - it is raised where it was asked for
            started.set_exception(e)

    _starts(os.getpid()).put(run)
    try:
        return started.result()
    except KeyboardInterrupt:
        started.add_done_callback(_kill_started)
        raise


def _kill_started(started: Future[subprocess.Popen[bytes]]) -> None:
    if started.exception() is None:
        started.result().kill()


@functools.cache
def _starts(_pid: int) -> SimpleQueue[Callable[[], None]]:
    """What the starting thread of this process has to do; a fork has no threads but its own."""
    queue: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def serve() -> None:
        while True:
            queue.get()()

    # A daemon: it must not end before threads that still use their engines.
    threading.Thread(target=serve, name="starts engines", daemon=True).start()
    return queue
