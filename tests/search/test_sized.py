"""Held-out items by the gain they show, and finalists that are asked in looks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from rys_gguf import Model
from rys_gguf.errors import InvalidOptions, RysError
from rys_gguf.layers.schedule import Schedule
from rys_gguf.probes.choose import SuiteOptions
from rys_gguf.probes.suite import build_suite
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.stage import FINAL, GENERATE, LOOPS, Stage, look_stage
from rys_gguf.runs.trial import Trials
from rys_gguf.search.job import HELDOUT, SEARCH, batch_left
from rys_gguf.search.phases import Phase, phases
from rys_gguf.search.samplers.grid import Grid
from rys_gguf.search.samplers.halving import Halving
from rys_gguf.search.samplers.rounds import Rounds
from rys_gguf.search.settings import Settings
from rys_gguf.search.sized import require_generated, sized
from rys_gguf.search.space import Windows
from rys_gguf.stats.looks import LOOKS, looks_at
from rys_gguf.stats.power import sight
from tests import tiny
from tests.search.fakes import Planted, items, trials_of
from tests.search.sampler_contract import Log, run_on, upcoming

N_LAYERS = 24
BASE = Candidate.base(N_LAYERS)
ROUNDS = Rounds((8, 16), keep=0.5, n_finalists=3)
SUITES = {SEARCH: items(16, "s"), HELDOUT: items(400, "h")}
CLEAR, SLIGHT, BAD = (4, 6), (8, 10), (12, 14)


def world(**changes: object) -> Planted:
    """Three windows that the search puts first: one clearly better, one slightly, one worse."""
    gains = {(i, i + 2): -0.4 for i in range(N_LAYERS - 1)}
    planted = Planted(gains | {CLEAR: 0.2, SLIGHT: 0.04, BAD: -0.1}, suites=SUITES)
    for name, value in changes.items():
        setattr(planted, name, value)
    return planted


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Windows:
    """Any layer may be repeated."""
    path = tmp_path_factory.mktemp("sized") / "m.gguf"
    with Model(tiny.write(path, "llama", N_LAYERS)) as model:
        return Windows(model, Schedule.PORTABLE)


def course(windows: Windows, *, generate: bool = False) -> Sequence[Phase]:
    """A map of windows of two layers, with looks."""
    sampler = Grid(windows, (2,), Halving(BASE.key, ROUNDS))
    suites = (SUITES[SEARCH], SUITES[HELDOUT])
    return phases(BASE, sampler, ROUNDS, suites, preflight=False, looks=LOOKS, generate=generate)


def trials(log: Log) -> Trials:
    """What the log holds."""
    return trials_of(log.outcomes, N_LAYERS)


def held_out(log: Log, window: tuple[int, int]) -> tuple[Stage, ...]:
    """The held-out stages of a window."""
    trial = next(t for t in trials(log).values() if t.candidate.window == window)
    return tuple(s for s in trial.stages if s.is_look or s == GENERATE)


def test_clear_cases_stop_early(windows: Windows) -> None:
    """A large gain and a loss are asked a part; a small gain and the base are asked everything."""
    log = run_on(course(windows), world(), [], random.Random(1))
    looks = tuple(look_stage(n) for n in (1, 2, 3))
    assert held_out(log, SLIGHT) == looks
    assert held_out(log, BAD) == looks[: len(held_out(log, BAD))] != looks
    assert held_out(log, CLEAR) == looks[: len(held_out(log, CLEAR))] != looks
    base = trials(log)[BASE.key]
    assert base.looks == looks
    assert len(base.answers_in(looks)) == 400
    assert len(base.answers[FINAL]) == 100


def test_all_finalists_are_asked_in_words_in_the_end(windows: Windows) -> None:
    """Also those that stopped early: generated answers are compared on the same items."""
    log = run_on(course(windows, generate=True), world(), [], random.Random(2))
    for window in (CLEAR, SLIGHT, BAD):
        assert held_out(log, window)[-1] == GENERATE
    order = [str(o.result.stage) for o in log.outcomes if not o.result.is_base]
    assert order.index("generate") > max(n for n, s in enumerate(order) if s == "final3")


def test_any_prefix_of_the_log_gives_the_same_next_jobs(windows: Windows) -> None:
    """What is asked next follows from what is recorded, cut after any result."""
    log = run_on(course(windows), world(loops=[(0, 2)]), [], random.Random(3))
    n_before = len(log.outcomes) - 14
    for n in range(n_before, len(log.batches)):
        batch = log.batches[n]
        now = trials_of(log.prefix(n), N_LAYERS)
        assert upcoming(course(windows), now) == batch_left(batch.label, batch.jobs, now)


def test_a_finalist_that_fails_at_a_look_is_asked_no_more(windows: Windows) -> None:
    """And the others go on."""
    log = run_on(course(windows), world(failing={SLIGHT: "final2"}), [], random.Random(4))
    assert held_out(log, SLIGHT) == (look_stage(1), look_stage(2))
    assert len(held_out(log, BAD)) >= 1
    stages = {str(o.result.stage) for o in log.outcomes if o.result.stage == LOOPS}
    assert stages == {"loops"}


def test_stages_are_written_as_they_are_read() -> None:
    """The first look has the name that older runs have."""
    assert [str(look_stage(n)) for n in (1, 2, 12)] == ["final", "final2", "final12"]
    assert Stage.parse("final") == FINAL == look_stage(1)
    assert Stage.parse("final2") == look_stage(2)
    assert sorted([GENERATE, look_stage(2), FINAL]) == [FINAL, look_stage(2), GENERATE]
    for name in ("final0", "final1", "final01", "finals", "loops1"):
        with pytest.raises(ValueError, match="not a stage"):
            Stage.parse(name)


@pytest.mark.parametrize("gain", [0.2, 0.08])
def test_as_many_items_as_the_gain_takes(gain: float) -> None:
    """And not many more; of the levels and families of the first ones."""
    first = build_suite(
        "quick", levels={"math": 2, "eq": 1}, split="heldout", families=("math", "eq")
    )
    suite = sized(first, gain, 3, seed=0)
    n = len(suite.items)
    assert {(i.family, i.level) for i in suite.items} == {("math", 2), ("eq", 1)}
    assert 0.8 * gain < sight(suite.items, 3, looks_at(n)).overall <= gain
    assert all("heldout" in item.id for item in suite.items)


def test_a_gain_that_no_number_of_items_shows() -> None:
    """Easy sums come to an end: the message says what they show, and what to do."""
    first = build_suite("quick", levels={"math": 0}, split="heldout", families=("math",))
    with pytest.raises(RysError, match=r"--detect 2: .* items show no less than .* points"):
        sized(first, 0.02, 3, seed=0)


def test_looks_are_part_of_what_a_run_is() -> None:
    """Where there is one there is nothing to say, as in older runs."""
    assert "looks" not in Settings().as_json()
    assert Settings(looks=LOOKS).as_json()["looks"] == [0.25, 0.5, 1.0]


def test_own_items_are_not_sized() -> None:
    """Their number is the user's."""
    require_generated(SuiteOptions())
    with pytest.raises(InvalidOptions, match="--detect sizes generated items"):
        require_generated(SuiteOptions(suite=Path("own.jsonl")))
