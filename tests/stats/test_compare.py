"""Two runs: what is kept, and what may not be compared at all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rys_gguf.errors import RysError
from rys_gguf.runs.stage import FINAL
from rys_gguf.stats.compare import Comparison, baseline_of, compare
from rys_gguf.stats.evidence import Evidence
from rys_gguf.stats.pairs import pair
from rys_gguf.stats.verdict import judge
from tests.fake_runs import WINNER, FakeRun, make_run, name_of


@pytest.fixture(scope="module")
def run() -> FakeRun:
    """A run with a winner."""
    return make_run(0)


def damaged(run: FakeRun, candidate: str, share: int) -> FakeRun:
    """The run with every `share`-th right answer of one candidate lost."""
    other = run.copy()
    right = [
        line for line in other.items
        if line["candidate"] == candidate and line["binary"] and line["score"] == 1.0
    ]  # fmt: skip
    for line in right[::share]:
        line["score"] = 0.0
    return other


def of(comparison: Comparison, spec: str) -> Any:
    """One candidate of a comparison."""
    return next(c for c in comparison.candidates if c.spec == spec)


def test_a_run_keeps_all_of_itself(run: FakeRun) -> None:
    """Everything is 100 %, without a difference, and the interval says how far that goes."""
    comparison = compare(run, run.copy())
    assert comparison.stage == "final"
    assert comparison.candidates[0].spec == "base"
    assert {c.spec for c in comparison.candidates} == {
        "base", "blocks:2,6", "blocks:9,13", "blocks:10,14"
    }  # fmt: skip
    for candidate in comparison.candidates:
        for kept in candidate.kept:
            assert kept.retention == pytest.approx(1.0)
            assert kept.change == 0.0
            assert kept.interval.low == -kept.interval.high < 0
    gains = of(comparison, "blocks:10,14").gains
    assert [g.family for g in gains] == ["overall", "math", "eq", "reasoning"]
    assert gains[0].retention == pytest.approx(1.0)
    assert of(comparison, "blocks:2,6").gains[0].retention is None, "no gain to keep"
    assert of(comparison, "base").gains == ()


def test_what_is_lost_is_seen(run: FakeRun) -> None:
    """A third of the winner's right answers lost: pairs, retention and gain all show it."""
    winner = of(compare(run, damaged(run, name_of(WINNER), 3)), "blocks:10,14")
    kept = {k.family: k for k in winner.kept}["reasoning"]
    n_lost = kept.mcnemar.losses
    assert (kept.mcnemar.wins, kept.n) == (0, 200)
    assert kept.change == pytest.approx(-n_lost / 200)
    assert kept.interval.high < 0
    assert kept.retention == pytest.approx((kept.b - 0.25) / (kept.a - 0.25))
    assert kept.retention < 0.6
    gain = winner.gains[0]
    assert gain.retention < 0.5
    assert gain.difference.high < 0


def test_the_interval_is_that_of_the_report(run: FakeRun) -> None:
    """The same pairs have one interval, also where nothing differs."""
    evidence = Evidence(run)
    key = name_of(WINNER)
    families = evidence.pairs(key, [FINAL])
    judged = judge({"a": [families]})["a"]
    gains = of(compare(run, run.copy()), "blocks:10,14").gains
    for gain, effect in zip(gains, (judged.overall, *judged.families), strict=True):
        assert (gain.family, gain.a, gain.interval_a) == (
            effect.name, pytest.approx(effect.difference), effect.interval,
        )  # fmt: skip
    base = evidence.answers(evidence.base.key, [FINAL])
    same = judge({"a": [pair(base, base)]})["a"]
    kept = compare(run, run.copy()).candidates[0].kept
    for row, effect in zip(kept, (same.overall, *same.families), strict=True):
        assert (row.change, row.interval) == (0.0, effect.interval)


