"""A sweep tries many windows, does little work on each, and keeps fewer and fewer.

A window that is damaged is dropped after a few forward passes. The rest answer the first items of
the suite; the better of them answer more, and so on. The best few are then written as `apply`
would write them, verified, dropped if they loop, and judged by held-out items, which played no part
in choosing them.

The study asks one phase after the other for jobs, runs them and records the outcomes. What it does
next follows from the run's log alone, so the same command continues a sweep that was interrupted,
and does nothing twice.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from msgspec.structs import replace as replaced

from rys_gguf.engines.base import LIVE
from rys_gguf.engines.live.kept import sessions_kept
from rys_gguf.errors import RysError, Unsuitable
from rys_gguf.formats.model import Model
from rys_gguf.probes.item import dump
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import ModelInfo, Progress
from rys_gguf.runs.stage import Status
from rys_gguf.runs.storage import HELDOUT, INFO, SUITE, OpenRun, require_identity
from rys_gguf.search.budget import time_line, with_recorded_asks, within
from rys_gguf.search.effort import Effort
from rys_gguf.search.executors.base import Executor, MakeExecutor
from rys_gguf.search.executors.local import factory as local_executor
from rys_gguf.search.identity import engine_identity, identity_of, model_info, run_info
from rys_gguf.search.job import Batch
from rys_gguf.search.phases import Deadline, Phase, SearchPhase, phases
from rys_gguf.search.prepare import Prepared, prepare
from rys_gguf.search.room import require_room
from rys_gguf.search.samplers.base import Sampler
from rys_gguf.search.samplers.find import rounds_of, sampler_of, single
from rys_gguf.search.settings import SweepRequest
from rys_gguf.search.sized import sight_lines
from rys_gguf.text import printable


class Watcher(Protocol):
    """The listener to whom a sweep reports its progress."""

    def say(self, line: str) -> None:
        """A line for the user."""

    def begin(self, label: str, total: int) -> None:
        """A part with at most `total` stages begins; the part before it is over."""

    def advance(self) -> None:
        """One stage of the part is over."""


class Quiet:
    """A watcher that shows nothing."""

    def say(self, line: str) -> None:
        """Drop the line."""

    def begin(self, label: str, total: int) -> None:
        """Show nothing."""

    def advance(self) -> None:
        """Show nothing."""


# The first worker goes on with the session in which the base was prepared.
@sessions_kept()
def run_sweep(
    request: SweepRequest,
    make_executor: MakeExecutor | None = None,
    watcher: Watcher | None = None,
    *,
    retry_failed: bool = False,
) -> OpenRun:
    """Sweep, or continue the sweep in that folder; `retry_failed` tries again what failed.

    By default one worker on this machine does all jobs, and nobody is told how it is getting on.
    Raises RysError; the run keeps what is done.
    """
    make_executor = make_executor or local_executor(request.options)
    watcher = watcher or Quiet()
    request = with_recorded_asks(replace(request, model=request.model.absolute()))
    settings = request.settings
    sampler, identity, about = _course(request)
    for note in (*sampler.notes, *sight_lines(request)):
        watcher.say(f"note: {note}")
    start = time.monotonic()
    prepared = _prepared(request, watcher)
    gone = request.seconds_gone + time.monotonic() - start
    until = None
    if request.seconds is not None:
        seconds = request.seconds
        request = within(replace(request, seconds_gone=gone), sampler, prepared.pace)
        sampler, identity, about = _course(request)
        # The rest is for the finalists, however slow the machine turns out to be.
        planned = Effort.of(request, sampler).seconds(prepared.pace, request.n_engines)
        until = seconds - gone - planned.final
    watcher.say(f"note: {time_line(request, Effort.of(request, sampler), prepared.pace)}")
    identity["engine"] = engine_identity(request.options, prepared.build)
    suites = [suite.items for suite in request.suites]
    files = {SUITE: dump(suites[0]), HELDOUT: dump(suites[1])}
    info = replaced(run_info(request, identity, about, sampler), search_until=until)
    base, rounds = Candidate.base(about.n_layers), rounds_of(request, single(sampler).n_most)
    with OpenRun.start(request.folder, info, files) as run:
        # Without the base there is nothing to compare with: no failure of it is final.
        run.forget_failed(None if retry_failed else base.key)
        before, search, final, placebo, speed = phases(
            base, sampler, rounds, (suites[0], suites[1]),
            generate=settings.generate, preflight=settings.preflight, looks=settings.looks,
            placebo=bool(settings.thinking),
        )  # fmt: skip
        deadline = Deadline.of(run.info.search_until, request.n_engines)
        search = replace(search, deadline=deadline, tell=watcher.say)
        try:
            with (
                working_folder(Path(prepared.setup.folder)),
                make_executor(prepared.setup) as executor,
            ):
                run_phases(run, (before, search, final, placebo, speed), executor, watcher)
        except Unsuitable:
            # Whatever the user changes now makes it another run, which needs the folder.
            if set(run.trials) <= {base.key}:
                run.discard()
            raise
    return run


def _course(request: SweepRequest) -> tuple[Sampler, dict[str, Any], ModelInfo]:
    """The sampler, the identity without the engine's part, and the model.

    Raises RysError for what needs no engine to be refused.
    """
    with Model(request.model) as model:
        sampler = sampler_of(request, model)
        identity = identity_of(model, request)
        if request.seconds is None:
            require_identity(request.folder, identity)
        if request.options.kind != LIVE and not (request.folder / INFO).exists():
            # A live engine writes no files. A run that is there may be over, and need no room.
            n_combined = request.plan.max_blocks
            require_room(model, sampler.first.candidates, request.folder, n_combined)
        return sampler, identity, model_info(model, request.model)


def run_phases(run: OpenRun, parts: Sequence[Phase], executor: Executor, watcher: Watcher) -> None:
    """Run one phase after the other, each until it asks for nothing more."""
    for part in parts:
        while (batch := part.next(run.trials)) is not None:
            _run_batch(run, batch, executor, watcher)
    is_cut = any(isinstance(part, SearchPhase) and part.is_cut(run.trials) for part in parts)
    run.note(Progress(is_over=True, is_cut=is_cut))


def _run_batch(run: OpenRun, batch: Batch, executor: Executor, watcher: Watcher) -> None:
    watcher.begin(batch.label, batch.n_stages)
    run.note(Progress(part=batch.label, n_total=batch.n_stages))
    start, n_outcomes = time.monotonic(), 0
    for outcome in executor.run(batch.jobs):
        result = outcome.result
        run.record(result, outcome.answers)
        n_outcomes += 1
        if result.status is Status.FAILED:
            watcher.say(f"{result.spec}: {result.stage} failed: {result.reason}")
        watcher.advance()
        run.note(_progress(batch, n_outcomes, time.monotonic() - start))
    # The same batch would be asked for again, and again.
    assert n_outcomes, f"{batch.label}: the executor gave no outcome"


def _progress(batch: Batch, n_done: int, seconds: float) -> Progress:
    left = max(0, batch.n_stages - n_done)
    return Progress(
        part=batch.label, n_done=n_done, n_total=batch.n_stages,
        seconds_left=seconds * left / n_done,
    )  # fmt: skip


def _prepared(request: SweepRequest, watcher: Watcher) -> Prepared:
    watcher.begin("prepare", sum(len(suite.items) for suite in request.suites))
    return prepare(request, watcher.advance)


@contextlib.contextmanager
def working_folder(folder: Path) -> Iterator[None]:
    """A folder for working files: empty at the start, gone in the end."""
    try:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as e:
        raise RysError(f"{printable(folder)}: {e.strerror or e}") from e
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
