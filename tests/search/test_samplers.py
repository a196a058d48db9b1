"""Each sampler keeps to the contract, and chooses the windows that it promises."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as replaced

from rys_gguf import Model
from rys_gguf.engines.base import EngineOptions
from rys_gguf.errors import InvalidOptions, RysError
from rys_gguf.layers.schedule import Schedule
from rys_gguf.probes.suite import Suite
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import HALVING as HALVING_NAME
from rys_gguf.runs.records import THOMPSON
from rys_gguf.runs.scan import (
    MAX_WINDOWS,
    PriorEffect,
    Scan,
    ScanEffect,
    ScanModel,
    ScanWindow,
    encode_scan,
)
from rys_gguf.runs.trial import Trials
from rys_gguf.search.job import Job
from rys_gguf.search.samplers.base import Sampler
from rys_gguf.search.samplers.beam import Beam
from rys_gguf.search.samplers.find import (
    make_sampler,
    n_asks_per_layer,
    rounds_of,
    sampler_of,
)
from rys_gguf.search.samplers.grid import Grid
from rys_gguf.search.samplers.halving import Halving
from rys_gguf.search.samplers.listed import Listed
from rys_gguf.search.samplers.rounds import Rounds, round_ends, small_ends
from rys_gguf.search.samplers.thompson import Thompson
from rys_gguf.search.samplers.two_pass import TwoPass
from rys_gguf.search.settings import Settings, SweepPlan, SweepRequest
from rys_gguf.search.space import Windows, every
from rys_gguf.stats.ranking import rank_smoothly
from tests import tiny
from tests.search.fakes import Planted, Window, items, trials_of, window_of
from tests.search.sampler_contract import N_LAYERS, Log, SamplerContract, planted


class TestGrid(SamplerContract):
    """The map."""

    def make(self, windows: Windows, halving: Halving, folder: Path) -> Grid:
        """Windows of two sizes."""
        return Grid(windows, (12, 18), halving)


class TestListed(SamplerContract):
    """A list of windows."""

    def make(self, windows: Windows, halving: Halving, folder: Path) -> Listed:
        """Legal and illegal windows, two windows at once, and a path that drops layers."""
        windows_of_six = ("0,6", "1,7", "3,9", "4,10", "6,12")
        lines = (*windows_of_six, "2,5", "blocks:0,6;6,12", "layers:0..5,12..23")
        path = folder / "windows.txt"
        path.write_text("\n".join(lines))
        return Listed(windows, path, halving)


class TestTwoPass(SamplerContract):
    """Two passes."""

    def make(self, windows: Windows, halving: Halving, folder: Path) -> TwoPass:
        """Windows of 4 layers, then of 2; with a period of 6 both are 6."""
        return TwoPass(windows, (4, 2), halving)


class TestThompson(SamplerContract):
    """Top-two Thompson sampling, with asks for about half of all rounds."""

    def make(self, windows: Windows, halving: Halving, folder: Path) -> Thompson:
        """Windows of two sizes."""
        return Thompson(every(windows, (12, 18)), halving, 80, seed=3)

    def require_order_of_ranking(self, sampler: Sampler, trials: Trials) -> None:
        """Windows whose rounds all went well are the sampler's, in the order of the ranking."""
        base = trials[Candidate.base(N_LAYERS).key]
        order = rank_smoothly(base, trials.values()).order
        expected = [
            r.trial.candidate
            for r in order
            if all(result.is_ok for s, result in r.trial.results.items() if s.is_round)
        ]
        assert list(sampler.ranked(trials)) == expected


def prior_of(gain: Callable[[float], float], error: float = 0.02) -> list[PriorEffect]:
    """A scan of windows of 12 and 18 layers, with gains by where they begin: 0 to 1."""
    return [
        PriorEffect(i / 24, n / 24, gain(i / 24), error, 64)
        for n in (12, 18)
        for i in range(25 - n)
    ]


class TestThompsonWithPrior(TestThompson):
    """Thompson sampling from a scan that says nothing true."""

    @pytest.fixture(scope="class")
    @classmethod
    def arch(cls) -> str:
        """One model: the rest is tested without a scan."""
        return "llama"

    def make(self, windows: Windows, halving: Halving, folder: Path) -> Thompson:
        """The later a window begins the better it is, says the scan, and is sure of it."""
        prior = prior_of(lambda at: 40 * at, error=0.0)
        return Thompson(every(windows, (12, 18)), halving, 80, seed=3, prior=prior)