def test_the_baseline_is_the_higher_of_two_and_named(run: FakeRun) -> None:
    """The best constant answer or random ones; 0 where the run tells none."""
    assert baseline_of(run.info, "math") == (0.3, "constant")
    assert baseline_of(run.info, "reasoning") == (0.25, "random")
    assert baseline_of(run.info, "other") == (0.0, "constant")
    kept = {k.family: k for k in compare(run, run.copy()).candidates[0].kept}
    assert (kept["math"].baseline, kept["math"].baseline_of) == (0.3, "constant")
    assert (kept["reasoning"].baseline, kept["reasoning"].baseline_of) == (0.25, "random")
    assert kept["overall"].baseline == pytest.approx((0.3 + 0.25) / 3)


def test_a_score_at_its_baseline_keeps_nothing(run: FakeRun) -> None:
    """No ability, nothing to retain: no number instead of a wild one."""
    low = run.copy()
    low.raw["floors"] = {
        family: {"constant": 0.9, "random": 0.1} for family in ("math", "eq", "reasoning")
    }
    kept = compare(low, low).candidates[0].kept
    assert {k.retention for k in kept} == {None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suite": "s2"}, "suite is suite-1 in the first and s2 in the second"),
        ({"heldout": "h2"}, "heldout is heldout-1 in the first and h2 in the second"),
        ({"settings": {"threads": 2, "thinking": True}},
         "settings.thinking is False in the first and True in the second"),
        ({"settings": {"threads": 2}},
         "settings.thinking is False in the first and not set in the second"),
        ({"engine": {"build": "b1", "arguments": ["-ctk", "q4_0"]}},
         "engine.arguments is not set in the first and"),
        ({"engine": {"build": "b1", "n_ctx": 512}}, "engine.n_ctx is not set in the first and 512"),
    ],
)  # fmt: skip
def test_other_suites_and_settings_are_refused(
    run: FakeRun, change: dict[str, Any], message: str
) -> None:
    """One message that names what differs, in whichever order the runs come."""
    other = run.copy()
    other.raw["identity"].update(change)
    with pytest.raises(RysError, match=message):
        compare(run, other)
    with pytest.raises(RysError, match="cannot be compared"):
        compare(other, run)


def test_other_models_and_engines_may_differ(run: FakeRun) -> None:
    """Models and engines may differ, but not the number of layers."""
    other = run.copy()
    other.raw["identity"]["model"] = {"name": "other", "sha256": "cd"}
    other.raw["identity"]["engine"] = {"build": "b2"}
    assert compare(run, other).candidates
    with pytest.raises(RysError, match="24 layers, the second 30"):
        compare(run, make_run(0, n=30))


def test_a_family_that_cannot_be_read_in_one_run_is_named(run: FakeRun) -> None:
    """Left out of the numbers, and said to be."""
    other = run.copy()
    for line in other.items:
        if line["candidate"] == name_of(WINNER) and line["family"] == "eq":
            line.update(status="no_answer", score=None, credit=None)
    comparison = compare(run, other)
    assert of(comparison, "blocks:10,14").unread == ("eq",)
    assert [k.family for k in of(comparison, "blocks:10,14").kept] == [
        "overall",
        "math",
        "reasoning",
    ]
    assert of(comparison, "base").unread == ()


def test_rounds_are_compared_without_held_out_items(run: FakeRun) -> None:
    """Where one run has none, and the comparison names the search's suite."""
    comparison = compare(run, make_run(0, final=False))
    assert comparison.stage == "search"
    assert comparison.suite == "suite-1"


def test_nothing_in_common(run: FakeRun) -> None:
    """Runs that asked different items of all candidates have nothing to say."""
    other = run.copy()
    for line in other.items:
        line["item"] += "-other"
    with pytest.raises(RysError, match="no candidate on the same items"):
        compare(run, other)


def test_a_comparison_is_plain_json(run: FakeRun) -> None:
    """With the names of version 0.1.0, and what it lacked beside them."""
    comparison = compare(run, damaged(run, name_of(None), 4))
    plain = json.loads(json.dumps(comparison.as_json()))
    kept = plain["candidates"][0]["kept"][1]
    assert (kept["family"], kept["floor"], kept["floor_of"]) == ("math", 0.3, "constant")
    assert kept["mcnemar"]["losses"] > 0
    assert plain["stage"] == "final"
