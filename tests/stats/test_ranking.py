"""One ranking: its order is that of the old measure, and its value is a score."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from statistics import fmean, pstdev
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import ItemAnswer, StageResult
from rys_gguf.runs.stage import DIVERGENCE, Stage, Status, round_stage
from rys_gguf.runs.trial import Trial
from rys_gguf.stats.ranking import Ranking, believed_gains, rank, rank_smoothly
from tests.fake_runs import make_run

N_LAYERS = 12
Scores = Mapping[str, Mapping[str, float | None]]


def trial(spec: tuple[int, int] | None, *rounds: Scores, failed: int | None = None) -> Trial:
    """A candidate with soft scores of items by family, round after round."""
    windows = [] if spec is None else [spec]
    candidate = Candidate(LayerMap.from_blocks(windows, N_LAYERS))
    key = candidate.key
    results: dict[Stage, StageResult] = {}
    answers: dict[Stage, dict[str, ItemAnswer]] = {}
    for n, scores in enumerate(rounds, 1):
        stage = round_stage(n)
        status = Status.FAILED if n == failed else Status.OK
        results[stage] = StageResult(candidate=key, spec="", stage=stage, status=status)
        if status is Status.OK:
            answers[stage] = {
                item: ItemAnswer(candidate=key, stage=stage, item=item, family=family, soft_score=x)
                for family, items in scores.items()
                for item, x in items.items()
            }
    return Trial(candidate, results, answers)


def keys(ranking: Ranking) -> list[str]:
    """The candidates' keys, best first."""
    return [r.trial.key for r in ranking.order]


def ranks_0_1_0(base: Iterable[Any], candidates: Mapping[str, Iterable[Any]]) -> dict[str, float]:
    """The measure of version 0.1.0: the mean of standardised family means."""
    reference = {line.item: line.soft_score for line in base if line.soft_score is not None}
    differences: dict[str, dict[str, list[float]]] = {}
    pooled: dict[str, list[float]] = {}
    for name, lines in candidates.items():
        by_family = differences.setdefault(name, {})
        for line in lines:
            if line.item in reference and line.soft_score is not None:
                difference = line.soft_score - reference[line.item]
                by_family.setdefault(line.family, []).append(difference)
                pooled.setdefault(line.family, []).append(difference)
    units = {family: pstdev(values) or 1.0 for family, values in pooled.items()}
    return {
        name: fmean(fmean(v) / units[f] for f, v in by_family.items()) if by_family else -math.inf
        for name, by_family in differences.items()
    }


def best_0_1_0(values: Mapping[str, float], cost: Mapping[str, int]) -> list[str]:
    """The order of version 0.1.0."""
    return sorted(values, key=lambda name: (-values[name], cost[name], name))


def some_scores(rng: random.Random) -> Scores:
    """Coarse scores, so that ties happen; items, families or all of it may be missing."""
    return {
        family: {
            f"{family}{n}": rng.choice([0.0, 0.25, 0.5, 1.0, None])
            for n in range(rng.randint(1, 4))
        }
        for family in ("eq", "math", "reasoning")
        if rng.random() < 0.8
    }