def raised(world: Planted) -> Planted:
    """The world with better windows."""
    return replace(world, gains={w: gain + 0.08 for w, gain in world.gains.items()})


class TestBeam(SamplerContract):
    """Maps of two and three blocks, from single windows that are halved."""

    def make(self, windows: Windows, halving: Halving, folder: Path) -> Beam:
        """Few windows, so that three of them fit side by side."""
        path = folder / "windows.txt"
        path.write_text("0,6\n6,12\n9,15\n12,18\n15,21\n18,24\n")
        stops = tuple(range(1, len(halving.rounds) + 1))
        return Beam(Listed(windows, path, halving), windows, halving, 3, 3, stops)

    def world(self, seed: int) -> Planted:
        """Most windows gain, so that there is something to combine."""
        return raised(planted(seed))


class TestBeamOfThompson(TestThompson):
    """Maps of two blocks, from single windows that Thompson sampling chose."""

    @pytest.fixture(scope="class")
    @classmethod
    def arch(cls) -> str:
        """One model: the rest is what both samplers are tested for alone."""
        return "gemma3"

    def world(self, seed: int) -> Planted:
        """Most windows gain."""
        return raised(planted(seed))

    def make(self, windows: Windows, halving: Halving, folder: Path) -> Beam:  # type: ignore[override]
        """Few windows; the rounds of combined ones have two parts."""
        chosen = windows.choose(windows.of_size(6, (0, 4, 6, 12, 15, 18)))
        return Beam(Thompson(chosen, halving, 40, seed=3), windows, halving, 2, 3, (2, 3))


# -- what each of them chooses -------------------------------------------------------------------

ROUNDS = Rounds((20,))
HALVING = Halving(Candidate.base(16).key, ROUNDS)


@pytest.fixture
def windows(tmp_path: Path) -> Windows:
    """Sixteen layers, any of which may be repeated."""
    with Model(tiny.write(tmp_path / "m.gguf", "llama", 16)) as model:
        return Windows(model, Schedule.PORTABLE)


def tried(sampler: Sampler, world: Planted) -> list[Window | None]:
    """The windows that a search enters, in order."""
    log = list(world.outcomes(Job(Candidate.base(16), ROUNDS.steps)))
    entered: dict[str, Window | None] = {}
    while (batch := sampler.next(trials_of(log, 16))) is not None:
        for job in batch.jobs:
            entered[job.candidate.key] = window_of(job.candidate)
            log += world.outcomes(job)
    return list(entered.values())


def test_two_passes_begin_far_apart_and_end_around_the_best(windows: Windows) -> None:
    """The second pass tries every short window there that the first did not try."""
    sampler = TwoPass(windows, (4, 2), HALVING)
    entered = tried(sampler, Planted({(8, 12): 0.3, (12, 16): 0.25}))
    assert entered[:4] == [(0, 4), (4, 8), (8, 12), (12, 16)]
    assert set(entered[4:]) == {(i, i + 2) for i in range(4, 15)}
    assert len(entered) <= sampler.n_most
    assert list(sampler.describe()) == [
        "pass 1: blocks:0,4, blocks:4,8, blocks:8,12, blocks:12,16",
        "pass 2: windows of 2 layers around the best two",
    ]


def test_where_all_of_the_first_pass_fails_there_is_no_second(windows: Windows) -> None:
    """There is nothing to look around, and nothing to rank."""
    coarse = [(0, 4), (4, 8), (8, 12), (12, 16)]
    sampler = TwoPass(windows, (4, 2), HALVING)
    assert tried(sampler, Planted(broken=coarse)) == coarse


def test_a_size_that_is_not_legal_is_replaced(tmp_path: Path) -> None:
    """A note says so, and every illegal window is listed."""
    with Model(tiny.write(tmp_path / "g.gguf", "gemma3", 12)) as model:
        sampler = TwoPass(Windows(model, Schedule.PORTABLE), (8, 6), Halving("0-11", ROUNDS))
    assert sampler.notes == ("windows of 8 layers are not legal here: 6 instead",)


