"""A job's outcomes: what each stage records, what it costs, and what ends it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rys_gguf import Model
from rys_gguf.checks.smoke import PROMPTS, Reply
from rys_gguf.engines.base import EngineOptions
from rys_gguf.errors import OutputFailed
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.schedule import Schedule
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.stage import DIVERGENCE, FINAL, GENERATE, LOOPS, SPEED, Status, round_stage
from rys_gguf.search.executors.base import Outcome
from rys_gguf.search.filters import damage, divergence, looping
from rys_gguf.search.hosts.base import Workplace
from rys_gguf.search.job import HELDOUT, Job, Step
from rys_gguf.search.objective import run_job
from rys_gguf.search.setup import Limits, Setup
from tests import tiny
from tests.search.fakes import DIES, DISK_FULL, ScriptedHost, Window, logged, scripted_setup

N_LAYERS = 6


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    """Four items, answered by scripted engines."""
    path = tiny.write(tmp_path / "m.gguf", "llama", N_LAYERS)
    (tmp_path / "work").mkdir()
    return scripted_setup(path, tmp_path)


@pytest.fixture
def host(setup: Setup) -> Iterator[ScriptedHost]:
    """A host of scripted engines."""
    with Model(setup.model) as model:
        place = Workplace(model, Path(setup.folder), "host", Schedule.PORTABLE, EngineOptions())
        yield ScriptedHost(place)


def candidate(window: Window | None = (4, 6)) -> Candidate:
    """The candidate that repeats a window; the base without one."""
    if window is None:
        return Candidate.base(N_LAYERS)
    return Candidate(LayerMap.from_blocks([window], N_LAYERS))


def outcomes(
    host: ScriptedHost, setup: Setup, window: Window | None, *steps: Step
) -> list[Outcome]:
    """The outcomes of a job."""
    return list(run_job(Job(candidate(window), steps), host, setup))


ROUND = Step(round_stage(1), items=(0, 2, 3))


def test_each_stage_is_one_outcome_with_its_answers(host: ScriptedHost, setup: Setup) -> None:
    """Names, numbers and means; what making the file took counts for the first stage only."""
    first, second = outcomes(host, setup, (4, 6), Step(DIVERGENCE), ROUND)
    assert first.result.status is Status.OK
    assert first.result.measures == {"kl": pytest.approx(0), "agreement": 1.0}
    assert (first.result.bytes_written, first.result.bytes_shared) == (10, 5)
    assert first.answers == ()
    result = second.result
    assert (result.candidate, result.spec) == ("0-5,4-5", "blocks:4,6")
    assert (result.windows, result.extra_layers, result.is_base) == (((4, 6),), 2, False)
    assert (result.bytes_written, result.bytes_shared) == (0, 0)
    assert [a.item for a in second.answers] == ["s0", "s2", "s3"]
    assert [a.soft_score for a in second.answers] == pytest.approx([0.875, 0.875, 0.125])
    assert result.n_items == 3
    assert result.soft_scores == {"reasoning": pytest.approx(1.875 / 3)}
    assert result.scores == {"reasoning": pytest.approx(2 / 3)}
    assert second.answers[0].probabilities == ({"yes": 0.75, "no": 0.25},)
    assert {a.scoring for a in second.answers} == {"quick"}
    assert result.engine_seconds == pytest.approx(result.seconds.load + result.seconds.ask)
    assert len(logged(Path(setup.folder).parent, "start")) == 1


def test_the_base_costs_no_bytes(host: ScriptedHost, setup: Setup) -> None:
    """It is the source itself."""
    (outcome,) = outcomes(host, setup, None, ROUND)
    assert outcome.result.is_base
    assert (outcome.result.bytes_written, outcome.result.windows) == (0, ())


def test_generated_answers_are_marked_as_such(host: ScriptedHost, setup: Setup) -> None:
    """They keep their words, and come from the suite that the step names."""
    (outcome,) = outcomes(host, setup, (4, 6), Step(GENERATE, HELDOUT, (0, 1)))
    assert [a.item for a in outcome.answers] == ["h0", "h1"]
    assert [(a.scoring, a.response, a.score) for a in outcome.answers] == [
        ("generate", "Yes.", 1.0), ("generate", "Yes.", 0.0),
    ]  # fmt: skip


def test_a_damaged_candidate_is_asked_nothing_more(host: ScriptedHost, setup: Setup) -> None:
    """The stage that drops it is its last, with the reason."""
    setup = replace(setup, reference=({2: -0.01},) * 2, limits=Limits(0.1))
    (outcome,) = outcomes(host, setup, (4, 6), Step(DIVERGENCE), ROUND)
    assert outcome.result.status is Status.DROPPED
    assert outcome.result.reason
    assert "nats from the base on plain text, at most 0.1" in outcome.result.reason


def test_a_filter_says_why() -> None:
    """Too far, too little agreement, or no numbers at all; measures hold only numbers."""
    p = {1: math.log(0.6), 2: math.log(0.3)}
    far = divergence([p], [{1: -20.0, 2: -30.0}])
    assert "nats" in (damage(far, Limits()) or "")
    swapped = divergence([p], [{1: math.log(0.3), 2: math.log(0.6)}])
    assert "agrees with the base on 0% of next words" in (damage(swapped, Limits()) or "")
    assert damage(swapped, Limits(min_agreement=0)) is None
    nothing = divergence([p], [{1: -math.inf, 2: -math.inf}])
    assert damage(nothing, Limits(1000.0, 0)) == "its probabilities are not numbers"


def test_a_measure_that_is_no_number_is_recorded_as_none(
    host: ScriptedHost, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON has no infinity."""
    engine = "tests.search.fakes.ScriptedEngine.top_logprobs"
    monkeypatch.setattr(engine, lambda self, tokens, n: {1: -math.inf})
    (outcome,) = outcomes(host, setup, (4, 6), Step(DIVERGENCE), ROUND)
    assert outcome.result.measures["kl"] is None
    assert outcome.result.reason == "its probabilities are not numbers"


