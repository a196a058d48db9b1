"""Suites: sizes, balance, baselines, and an order that never changes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rys_gguf.probes.item import Choice, Number, Ratings, dump
from rys_gguf.probes.names import FAMILIES, LEVELS, SIZES, SPLITS
from rys_gguf.probes.score import eq_percent, partial_credit, score_probabilities, score_text
from rys_gguf.probes.suite import GENERATORS, Suite, build_suite
from tests.probes.made import SEEDS, built, suites


@pytest.mark.parametrize(("size", "n"), [("quick", 136), ("standard", 312), ("validate", 616)])
def test_sizes_and_no_repeats(size: str, n: int) -> None:
    """A suite has the promised number of items at every level, and no item twice."""
    for suite in suites(size):
        assert len(suite.items) == n
        assert Counter(i.family for i in suite.items) == SIZES[size]
        assert len({i.id for i in suite.items}) == n
        assert len({i.question for i in suite.items}) == n


def test_answers_are_balanced() -> None:
    """Within a topic the counts of the right answers differ by at most one."""
    for suite in suites("quick"):
        for record in suite.statistics():
            if record["topic"] == "ratings":
                continue
            counts = record["answers"].values()
            assert max(counts) - min(counts) <= 1, record


def test_no_constant_answer_helps() -> None:
    """Quick baselines equal chance, apart from items that do not divide evenly."""
    for suite in suites("quick"):
        for topics in suite.baselines.values():
            for topic, baseline in topics.items():
                assert baseline.constant <= max(baseline.random, 0) + 0.1, topic
        assert suite.baselines["math"][""].constant < 0.2
        assert suite.baselines["eq"][""].constant == pytest.approx(0)
        assert suite.generated_baselines["math"][""].constant < 0.7


def test_baselines_are_what_such_answers_score() -> None:
    """Scoring the best constant digit and rating as answers gives the baselines."""
    suite = build_suite("quick", levels={"math": 2})
    by_math = [i for i in suite.items if i.topic == "sqrt"]
    best = max(
        sum(score_probabilities(i, [{str(d): 1.0}]).score for i in by_math) for d in range(10)
    )
    assert suite.baselines["math"]["sqrt"].constant == pytest.approx(best / len(by_math))
    rated = [i for i in suite.items if isinstance(i, Ratings)]
    scores = []
    for digit in range(10):
        text = ", ".join([str(digit)] * 4)
        results = [score_text(i, text, baseline=suite.eq_baseline).score for i in rated]
        scores.append(sum(results) / len(results))
    assert suite.baselines["eq"]["ratings"].constant == pytest.approx(max(scores)) == 0
    assert suite.baselines["eq"]["ratings"].random == pytest.approx(sum(scores) / 10)


def test_generated_baseline_of_math() -> None:
    """No constant number of the right length earns more partial credit than the baseline."""
    suite = build_suite("quick", levels={"math": 2}, families=["math"])
    numbers = [i.answer for i in suite.items if isinstance(i, Number) and i.topic == "cbrt"]
    baseline = suite.generated_baselines["math"]["cbrt"].constant
    for guess in (20_000, 15_000, 4_000, 30_000, 12_000, 50_000):
        assert sum(partial_credit(a, guess) for a in numbers) / len(numbers) <= baseline + 1e-9


def test_the_same_arguments_make_the_same_bytes(tmp_path: Path) -> None:
    """Equal arguments give equal bytes, and a suite read from its file has the same id."""
    one, two = build_suite("quick", seed=3), build_suite("quick", seed=3)
    assert dump(one.items) == dump(two.items)
    (tmp_path / "one.jsonl").write_text(dump(one.items))
    assert Suite.read(tmp_path / "one.jsonl") == one
    assert Suite.read(tmp_path / "one.jsonl").suite_id == one.suite_id
    assert build_suite("quick", seed=4).suite_id != one.suite_id
    assert Suite(one.items[::-1]).suite_id != one.suite_id


def test_splits_share_no_question() -> None:
    """This holds for any seeds, however small the numbers are."""
    for level in LEVELS:
        asked = [
            {i.question for family in FAMILIES for i in built("quick", family, level, seed, split)}
            for seed, split in zip(SEEDS, SPLITS, strict=True)
        ]
        assert all(a.isdisjoint(b) for a, b in pairwise([*asked, asked[0]]))


def test_a_longer_suite_keeps_the_items_of_a_shorter_one() -> None:
    """An item depends on its address, not on the size of its suite."""
    short, long = (set(build_suite(size).items) for size in ("quick", "standard"))
    assert short < long


@settings(deadline=None)
@given(st.integers(1, 136), st.sampled_from(LEVELS))
def test_every_prefix_is_stratified(n: int, level: int) -> None:
    """Every family is within 1.5 items of its share, and every topic within one round."""
    suite = suites("quick")[level]
    prefix = suite.items[:n]
    for family, size in SIZES["quick"].items():
        have = [i for i in prefix if i.family == family]
        assert abs(len(have) - n * size / 136) <= 1.5
        topics = GENERATORS[family].topics(level)
        for topic in set(topics):
            share = len(have) * topics.count(topic) / len(topics)
            assert abs(sum(i.topic == topic for i in have) - share) <= topics.count(topic)


def test_prompts_are_short() -> None:
    """At the levels of small models prompts have about 90 tokens of four characters."""
    for level in (0, 1):
        suite = suites("quick")[level]
        lengths = sorted(len(a.prompt) for i in suite.items for a in i.requests())
        assert lengths[int(0.95 * len(lengths))] <= 360
        assert all(len(i.question) <= 360 for i in suite.items if i.family == "eq")


def test_what_does_not_exist() -> None:
    """Names are checked, so that a typing error does not give another suite."""
    none: list[str] = []
    wrong: list[dict[str, Any]] = [
        {"size": "tiny"}, {"split": "test"}, {"families": ["maths"]}, {"families": none},
    ]  # fmt: skip
    for arguments in wrong:
        with pytest.raises(ValueError, match="no such suite"):
            build_suite(**arguments)
    with pytest.raises(ValueError, match="no such level"):
        build_suite(levels={"math": 8})


def test_mixed_users_suites_have_baselines() -> None:
    """A topic may hold several kinds of items; its baseline is their weighted mean.

    A single number has no common answer, so that its baseline is that of a random digit.
    """
    base: dict[str, Any] = {"family": "own", "topic": "t", "level": 0}
    suite = Suite(
        (
            Choice(**base, id="a", question="?", answer="yes"),
            Choice(**base, id="b", question="?!", answer="no"),
            Number(**base, id="c", question="??", answer=7),
            Ratings(**base, id="d", question="!", emotions=("joy",), reference=(5,)),
        )
    )
    assert suite.eq_baseline == eq_percent([5], [5]) == 100
    assert suite.baselines["own"]["t"].constant == pytest.approx((1 + 1 / 9) / 4)
    assert suite.baselines["own"][""] == suite.baselines["own"]["t"]


def test_the_baseline_of_a_family_is_one_answer_for_all_topics() -> None:
    """Pooled over topics it is near chance, and below what the best answer of a topic scores."""
    for suite in suites("quick"):
        math = suite.baselines["math"]
        assert 1 / 9 <= math[""].constant <= 5 / 32
        assert math[""].constant <= max(b.constant for topic, b in math.items() if topic)
        # In words a guess may have the length that numbers of the topic have.
        words = suite.generated_baselines["math"]
        assert words[""].constant >= min(b.constant for topic, b in words.items() if topic)