def test_what_cannot_be_tried_is_refused(tmp_path: Path, windows: Windows) -> None:
    """Two passes take two sizes; a plan needs at least one legal window."""
    with pytest.raises(RysError, match="two sizes"):
        make_sampler(SweepPlan("two-pass", (2,)), windows, HALVING)
    with pytest.raises(RysError, match="the model has 16 layers, no window of 40 or 50"):
        make_sampler(SweepPlan("map", (40, 50)), windows, HALVING)
    with Model(tiny.write(tmp_path / "g.gguf", "gemma3", 12)) as model:
        hybrid = Windows(model, Schedule.PORTABLE)
    with pytest.raises(RysError, match=r"none of the windows can be tried: .*period 6"):
        make_sampler(SweepPlan("map", (5,)), hybrid, Halving("0-11", ROUNDS))


def test_plans_have_their_samplers(tmp_path: Path, windows: Windows) -> None:
    """A file of windows goes before the name of the plan."""
    path = tmp_path / "w.txt"
    path.write_text("1,3\n")
    assert isinstance(make_sampler(SweepPlan("two-pass", (8, 4)), windows, HALVING), TwoPass)
    assert isinstance(make_sampler(SweepPlan("map", (4,)), windows, HALVING), Grid)
    assert isinstance(make_sampler(SweepPlan("list", (8, 4), path), windows, HALVING), Listed)


def test_rounds_grow_and_end_within_the_suite() -> None:
    """Shares of the suite, but never very few items."""
    assert round_ends(312, (0.06, 0.25)) == (19, 78)
    assert round_ends(64, (0.06, 0.25)) == (16, 48)
    assert round_ends(10, (0.06, 0.25)) == (10,)
    rounds = Rounds((4, 10), keep=0.34, n_finalists=3)
    assert [step.items for step in rounds.steps] == [(0, 1, 2, 3), (4, 5, 6, 7, 8, 9)]
    assert (rounds.n_kept(100), rounds.n_kept(5)) == (34, 3)


def test_thompson_asks_most_of_the_best_window_and_stops_at_its_asks(windows: Windows) -> None:
    """A planted window and its neighbours get more items than the worst ones, which get eight."""
    gains = {(i, i + 4): 0.1 - 0.04 * abs(i - 8) for i in range(13)}
    rounds = Rounds(small_ends(120), n_finalists=2)
    base = Candidate.base(16)
    world = Planted(gains)
    sampler = Thompson(every(windows, (4,)), Halving(base.key, rounds), 400, seed=1)
    log = list(world.outcomes(Job(base, rounds.steps)))
    while (batch := sampler.next(trials_of(log, 16))) is not None:
        for job in batch.jobs:
            log += world.outcomes(job)
    trials = trials_of(log, 16)
    asked = {t.candidate.windows: len(t.rounds) for t in trials.values() if t.key != base.key}
    assert 400 <= 8 * sum(asked.values()) < 400 + 8
    assert asked[((8, 12),)] > 2 * asked[((0, 4),)]
    assert sampler.ranked(trials)[0].window == (8, 12)


def searched_with(windows: Windows, prior: Sequence[PriorEffect], n_asks: int) -> Log:
    """The log of a search of windows of 4 layers, of which blocks:8,12 is best."""
    rounds = Rounds(small_ends(120), n_finalists=2)
    base = Candidate.base(16)
    world = Planted({(i, i + 4): 0.1 - 0.04 * abs(i - 8) for i in range(13)})
    halving = Halving(base.key, rounds)
    sampler = Thompson(every(windows, (4,)), halving, n_asks, seed=1, prior=prior)
    log = Log(list(world.outcomes(Job(base, rounds.steps))), [])
    while (batch := sampler.next(trials_of(log.outcomes, 16))) is not None:
        log.batches.append(batch)
        for job in batch.jobs:
            log.outcomes += world.outcomes(job)
    return log


def best_of(windows: Windows, log: Log, prior: Sequence[PriorEffect]) -> list[Candidate]:
    """The ranking of a search with some prior."""
    halving = Halving(Candidate.base(16).key, Rounds(small_ends(120), n_finalists=2))
    sampler = Thompson(every(windows, (4,)), halving, 400, seed=1, prior=prior)
    return list(sampler.ranked(trials_of(log.outcomes, 16)))


