"""Workers side by side on one machine, each with a file and an engine of its own."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Protocol

from rys_gguf.engines.base import EngineOptions
from rys_gguf.search.objective import Job, Outcome, Setup, Worker

# What hides GPUs from an engine: CUDA's, ROCm's and ggml-vulkan's own.
_GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES")


class Pool(Protocol):
    """Something that runs jobs. `run` gives the stages' outcomes as they end, in any order."""

    def run(self, setup: Setup, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Run all jobs. Raises what a worker raised, when no job is running any more."""


def shares(options: EngineOptions, n_workers: int, gpus: Sequence[str]) -> list[EngineOptions]:
    """The engine options of each worker: the machine's threads and GPUs split between them.

    With `gpus` each worker sees its part of them only; with fewer GPUs than workers they share.
    """
    threads = options.n_threads
    if threads is None and n_workers > 1:
        threads = max(1, (os.cpu_count() or 1) // n_workers)
    result = []
    for n in range(n_workers):
        mine = list(gpus[n::n_workers]) or list(gpus[n % max(1, len(gpus)) :][:1])
        environment = tuple((name, ",".join(mine)) for name in _GPU_VARIABLES if mine)
        result.append(replace(options, n_threads=threads, environment=environment))
    return result


class LocalPool:
    """Threads of this process, a worker each. Use it as a context manager.

    Workers, and so their files, outlast a `run`: the next has less to write.
    """

    def __init__(self, options: Sequence[EngineOptions]) -> None:
        self._options = options
        self._workers: list[Worker] = []

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers:
            worker.close()

    def run(self, setup: Setup, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Each worker gets jobs that follow one another, for which it has little to write.

        One that is through with its own takes over from the end of the longest list.
        """
        while len(self._workers) < min(len(self._options), len(jobs)):
            n = len(self._workers)
            self._workers.append(Worker(setup, f"worker-{n}", self._options[n]))
        n = min(len(self._workers), len(jobs))
        lists = [deque(jobs[k * len(jobs) // n : (k + 1) * len(jobs) // n]) for k in range(n)]
        with _Threads(self._workers[:n], lists) as threads:
            yield from threads.outcomes()


class _Threads:
    def __init__(self, workers: Sequence[Worker], lists: list[deque[Job]]) -> None:
        self._workers = workers
        self._lists = lists
        self._lock = threading.Lock()
        self._stopping = False
        # None: a thread is through.
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
        self._stopping = True
        for thread, worker in zip(self._threads, self._workers, strict=True):
            # An engine may be starting just now: it is ended once it is there.
            while thread.is_alive():
                if error is not None:
                    worker.stop()
                thread.join(0.05)

    def outcomes(self) -> Iterator[Outcome]:
        running = len(self._threads)
        while running:
            result = self._results.get()
            if result is None:
                running -= 1
            elif isinstance(result, BaseException):
                raise result
            else:
                yield result

    def _work(self, n: int) -> None:
        try:
            while not self._stopping and (job := self._next(n)) is not None:
                for outcome in self._workers[n].run(job):
                    if self._stopping:  # an engine that was ended is no failed candidate
                        return
                    self._results.put(outcome)
        except BaseException as e:  # noqa: BLE001 - raised in the thread that waits for it
            self._results.put(e)
        finally:
            self._results.put(None)

    def _next(self, n: int) -> Job | None:
        with self._lock:
            if self._lists[n]:
                return self._lists[n].popleft()
            longest = max(self._lists, key=len)
            return longest.pop() if longest else None