@given(st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_is_that_of_the_old_measure(rng: random.Random) -> None:
    """On random data, also with families that some candidates lack."""
    base = trial(None, some_scores(rng))
    windows = [(i, j) for i in range(N_LAYERS) for j in range(i + 1, N_LAYERS + 1)]
    trials = [trial(w, some_scores(rng)) for w in rng.sample(windows, rng.randint(1, 9))]
    stage = round_stage(1)
    old = ranks_0_1_0(
        base.answers[stage].values(), {t.key: t.answers[stage].values() for t in trials}
    )
    assert keys(rank(base, trials)) == best_0_1_0(old, {t.key: t.candidate.n_added for t in trials})


def test_the_order_on_synthetic_runs_is_that_of_the_old_measure() -> None:
    """Forty sweeps as a report reads them."""
    stage = round_stage(1)
    for seed in range(40):
        run = make_run(seed, final=False).read()
        assert run.base
        asked = {k: t for k, t in run.trials.items() if stage in t.answers and t is not run.base}
        old = ranks_0_1_0(
            run.base.answers[stage].values(),
            {key: t.answers[stage].values() for key, t in asked.items()},
        )
        cost = {key: t.candidate.n_added for key, t in asked.items()}
        assert keys(rank(run.base, run.trials.values())) == best_0_1_0(old, cost)


@given(st.randoms(use_true_random=False))
@settings(deadline=None)
def test_a_value_is_a_weighted_mean_of_differences(rng: random.Random) -> None:
    """Weights are positive; with all families they sum to 1. A copy of the base has the value 0."""
    scores = {family: {f"{family}{n}": rng.random() for n in range(4)} for family in ("eq", "math")}
    base = trial(None, scores)
    copy = trial((2, 4), scores)
    other = trial(
        (3, 8),
        {f: {item: rng.random() for item in items} for f, items in scores.items()},
    )
    for ranked in rank(base, [copy, other]).order:
        assert math.isclose(sum(ranked.weights.values()), 1)
        assert min(ranked.weights.values()) > 0
        assert ranked.value == pytest.approx(
            sum(ranked.weights[f] * ranked.means[f] for f in ranked.means)
        )
        assert min(ranked.means.values()) - 1e-12 <= ranked.value
        assert ranked.value <= max(ranked.means.values()) + 1e-12
        assert ranked.n_items == 8
        if ranked.trial is copy:
            assert ranked.value == 0


def test_ties_go_to_fewer_layers_then_to_the_key() -> None:
    """Equal scores: what costs less stands first."""
    scores = {"math": {"a": 0.5}}
    trials = [trial(w, scores) for w in ((5, 9), (2, 4), (4, 5), (3, 5))]
    assert keys(rank(trial(None, scores), trials)) == [
        "0-4,4-11", "0-3,2-11", "0-4,3-11", "0-8,5-11",
    ]  # fmt: skip


def test_who_got_further_stands_first() -> None:
    """A candidate that was asked more stands first, whatever the values."""
    one, two = {"math": {"a": 0.2, "b": 0.3}}, {"math": {"c": 0.5, "d": 0.1}}
    base = trial(None, one, two)
    far = trial((2, 4), one, two)
    near = trial((4, 8), {"math": {"a": 0.9, "b": 0.9}})
    failed = trial((5, 8), {"math": {"a": 0.8, "b": 0.9}}, two, failed=2)
    ranking = rank(base, [near, far, failed])
    assert keys(ranking) == [far.key, near.key, failed.key]
    assert [r.n_rounds for r in ranking.order] == [2, 1, 1]
    assert [r.n_items for r in ranking.order] == [4, 2, 2]
    assert ranking.order[1].stages == (round_stage(1),)


def test_a_restriction_ranks_as_if_no_more_had_been_asked() -> None:
    """Later answers change nothing, so that a resumed search finds the same order."""
    rng = random.Random(4)
    rounds = [{"math": {f"{n}{k}": rng.random() for k in range(5)}} for n in range(2)]
    base = trial(None, *rounds)
    windows = [(i, i + 4) for i in range(6)]
    first = {w: {"math": {f"0{k}": rng.random() for k in range(5)}} for w in windows}
    short = [trial(w, first[w]) for w in windows]
    long = [trial(w, first[w], *([rounds[1]] if w[0] % 2 else [])) for w in windows]
    before, after = rank(base, short), rank(base, long, n_rounds=1)
    assert keys(before) == keys(after)
    assert [r.value for r in before.order] == [r.value for r in after.order]
    assert keys(rank(base, long)) != keys(after)


def test_a_spread_is_that_of_all_who_got_so_far() -> None:
    """Those that went further count in the round they left behind."""
    base = trial(None, {"a": {"x": 0.5}, "b": {"y": 0.5}}, {"a": {"z": 0.5}})
    calm = trial((2, 4), {"a": {"x": 0.6}, "b": {"y": 0.6}})
    far = trial((4, 8), {"a": {"x": 0.1}, "b": {"y": 0.5}}, {"a": {"z": 0.5}})
    near = {r.trial.key: r for r in rank(base, [calm, far]).order}[calm.key]
    assert near.weights["b"] > 3 * near.weights["a"], "the noisier family counts less"


def test_who_was_asked_nothing_is_not_ranked() -> None:
    """Dropped, failed, the base itself; one whose answers cannot be compared comes last."""
    base = trial(None, {"math": {"a": 0.5}})
    dropped = Trial(
        Candidate.from_key("0-3,2-11", N_LAYERS),
        {DIVERGENCE: StageResult(
            candidate="", spec="", stage=DIVERGENCE, status=Status.DROPPED
        )},
    )  # fmt: skip
    unread = trial((3, 5), {"math": {"a": None}})
    loser = trial((4, 6), {"math": {"a": 0.0}})
    failed = trial((5, 9), {"math": {"a": 1.0}}, failed=1)
    ranking = rank(base, [base, dropped, unread, failed, loser])
    assert keys(ranking) == [loser.key, unread.key]
    assert ranking.order[1].value == -math.inf
    assert rank(base, []).order == ()


def test_a_file_that_disagrees_on_a_family_is_ranked_by_the_base() -> None:
    """Lines can be edited: the family of an item is that of the base's answer."""
    base = trial(None, {"math": {"a": 0.5}, "eq": {"b": 0.5}})
    edited = trial((3, 5), {"eq": {"a": 1.0, "b": 0.5}})
    (ranked,) = rank(base, [edited]).order
    assert ranked.means == {"math": 0.5, "eq": 0.0}


def test_maps_that_were_not_asked_are_believed_to_gain_what_their_blocks_do() -> None:
    """A pair of asked windows has the sum; pairs that lose more lower those that were not asked."""
    rng = random.Random(7)
    items = [f"i{k}" for k in range(200)]

    def gaining(spec: str, gain: float) -> Trial:
        candidate = Candidate(LayerMap.parse(spec, N_LAYERS))
        scores = {"math": {i: 0.5 + gain + rng.gauss(0, 0.01) for i in items}}
        asked = trial((0, 1), scores)
        return Trial(candidate, asked.results, asked.answers)

    base = trial(None, {"math": dict.fromkeys(items, 0.5)})
    gains = {"2,4": 0.10, "5,7": 0.06, "8,10": -0.02, "9,11": -0.04, "3,5": 0.03, "3,5;3,5": -0.08}
    asked = [gaining(f"blocks:{spec}", gain) for spec, gain in gains.items()]
    pair, other = (
        Trial(Candidate(LayerMap.parse(spec, N_LAYERS)))
        for spec in ("blocks:2,4;5,7", "blocks:5,7;8,10")
    )
    believed = believed_gains(base, [*asked, pair, other, base])
    alone = {t.candidate.spec: believed[t.key] for t in asked}
    assert believed[pair.key] == pytest.approx(alone["blocks:2,4"] + alone["blocks:5,7"])
    assert believed[pair.key] == pytest.approx(0.16, abs=0.01)
    assert alone["blocks:3,5;3,5"] == pytest.approx(-0.08, abs=0.01), "another form"
    lost = gaining("blocks:2,4;8,10", 0.08 - 0.05)
    after = believed_gains(base, [*asked, lost, pair, other])
    assert after[pair.key] < believed[pair.key] - 0.02
    assert rank_smoothly(base, [*asked, lost, pair, base]).order[0].trial.candidate.spec == (
        "blocks:2,4"
    )