LATER = prior_of(lambda at: 0.1 * at)
PRIORS = {
    "true": prior_of(lambda at: 0.1 - abs(at - 0.5) / 2),
    "opposite": prior_of(lambda at: abs(at - 0.5) / 2 - 0.1),
    "absurd": prior_of(lambda at: 301.0 * (-1) ** round(24 * at), error=0.0),
    "one": LATER[:1],
    "vague": prior_of(lambda at: 300 * at, error=154.0),
}


@pytest.mark.parametrize("name", PRIORS)
def test_whatever_a_scan_says_the_best_window_is_found(windows: Windows, name: str) -> None:
    """What is asked first may be wrong, and the model's own answers decide in the end."""
    log = searched_with(windows, PRIORS[name], 400)
    assert best_of(windows, log, PRIORS[name])[0].window == (8, 12)
    n_asked = sum(len(o.answers) for o in log.outcomes if not o.result.is_base)
    assert 400 <= n_asked < 400 + 8


def test_no_scan_counts_in_a_ranking(windows: Windows) -> None:
    """Whoever writes one decides what is asked, and nothing of what is made of the answers."""
    log = searched_with(windows, PRIORS["opposite"], 200)
    rankings = [best_of(windows, log, prior) for prior in ((), *PRIORS.values())]
    assert all(ranking == rankings[0] for ranking in rankings)


def test_a_scan_decides_what_is_asked_as_a_seed_does(windows: Windows) -> None:
    """One scan always gives one search, and a scan in which all windows are alike gives none."""
    plain, same, level, later = (
        [batch.jobs for batch in searched_with(windows, prior, 240).batches]
        for prior in ((), LATER, prior_of(lambda _: 0.1), LATER)
    )
    assert same == later != plain
    assert level == plain


def test_as_many_windows_as_a_scan_may_hold_take_moments(windows: Windows) -> None:
    """The surest thousand are read, and the search is no slower for it."""
    many = [PriorEffect(k / 20_000, 0.1, (k % 7) / 100, 0.001, 8) for k in range(MAX_WINDOWS)]
    start = time.process_time()
    log = searched_with(windows, many, 80)
    assert len(log.batches) > 1
    assert time.process_time() - start < 60


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[tuple[SweepRequest, Model]]:
    """A sweep of 16 layers with 120 items, nothing about its windows said, and the model."""
    suite = Suite(items(120, "s"))
    path = tiny.write(tmp_path / "m.gguf", "llama", 16)
    with Model(path) as model:
        yield (
            SweepRequest(
                path, tmp_path / "run", SweepPlan.of(), Settings(), (suite, suite), EngineOptions()
            ),
            model,
        )


def test_a_sweep_of_which_nothing_is_said_is_thompsons(asked: tuple[SweepRequest, Model]) -> None:
    """All windows of 1 to 8 layers, and asks for each layer of the model; lists are halved."""
    request, model = asked
    found = sampler_of(request, model)
    assert isinstance(found, Thompson)
    assert found.n_most == sum(16 - size + 1 for size in range(1, 9))
    assert found.n_asks == 16 * n_asks_per_layer(120) == 16 * 28
    assert rounds_of(request, found.n_most).ends[:2] == (8, 16)
    assert list(found.describe()) == [
        "candidates: 100 windows of 1 to 8 layers, blocks:0,1 to blocks:8,16"
    ]
    two_pass, of_file = SweepPlan.of("two-pass"), SweepPlan.of(windows=Path("w.txt"))
    assert (two_pass.sampler, two_pass.sizes) == (HALVING_NAME, (8, 4))
    assert (of_file.sampler, of_file.name) == (HALVING_NAME, "list")


def test_thompson_goes_with_a_map_only(asked: tuple[SweepRequest, Model], tmp_path: Path) -> None:
    """The message says which plan to use; a scan starts no other sampler."""
    request, model = asked
    for plan, message in (
        (SweepPlan("two-pass", (8, 4), sampler=THOMPSON), "use --plan map"),
        (SweepPlan.of("two-pass", prior=tmp_path / "scan.json"), "--prior starts --sampler thom"),
    ):
        with pytest.raises(InvalidOptions, match=message):
            sampler_of(replace(request, plan=plan), model)


