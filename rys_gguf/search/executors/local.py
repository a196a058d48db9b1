"""Workers side by side on one machine, each with a file and an engine of its own."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType

from rys_gguf.engines.base import EngineOptions
from rys_gguf.search.executors.base import JobLists, Outcome
from rys_gguf.search.job import Job
from rys_gguf.search.setup import Setup
from rys_gguf.search.worker import Hosts, Worker, cheapest_order

# The variables that hide GPUs from an engine: those of CUDA, ROCm and ggml-vulkan.
_GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES")
_POLL_SECONDS = 0.05


def factory(
    options: EngineOptions,
    n_workers: int = 1,
    gpus: Sequence[str] = (),
    hosts: Hosts | None = None,
) -> Callable[[Setup], LocalExecutor]:
    """A function that makes executors whose workers divide this machine's threads and `gpus`."""
    shares = shares_of(options, n_workers, gpus)
    return lambda setup: LocalExecutor(setup, shares, hosts)


def shares_of(options: EngineOptions, n_workers: int, gpus: Sequence[str]) -> list[EngineOptions]:
    """The engine options of each worker: the machine's threads and GPUs divided between them.

    With `gpus` each worker sees only its part of them; if there are fewer GPUs than workers, the
    workers share.
    """
    threads = options.n_threads
    if threads is None and n_workers > 1:
        threads = max(1, (os.cpu_count() or 1) // n_workers)
    shares = []
    for n in range(n_workers):
        own = list(gpus[n::n_workers]) or list(gpus[n % max(1, len(gpus)) :][:1])
        visible = tuple((name, ",".join(own)) for name in _GPU_VARIABLES if own)
        environment = (*options.environment, *visible)
        shares.append(replace(options, n_threads=threads, environment=environment))
    return shares


class LocalExecutor:
    """One thread of this process for each worker; `options` has one entry for each of them.

    A worker is made when it is first needed. Use it as a context manager.
    """

    def __init__(
        self,
        setup: Setup,
        options: Sequence[EngineOptions],
        hosts: Hosts | None = None,
    ) -> None:
        self._setup = setup
        self._options = options
        self._hosts = hosts
        self._workers: list[Worker] = []
        self._threads: _Threads | None = None

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *exc: object) -> None:
        # An exception may come from whoever records the outcomes, while jobs are running.
        if self._threads is not None:
            self._threads.stop()
        for worker in self._workers:
            worker.close()

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """The outcomes of the jobs, in any order."""
        n = min(len(self._options), len(jobs))
        while len(self._workers) < n:
            k = len(self._workers)
            worker = Worker(self._setup, f"worker-{k}", self._options[k], self._hosts)
            self._workers.append(worker)
        if n:
            lists = JobLists(cheapest_order(jobs, self._options[0]), n)
            self._threads = _Threads(self._workers[:n], lists)
            with self._threads as threads:
                yield from threads.outcomes()


class _Threads:
    """Workers that run a batch; leaving the block waits for them, with an error it ends them."""

    def __init__(self, workers: Sequence[Worker], lists: JobLists) -> None:
        self._workers = workers
        self._lists = lists
        self._lock = threading.Lock()
        self._stopping = False
        # None comes from a thread that has ended.
        self._results: queue.SimpleQueue[Outcome | BaseException | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(len(workers))
        ]

    def __enter__(self) -> _Threads:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.stop()
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """End all engines, and return once no thread is running."""
        self._stopping = True
        for thread, worker in zip(self._threads, self._workers, strict=True):
            while thread.is_alive():
                # Again and again: an engine may be starting just now.
                worker.stop()
                thread.join(_POLL_SECONDS)

    def outcomes(self) -> Iterator[Outcome]:
        """The outcomes as they come. Raises what a worker raised."""
        n_running = len(self._threads)
        while n_running:
            result = self._results.get()
            if result is None:
                n_running -= 1
            elif isinstance(result, BaseException):
                raise result
            else:
                yield result

    def _work(self, n: int) -> None:
        try:
            while not self._stopping and (job := self._take(n)) is not None:
                for outcome in self._workers[n].run(job):
                    if self._stopping:
                        # Its engine may have been ended, which says nothing about the candidate.
                        return
                    self._results.put(outcome)
        except BaseException as e:  # noqa: BLE001 - raised in the thread that waits for it
            self._results.put(e)
        finally:
            self._results.put(None)

    def _take(self, n: int) -> Job | None:
        with self._lock:
            return self._lists.take(n)
