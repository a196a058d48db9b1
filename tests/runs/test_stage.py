"""Stages: their names, and the order of a candidate's way."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf.runs.stage import (
    DIVERGENCE,
    FINAL,
    GENERATE,
    LOOPS,
    SPEED,
    Stage,
    Status,
    round_stage,
)


def test_names_are_those_of_a_run_folder() -> None:
    """What is written is read again, as an equal value."""
    stages = (DIVERGENCE, round_stage(1), round_stage(12), LOOPS, FINAL, GENERATE, SPEED)
    assert [str(s) for s in stages] == [
        "damage", "round1", "round12", "loops", "final", "generate", "speed",
    ]  # fmt: skip
    for stage in stages:
        assert Stage.parse(str(stage)) == stage
        assert hash(Stage.parse(str(stage))) == hash(stage)
        assert pickle.loads(pickle.dumps(stage)) == stage
    assert round_stage(2).number == 2
    assert round_stage(2).name == round_stage(3).name
    assert FINAL != "final"


def test_stages_sort_as_a_candidate_goes() -> None:
    """Round 10 follows round 9, and the filters stand where they are asked."""
    way = [DIVERGENCE, *(round_stage(n) for n in range(1, 12)), LOOPS, FINAL, GENERATE, SPEED]
    assert sorted([*way[5:], *way[:5]]) == way
    assert max(way) == SPEED
    assert [s.is_round for s in way] == [False, *[True] * 11, False, False, False, False]


@pytest.mark.parametrize(
    "text", ["", "round", "round0", "round01", "round99999", "round1 ", "final1", "Final", "x" * 99]
)
def test_other_names_are_no_stage(text: str) -> None:
    """Another name is refused, and the message stays short."""
    with pytest.raises(ValueError, match="is not a stage of a sweep") as e:
        Stage.parse(text)
    assert len(str(e.value)) < 60


@given(st.text())
def test_no_text_is_more_than_one_stage(text: str) -> None:
    """Whatever parses is written the same way."""
    try:
        stage = Stage.parse(text)
    except ValueError:
        return
    assert str(stage) == text


def test_a_status_is_its_name() -> None:
    """As it is written."""
    assert [s.value for s in Status] == ["ok", "dropped", "failed"]
