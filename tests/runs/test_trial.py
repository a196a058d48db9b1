"""How far a candidate came, why it ended, and what it cost."""

from __future__ import annotations

from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import ItemAnswer, StageResult
from rys_gguf.runs.stage import DIVERGENCE, FINAL, LOOPS, SPEED, Stage, Status, round_stage
from rys_gguf.runs.trial import Trial

ONE, TWO = round_stage(1), round_stage(2)


def result(stage: Stage, status: Status = Status.OK, reason: str | None = None) -> StageResult:
    """A result that took a second and wrote 10 bytes."""
    return StageResult(
        candidate="0-7",
        spec="base",
        stage=stage,
        status=status,
        reason=reason,
        measures={"x": float(len(str(stage))), str(stage): 1.0},
        bytes_written=10,
        engine_seconds=1.0,
    )


def trial(*results: StageResult) -> Trial:
    """A trial with an answer in every stage."""
    return Trial(
        Candidate.base(8),
        {r.stage: r for r in results},
        {
            r.stage: {
                item: ItemAnswer(candidate="0-7", stage=r.stage, item=item, family="math")
                for item in ("a", str(r.stage))
            }
            for r in results
        },
    )


def test_a_finalist_reached_the_held_out_items() -> None:
    """Its speed is measured afterwards; what it cost is the sum of all."""
    one = trial(*map(result, (SPEED, FINAL, LOOPS, TWO, ONE, DIVERGENCE)))
    assert one.reached == FINAL
    assert one.stages == (DIVERGENCE, ONE, TWO, LOOPS, FINAL, SPEED)
    assert one.rounds == (ONE, TWO)
    assert one.ending is None
    assert not one.is_out
    assert (one.bytes_written, one.engine_seconds) == (60, 6.0)
    assert one.measures["x"] == len("speed")
    assert one.measure(LOOPS, "loops") == 1.0
    assert one.measure(LOOPS, "kl") is None
    assert one.measure(Stage("generate"), "x") is None
    assert list(one.answers_in([ONE, TWO])) == ["a", "round1", "round2"]


def test_what_was_dropped_is_out_unless_it_was_asked_again() -> None:
    """The first stage that ended it stays the reason."""
    dropped = result(DIVERGENCE, Status.DROPPED, "damaged")
    out = trial(dropped)
    assert (out.reached, out.is_out) == (DIVERGENCE, True)
    again = trial(dropped, result(ONE))
    assert (again.reached, again.is_out) == (ONE, False)
    for one in (out, again):
        assert one.ending is dropped
    failed = trial(result(DIVERGENCE), result(ONE, Status.FAILED))
    assert failed.rounds == ()
    assert failed.is_out
    assert not failed.is_ok(ONE)


def test_a_speed_that_was_not_measured_ends_nothing() -> None:
    """A finalist that answered everything is neither out nor failed."""
    one = trial(result(FINAL), result(SPEED, Status.FAILED, "llama.cpp ended"))
    assert (one.reached, one.ending, one.is_out) == (FINAL, None, False)


def test_a_trial_without_results_is_nowhere() -> None:
    """It is neither in nor out, and cost nothing."""
    empty = trial()
    assert (empty.reached, empty.ending, empty.is_out, empty.stages) == (None, None, False, ())
    assert (empty.bytes_written, empty.engine_seconds, empty.measures) == (0, 0.0, {})
    assert trial(result(SPEED)).reached == SPEED
