"""The time a sweep takes is what it says beforehand, and a time it is given becomes its asks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as replaced

from rys_gguf import Model
from rys_gguf.engines.base import EngineOptions
from rys_gguf.errors import InvalidOptions, RysError
from rys_gguf.probes.ask import ask_all
from rys_gguf.probes.requests import TokenizedRequest
from rys_gguf.probes.suite import Suite
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import THOMPSON, ModelInfo, RunInfo, Times
from rys_gguf.runs.stage import DIVERGENCE, GENERATE, LOOPS, SPEED
from rys_gguf.runs.storage import OpenRun, Run, read_progress
from rys_gguf.search.budget import time_line, with_recorded_asks, within
from rys_gguf.search.effort import Effort
from rys_gguf.search.executors.base import Outcome
from rys_gguf.search.identity import asks_of_run
from rys_gguf.search.job import HELDOUT, SEARCH, Job
from rys_gguf.search.pace import Pace, Stopwatch, item_seconds
from rys_gguf.search.phases import Deadline, phases
from rys_gguf.search.samplers.base import Sampler
from rys_gguf.search.samplers.find import asks_of, least_asks, rounds_of, sampler_of, single
from rys_gguf.search.settings import Settings, SweepPlan, SweepRequest
from rys_gguf.search.study import run_phases
from tests import tiny
from tests.fake_engine import FakeEngine
from tests.search.fakes import Notes, Planted, PlantedExecutor, items

N_LAYERS = 24
SUITES = (Suite(items(200, "s")), Suite(items(100, "h")))
PACE = Pace(item={SEARCH: 0.1, HELDOUT: 0.2}, texts=1.0, replies=4.0)
WRITTEN = replace(PACE, words=0.3)
PLANS = [
    SweepPlan("two-pass", (8, 4)),
    SweepPlan("map", (4, 6)),
    SweepPlan("map", (4,), sampler=THOMPSON),
    SweepPlan("map", (4, 6), max_blocks=2, beam=4),
    SweepPlan("map", (2, 3), sampler=THOMPSON, max_blocks=3, beam=4),
]


def name_of(plan: SweepPlan) -> str:
    """What tells a plan from the others."""
    return f"{plan.name}-{plan.sampler}-{plan.max_blocks}"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in which any layer may be repeated."""
    return tiny.write(tmp_path_factory.mktemp("budget") / "m.gguf", "llama", N_LAYERS)


def sweep_of(
    path: Path, plan: SweepPlan, seconds: float | None = None, **chosen: Any
) -> SweepRequest:
    """A sweep of the model, with settings that are `chosen`."""
    settings = Settings(preflight=False, **chosen)
    folder = path.with_name("run")
    return SweepRequest(path, folder, plan, settings, SUITES, EngineOptions(), "", seconds)


def made(request: SweepRequest) -> Sampler:
    """The sampler of a request."""
    with Model(request.model) as model:
        return sampler_of(request, model)


class TimedExecutor(PlantedExecutor):
    """Answers as planted, and counts the seconds that an engine of the pace would take.

    It takes `slower` times as long.
    """

    seconds = 0.0
    slower = 1.0

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """The outcomes; each adds what its stage takes."""
        for outcome in super().run(jobs):
            result = outcome.result
            layers = 1 + result.extra_layers / N_LAYERS
            suite = SEARCH if result.stage.is_round else HELDOUT
            takes = {
                DIVERGENCE: PACE.texts * layers,
                LOOPS: PACE.replies * layers,
                # Two turns of two runs of 32 tokens each, for a window beside the base.
                SPEED: 2 * PACE.replies * (1 if result.is_base else 1 + layers),
            }
            item = WRITTEN.words if result.stage == GENERATE else PACE.item[suite]
            asked = len(outcome.answers) * item * layers
            seconds = self.slower * takes.get(result.stage, asked)
            self.seconds += seconds
            yield Outcome(replaced(result, seconds=Times(ask=seconds)), outcome.answers)


