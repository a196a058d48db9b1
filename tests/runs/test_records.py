"""Records: what a worker can measure fits them, and what is read again is the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf.errors import RysError
from rys_gguf.probes.item import HIGHEST, Ratings
from rys_gguf.probes.score import best_constant, score_text
from rys_gguf.runs.records import (
    SCHEMA,
    Baseline,
    ItemAnswer,
    ModelInfo,
    RunInfo,
    StageResult,
    decode,
    decode_info,
    encode,
    encode_info,
)
from rys_gguf.runs.stage import FINAL, Stage, Status, round_stage

DIGITS = st.integers(0, HIGHEST)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def answers() -> st.SearchStrategy[ItemAnswer]:
    """Any answer within the bounds."""
    return st.booleans().flatmap(answers_of)


def answers_of(binary: bool) -> st.SearchStrategy[ItemAnswer]:
    """Any answer to an item that is right or wrong, or that has a score of its own."""
    score = st.none() | st.floats(-300, 1)
    return st.builds(
        ItemAnswer,
        candidate=TEXTS,
        stage=st.builds(round_stage, st.integers(1, 9999)) | st.just(FINAL),
        item=TEXTS,
        family=TEXTS,
        binary=st.just(binary),
        score=st.sampled_from([None, 0.0, 1.0]) if binary else score,
        soft_score=score,
        parsed=st.none() | st.integers() | TEXTS | st.lists(st.floats(0, 1)),
        probabilities=st.lists(st.dictionaries(TEXTS, st.floats(0, 1)), max_size=2).map(tuple),
        response=st.none() | TEXTS,
        n_tokens=st.integers(0, 2**53),
        seconds=st.floats(0, 1e9),
    )


@given(answers())
def test_an_answer_is_read_as_it_was_written(answer: ItemAnswer) -> None:
    """On one line, and to the last digit."""
    line = encode(answer)
    assert b"\n" not in line
    assert decode(line, ItemAnswer, "x") == answer


@given(
    st.lists(st.lists(DIGITS, min_size=2, max_size=2), min_size=1, max_size=4),
    st.lists(DIGITS, min_size=2, max_size=2),
)
def test_every_rating_is_a_score(references: list[list[int]], ratings: list[int]) -> None:
    """The formula for emotions has no lowest value of its own; the bound is below all it gives."""
    items = [
        Ratings(id=str(n), family="eq", topic="t", level=0, question=f"q{n}",
                emotions=("joy", "fear"), reference=tuple(reference))
        for n, reference in enumerate(references)
    ]  # fmt: skip
    text = f"joy: {ratings[0]}\nfear: {ratings[1]}"
    scored = score_text(items[0], text, baseline=best_constant(items))
    assert scored.status == "ok"
    answer = ItemAnswer(candidate="x", stage=FINAL, item="i", family="eq", score=scored.score)
    assert decode(encode(answer), ItemAnswer, "x") == answer


def test_a_sum_of_probabilities_may_round_above_one() -> None:
    """Ten roundings are no error, a hundredth is one."""
    answer = {"candidate": "x", "stage": "final", "item": "i", "family": "f"}
    for value, fits in ((1 + 1e-12, True), (1.01, False)):
        line = json.dumps(answer | {"credit": value, "probabilities": [{"A": value}]}).encode()
        if fits:
            assert decode(line, ItemAnswer, "x").soft_score == value
        else:
            with pytest.raises(RysError, match=r"x: not what a sweep writes: .*credit"):
                decode(line, ItemAnswer, "x")


def test_fields_have_the_names_of_the_file() -> None:
    """The format is that of 0.1.0, whatever the code calls it."""
    answer = ItemAnswer(candidate="x", stage=FINAL, item="i", family="f", soft_score=0.5)
    assert list(json.loads(encode(answer))) == [
        "candidate", "stage", "scoring", "item", "family", "topic", "binary", "status", "score",
        "credit", "parsed", "gold", "response", "probabilities", "n_tokens", "seconds",
    ]  # fmt: skip
    result = StageResult(
        candidate="x", spec="s", stage=Stage("damage"), status=Status.DROPPED, soft_scores={"f": 1}
    )
    plain = json.loads(encode(result))
    assert (plain["stage"], plain["status"], plain["credits"]) == ("damage", "dropped", {"f": 1})


def info(**more: Any) -> RunInfo:
    """A run.json."""
    return RunInfo(identity={"suite": "s"}, model=ModelInfo(n_layers=4), **more)


def test_run_json_is_read_as_it_was_written() -> None:
    """A path whose bytes are no text among it; unknown keys are for a later version."""
    odd = info(
        baselines={"eq": Baseline(constant=0.0, random=-0.4)},
        families=("eq",),
        provenance={"eq": "a\udcffb"},
    )
    data = encode_info(odd)
    assert decode_info(data, "run.json") == odd
    plain = json.loads(data)
    assert plain["floors"] == {"eq": {"constant": 0.0, "random": -0.4}}
    assert plain["schema"] == SCHEMA
    assert decode_info(json.dumps(plain | {"later": 1}).encode(), "run.json") == odd


@pytest.mark.parametrize("depth", [10, 63, 64, 65, 900, 5000])
def test_nesting_has_a_limit(depth: int) -> None:
    """Sixty levels are more than any settings have."""
    data = json.dumps({"candidate": "x", "stage": "final", "item": "i", "family": "f"})
    line = f'{data[:-1]}, "parsed": {"[" * depth}{"]" * depth}}}'.encode()
    if depth <= 64:
        assert decode(line, ItemAnswer, "x").parsed
    else:
        with pytest.raises(RysError, match=r"x: not what a sweep writes: .*nested too deep"):
            decode(line, ItemAnswer, "x")
