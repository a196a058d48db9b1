"""The same workers on many machines, by Ray (extra `ray`): a cluster that runs, or a local one.

The model has to be at the same path on every machine, which shared storage gives; each worker
makes its own candidate file in the working folder, on a machine that has none in the same place.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rys_gguf.engines.base import EngineOptions
from rys_gguf.errors import RysError
from rys_gguf.search.objective import Job, Outcome, Setup, Worker

LOCAL = "local"


class RayPool:
    """`n_workers` actors on a Ray cluster, `cpus` and `gpus` of a machine for each.

    `address` is a cluster's, "auto" for the one this machine belongs to, "local" for one that is
    started here and ends with the sweep. Raises RysError if Ray or the cluster is not there.
    """

    def __init__(
        self,
        address: str,
        n_workers: int,
        options: EngineOptions,
        *,
        cpus: float = 1.0,
        gpus: float = 0.0,
    ) -> None:
        try:
            import ray
        except ImportError as e:
            raise RysError("Ray is not installed: pip install 'rys-gguf[ray]'") from e
        self._ray: Any = ray
        self._n_workers = n_workers
        self._options = options
        self._resources = {"num_cpus": cpus, "num_gpus": gpus}
        try:
            ray.init(
                address=None if address == LOCAL else address,
                log_to_driver=False,
                include_dashboard=False if address == LOCAL else None,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as e:
            raise RysError(f"no Ray cluster at {address!r}: {e}") from e
        # A cluster may grow; this machine does not, and would be waited for in vain.
        here = self._ray.cluster_resources()
        if address == LOCAL and (here.get("CPU", 0) < cpus or here.get("GPU", 0) < gpus):
            ray.shutdown()
            raise RysError(
                f"a worker needs {cpus:g} CPUs and {gpus:g} GPUs, this machine has "
                f"{here.get('CPU', 0):g} and {here.get('GPU', 0):g}; take fewer --threads or --gpus"
            )

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self._ray.shutdown()

    def run(self, setup: Setup, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Each actor takes the next job as it becomes free; one without a machine gets none."""
        ray = self._ray
        shared = ray.put(setup)
        remote = ray.remote(**self._resources)(_Actor)
        actors = [
            remote.remote(shared, f"ray-{n}", self._options)
            for n in range(min(self._n_workers, len(jobs)))
        ]
        try:
            waiting = list(jobs)
            # What is being done and by whom; some may never come up where machines are few.
            starting = {actor.come_up.remote(): actor for actor in actors}
            running: dict[Any, Any] = {}
            up = []
            while waiting or running:
                (ready,), _ = ray.wait([*starting, *running], num_returns=1)
                outcomes = self._outcomes(ready)
                if (actor := running.pop(ready, None)) is None:
                    actor = starting.pop(ready)
                    up.append(actor)
                if waiting:
                    running[actor.run.remote(waiting.pop(0))] = actor
                yield from outcomes
            ray.get([actor.close.remote() for actor in up])
        finally:
            for actor in actors:
                ray.kill(actor)

    def _outcomes(self, ready: Any) -> list[Outcome]:
        try:
            return list(self._ray.get(ready))
        except self._ray.exceptions.RayTaskError as e:
            if isinstance(e.cause, RysError):
                raise e.cause from None
            raise
        except self._ray.exceptions.RayActorError as e:
            raise RysError(f"a Ray worker was lost: {e}; run the same command again") from e


class _Actor:
    """A worker in a process of its own, on whatever machine Ray chose."""

    def __init__(self, setup: Setup, name: str, options: EngineOptions) -> None:
        Path(setup.folder).mkdir(parents=True, exist_ok=True)
        if not os.path.exists(setup.model):
            raise RysError(f"{setup.model}: not on this machine; put the model on shared storage")
        self._worker = Worker(setup, name, options)

    def come_up(self) -> list[Outcome]:
        """Nothing, once there is a machine for this worker."""
        return []

    def run(self, job: Job) -> list[Outcome]:
        return list(self._worker.run(job))

    def close(self) -> None:
        self._worker.close()