def swept(
    request: SweepRequest,
    folder: Path,
    *,
    until: float | None = None,
    slower: float = 1.0,
    fuse: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> TimedExecutor:
    """A whole sweep, and what it took; with a `fuse` it stops after so many outcomes."""
    sampler = made(request)
    suites = {SEARCH: SUITES[0].items, HELDOUT: SUITES[1].items}
    executor = TimedExecutor(Planted({(8, 12): 0.1}, suites=suites), fuse)
    executor.slower = slower
    rounds = rounds_of(request, single(sampler).n_most)
    info = RunInfo(identity={"model": "m"}, model=ModelInfo(n_layers=N_LAYERS), search_until=until)
    with OpenRun.start(folder, info, {}) as run:
        before, search, final, placebo, speed = phases(
            Candidate.base(N_LAYERS), sampler, rounds, (SUITES[0].items, SUITES[1].items),
            generate=request.settings.generate, preflight=False,
            placebo=request.settings.thinking > 0,
        )  # fmt: skip
        search = replace(search, deadline=Deadline.of(run.info.search_until, 1), tell=tell)
        with contextlib.suppress(KeyboardInterrupt):
            run_phases(run, (before, search, final, placebo, speed), executor, Notes())
    return executor


def stages_of(folder: Path) -> set[tuple[str, str]]:
    """Every window and stage of a run."""
    trials = Run.open(folder).trials
    return {(key, str(stage)) for key, trial in trials.items() for stage in trial.results}


@pytest.mark.parametrize("plan", PLANS, ids=name_of)
def test_a_search_that_is_out_of_time_leaves_the_finalists_theirs(
    path: Path, tmp_path: Path, plan: SweepPlan
) -> None:
    """On a machine half as fast as measured it ends early, as the same run up to there."""
    request = within(sweep_of(path, plan, 900), made(sweep_of(path, plan, 900)), PACE)
    planned = Effort.of(request, made(request)).seconds(PACE)
    told: list[str] = []
    swept(request, tmp_path / "whole")
    slow = swept(request, tmp_path / "slow", until=900 - planned.final, slower=2, tell=told.append)
    whole, early = stages_of(tmp_path / "whole"), stages_of(tmp_path / "slow")
    searched = {
        (key, stage) for key, stage in early if stage.startswith((DIVERGENCE.name, "round"))
    }
    assert searched < whole
    assert len({key for key, stage in early if stage == "final"}) == 1 + 3
    assert len(told) == 1
    assert "finalists are chosen by what is known" in told[0]
    for name in ("whole", "slow"):
        progress = read_progress(tmp_path / name)
        assert progress is not None
        assert (progress.is_over, progress.is_cut) == (True, name == "slow")
    # No more than a batch too late, and what the finalists take on such a machine.
    assert slow.seconds < 900 + planned.final + 2 * planned.search


def test_a_run_out_of_time_goes_on_with_what_is_left(path: Path, tmp_path: Path) -> None:
    """What earlier calls took counts, whatever this one's machine takes or its command says."""
    request = within(sweep_of(path, PLANS[2], 600), made(sweep_of(path, PLANS[2], 600)), PACE)
    until = 600 - Effort.of(request, made(request)).seconds(PACE).final
    at_once = swept(request, tmp_path / "once", until=until, slower=2)
    first = swept(request, tmp_path / "twice", until=until, slower=2, fuse=40)
    told: list[str] = []
    # The limit is that of the run, which is in its run.json.
    second = swept(request, tmp_path / "twice", until=None, slower=2, tell=told.append)
    assert told
    assert first.seconds + second.seconds == pytest.approx(at_once.seconds, rel=0.1)
    assert not swept(request, tmp_path / "twice", slower=2).jobs


@pytest.mark.parametrize("plan", PLANS, ids=name_of)
def test_a_sweep_takes_as_long_as_it_said(path: Path, tmp_path: Path, plan: SweepPlan) -> None:
    """Within a tenth where all windows are known, and no longer where some may not be tried."""
    request = sweep_of(path, plan)
    said = Effort.of(request, made(request)).seconds(PACE).total
    took = swept(request, tmp_path / "run").seconds
    assert took <= 1.05 * said
    # Of the second pass not all is known before, nor how many windows gain and are combined.
    is_known = plan.name == "map" and plan.max_blocks == 1
    assert took >= (0.9 if is_known else 0.6) * said


def test_words_thoughts_and_a_placebo_take_their_time(path: Path, tmp_path: Path) -> None:
    """All that the finalists are asked is in what the sweep says, and so fits into its time."""
    plain = Effort.of(sweep_of(path, PLANS[2]), made(sweep_of(path, PLANS[2]))).seconds(PACE)
    request = sweep_of(path, PLANS[2], generate=True, thinking=64)
    effort = Effort.of(request, made(request))
    said = effort.seconds(WRITTEN)
    # Four models answer 100 items in words, and one more window by probability, after its replies.
    more = 100 * WRITTEN.words * (1 + 3 * effort.whole) + effort.whole * (20 + PACE.replies)
    assert said.total == pytest.approx(plain.total + more)
    assert 0.9 * said.total <= swept(request, tmp_path / "run").seconds <= 1.05 * said.total
    line = time_line(request, effort, WRITTEN)
    assert line.endswith("400 held-out items of the finalists and the placebo")
    fitted = within(replace(request, seconds=900), made(request), WRITTEN)
    assert Effort.of(fitted, made(fitted)).seconds(WRITTEN).total <= 900


def test_finding_levels_takes_some_of_the_time(path: Path) -> None:
    """What it took, or in a dry run what it may take, is left out of what the search gets."""
    request = sweep_of(path, PLANS[2], 600)
    asks = within(request, made(request), PACE).plan.asks or 0
    before = replace(request, n_leveling=320)
    fewer = within(before, made(before), PACE)
    assert 32 / 0.13 < asks - (fewer.plan.asks or 0) < 32 / 0.1 + 8
    line = time_line(fewer, Effort.of(fewer, made(fewer)), PACE)
    assert "for its 300 items and at most 320 to find levels, " in line
    after = replace(request, seconds_gone=32.0)
    assert within(after, made(after), PACE).plan.asks == fewer.plan.asks
    short = replace(request, seconds=100, seconds_gone=90.0)
    with pytest.raises(
        InvalidOptions, match=r"getting ready took 90 s, the base takes .* Give it 5m"
    ):
        within(short, made(short), PACE)


@pytest.mark.parametrize("plan", PLANS[:4], ids=name_of)
def test_a_time_becomes_the_asks_that_fit(path: Path, tmp_path: Path, plan: SweepPlan) -> None:
    """The sweep keeps to the time, and asks as much as it can in it."""
    request = sweep_of(path, plan, 540)
    fitted = within(request, made(request), PACE)
    assert fitted.seconds is None
    said = Effort.of(fitted, made(fitted)).seconds(PACE).total
    assert 0.95 * 540 <= said <= 540
    assert swept(fitted, tmp_path / "run").seconds <= 1.05 * 540
    line = time_line(fitted, Effort.of(fitted, made(fitted)), PACE)
    assert line.startswith("time: about 9 min, as measured on")


def test_a_time_that_does_not_suffice_says_what_does(path: Path) -> None:
    """The message names all parts; with the time that it names, the sweep is possible."""
    request = sweep_of(path, PLANS[1], 60)
    with pytest.raises(InvalidOptions, match=r"--time 60s is too short .* Give it 7m, or") as told:
        within(request, made(request), PACE)
    assert "held-out items" in str(told.value)
    fitted = within(replace(request, seconds=7 * 60), made(request), PACE)
    assert (fitted.plan.asks or 0) >= least_asks(request, 40)
    with pytest.raises(InvalidOptions):
        within(replace(request, seconds=6 * 60), made(request), PACE)
    # However much time there is, no window is asked an item twice.
    endless = within(replace(request, seconds=1e6), made(request), PACE)
    assert endless.plan.asks == 40 * 200


@given(share=st.floats(0, 1), n_windows=st.integers(1, 300))
def test_rounds_of_halving_fit_a_budget(share: float, n_windows: int) -> None:
    """Never more than the budget, and nearly all of it; the order of rounds stays."""
    request = sweep_of(Path("m.gguf"), PLANS[1])
    least = least_asks(request, n_windows)
    asks = least + round(share * (n_windows * 200 - least))
    budgeted = replace(request, plan=replace(request.plan, asks=asks))
    rounds = rounds_of(budgeted, n_windows)
    n_asks = rounds.n_asks(n_windows)
    assert asks_of(budgeted, n_windows, N_LAYERS) == n_asks <= asks
    assert n_asks >= asks - 2 * n_windows
    assert list(rounds.ends) == sorted(set(rounds.ends))
    # It says the same of the asks that it comes to.
    again = replace(request, plan=replace(request.plan, asks=n_asks))
    assert rounds_of(again, n_windows) == rounds


@pytest.mark.parametrize("plan", PLANS, ids=name_of)
def test_too_few_asks_are_refused(path: Path, plan: SweepPlan) -> None:
    """The message says how many it takes, and so many are enough."""
    request = sweep_of(path, replace(plan, asks=10))
    with pytest.raises(InvalidOptions, match=r"--asks 10 is too little for .* windows: give at"):
        made(request)
    n_windows = single(made(sweep_of(path, plan))).n_most
    least = least_asks(request, n_windows)
    made(sweep_of(path, replace(plan, asks=least)))
    with pytest.raises(InvalidOptions):
        made(sweep_of(path, replace(plan, asks=least - 1)))


def test_a_run_keeps_the_asks_that_its_time_became(path: Path, tmp_path: Path) -> None:
    """A busier machine changes nothing; a run without a budget is not given one later."""
    request = replace(sweep_of(path, PLANS[0], 900), folder=tmp_path / "run")
    assert with_recorded_asks(request) == request
    plan = replace(request.plan, asks=1234)
    assert "asks" not in request.plan.as_json()
    for asks, chosen in ((1234, plan), (None, request.plan)):
        folder = tmp_path / f"run-{asks}"
        identity = {"settings": {"plan": chosen.as_json()}}
        info = RunInfo(identity=identity, model=ModelInfo(n_layers=N_LAYERS))
        OpenRun.start(folder, info, {})
        assert asks_of_run(folder) == asks
        of_folder = replace(request, folder=folder)
        if asks is None:
            with pytest.raises(RysError, match="began without a budget"):
                with_recorded_asks(of_folder)
        else:
            assert with_recorded_asks(of_folder) == replace(of_folder, plan=plan, seconds=None)


def test_engines_side_by_side_share_the_search(path: Path) -> None:
    """The base is asked alone, and speeds are measured one after another."""
    request = sweep_of(path, PLANS[1])
    effort = Effort.of(request, made(request))
    one, four = (effort.seconds(PACE, n) for n in (1, 4))
    assert (four.base, four.search) == (one.base, one.search / 4)
    assert one.final / 3 < four.final < one.final
    # A tail begins where its window does: on average before the middle of the model.
    tails = effort.seconds(replace(PACE, as_tails=True))
    assert 0.4 * one.search < tails.search < 0.7 * one.search
    # Thompson sampling asks a few windows at a time, which seldom begin at one layer.
    thompson = sweep_of(path, PLANS[2])
    alone = Effort.of(thompson, made(thompson))
    assert alone.seconds(replace(PACE, as_tails=True)).search >= alone.seconds(PACE).search


class Timed(FakeEngine):
    """An engine that takes a tenth of a second for each question."""

    now = 0.0

    def option_probabilities(
        self, tokens: Sequence[int], options: Sequence[int], *, same_prompt: bool = False
    ) -> list[float]:
        """Any answer."""
        self.now += 0.1
        return [0.5, 0.5]


@pytest.mark.parametrize("n", [1, 15, 16, 17, 200])
def test_the_pace_is_that_of_the_engine(n: int) -> None:
    """Seconds an item, by few questions however many items there are."""
    engine = Timed()
    asked = items(n, "s")
    request = TokenizedRequest((5, 6), (("yes", (1,)), ("no", (2,))))
    clock: Callable[[], float] = lambda: engine.now  # noqa: E731 - it reads the engine's clock

    def ask(numbers: Sequence[int]) -> None:
        ask_all(engine, [asked[k] for k in numbers], ((request,),) * len(numbers))

    seconds = item_seconds(n, ask, Stopwatch(clock))
    assert seconds == pytest.approx(0.1)
    assert engine.now < 0.1 * 11
