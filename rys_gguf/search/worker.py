"""A worker: runs jobs one after another, with a model and hosts of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rys_gguf.engines.base import LIVE, EngineOptions
from rys_gguf.formats.model import Model
from rys_gguf.search.executors.base import Outcome
from rys_gguf.search.hosts.base import MakeHost, Workplace
from rys_gguf.search.hosts.live import LiveHost
from rys_gguf.search.hosts.working_file import WorkingFileHost
from rys_gguf.search.hosts.written import WrittenHost
from rys_gguf.search.job import Job
from rys_gguf.search.objective import run_job
from rys_gguf.search.setup import Setup


@dataclass(frozen=True, slots=True)
class Hosts:
    """How a worker makes candidates: for most jobs, and for those that ask for a written file."""

    usual: MakeHost = WorkingFileHost
    as_written: MakeHost = WrittenHost


# Live candidates are written for nobody: the self-test has shown that they compute the same.
LIVE_HOSTS = Hosts(LiveHost, LiveHost)


def hosts_for(options: EngineOptions) -> Hosts:
    """The hosts for a kind of engine."""
    return LIVE_HOSTS if options.kind == LIVE else Hosts()


def cheapest_order(jobs: Sequence[Job], options: EngineOptions) -> list[Job]:
    """Jobs in an order that costs a worker little: a live one keeps the tail of a window's start.

    Through files, jobs are cheapest as they come: sizes one after the other.
    """
    if options.kind != LIVE:
        return list(jobs)
    return sorted(jobs, key=lambda job: job.candidate.windows[:1])


class Worker:
    """Runs jobs of one setup; keeps its files and hosts from job to job until it is closed.

    `name` is part of its files' names. `options` replace those of the setup; they decide on the
    hosts, unless `hosts` are given.
    """

    def __init__(
        self,
        setup: Setup,
        name: str,
        options: EngineOptions | None = None,
        hosts: Hosts | None = None,
    ) -> None:
        self._setup = setup
        self._model = Model(setup.model)
        options = options or setup.options
        place = Workplace(self._model, Path(setup.folder), name, setup.schedule, options)
        hosts = hosts or hosts_for(options)
        self._usual = hosts.usual(place)
        is_same = hosts.as_written is hosts.usual
        self._as_written = self._usual if is_same else hosts.as_written(place)

    def run(self, job: Job) -> Iterator[Outcome]:
        """The outcomes of a job as its stages end; raises what `run_job` raises."""
        host = self._as_written if job.as_written else self._usual
        yield from run_job(job, host, self._setup)

    def stop(self) -> None:
        """End the engine, whatever it is doing, from another thread; its job then fails."""
        self._usual.stop()
        self._as_written.stop()

    def close(self) -> None:
        """Close the model and remove the working files."""
        self._usual.close()
        self._as_written.close()
        self._model.close()