def test_a_scan_of_a_relative_says_where_to_ask(
    asked: tuple[SweepRequest, Model], tmp_path: Path
) -> None:
    """Its windows come first; its content is part of the identity, and an empty one is refused."""
    request, model = asked
    path, copy = tmp_path / "scan.json", tmp_path / "copy.json"
    effect = ScanEffect(mean=0.1, low=0.05, high=0.15)
    window = ScanWindow(
        spec="blocks:4,8", windows=((4, 8),), added_layers=4, status="ok", n_items=8,
        search={"overall": effect},
    )  # fmt: skip
    about = ScanModel(name="kin.gguf", sha256="", architecture="llama", n_layers=24)
    scan = Scan(rys_gguf="", model=about, suite="", heldout="", engine="", windows=(window,))
    path.write_text(encode_scan(scan))
    copy.write_text(encode_scan(scan))
    plan = SweepPlan.of(sizes=(3,), prior=path)
    assert plan.as_json() == SweepPlan.of(sizes=(3,), prior=copy).as_json()
    assert plan.as_json() != SweepPlan.of(sizes=(3,)).as_json()
    sampler = sampler_of(replace(request, plan=plan), model)
    assert sampler.notes == ["starts from a scan of 1 window (kin.gguf, 24 layers)"]
    path.write_text(encode_scan(replaced(scan, windows=())))
    with pytest.raises(RysError, match="no window with an effect"):
        sampler_of(replace(request, plan=plan), model)


def test_lengths_of_which_nothing_is_legal_are_left_out(tmp_path: Path) -> None:
    """Unless they were asked for; if none is legal, the nearest one is tried."""
    with Model(tiny.write(tmp_path / "g.gguf", "gemma3", 24)) as model:
        hybrid = Windows(model, Schedule.PORTABLE)
    halving = Halving("0-23", ROUNDS)
    found = make_sampler(SweepPlan.of(), hybrid, halving)
    assert {c.n_added for c in found.first.candidates} == {6}
    assert found.first.illegal == ()
    assert found.notes == ("windows of 1 to 5, 7 or 8 layers are not legal here",)
    assert len(make_sampler(SweepPlan.of(sizes=(5, 6)), hybrid, halving).first.illegal) == 20
    assert hybrid.legal_sizes((4, 8)) == (6,)


# -- beams ---------------------------------------------------------------------------------------

# Two places gain, one does not, and all others lose.
GAINS = {(i, i + 2): -0.1 for i in range(15)} | {(2, 4): 0.12, (6, 8): -0.02, (9, 11): 0.1}


def searched(sampler: Sampler, world: Planted, rounds: Rounds) -> Trials:
    """The trials of a search of 16 layers, from its start to its end."""
    log = list(world.outcomes(Job(Candidate.base(16), rounds.steps)))
    while (batch := sampler.next(trials_of(log, 16))) is not None:
        for job in batch.jobs:
            log += world.outcomes(job)
    return trials_of(log, 16)


def combined(trials: Trials) -> list[str]:
    """The maps of several blocks that were tried, in order."""
    return [t.candidate.spec for t in trials.values() if len(t.candidate.blocks) > 1]


def test_a_beam_finds_two_blocks_that_are_best_together(windows: Windows) -> None:
    """They are asked all rounds, and nothing is combined with what loses."""
    rounds = Rounds((20, 40, 80), n_finalists=2)
    halving = Halving(HALVING.base, rounds)
    beam = Beam(Grid(windows, (2,), halving), windows, halving, 3, 4, (1, 2, 3))
    trials = searched(beam, Planted(GAINS), rounds)
    assert combined(trials) == ["blocks:2,4;9,11"]
    assert beam.ranked(trials)[0].spec == "blocks:2,4;9,11"
    assert len(beam.ranked(trials)[0].windows) == 2
    assert beam.n_most == 15 + 2 * 4
    assert beam.n_asks == 2 * (4 * 20 + 2 * 20 + 2 * 40)
    assert list(beam.describe())[-1].startswith("combined: windows that gain and do not overlap")


