"""A run's trials as statistics read them."""

from __future__ import annotations

import pytest

from rys_gguf.errors import RysError
from rys_gguf.runs.stage import FINAL, GENERATE, round_stage
from rys_gguf.stats.evidence import Evidence
from tests.fake_runs import WINNER, make_run, name_of


def test_base_and_windows_are_told_apart() -> None:
    """In the order of the log; a candidate whose failure was forgotten is not there."""
    run = make_run(0)
    evidence = Evidence(run)
    assert evidence.base.candidate.is_base
    assert len(evidence.windows) == 21
    assert [t.key for t in evidence.windows][:2] == [name_of((0, 4)), name_of((1, 5))]
    assert evidence.rounds == (round_stage(1),)


def test_a_run_without_a_base_has_nothing_to_compare() -> None:
    """One message, before anything is computed."""
    run = make_run(0)
    run.results = [line for line in run.results if not line["is_base"]]
    with pytest.raises(RysError, match="no result of the base yet"):
        Evidence(run)


def test_generated_answers_outrank_probabilities_once_complete() -> None:
    """Verdicts move to the generated answers only when every finalist has them."""
    run = make_run(0, generate=True)
    assert Evidence(run).judged_stage() == GENERATE
    run.items = [
        line for line in run.items
        if (line["candidate"], line["stage"]) != (name_of((9, 13)), "generate")
    ]  # fmt: skip
    assert Evidence(run).judged_stage() == FINAL
    assert Evidence(make_run(0, final=False)).judged_stage() is None


def test_pairs_are_those_of_the_stages_asked_for() -> None:
    """Scores or soft scores, of one stage or several."""
    evidence = Evidence(make_run(0))
    key = name_of(WINNER)
    held_out = evidence.pairs(key, [FINAL])
    assert {family: len(p.items) for family, p in held_out.items()} == {
        "math": 80, "eq": 60, "reasoning": 200,
    }  # fmt: skip
    both = evidence.pairs(key, [round_stage(1), FINAL], "soft_score")
    assert len(both["math"].items) == 104
    assert both["math"].difference.tolist() != held_out["math"].difference.tolist()
    assert evidence.pairs("0-1", [FINAL]) == {}
