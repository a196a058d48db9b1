"""The contract of samplers: whatever prefix of the log is there, the search goes on the same."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rys_gguf import Model
from rys_gguf.layers.schedule import Schedule
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.stage import Status
from rys_gguf.runs.trial import Trials
from rys_gguf.search.executors.base import Outcome
from rys_gguf.search.job import HELDOUT, SEARCH, Batch, batch_left
from rys_gguf.search.phases import Phase, phases
from rys_gguf.search.samplers.base import Sampler
from rys_gguf.search.samplers.halving import Halving
from rys_gguf.search.samplers.rounds import Rounds
from rys_gguf.search.space import Windows
from rys_gguf.stats.ranking import rank
from tests import tiny
from tests.search.fakes import Planted, items, trials_of

N_LAYERS = 24
ROUNDS = Rounds((4, 8, 12), keep=0.5, n_finalists=2)
# Two families, of which one is noisier.
ITEMS = tuple(
    item for pair in zip(items(6, "s"), items(6, "m", family="math"), strict=True) for item in pair
)
SUITES = {SEARCH: ITEMS, HELDOUT: items(6, "h")}
# More than any search here can take.
_MOST_BATCHES = 100


@dataclass
class Log:
    """Outcomes in the order in which they were recorded, and the batch that each was part of."""

    outcomes: list[Outcome]
    batches: list[Batch]

    def prefix(self, n: int) -> list[Outcome]:
        """The first `n` outcomes."""
        return self.outcomes[:n]

    @property
    def content(self) -> set[tuple[str, str, str]]:
        """Every candidate, stage and status, in no order."""
        return {
            (o.result.candidate, str(o.result.stage), o.result.status.value) for o in self.outcomes
        }


def planted(seed: int) -> Planted:
    """A world in which windows gain, lose, diverge, loop and fail at random."""
    rng = random.Random(seed)
    windows = [(i, j) for i in range(N_LAYERS) for j in range(i + 1, N_LAYERS + 1)]
    # In some worlds most windows fail the filter.
    limit = rng.choice([1.2, 4.0])
    stages = ("round1", "round2", "round3", "final", "speed")
    return Planted(
        gains={w: rng.uniform(-0.1, 0.1) for w in windows},
        kl={w: rng.uniform(0, limit) for w in windows},
        loops=rng.sample(windows, 8),
        broken=rng.sample(windows, 6),
        failing={w: rng.choice(stages) for w in rng.sample(windows, 12)},
        suites=SUITES,
    )


def upcoming(course: Sequence[Phase], trials: Trials) -> Batch | None:
    """The batch that comes next; None once all phases are over."""
    for phase in course:
        if (batch := phase.next(trials)) is not None:
            return batch
    return None


def run_on(
    course: Sequence[Phase], world: Planted, begun: Sequence[Outcome], rng: random.Random
) -> Log:
    """Run a search to its end; outcomes of jobs side by side come in a random order."""
    log = Log(list(begun), [])
    for _ in range(_MOST_BATCHES):
        batch = upcoming(course, trials_of(log.outcomes, N_LAYERS))
        if batch is None:
            return log
        queues = [list(world.outcomes(job)) for job in batch.jobs]
        while queues := [q for q in queues if q]:
            log.outcomes.append(rng.choice(queues).pop(0))
            log.batches.append(batch)
    raise AssertionError("the search does not end")


class SamplerContract:
    """The tests that every sampler passes; subclasses make one."""

    def make(self, windows: Windows, halving: Halving, folder: Path) -> Sampler:
        """The sampler under test, new at every call. `folder` may hold its files."""
        raise NotImplementedError

    def world(self, seed: int) -> Planted:
        """The world that is searched."""
        return planted(seed)

    @pytest.fixture(scope="class", params=["llama", "gemma3"])
    @classmethod
    def arch(cls, request: Any) -> str:
        """All windows of the first model are legal, the second has a period of 6 layers."""
        found: str = request.param
        return found

    @pytest.fixture(scope="class")
    @classmethod
    def windows(cls, arch: str, tmp_path_factory: Any) -> Windows:
        """The windows of a tiny model."""
        path = tmp_path_factory.mktemp("contract") / "m.gguf"
        with Model(tiny.write(path, arch, N_LAYERS)) as model:
            return Windows(model, Schedule.PORTABLE)

    def course(self, windows: Windows, folder: Path) -> tuple[Sampler, tuple[Phase, ...]]:
        """A sampler, and all phases of a sweep with it."""
        base = Candidate.base(N_LAYERS)
        sampler = self.make(windows, Halving(base.key, ROUNDS), folder)
        suites = (SUITES[SEARCH], SUITES[HELDOUT])
        return sampler, phases(base, sampler, ROUNDS, suites, preflight=False)

    @given(seed=st.integers(0, 10**6))
    @settings(max_examples=6, suppress_health_check=list(HealthCheck))
    def test_it_ends_and_asks_nothing_twice(
        self, seed: int, windows: Windows, tmp_path: Path
    ) -> None:
        """Every candidate and stage has one result, and illegal windows have none."""
        sampler, course = self.course(windows, tmp_path)
        log = run_on(course, self.world(seed), [], random.Random(seed))
        asked = [(o.result.candidate, o.result.stage) for o in log.outcomes]
        assert len(asked) == len(set(asked))
        assert any(not o.result.is_base for o in log.outcomes)
        candidates = {o.result.candidate for o in log.outcomes}
        assert len(candidates - {Candidate.base(N_LAYERS).key}) <= sampler.n_most
        for key in candidates:
            layer_map = Candidate.from_key(key, N_LAYERS).layer_map
            assert windows.rule_against(layer_map) is None

    @given(seed=st.integers(0, 10**6))
    @settings(max_examples=3, suppress_health_check=list(HealthCheck))
    def test_any_prefix_of_the_log_gives_the_same_next_jobs(
        self, seed: int, windows: Windows, tmp_path: Path
    ) -> None:
        """Cut after any result, also inside a batch: what is recorded is left out, no more."""
        _, course = self.course(windows, tmp_path)
        log = run_on(course, self.world(seed), [], random.Random(seed))
        for n, batch in enumerate(log.batches):
            trials = trials_of(log.prefix(n), N_LAYERS)
            _, again = self.course(windows, tmp_path)
            assert upcoming(again, trials) == batch_left(batch.label, batch.jobs, trials)

    @given(seed=st.integers(0, 10**6), cuts=st.lists(st.floats(0, 1), min_size=1, max_size=3))
    @settings(max_examples=5, suppress_health_check=list(HealthCheck))
    def test_stopped_anywhere_it_ends_the_same(
        self, seed: int, cuts: list[float], windows: Windows, tmp_path: Path
    ) -> None:
        """Same results and same order in the end, in whatever order outcomes come."""
        world = self.world(seed)
        sampler, course = self.course(windows, tmp_path)
        undisturbed = run_on(course, world, [], random.Random(seed))
        ranked = sampler.ranked(trials_of(undisturbed.outcomes, N_LAYERS))
        begun: list[Outcome] = []
        for cut in sorted(cuts):
            _, again = self.course(windows, tmp_path)
            log = run_on(again, world, begun, random.Random(cut))
            begun = log.prefix(max(len(begun), int(cut * len(log.outcomes))))
        sampler, again = self.course(windows, tmp_path)
        stopped = run_on(again, world, begun, random.Random(seed))
        assert stopped.content == undisturbed.content
        assert sampler.ranked(trials_of(stopped.outcomes, N_LAYERS)) == ranked

    @given(seed=st.integers(0, 10**6))
    @settings(max_examples=6, suppress_health_check=list(HealthCheck))
    def test_its_order_is_that_of_the_ranking(
        self, seed: int, windows: Windows, tmp_path: Path
    ) -> None:
        """The finalists-to-be are those that got through all rounds, as reports rank them."""
        sampler, course = self.course(windows, tmp_path)
        log = run_on(course, self.world(seed), [], random.Random(seed))
        self.require_order_of_ranking(sampler, trials_of(log.outcomes, N_LAYERS))

    @given(seed=st.integers(0, 10**6))
    @settings(max_examples=6, suppress_health_check=list(HealthCheck))
    def test_its_order_is_that_of_the_ranking_after_a_second_try(
        self, seed: int, windows: Windows, tmp_path: Path
    ) -> None:
        """What failed may come out best once it is tried again; nothing recorded is lost by it."""
        world = self.world(seed)
        sampler, course = self.course(windows, tmp_path)
        log = run_on(course, world, [], random.Random(seed))
        kept = [o for o in log.outcomes if o.result.status is not Status.FAILED]
        world = replace(world, broken=(), failing={})
        again = run_on(course, world, kept, random.Random(seed))
        self.require_order_of_ranking(sampler, trials_of(again.outcomes, N_LAYERS))

    def require_order_of_ranking(self, sampler: Sampler, trials: Trials) -> None:
        """Candidates that got through all rounds are the sampler's, in the order of the ranking."""
        base = trials[Candidate.base(N_LAYERS).key]
        order = rank(base, trials.values()).order
        expected = [r.trial.candidate for r in order if r.n_rounds == len(ROUNDS)]
        assert list(sampler.ranked(trials)) == expected
