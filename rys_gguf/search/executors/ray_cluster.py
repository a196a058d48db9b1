"""The same workers on many machines, by Ray: on a cluster that is running, or on a local one.

The model has to be at the same path on every machine, which shared storage gives. Each worker makes
a candidate file of its own in the run's working folder, on the machine where it runs.

Whoever reaches Ray's ports runs code as the user who started Ray. A local Ray therefore listens on
the loopback interface, asks for a token that only this process and its children know, and keeps its
sockets in a folder that no other user may enter.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rys_gguf.engines.base import EngineOptions
from rys_gguf.errors import RysError
from rys_gguf.files.folder import private_folder
from rys_gguf.search.executors.base import JobLists, Outcome
from rys_gguf.search.job import Job
from rys_gguf.search.setup import Setup
from rys_gguf.search.worker import Hosts, Worker, cheapest_order

LOCAL = "local"
# With 0, Ray takes the loopback address as this machine's. Read when Ray is imported.
_LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# Also read then, by versions that know them. Left alone, Ray writes its token to ~/.ray.
_MODE, _TOKEN, _TOKEN_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
# `ray job submit` sets it; the job then has a working folder of its own.
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# The path of a socket has 107 characters at most, of which Ray takes about 70, and our folder 23.
_MAX_FOLDER = 10
_POLL_SECONDS = 0.2
_CONNECT_SECONDS = 10.0
_START_SECONDS = 5.0
# For workers to remove their files in the end; a machine that is gone is not waited for.
_CLOSE_SECONDS = 20.0


def factory(
    address: str,
    n_workers: int,
    options: EngineOptions,
    *,
    cpus: float = 1.0,
    gpus: float = 0.0,
    hosts: Hosts | None = None,
) -> Callable[[Setup], RayExecutor]:
    """A function that makes executors of up to `n_workers`, each on `cpus` and `gpus` of a machine.

    `address` is that of a cluster, "auto" for the cluster this machine belongs to, or "local" for
    one that is started here, listens on the loopback interface only, and ends with the executor.
    Raises RysError if Ray is not installed or a worker needs more CPUs than a local machine has.
    """
    _import_ray(address)
    here = os.cpu_count() or 1
    if address == LOCAL and cpus > here:
        raise _too_large(cpus, gpus, {"CPU": here})
    resources = {"num_cpus": cpus, "num_gpus": gpus}
    return lambda setup: RayExecutor(setup, address, n_workers, options, resources, hosts)


def _import_ray(address: str) -> Any:
    if address == LOCAL and "ray" not in sys.modules:
        os.environ.setdefault(_LOOPBACK_ONLY, "0")
        if not any(name in os.environ for name in (_MODE, _TOKEN, _TOKEN_FILE)):
            os.environ.update({_MODE: "token", _TOKEN: secrets.token_hex(32)})
    try:
        import ray
    except ImportError as e:
        raise RysError("--ray needs ray: pip install ray") from e
    return ray


def _short_place() -> Path | None:
    """Where to make a folder whose path is to be short; None for the usual place."""
    is_long = len(tempfile.gettempdir()) > _MAX_FOLDER
    return Path("/tmp") if is_long and os.path.isdir("/tmp") else None  # noqa: S108


def _too_large(cpus: float, gpus: float, here: dict[str, float]) -> RysError:
    return RysError(
        f"a worker needs {cpus:g} CPUs and {gpus:g} GPUs, this machine has "
        f"{here.get('CPU', 0):g} and {here.get('GPU', 0):g}; use fewer --threads or --gpus"
    )


def _require_reachable(address: str) -> None:
    """Raise OSError if nobody listens at host:port; Ray itself would try for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()