def test_a_beam_goes_on_to_three_blocks_of_any_form(tmp_path: Path) -> None:
    """The best form of each place is the one that is combined."""
    with Model(tiny.write(tmp_path / "m.gguf", "llama", 16)) as model:
        plan = SweepPlan("map", (2,), passes=(2, 3), mode="both")
        windows = Windows(model, Schedule.PORTABLE, forms=plan.forms)
    gains = {w: g - 0.05 for w, g in GAINS.items()} | {(5, 6): 0.06, (6, 7): 0.05}
    rounds = Rounds((60,))
    halving = Halving(HALVING.base, rounds)
    beam = Beam(Grid(windows, (2,), halving), windows, halving, 3, 4, (1,))
    trials = searched(beam, Planted(gains), rounds)
    # By layer, a window's gain here is that of its layers; with three passes it counts twice.
    best = beam.ranked(trials)[0]
    assert best.spec == "blocks:2,4;2,4;5,6;5,6;6,7;6,7;9,11;9,11"
    assert len(best.blocks) == 3


def test_blocks_that_do_not_go_together_stay_apart(windows: Windows) -> None:
    """Pairs that turn out worse than their parts lead to nothing longer, and none is best."""
    gains = GAINS | {(6, 8): 0.08}
    beam = Beam(Grid(windows, (2,), HALVING), windows, HALVING, 3, 4, (1,))
    trials = searched(beam, Planted(gains, together=-0.3), ROUNDS)
    assert len(combined(trials)) == 3
    assert all(len(t.candidate.blocks) < 3 for t in trials.values())
    assert beam.ranked(trials)[0].spec == "blocks:2,4"


def test_where_nothing_gains_nothing_is_combined(windows: Windows) -> None:
    """One window that gains has nobody to go with."""
    beam = Beam(Grid(windows, (2,), HALVING), windows, HALVING, 2, 4, (1,))
    gains = dict.fromkeys(GAINS, -0.1) | {(2, 4): 0.1}
    assert not combined(searched(beam, Planted(gains), ROUNDS))


def test_a_beam_needs_single_windows(tmp_path: Path, windows: Windows) -> None:
    """A list that combines windows itself, or damps one otherwise, is refused by its line."""
    path = tmp_path / "w.txt"
    for line in ("2,4;6,8", "2,4@0.5", "layers:0..5,8.."):
        path.write_text(f"8,12\n{line}\n")
        with pytest.raises(InvalidOptions, match="list the combinations as well"):
            Beam(Listed(windows, path, HALVING), windows, HALVING, 2, 4, (1,))
    path.write_text("8,12\n2,4;2,4\n5,6;6,7\n")
    assert (
        len(Beam(Listed(windows, path, HALVING), windows, HALVING, 2, 4, (1,)).first.candidates)
        == 3
    )


def test_a_beam_asks_as_much_as_halving_would(tmp_path: Path) -> None:
    """However small its sampler's rounds are. A file of windows says itself how they repeat."""
    suite = Suite(items(120, "s"))
    path = tiny.write(tmp_path / "m.gguf", "llama", 16)
    plan = SweepPlan("map", (2,), sampler=THOMPSON, max_blocks=2)
    request = SweepRequest(
        path, tmp_path / "run", plan, Settings(), (suite, suite), EngineOptions()
    )
    listing = tmp_path / "w.txt"
    listing.write_text("1,3\n")
    with Model(path) as model:
        found = sampler_of(request, model)
        assert isinstance(found, Beam)
        ends = [found.halving.rounds.ends[stop - 1] for stop in found.stops]
        halved = sampler_of(replace(request, plan=replace(plan, sampler=HALVING_NAME)), model)
        assert isinstance(halved, Beam)
        assert halved.stops == (1, 2, 3)
        assert ends == [16, 48, 120] == list(halved.halving.rounds.ends)
        for other in (replace(plan, mode="layer"), replace(plan, passes=(3,))):
            wrong = replace(other, name="list", windows=listing, sampler=HALVING_NAME)
            with pytest.raises(InvalidOptions, match="write 8,12;8,12 for three passes"):
                sampler_of(replace(request, plan=wrong), model)