def test_divergence_is_that_of_the_distributions() -> None:
    """Two outcomes and the rest, against the sum written out."""
    p = {1: math.log(0.6), 2: math.log(0.3)}
    q = {1: math.log(0.3), 2: math.log(0.6)}
    found = divergence([p], [q])
    assert found.kl == pytest.approx(0.6 * math.log(2) - 0.3 * math.log(2))
    assert found.agreement == 0
    assert divergence([p], [p]).kl == pytest.approx(0)
    assert divergence([p], [p]).agreement == 1


def test_loops_are_judged_beside_the_base() -> None:
    """Two more looping replies than the base's drop a candidate; one more does not."""
    names = [prompt.name for prompt in PROMPTS[:4]]
    sound = "A fox crossed the frozen river at dawn and looked back once at the burning barn."
    loop = "I am going to the market. " * 12

    def replies(n_loops: int) -> list[Reply]:
        texts = [loop] * n_loops + [sound] * (4 - n_loops)
        return [Reply(n, t, True, 64, 0.5) for n, t in zip(names, texts, strict=True)]

    assert looping(replies(1), replies(0)) is None
    assert (looping(replies(3), replies(0)) or "").startswith("loops: ")
    assert looping(replies(3), replies(3)) is None


def test_the_loop_stage_counts_replies(host: ScriptedHost, setup: Setup) -> None:
    """The replies of candidate and base are counted, and the prompts."""
    (outcome,) = outcomes(host, setup, (4, 6), Step(LOOPS))
    assert outcome.result.measures == {"loops": 0.0, "loops_base": 0.0, "loop_prompts": 4}


def test_an_engine_that_fails_is_an_outcome(host: ScriptedHost, setup: Setup) -> None:
    """Of the stage that it failed in, with one line of reason, its log and the bytes written."""
    (outcome,) = outcomes(host, setup, DIES, Step(DIVERGENCE), ROUND)
    result = outcome.result
    assert (result.stage, result.status) == (DIVERGENCE, Status.FAILED)
    assert result.reason == "llama.cpp ended (exit code 9)"
    assert result.log == ("no memory",)
    assert result.bytes_written == 10


def test_a_failure_in_a_later_stage_keeps_the_stages_before(
    host: ScriptedHost, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers before it stay."""
    monkeypatch.setattr(
        "tests.search.fakes.ScriptedEngine.generate", lambda *_, **__: _fail("it ended")
    )
    steps = (ROUND, Step(GENERATE, HELDOUT, (0,)), Step(FINAL, HELDOUT, (0,)))
    first, second = outcomes(host, setup, (4, 6), *steps)
    assert first.result.is_ok
    assert (second.result.stage, second.result.status) == (GENERATE, Status.FAILED)


def _fail(message: str) -> None:
    from rys_gguf.errors import EngineFailed

    raise EngineFailed(message)


def test_a_full_disk_says_nothing_about_the_candidate(host: ScriptedHost, setup: Setup) -> None:
    """It is raised, not recorded."""
    with pytest.raises(OutputFailed, match="disk full"):
        outcomes(host, setup, DISK_FULL, ROUND)


def test_speed_is_measured_in_turns_with_the_base(host: ScriptedHost, setup: Setup) -> None:
    """Window and base see the same machine; the spread says how far to trust them."""
    (outcome,) = outcomes(host, setup, (4, 6), Step(SPEED))
    assert outcome.result.measures == {
        "base_prompt_tokens_per_second": 1100.0, "base_tokens_per_second": 110.0,
        "prompt_tokens_per_second": 880.0, "tokens_per_second": 88.0,
        "spread": pytest.approx(0.0),
    }  # fmt: skip
    started = logged(Path(setup.folder).parent, "start")
    assert started == ["start host None", "start host (4, 6)"] * 2
    # The window's file was made twice, as far as this host knows.
    assert outcome.result.bytes_written == 20


def test_a_speed_that_cannot_be_measured_does_not_end_the_sweep(
    host: ScriptedHost, setup: Setup
) -> None:
    """Everything else is recorded by then: a full disk only leaves the speed unknown."""
    (outcome,) = outcomes(host, setup, DISK_FULL, Step(SPEED))
    assert (outcome.result.stage, outcome.result.status) == (SPEED, Status.FAILED)
    assert outcome.result.reason == "disk full"


def test_the_speed_of_the_base_is_its_own(host: ScriptedHost, setup: Setup) -> None:
    """There is nothing to compare it with."""
    (outcome,) = outcomes(host, setup, None, Step(SPEED))
    assert set(outcome.result.measures) == {
        "prompt_tokens_per_second", "tokens_per_second", "spread"
    }  # fmt: skip


def test_the_spread_is_the_largest_difference_between_turns(
    host: ScriptedHost, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two turns at 100 and 80 tokens per second differ by a fifth of the faster."""
    turns = iter([100.0, 100.0, 80.0, 80.0])
    monkeypatch.setattr(
        "tests.search.fakes.ScriptedEngine.__enter__",
        lambda self: _with_speed(self, next(turns)),
    )
    (outcome,) = outcomes(host, setup, (4, 6), Step(SPEED))
    assert outcome.result.measures["spread"] == pytest.approx(0.2)


def _with_speed(engine: object, speed: float) -> object:
    vars(engine)["speeds"] = iter([speed, speed])
    return engine
