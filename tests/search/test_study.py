"""The study finds the planted windows, does little for it, and survives whatever stops it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace as replaced

from rys_gguf import Model
from rys_gguf.errors import RysError, Unsuitable
from rys_gguf.layers.schedule import Schedule
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import ItemAnswer, ModelInfo, RunInfo
from rys_gguf.runs.stage import DIVERGENCE, FINAL, LOOPS, Status, round_stage
from rys_gguf.runs.storage import OpenRun, Run, read_progress
from rys_gguf.search.executors.base import Outcome
from rys_gguf.search.job import HELDOUT, SEARCH, Job, Step
from rys_gguf.search.phases import phases
from rys_gguf.search.samplers.base import Sampler
from rys_gguf.search.samplers.grid import Grid
from rys_gguf.search.samplers.halving import Halving
from rys_gguf.search.samplers.rounds import Rounds, round_ends
from rys_gguf.search.samplers.two_pass import TwoPass
from rys_gguf.search.space import Windows
from rys_gguf.search.study import run_phases
from tests import tiny
from tests.search.fakes import (
    Notes,
    Planted,
    PlantedExecutor,
    answered,
    items,
    window_of,
)

N_LAYERS = 16
BASE = Candidate.base(N_LAYERS)
ROUNDS = Rounds(round_ends(120, (0.06, 0.25)))


@pytest.fixture
def windows(tmp_path: Path) -> Windows:
    """Sixteen layers, any of which may be repeated."""
    with Model(tiny.write(tmp_path / "m.gguf", "llama", N_LAYERS)) as model:
        return Windows(model, Schedule.PORTABLE)


@dataclass
class Search:
    """A search by a sampler of planted answers, and the executor of its last run."""

    sampler: Sampler
    planted: Planted
    folder: Path
    executor: PlantedExecutor | None = None
    notes: Notes | None = None

    def run(self, fuse: int | None = None) -> list[str]:
        """Run it, or continue it; the specs of the finalists, the search's best first."""
        self.executor, self.notes = PlantedExecutor(self.planted, fuse), Notes()
        suites = self.planted.suites
        parts = phases(BASE, self.sampler, ROUNDS, (suites[SEARCH], suites[HELDOUT]))
        info = RunInfo(identity={"model": "m"}, model=ModelInfo(n_layers=N_LAYERS))
        with OpenRun.start(self.folder, info, {}) as run:
            run.forget_failed(BASE.key)
            run_phases(run, parts, self.executor, self.notes)
            return [c.spec for c in parts[2].finalists(run.trials)]

    @property
    def jobs(self) -> list[Job]:
        """The jobs of the last run."""
        assert self.executor is not None
        return self.executor.jobs