class RayExecutor:
    """Actors on a Ray cluster, one for each worker; use it as a context manager.

    Entering raises RysError if the cluster is not there. A worker for which there is no machine
    yet gets no job, and is not waited for.
    """

    def __init__(
        self,
        setup: Setup,
        address: str,
        n_workers: int,
        options: EngineOptions,
        resources: dict[str, float],
        hosts: Hosts | None = None,
    ) -> None:
        self._setup = setup
        self._address = address
        self._n_workers = n_workers
        self._options = options
        self._resources = resources
        self._hosts = hosts
        self._actors: list[Any] = []
        # Workers that have no machine yet, by the reference of what tells that they do.
        self._starting: dict[Any, int] = {}
        self._idle: list[int] = []
        self._running: dict[Any, int] = {}

    def __enter__(self) -> RayExecutor:
        self._ray = _import_ray(self._address)
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(private_folder(_short_place()))
            self._connect(folder)
            stack.callback(self._ray.shutdown)
            if self._address == LOCAL:
                self._require_loopback()
                self._require_room()
            shared = (self._setup, self._options, self._hosts, os.getcwd())
            self._shared = self._ray.put(shared)
            self._remote = self._ray.remote(max_concurrency=2, **self._resources)(_Actor)
            self._stack = stack.pop_all()
        return self

    def _connect(self, folder: Path) -> None:
        options: dict[str, Any] = {}
        if _JOB not in os.environ:
            # Workers import from the working folder first. By default it is the current one, where
            # a stray json.py may lie beside a downloaded model.
            (folder / "empty").mkdir()
            options["runtime_env"] = {"working_dir": str(folder / "empty")}
        if self._address == LOCAL:
            # Ray opens this one to every user; its parent stays closed.
            options.update(include_dashboard=False, _temp_dir=str(folder / "ray"))
        try:
            _require_reachable(self._address)
            self._ray.init(
                # Spelled out: without an address Ray would join the cluster in RAY_ADDRESS.
                address=self._address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **options,
            )
        except (OSError, RuntimeError, ValueError) as e:
            raise RysError(f"no Ray cluster at {self._address!r}: {e}") from e

    def _require_loopback(self) -> None:
        host = self._ray.util.get_node_ip_address()
        if not ipaddress.ip_address(host).is_loopback:
            raise RysError(
                f"Ray would listen on {host}, where anyone can use it: it was imported before "
                f"rys-gguf could tell it to stay on this machine. Set {_LOOPBACK_ONLY}=0 before "
                f"Python starts"
            )

    def _require_room(self) -> None:
        # A cluster may grow. This machine does not, and would be waited for in vain.
        here = self._ray.cluster_resources()
        cpus, gpus = self._resources["num_cpus"], self._resources["num_gpus"]
        if here.get("CPU", 0) < cpus or here.get("GPU", 0) < gpus:
            raise _too_large(cpus, gpus, here)

    def __exit__(self, *exc: object) -> None:
        try:
            self._stop()
            self._wait_for_starting()
            # One that has no machine never answers.
            up = [a for n, a in enumerate(self._actors) if n not in self._starting.values()]
            closing = [actor.close.remote() for actor in up]
            if closing:
                self._ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_SECONDS)
            for actor in self._actors:
                self._ray.kill(actor)
        finally:
            self._stack.close()

    def _wait_for_starting(self) -> None:
        """Wait a moment for workers that come up just now: they have files to remove."""
        refs = list(self._starting)
        if refs:
            over, _ = self._ray.wait(refs, num_returns=len(refs), timeout=_START_SECONDS)
            for ready in over:
                self._idle.append(self._starting.pop(ready))

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """The outcomes of the jobs, in any order; those of a job come when it is over."""
        if not jobs:
            return
        self._hire(min(self._n_workers, len(jobs)))
        lists = JobLists(cheapest_order(jobs, self._options), len(self._actors))
        try:
            while lists or self._running:
                while self._idle and lists:
                    self._give(lists)
                (ready,), _ = self._ray.wait([*self._starting, *self._running], num_returns=1)
                is_job = ready in self._running
                n = (self._running if is_job else self._starting).pop(ready)
                # Before its error is raised: it is as usable as before.
                self._idle.append(n)
                outcomes = self._value(ready)
                if is_job:
                    yield from outcomes
        finally:
            self._stop()

    def _hire(self, n_workers: int) -> None:
        while len(self._actors) < n_workers:
            n = len(self._actors)
            actor = self._remote.remote(self._shared, f"ray-{n}")
            self._actors.append(actor)
            self._starting[actor.come_up.remote()] = n

    def _give(self, lists: JobLists) -> None:
        n = self._idle.pop(0)
        if (job := lists.take(n)) is not None:
            self._running[self._actors[n].run.remote(job)] = n

    def _value(self, ready: Any) -> list[Outcome]:
        try:
            return list(self._ray.get(ready) or ())
        except self._ray.exceptions.RayTaskError as e:
            if isinstance(e.cause, RysError):
                raise e.cause from None
            raise
        except self._ray.exceptions.RayActorError as e:
            raise RysError(f"a Ray worker was lost: {e}; run the same command again") from e

    def _stop(self) -> None:
        """End all engines, and return once no job is running."""
        while self._running:
            # Again and again: an engine may be starting just now.
            for n in self._running.values():
                self._actors[n].stop.remote()
            running = list(self._running)
            over, _ = self._ray.wait(running, num_returns=len(running), timeout=_POLL_SECONDS)
            for ready in over:
                self._idle.append(self._running.pop(ready))


class _Actor:
    """A worker in a process of its own, on whatever machine Ray chose.

    Two methods can run at once, so that `stop` reaches a job that is running.
    """

    def __init__(self, shared: tuple[Setup, EngineOptions, Hosts, str], name: str) -> None:
        self._shared = shared
        self._name = name
        self._worker: Worker | None = None

    def come_up(self) -> None:
        """Make the worker; called once there is a machine for it."""
        setup, options, hosts, folder = self._shared
        # Arguments of the engine may name files relative to it.
        with contextlib.suppress(OSError):
            os.chdir(folder)
        Path(setup.folder).mkdir(parents=True, exist_ok=True)
        if not os.path.exists(setup.model):
            raise RysError(f"{setup.model}: not on this machine; put the model on shared storage")
        self._worker = Worker(setup, self._name, options, hosts)

    def run(self, job: Job) -> list[Outcome]:
        """The outcomes of a job."""
        assert self._worker is not None
        return list(self._worker.run(job))

    def stop(self) -> None:
        """End the engine that runs."""
        if self._worker is not None:
            self._worker.stop()

    def close(self) -> None:
        """Remove the worker's files."""
        if self._worker is not None:
            self._worker.close()
