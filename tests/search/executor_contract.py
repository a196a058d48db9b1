"""The contract of executors: every job once, workers that last, and nothing left behind."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from rys_gguf.errors import OutputFailed
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.stage import SPEED, Status, round_stage
from rys_gguf.search.executors.base import Executor, MakeExecutor
from rys_gguf.search.job import Job, Step
from rys_gguf.search.setup import Setup
from rys_gguf.search.worker import Hosts
from tests import tiny
from tests.search.fakes import (
    BUG,
    DIES,
    DISK_FULL,
    HANGS,
    ScriptedHost,
    Window,
    logged,
    scripted_setup,
)

N_LAYERS = 12
N_WORKERS = 2
SCRIPTED = Hosts(ScriptedHost, ScriptedHost)
# Sound windows, next to one another as a search has them.
WINDOWS = tuple((i, i + 4) for i in range(8))
STEPS = (Step(round_stage(1), items=(0, 1)), Step(round_stage(2), items=(2, 3)))


def job(window: Window, steps: Sequence[Step] = STEPS) -> Job:
    """Two rounds of a window."""
    return Job(Candidate(LayerMap.from_blocks([window], N_LAYERS)), tuple(steps))


def jobs(*windows: Window) -> list[Job]:
    """A job for each window."""
    return [job(window) for window in windows]


class ExecutorContract:
    """The tests that every executor passes; subclasses give a factory for two workers."""

    def factory(self) -> MakeExecutor:
        """A function that makes the executor, with two workers on `SCRIPTED` hosts."""
        raise NotImplementedError

    @pytest.fixture
    def setup(self, tmp_path: Path) -> Setup:
        """A setup with an empty working folder."""
        (tmp_path / "work").mkdir()
        path = tiny.write(tmp_path / "m.gguf", "llama", N_LAYERS)
        return scripted_setup(path, tmp_path)

    @pytest.fixture
    def executor(self, setup: Setup) -> Executor:
        """The executor under test, not entered yet."""
        return self.factory()(setup)

    def test_every_stage_of_every_job_comes_once_and_in_order(self, executor: Executor) -> None:
        """Jobs in any order, the stages of a job in theirs."""
        with executor:
            outcomes = list(executor.run(jobs(*WINDOWS)))
        by_job: dict[str, list[str]] = {}
        for outcome in outcomes:
            assert outcome.result.is_ok
            assert len(outcome.answers) == 2
            by_job.setdefault(outcome.result.spec, []).append(str(outcome.result.stage))
        assert by_job == {f"blocks:{i},{j}": ["round1", "round2"] for i, j in WINDOWS}

    def test_workers_last_from_batch_to_batch(self, executor: Executor, tmp_path: Path) -> None:
        """Their working files serve the next batch too; one job needs one worker."""
        with executor:
            assert len(list(executor.run(jobs(WINDOWS[0])))) == 2
            assert len(logged(tmp_path, "host")) == 1  # one host is both of the first worker
            for _ in range(3):
                assert len(list(executor.run(jobs(*WINDOWS)))) == 2 * len(WINDOWS)
            assert list(executor.run([])) == []
            assert len(list(executor.run([job(WINDOWS[1], [Step(SPEED)])]))) == 1
            assert len(list((tmp_path / "work").iterdir())) <= N_WORKERS
        assert len(logged(tmp_path, "host")) <= N_WORKERS

    def test_leaving_the_block_removes_working_files(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        """Every worker has ended, and its files are gone."""
        with executor:
            list(executor.run(jobs(*WINDOWS)))
            n_workers = len(list((tmp_path / "work").iterdir()))
            assert n_workers
        assert list((tmp_path / "work").iterdir()) == []
        # A worker that came up last may have closed without having had a job.
        assert len(logged(tmp_path, "close")) >= n_workers

    def test_an_engine_that_fails_is_an_outcome(self, executor: Executor) -> None:
        """The other jobs are done, and so is the worker's next job."""
        with executor:
            outcomes = list(executor.run(jobs(DIES, *WINDOWS[:3])))
            again = list(executor.run(jobs(WINDOWS[4], WINDOWS[5])))
        failed = [o.result for o in outcomes if o.result.status is Status.FAILED]
        assert [(r.spec, r.log) for r in failed] == [("blocks:1,3", ("no memory",))]
        assert len(outcomes) == 1 + 6
        assert len(again) == 4

    @pytest.mark.parametrize("window", [DISK_FULL, BUG])
    def test_what_a_worker_raises_is_raised_once_nothing_runs(
        self, executor: Executor, tmp_path: Path, window: Window
    ) -> None:
        """An engine that would never answer is ended; the next batch finds the workers idle."""
        error = OutputFailed if window == DISK_FULL else ZeroDivisionError
        with executor:
            for _ in range(N_WORKERS):
                with pytest.raises(error):
                    # One worker hangs meanwhile.
                    list(executor.run(jobs(HANGS, window)))
            assert len(list(executor.run(jobs(WINDOWS[0], WINDOWS[1])))) == 4
        assert list((tmp_path / "work").iterdir()) == []

    def test_an_interrupt_ends_what_runs(self, executor: Executor, tmp_path: Path) -> None:
        """Whoever consumes outcomes may be interrupted while an engine is busy."""
        with suppress(KeyboardInterrupt), executor:
            for _ in executor.run(jobs(WINDOWS[0], HANGS)):
                raise KeyboardInterrupt
        assert list((tmp_path / "work").iterdir()) == []

    def test_a_worker_that_is_through_helps_the_other(self, executor: Executor) -> None:
        """A job that takes long holds up no other job than itself."""
        outcomes = []
        with suppress(KeyboardInterrupt), executor:
            for outcome in executor.run(jobs(HANGS, *WINDOWS)):
                outcomes.append(outcome)
                if len(outcomes) == 2 * len(WINDOWS):
                    raise KeyboardInterrupt
        assert len({o.result.spec for o in outcomes}) == len(WINDOWS)