def halving() -> Halving:
    """Halving over the rounds of this file."""
    return Halving(BASE.key, ROUNDS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a run."""
    return tmp_path / "run"


def test_the_planted_winners_are_found_with_a_fraction_of_the_questions(
    windows: Windows, folder: Path
) -> None:
    """Three of 29 windows are better; the others are a little worse, and each is noisy."""
    winners = {(4, 6): 0.15, (9, 12): 0.12, (5, 8): 0.09}
    gains = {(i, i + d): -0.05 for d in (2, 3) for i in range(N_LAYERS - d + 1)} | winners
    search = Search(Grid(windows, (2, 3), halving()), Planted(gains), folder)
    found = search.run()
    assert set(found) == {"blocks:4,6", "blocks:9,12", "blocks:5,8"}
    # All windows on all items, and the same finalists on as many held-out ones.
    naive = (len(gains) + 1) * 120 + 4 * 120
    assert search.executor
    assert search.executor.n_asked < naive / 3
    finals = [j for j in search.jobs if j.steps[-1].stage == FINAL]
    assert [j.as_written for j in finals] == [False, True, True, True]
    assert {j.candidate.spec for j in finals} == {"base", *found}


def test_a_sweep_tells_how_far_it_is(windows: Windows, folder: Path) -> None:
    """Whoever looks into the folder finds the part that is at work, its time, and the end."""
    search = Search(Grid(windows, (2,), halving()), Planted({(4, 6): 0.15}), folder)
    with pytest.raises(KeyboardInterrupt):
        search.run(fuse=9)
    found = read_progress(folder)
    assert found is not None
    assert (found.part, found.n_total, found.is_over) == ("search", 30, False)
    n_base = len(Run.open(folder).trials[BASE.key].results)
    assert found.n_done == n_results(folder) - n_base > 0
    assert found.seconds_left is not None
    search.run()
    found = read_progress(folder)
    assert found is not None
    assert found.is_over


def test_the_second_pass_looks_around_the_best_of_the_first(windows: Windows, folder: Path) -> None:
    """Windows of 2 within 4 layers of the best two windows of 4, and nowhere else."""
    world = Planted({(8, 12): 0.2, (6, 10): 0.1, (9, 11): 0.3})
    search = Search(TwoPass(windows, (4, 2), halving()), world, folder)
    assert search.run()[0] == "blocks:9,11"
    tried = {w for j in search.jobs if (w := window_of(j.candidate))}
    # One of the best two is 8,12; chance decides about the other.
    small = {w for w in tried if w[1] - w[0] == 2}
    assert {(i, i + 2) for i in range(4, 15)} <= small
    assert {w for w in tried if w[1] - w[0] == 4} == {(0, 4), (4, 8), (8, 12), (12, 16)}
    assert search.notes
    labels = [label for label, _ in search.notes.parts]
    assert labels == ["base", "pass 1", "pass 2", "round 2", "finalists", *["speed"] * 4]


def test_damaged_looping_and_failing_windows_are_left_behind(
    windows: Windows, folder: Path
) -> None:
    """Each with its reason in the results, and not among the finalists, whatever they score."""
    world = Planted(
        {(1, 3): 0.5, (2, 4): 0.4, (3, 5): 0.3, (4, 6): 0.2},
        kl={(1, 3): 5.0}, loops=[(2, 4)], broken=[(3, 5)],
    )  # fmt: skip
    search = Search(Grid(windows, (2,), halving()), world, folder)
    found = search.run()
    assert found[0] == "blocks:4,6"
    assert len(found) == 3
    assert not {"blocks:1,3", "blocks:2,4", "blocks:3,5"} & set(found)
    trials = {t.candidate.spec: t for t in Run.open(folder).trials.values()}
    assert trials["blocks:1,3"].status(DIVERGENCE) is Status.DROPPED
    assert trials["blocks:1,3"].status(round_stage(1)) is None
    assert trials["blocks:2,4"].status(LOOPS) is Status.DROPPED
    assert trials["blocks:3,5"].status(DIVERGENCE) is Status.FAILED
    assert len([j for j in search.jobs if j.candidate.spec == "blocks:3,5"]) == 1
    assert search.notes
    assert search.notes.lines == ["blocks:3,5: damage failed: llama.cpp ended"]


def test_where_most_windows_look_damaged_the_better_half_goes_on(
    windows: Windows, folder: Path
) -> None:
    """Limits that do not fit a model must not empty the sweep."""
    kl = {(i, i + 2): 2.0 + i for i in range(15)}
    search = Search(Grid(windows, (2,), halving()), Planted({(5, 7): 0.3}, kl=kl), folder)
    assert search.run()[0] == "blocks:5,7"
    trials = Run.open(folder).trials.values()
    tried = {t.candidate.spec for t in trials if round_stage(1) in t.results}
    assert len(tried) == 1 + 8  # the base, and the half that diverges least
    assert "blocks:12,14" not in tried
    assert search.notes
    assert [label for label, _ in search.notes.parts][1:3] == ["search", "search, again"]


def test_stopped_after_any_outcome_it_ends_the_same(windows: Windows, tmp_path: Path) -> None:
    """Nothing is done twice, and the result is that of a sweep that was not stopped."""
    world = Planted({(4, 6): 0.15, (9, 11): 0.12}, kl={(0, 2): 9.0})
    sampler = Grid(windows, (2,), halving())
    expected = Search(sampler, world, tmp_path / "undisturbed").run()
    n_done = n_results(tmp_path / "undisturbed")
    for fuse in (1, 5):
        search = Search(sampler, world, tmp_path / f"stopped{fuse}")
        for _ in range(n_done + 2):
            try:
                found = search.run(fuse)
                break
            except KeyboardInterrupt:
                continue
        assert found == expected
        lines = (search.folder / "results.jsonl").read_text().splitlines()
        stages = [(r["candidate"], r["stage"]) for r in map(json.loads, lines)]
        assert len(stages) == len(set(stages)) == n_done


def n_results(folder: Path) -> int:
    """How many results are recorded."""
    path = folder / "results.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_run_that_is_over_asks_nothing(windows: Windows, folder: Path) -> None:
    """The same call once more finds everything recorded."""
    search = Search(Grid(windows, (2,), halving()), Planted({(4, 6): 0.2}), folder)
    found = search.run()
    assert search.run() == found
    assert search.jobs == []
    assert search.notes
    assert search.notes.parts == []


def test_a_base_that_fails_ends_the_sweep(windows: Windows, folder: Path) -> None:
    """Without it there is nothing to compare with; once the cause is gone, the sweep goes on."""

    class Broken(Planted):
        def _outcome(self, candidate: Candidate, step: Step) -> Outcome:
            outcome = super()._outcome(candidate, step)
            failed = replaced(outcome.result, status=Status.FAILED, reason="no such GPU")
            return Outcome(failed)

    sampler = Grid(windows, (2,), halving())
    search = Search(sampler, Broken(), folder)
    with pytest.raises(RysError, match="failed in stage round1: no such GPU"):
        search.run()
    assert len(search.jobs) == 1
    assert Search(sampler, Planted({(4, 6): 0.2}), folder).run()[0] == "blocks:4,6"


class Guessing(Planted):
    """Answers at chance to items of some families."""

    families: Sequence[str] = ("reasoning", "eq")

    def answer(self, candidate: Candidate, step: Step, n: int) -> ItemAnswer:
        """Right or wrong by chance, and sure of nothing."""
        item = self.suites[step.suite][n]
        if item.family not in self.families:
            return super().answer(candidate, step, n)
        right = random.Random(item.id + candidate.key).random() < 0.5
        return replaced(answered(candidate, step, item, 0.5), score=float(right))


def test_a_base_at_chance_ends_the_sweep(windows: Windows, folder: Path) -> None:
    """The message names the family and how many items say so, of search and held-out suite."""
    search = Search(Grid(windows, (2,), halving()), Guessing(), folder)
    with pytest.raises(Unsuitable, match=r"does not beat the best constant answer .* 168 items"):
        search.run()


@pytest.mark.parametrize("dull", [False, True])
def test_control_families_choose_nothing_and_must_show_something(
    windows: Windows, folder: Path, dull: bool
) -> None:
    """Only finalists are asked; a base at chance in one ends the sweep before it begins."""
    suites = {SEARCH: items(120, "s"), HELDOUT: items(120, "h") + items(60, "c", "eq")}
    world = Guessing({(4, 6): 0.2}, suites=suites)
    world.families = ("eq",) if dull else ()
    search = Search(Grid(windows, (2,), halving()), world, folder)
    if dull:
        with pytest.raises(RysError, match="eq: the model does not beat the best constant answer"):
            search.run()
        assert {job.candidate.is_base for job in search.jobs} == {True}
        return
    assert search.run()[0] == "blocks:4,6"
    asked = {
        (str(stage), answer.family)
        for trial in Run.open(folder).trials.values()
        for stage, answers in trial.answers.items()
        for answer in answers.values()
    }
    assert asked == {
        ("round1", "reasoning"), ("round2", "reasoning"), ("final", "reasoning"), ("final", "eq")
    }  # fmt: skip


def test_failed_candidates_are_tried_again_on_request(windows: Windows, folder: Path) -> None:
    """Recorded results stay, and only failed jobs are run again."""
    sampler = Grid(windows, (2,), halving())
    Search(sampler, Planted({(4, 6): 0.1}, broken=[(9, 11)]), folder).run()
    search = Search(sampler, Planted({(4, 6): 0.1, (9, 11): 0.3}), folder)
    search.run()
    assert search.jobs == []
    with OpenRun.start(folder, Run.open(folder).info, {}) as run:
        run.forget_failed()
        executor = PlantedExecutor(search.planted)
        suites = search.planted.suites
        parts = phases(BASE, sampler, ROUNDS, (suites[SEARCH], suites[HELDOUT]))
        run_phases(run, parts, executor, Notes())
        assert "blocks:9,11" in [c.spec for c in parts[2].finalists(run.trials)]
    assert executor.jobs[0].candidate.spec == "blocks:9,11"
