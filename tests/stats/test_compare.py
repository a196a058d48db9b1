"""Two runs: what is kept, and what may not be compared at all."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest

from rys_gguf.errors import RysError
from rys_gguf.stats.compare import Comparison, compare, comparison_lines, floor_of
from tests.fake_runs import WINNER, FakeRun, make_run, name_of


@pytest.fixture(scope="module")
def run() -> FakeRun:
    """A run with a winner."""
    return make_run(0)


def damaged(run: FakeRun, candidate: str, share: int) -> FakeRun:
    """The run with every `share`-th right answer of one candidate lost."""
    other = copy.deepcopy(run)
    right = [
        line for line in other.items
        if line["candidate"] == candidate and line["binary"] and line["score"] == 1.0
    ]  # fmt: skip
    for line in right[::share]:
        line["score"] = 0.0
    return other


def of(found: Comparison, spec: str) -> Any:
    """One candidate of a comparison."""
    return next(c for c in found.candidates if c.spec == spec)


def test_a_run_keeps_all_of_itself(run: FakeRun) -> None:
    """Everything is 100 %, no difference, no interval around it."""
    found = compare(run, copy.deepcopy(run))
    assert found.stage == "final"
    assert found.candidates[0].spec == "base"
    assert {c.spec for c in found.candidates} == {
        "base", "blocks:2,6", "blocks:9,13", "blocks:10,14"
    }  # fmt: skip
    for candidate in found.candidates:
        for kept in candidate.kept:
            assert kept.retention == pytest.approx(1.0)
            assert (kept.change, kept.interval.low, kept.interval.high) == (0.0, 0.0, 0.0)
    gains = of(found, "blocks:10,14").gains
    assert [g.family for g in gains] == ["overall", "math", "eq", "reasoning"]
    assert gains[0].retention == pytest.approx(1.0)
    assert of(found, "blocks:9,13").gains[0].retention is None, "no gain to keep"
    assert of(found, "base").gains == ()


def test_what_is_lost_is_seen(run: FakeRun) -> None:
    """A third of the winner's right answers lost: pairs, retention and gain all show it."""
    found = of(compare(run, damaged(run, name_of(WINNER), 3)), "blocks:10,14")
    kept = {k.family: k for k in found.kept}["reasoning"]
    lost = kept.mcnemar.losses
    assert (kept.mcnemar.wins, kept.n) == (0, 200)
    assert kept.change == pytest.approx(-lost / 200)
    assert kept.interval.high < 0
    assert kept.retention == pytest.approx((kept.b - 0.25) / (kept.a - 0.25))
    assert kept.retention < 0.6
    gain = found.gains[0]
    assert gain.retention < 0.5
    assert gain.difference.high < 0


def test_retention_counts_from_the_floor() -> None:
    """The best answer that ignores the question scores the floor, in whatever form it is given."""
    info = {"floors": {"math": {"constant": 0.3, "random": 0.2, "note": "x"}, "eq": 0.1}}
    assert floor_of(info, "math") == 0.3
    assert floor_of(info, "eq") == 0.1
    assert floor_of(info, "other") == 0.0
    assert floor_of({}, "math") == 0.0


def test_a_score_at_its_floor_keeps_nothing(run: FakeRun) -> None:
    """No ability, nothing to retain: no number instead of a wild one."""
    low = copy.deepcopy(run)
    low.info["floors"] = {"math": 0.9, "eq": 0.9, "reasoning": 0.9}
    kept = compare(low, low).candidates[0].kept
    assert {k.retention for k in kept} == {None}
    assert "at its floor" in "\n".join(comparison_lines(compare(low, low)))


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
    other = copy.deepcopy(run)
    other.info["identity"].update(change)
    with pytest.raises(RysError, match=message):
        compare(run, other)
    with pytest.raises(RysError, match="cannot be compared"):
        compare(other, run)


def test_other_models_and_engines_may_differ(run: FakeRun) -> None:
    """That is what the comparison is for; but not the number of layers."""
    other = copy.deepcopy(run)
    other.info["identity"]["model"] = {"name": "other", "sha256": "cd"}
    other.info["identity"]["engine"] = {"build": "b2"}
    assert compare(run, other).candidates
    other.info["model"] |= {"n_layers": 30, "layer_bytes": [1] * 30}
    with pytest.raises(RysError, match="24 layers, the second 30"):
        compare(run, other)


def test_a_family_that_cannot_be_read_in_one_run_is_named(run: FakeRun) -> None:
    """Left out of the numbers, and said to be."""
    other = copy.deepcopy(run)
    for line in other.items:
        if line["candidate"] == name_of(WINNER) and line["family"] == "eq":
            line.update(status="no_answer", score=None, credit=None)
    found = compare(run, other)
    assert of(found, "blocks:10,14").unread == ("eq",)
    assert [k.family for k in of(found, "blocks:10,14").kept] == ["overall", "math", "reasoning"]
    assert of(found, "base").unread == ()
    assert "  eq         no item that could be read in both runs" in comparison_lines(found)


def test_search_only_is_said(run: FakeRun) -> None:
    """Where one run has no held-out items the search's are compared, and called ranks."""
    found = compare(run, make_run(0, final=False))
    assert found.stage == "search"
    assert found.suite == "suite-1"
    assert "ranks only" in "\n".join(comparison_lines(found))


def test_nothing_in_common(run: FakeRun) -> None:
    """Runs that asked different items of all candidates have nothing to say."""
    other = copy.deepcopy(run)
    for line in other.items:
        line["item"] += "-other"
    with pytest.raises(RysError, match="no candidate on the same items"):
        compare(run, other)


def test_lines_and_json(run: FakeRun) -> None:
    """Both ways out hold the numbers; names from files are made printable."""
    other = damaged(run, name_of(None), 4)
    other.info["model"]["name"] = "b\x1b[2J.gguf"
    found = compare(run, other)
    text = "\n".join(comparison_lines(found))
    assert "b\\x1b[2J.gguf" in text
    assert "% kept" in text
    assert "McNemar p" in text
    data = json.loads(json.dumps(dataclasses.asdict(found)))
    assert data["candidates"][0]["kept"][0]["family"] == "overall"
