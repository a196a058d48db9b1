"""The placebo: a window that was not chosen, asked what the finalists are asked."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from rys_gguf import Model
from rys_gguf.layers.schedule import Schedule
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.stage import FINAL, LOOPS, PLACEBO, SPEED
from rys_gguf.runs.trial import Trial
from rys_gguf.search.job import HELDOUT, SEARCH, batch_left
from rys_gguf.search.phases import Phase, phases
from rys_gguf.search.samplers.grid import Grid
from rys_gguf.search.samplers.halving import Halving
from rys_gguf.search.samplers.rounds import Rounds
from rys_gguf.search.settings import Settings
from rys_gguf.search.space import Windows
from rys_gguf.stats.looks import LOOKS
from rys_gguf.stats.ranking import Ranked, rank
from tests import tiny
from tests.search.fakes import Planted, Window, items, trials_of, window_of
from tests.search.sampler_contract import Log, run_on, upcoming

N_LAYERS = 24
BASE = Candidate.base(N_LAYERS)
ROUNDS = Rounds((8, 16), keep=0.5, n_finalists=2)
SUITES = {SEARCH: items(16, "s"), HELDOUT: items(40, "h")}
# Windows of three layers come out best, those of two are spread below them.
WORLD = Planted(
    {(4, 7): 0.3, (8, 11): 0.25} | {(i, i + 2): -0.01 * i for i in range(N_LAYERS - 1)},
    suites=SUITES,
)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Windows:
    """Any layer may be repeated."""
    path = tmp_path_factory.mktemp("placebo") / "m.gguf"
    with Model(tiny.write(path, "llama", N_LAYERS)) as model:
        return Windows(model, Schedule.PORTABLE)


def course(windows: Windows, *, placebo: bool = True) -> Sequence[Phase]:
    """A map of windows of two and three layers, with looks."""
    sampler = Grid(windows, (3, 2), Halving(BASE.key, ROUNDS))
    suites = (SUITES[SEARCH], SUITES[HELDOUT])
    return phases(BASE, sampler, ROUNDS, suites, preflight=False, looks=LOOKS, placebo=placebo)


@pytest.fixture(scope="module")
def log(windows: Windows) -> Log:
    """A sweep with a placebo."""
    return run_on(course(windows), WORLD, [], random.Random(1))


def in_stage(log: Log, stage: object) -> list[Window | None]:
    """The windows that have a result in a stage."""
    return [
        window_of(trial.candidate)
        for trial in trials(log).values()
        if trial.results.keys() & {stage}
    ]


def trials(log: Log) -> Mapping[str, Trial]:
    """What the log holds."""
    return trials_of(log.outcomes, N_LAYERS)


def test_it_is_a_window_as_long_as_the_best_from_the_middle(log: Log) -> None:
    """It is no finalist, and comes after them and before the speed."""
    finalists = in_stage(log, FINAL)
    (placebo,) = in_stage(log, PLACEBO)
    assert placebo is not None
    assert placebo not in finalists
    assert placebo[1] - placebo[0] == 3
    order = [window_of(r.trial.candidate) for r in rank_of(log)]
    alike = [n for n, w in enumerate(order) if w and w[1] - w[0] == 3 and w not in finalists]
    middle = len(order) // 2
    assert abs(order.index(placebo) - middle) == min(abs(n - middle) for n in alike)
    stages = [str(o.result.stage) for o in log.outcomes]
    assert stages.index("placebo") == stages.index("speed") - 1


def rank_of(log: Log) -> Sequence[Ranked]:
    """The ranking of the search."""
    found = trials(log)
    return rank(found[BASE.key], found.values()).order


def test_it_is_asked_what_any_finalist_was_asked(log: Log) -> None:
    """Not more: where all finalists are clear, it stops as early."""
    found = trials(log)
    finalists = [t for t in found.values() if t.looks and t.key != BASE.key]
    asked = {item for t in finalists for item in t.answers_in(t.looks)}
    (trial,) = (t for t in found.values() if PLACEBO in t.results)
    assert set(trial.answers[PLACEBO]) == asked
    assert len(asked) in (10, 20, 40)


def test_one_that_loops_gives_way_to_the_next(windows: Windows, log: Log) -> None:
    """It would show what damage does."""
    (chosen,) = in_stage(log, PLACEBO)
    assert chosen is not None
    key = next(t.key for t in trials(log).values() if t.candidate.window == chosen)
    begun = [o for o in log.outcomes if o.result.candidate != key or o.result.stage.is_round]
    again = run_on(course(windows), replace(WORLD, loops=[chosen]), begun, random.Random(3))
    (other,) = in_stage(again, PLACEBO)
    assert other != chosen
    assert chosen in in_stage(again, LOOPS)


def test_without_thinking_there_is_none(windows: Windows) -> None:
    """And a sweep says nothing of either."""
    log = run_on(course(windows, placebo=False), WORLD, [], random.Random(4))
    assert in_stage(log, PLACEBO) == []
    assert len(in_stage(log, SPEED)) == 3
    assert "thinking" not in Settings().as_json()
    assert Settings(thinking=8).as_json()["thinking"] == 8


def test_any_prefix_of_the_log_gives_the_same_next_jobs(windows: Windows, log: Log) -> None:
    """What is asked next follows from what is recorded, cut after any result."""
    for n in range(len(log.outcomes) - 10, len(log.batches)):
        batch = log.batches[n]
        now = trials_of(log.prefix(n), N_LAYERS)
        assert upcoming(course(windows), now) == batch_left(batch.label, batch.jobs, now)
