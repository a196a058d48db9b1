"""What matters most of a verdict: how often it is wrong. And what it says of whom, by numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from rys_gguf.report.sentences import verdict_sentence
from rys_gguf.runs.stage import FINAL
from rys_gguf.stats import verdict
from rys_gguf.stats.clusters import Floats
from rys_gguf.stats.compare import compare
from rys_gguf.stats.evidence import Evidence
from rys_gguf.stats.paired import wilson
from rys_gguf.stats.pairs import OVERALL, Families, Pairs
from rys_gguf.stats.ranking import rank
from tests.fake_runs import WINNER, FakeRun, make_run, name_of


def finalists(rng: np.random.Generator, gains: Mapping[str, float]) -> dict[str, list[Families]]:
    """200 right-or-wrong and 100 graded items; every answer is a fresh draw, all share the base."""
    ease = rng.beta(1.2, 1.2, 200)
    right = (rng.random(200) < ease).astype(float)
    graded = rng.normal(0.3, 0.4, 100)
    result = {}
    for name, gain in gains.items():
        answers = (rng.random(200) < np.clip(ease + gain, 0, 1)).astype(float)
        grades = graded + rng.normal(gain, 0.3, 100)
        result[name] = [
            {
                "reasoning": pairs(right, answers, binary=True),
                "eq": pairs(graded, grades, binary=False),
            }
        ]
    return result


def pairs(base: Floats, window: Floats, *, binary: bool, parsed: int | None = None) -> Pairs:
    """Items named by their number."""
    n = len(base)
    return Pairs(
        tuple(map(str, range(n))), base, window, binary, n, n, n if parsed is None else parsed
    )


def test_equal_models_give_no_evidence() -> None:
    """In at least 95 of 100 reports on three windows that are as good as the base, no claim."""
    rng = np.random.default_rng(2026)
    silent = 0
    for _ in range(100):
        judged = verdict.judge(finalists(rng, dict.fromkeys("abc", 0.0)), n_resamples=500)
        silent += all(j.word == verdict.NO_EVIDENCE for j in judged.values())
    assert silent >= 95


def test_a_true_winner_is_found() -> None:
    """Twelve points are found nine times in ten among three finalists, and only the winner."""
    rng = np.random.default_rng(7)
    n_found = n_false = 0
    for _ in range(30):
        judged = verdict.judge(finalists(rng, {"a": 0.12, "b": 0.0, "c": 0.0}), n_resamples=500)
        n_found += judged["a"].word == verdict.BETTER
        n_false += any(judged[k].word != verdict.NO_EVIDENCE for k in "bc")
    assert n_found >= 26
    assert n_false <= 1


def test_the_correction_counts_all_finalists() -> None:
    """What convinces alone convinces less among many."""
    rng = np.random.default_rng(11)
    many = finalists(rng, {"a": 0.09, **{f"w{k}": 0.0 for k in range(11)}})
    alone = verdict.judge({"a": many["a"]})["a"].overall
    among = verdict.judge(many)["a"].overall
    assert alone.p == among.p
    assert among.holm_p > alone.holm_p


def ones(n: int, right: int) -> Floats:
    """The first `right` of n items right."""
    return np.array([1.0] * right + [0.0] * (n - right))


def word(**families: Pairs) -> str:
    """The verdict on one finalist."""
    return verdict.judge({"a": [families]})["a"].word


def test_only_what_is_called_is_corrected_for_luck() -> None:
    """By its own test: a difference that is not significant is what was measured."""
    rng = np.random.default_rng(3)
    judged = verdict.judge(finalists(rng, {"a": 0.12, "b": 0.0}))
    effects = [e for j in judged.values() for e in (j.overall, *j.families)]
    called = [e for e in effects if e.significant]
    assert 0 < len(called) < len(effects)
    for effect in effects:
        if effect in called:
            assert 0 < effect.estimate < effect.difference
            assert 0 < effect.likely.low < effect.estimate < effect.likely.high
        else:
            assert (effect.estimate, effect.likely) == (effect.difference, effect.interval)


def test_words() -> None:
    """Up, down, both, neither, and a change of format that looks like a gain."""
    up = pairs(ones(100, 30), ones(100, 60), binary=True)
    down = pairs(ones(100, 60), ones(100, 30), binary=True)
    same = pairs(ones(100, 50), ones(100, 50), binary=True)
    unread = pairs(ones(100, 30), ones(100, 60), binary=True, parsed=94)
    assert word(math=up, eq=same) == verdict.BETTER
    assert word(math=down, eq=same) == verdict.WORSE
    assert word(math=up, eq=down) == verdict.TRADE_OFF
    assert word(math=same, eq=same) == verdict.NO_EVIDENCE
    assert word(math=unread, eq=same) == verdict.FORMAT_CHANGE


def unread_eq(run: FakeRun, n_read: int) -> FakeRun:
    """The winner says of all but `n_read` emotions what nobody can read."""
    eq = [
        line for line in run.items
        if (line["candidate"], line["stage"], line["family"]) == (name_of(WINNER), "final", "eq")
    ]  # fmt: skip
    for line in eq[n_read:]:
        line.update(status="no_answer", score=None, credit=None)
    return run


@pytest.mark.parametrize("n_read", [0, 1, 50])
def test_a_family_nobody_can_read_is_no_gain(n_read: int) -> None:
    """However little of it is left, it is a change of format, not a family less."""
    result = verdict.verdicts(Evidence(unread_eq(make_run(0), n_read)))
    (winner,) = (v for v in result if v.trial.candidate.window == WINNER)
    assert winner.judgement.word == verdict.FORMAT_CHANGE
    assert winner.judgement.parsed[1] == pytest.approx((280 + n_read) / 340)


def test_nothing_that_can_be_read_is_still_a_verdict() -> None:
    """A finalist does not vanish because all of its answers are unreadable."""
    run = make_run(0)
    run.items = [line for line in run.items if line["family"] == "eq"]
    result = verdict.verdicts(Evidence(unread_eq(run, 0)))
    (winner,) = (v for v in result if v.trial.candidate.window == WINNER)
    assert (winner.judgement.word, winner.judgement.overall.n) == (verdict.FORMAT_CHANGE, 0)


def test_a_loss_that_is_certain_in_one_family_is_said() -> None:
    """A certain loss in a family counts even where the mean over families hides it."""
    down = pairs(ones(200, 100), ones(200, 75), binary=True)
    rng = np.random.default_rng(0)
    graded = rng.normal(0, 1, 40)
    other = pairs(graded, graded + rng.normal(0.05, 1, 40), binary=False)
    judged = verdict.judge({"a": [{"reasoning": down, "eq": other}]})["a"]
    assert not judged.overall.significant
    assert judged.word == verdict.WORSE


def barely_down(n: int = 60, by: float = 0.001) -> Pairs:
    """Graded items that a window loses a little on, each about as much."""
    rng = np.random.default_rng(0)
    graded = rng.normal(0.3, 0.4, n)
    return pairs(graded, graded - by + rng.normal(0, by / 10, n), binary=False)


def test_the_overall_test_knows_what_its_interval_knows() -> None:
    """Families in which no item differs may hide a difference, for the test as for the interval."""
    same = pairs(ones(40, 20), ones(40, 20), binary=True)
    total = verdict.judge({"a": [{"eq": barely_down(), "math": same}]})["a"].overall
    assert total.interval.low < 0 < total.interval.high
    assert total.p > 0.05
    # Where families differ by more than can be hidden, both see it.
    down = pairs(ones(100, 60), ones(100, 20), binary=True)
    total = verdict.judge({"a": [{"reasoning": down, "math": same}]})["a"].overall
    assert total.interval.high < 0
    assert total.p < 0.001


def test_a_difference_too_small_to_matter_is_negligible() -> None:
    """However sure it is, overall or in a family; one that may matter is a difference."""
    assert word(eq=barely_down()) == verdict.NEGLIGIBLE
    assert word(eq=barely_down(by=0.02)) == verdict.WORSE
    up = pairs(ones(100, 30), ones(100, 60), binary=True)
    assert word(math=up, eq=barely_down()) == verdict.BETTER
    assert word(math=up, eq=barely_down(by=0.02)) == verdict.TRADE_OFF
    # So few items that nothing differs by chance do not show that nothing would.
    same = pairs(ones(40, 20), ones(40, 20), binary=True)
    assert word(math=same, eq=barely_down()) == verdict.NO_EVIDENCE


def test_a_small_loss_is_not_hidden_behind_a_large_gain() -> None:
    """A family that loses by its own interval makes it a trade-off, corrected or not."""
    up = pairs(ones(200, 30), ones(200, 160), binary=True)
    slightly_down = pairs(ones(100, 50), ones(100, 45), binary=True)
    assert word(math=up, eq=slightly_down) == verdict.TRADE_OFF


def test_a_planted_winner_is_told_with_its_price() -> None:
    """From lines of a run to a verdict with n, search score and cost."""
    best, *rest = verdict.verdicts(Evidence(make_run(0)))
    assert best.trial.candidate.window == WINNER
    assert best.stage == FINAL
    assert best.judgement.word == verdict.BETTER
    assert all(v.judgement.word == verdict.NO_EVIDENCE for v in rest)
    assert best.speed == pytest.approx(0.86)
    assert best.extra_bytes == 4 * 2_217_024
    assert best.judgement.overall.n == 340


def test_scores_of_right_or_wrong_items_have_intervals() -> None:
    """Wilson's, of the score itself; graded items and the mean over families have none."""
    judged = verdict.judge({"a": [{
        "reasoning": pairs(ones(17, 4), ones(17, 9), binary=True),
        "eq": pairs(ones(17, 4), ones(17, 9), binary=False),
    }]})["a"]  # fmt: skip
    reasoning, eq = judged.families
    assert reasoning.base_interval == wilson(4, 17)
    assert reasoning.window_interval == wilson(9, 17)
    for effect in (eq, judged.overall):
        assert effect.base_interval is None
        assert effect.window_interval is None


def test_a_control_family_is_named_and_counts_for_no_gain() -> None:
    """Search and held-out items are compared on the families that the search asked."""
    run = make_run(0)
    plain = verdict.verdicts(Evidence(run))[0]
    assert plain.controls == ()
    run.items = [
        line for line in run.items if line["stage"] == "final" or line["family"] != "math"
    ]  # fmt: skip
    evidence = Evidence(run)
    result = verdict.verdicts(evidence)[0]
    assert result.controls == ("math",)
    assert "math" in [e.name for e in result.judgement.families]
    held_out = evidence.pairs(result.trial.key, [FINAL], "soft_score")
    ranked = next(r for r in rank(evidence.base, evidence.windows).order if r.trial == result.trial)
    assert result.search_gain == ranked.value
    assert result.held_out_gain == pytest.approx(
        sum(ranked.weights[f] * held_out[f].mean for f in ("eq", "reasoning"))
    )


def test_answers_of_another_length_are_measured() -> None:
    """What a window gains by longer answers may be no ability."""
    run = make_run(0, generate=True)
    for line in run.items:
        longer = line["candidate"] == name_of(WINNER) and line["stage"] == "generate"
        line["n_tokens"] = 19 if longer else 10
    best, *others = verdict.verdicts(Evidence(run))
    assert best.length == pytest.approx(1.9)
    for other in others:
        assert other.length == 1
    assert all(v.length is None for v in verdict.verdicts(Evidence(make_run(0))))


def test_speed_is_relative_to_the_base_in_turns_with_the_window() -> None:
    """Where a run has that; one of 0.1.0 has the base's speed of another time, and no spread."""
    run = make_run()
    evidence = Evidence(run)
    (trial,) = (t for t in evidence.windows if t.candidate.window == WINNER)
    assert verdict.speed(evidence, trial) == pytest.approx(0.86)
    assert verdict.speed_spread(trial) is None
    for line in run.results:
        if line["stage"] == "speed" and line["candidate"] == trial.key:
            line["measures"] |= {"base_tokens_per_second": 172.0, "spread": 0.1}
    evidence = Evidence(run)
    (trial,) = (t for t in evidence.windows if t.key == trial.key)
    assert verdict.speed(evidence, trial) == pytest.approx(0.5)
    assert verdict.speed_spread(trial) == 0.1


def test_search_ranks_the_winner_above_the_noise() -> None:
    """The planted window is first; a null search has nothing far above its line."""
    result = verdict.search_ranking(Evidence(make_run(0)))
    first = result.ranks[0]
    assert first.trial.candidate.window == WINNER
    assert first.overall
    assert first.overall.above_noise
    assert result.ranks[-1].overall is None, "what was dropped or failed comes last"
    null = verdict.search_ranking(Evidence(make_run(1, gain={(i, i + 4): 0.0 for i in range(21)})))
    top = null.ranks[0].overall
    assert top
    assert top.mean < null.noise[OVERALL].p95 * 1.5


def test_pareto() -> None:
    """A point on the front is not beaten by a smaller one, and the base beats every loss."""
    points = {"a": (0.10, 4), "b": (0.08, 4), "c": (0.09, 2), "d": (-0.1, 1), "e": (0.11, 8)}
    assert verdict.pareto(points) == ("c", "a", "e")
    assert verdict.pareto({"d": (0.0, 1)}) == ()


def test_what_is_shown_is_what_was_ranked() -> None:
    """On ten runs: the order is that of the ranking, and so are the gains."""
    for seed in range(10):
        evidence = Evidence(make_run(seed, final=False))
        ranked = rank(evidence.base, evidence.windows).order
        shown = verdict.search_ranking(evidence).ranks
        assert [r.trial.key for r in shown[: len(ranked)]] == [r.trial.key for r in ranked]
        assert {r.overall for r in shown[len(ranked) :]} == {None}
        for one, other in zip(ranked, shown, strict=False):
            assert other.overall
            assert other.overall.mean == pytest.approx(one.value)
            assert other.n_items == one.n_items
            for family, mean in one.means.items():
                assert other.gains[family].mean == pytest.approx(mean)


def test_the_noise_line_is_one_of_the_ranked_value() -> None:
    """Luck's line holds for the measure that the windows are ranked by, in 19 of 20 null runs."""
    above = 0
    for seed in range(40):
        run = make_run(seed, final=False, gain={(i, i + 4): 0.0 for i in range(21)})
        result = verdict.search_ranking(Evidence(noisy(run, seed)))
        top = result.ranks[0].overall
        assert top
        assert top.error == pytest.approx(top.line / result.noise[OVERALL].factor, rel=0.2)
        above += top.mean > result.noise[OVERALL].p95
    assert above <= 5


def noisy(run: FakeRun, seed: int) -> FakeRun:
    """The run with soft scores that differ from the base's by noise, four times larger in eq."""
    rng = np.random.default_rng(seed)
    for line in run.items:
        spread = 0.2 if line["family"] == "eq" else 0.05
        line["credit"] = 0.5 + float(rng.uniform(-spread, spread))
    return run


def test_an_interval_and_what_can_be_detected_agree() -> None:
    """Where nothing differs, too: what the interval allows is not said to be seen."""
    same = pairs(ones(70, 30), ones(70, 30), binary=True)
    overall = verdict.judge({"a": [{"x": same}]})["a"].overall
    assert overall.difference == 0
    assert overall.interval.high == pytest.approx(0.052, abs=5e-4)
    assert overall.detectable > overall.interval.high
    assert math.isclose(overall.detectable, 0.0744, abs_tol=5e-4)


def test_equal_verdicts_stand_in_the_order_of_the_ranking() -> None:
    """Not in that of the log, which differs from run to run where workers run side by side."""
    run = make_run(0, finalists=((9, 13), WINNER))
    keys = {name_of(w) for w in ((9, 13), WINNER)}
    base = {a["item"]: a for a in run.items if a["stage"] == "final"}
    for line in run.items:
        if line["stage"] == "final" and line["candidate"] in keys:
            line.update(score=base[line["item"]]["score"], credit=base[line["item"]]["credit"])
    order = [r.trial.key for r in rank(Evidence(run).base, Evidence(run).windows).order]
    assert [v.trial.key for v in verdict.verdicts(Evidence(run))] == [k for k in order if k in keys]


def in_looks(run: FakeRun, stopped: tuple[int, int]) -> FakeRun:
    """The run as if held-out items had been asked in two looks; a finalist stopped after one."""
    other = run.copy()
    other.raw["identity"]["settings"]["looks"] = [0.5, 1.0]
    held_out = [line for line in other.items if line["stage"] == "final"]
    for n, line in enumerate(held_out):
        line["stage"] = "final2" if n % 2 else "final"
    late = [
        {**line, "stage": "final2"}
        for line in other.results
        if line["stage"] == "final" and line["candidate"] != name_of(stopped)
    ]
    other.results = [*other.results, *late]
    other.items = [
        line for line in other.items
        if (line["stage"], line["candidate"]) != ("final2", name_of(stopped))
    ]  # fmt: skip
    return other


def test_a_run_in_looks_is_judged_on_all_it_was_asked() -> None:
    """As in one look, less what looking twice costs; who stopped early is said to have."""
    run = make_run(0)
    before = {v.trial.key: v for v in verdict.verdicts(Evidence(run))}
    evidence = Evidence(in_looks(run, (2, 6)))
    after = {v.trial.key: v for v in verdict.verdicts(evidence)}
    winner, stopped = name_of(WINNER), name_of((2, 6))
    assert after.keys() == before.keys()
    assert evidence.looks == (0.5, 1.0)
    assert after[winner].judgement.word == verdict.BETTER
    both = before[winner].judgement.overall, after[winner].judgement.overall
    assert both[0].interval.low == pytest.approx(both[1].interval.low)
    assert both[0].n == both[1].n == 340
    assert both[0].p <= both[1].p < 0.05
    assert (after[winner].asked, after[stopped].asked) == (1.0, 0.5)
    assert after[stopped].judgement.overall.n == 170
    assert "it was asked 50% of the held-out items" in verdict_sentence(after[stopped])
    assert "was asked" not in verdict_sentence(after[winner])
    compared = compare(in_looks(run, (2, 6)), in_looks(run, (2, 6)))
    (found,) = (c for c in compared.candidates if c.spec == "blocks:10,14")
    assert found.gains[0].interval_a == both[1].interval
    assert compared.candidates[0].kept[0].n == 340


def until(run: FakeRun, *last: tuple[int, int]) -> FakeRun:
    """The run as if its sweep had been stopped before other finalists than these were asked."""
    part = run.copy()
    part.raw["identity"]["settings"]["n_finalists"] = 3
    known = {name_of(None), *map(name_of, last)}
    held_out = ("final", "final2", "speed")
    part.results, part.items = (
        [line for line in lines if line["stage"] not in held_out or line["candidate"] in known]
        for lines in (part.results, part.items)
    )
    return part


def test_a_verdict_gets_no_weaker_as_others_follow() -> None:
    """Stopped after the first of three finalists, its tests are corrected for all of them."""
    run = make_run(0)
    for window in (WINNER, (9, 13)):
        (first,) = verdict.verdicts(Evidence(until(run, window)))
        (last,) = (v for v in verdict.verdicts(Evidence(run)) if v.trial.key == first.trial.key)
        assert first.judgement.n_tests == last.judgement.n_tests == 12
        effects = zip(
            (first.judgement.overall, *first.judgement.families),
            (last.judgement.overall, *last.judgement.families),
            strict=True,
        )
        for early, late in effects:
            assert early.p == late.p
            assert early.holm_p >= late.holm_p


def test_finalists_to_come_are_those_that_can() -> None:
    """As many as planned, but no more than are left; a run that is over has those it has."""
    run = make_run(0)
    assert Evidence(run).n_finalists == 0, "older runs do not say"
    assert Evidence(until(run, WINNER)).n_finalists == 3
    assert Evidence(until(run, WINNER, (9, 13), (2, 6))).n_finalists == 3
    lonely = until(run, WINNER)
    keys = {name_of(None), name_of(WINNER)}
    lonely.results = [line for line in lonely.results if line["candidate"] in keys]
    assert Evidence(lonely).n_finalists == 1
    for planned in (True, -1, "many", 10**30):
        lonely.raw["identity"]["settings"]["n_finalists"] = planned
        assert Evidence(lonely).n_finalists <= 1


@pytest.mark.parametrize(
    ("window", "is_open", "said"),
    [
        ((2, 6), True, "So far it was asked 50% of the held-out items, and more may change"),
        (WINNER, False, "It was asked 50% of the held-out items: the others could hardly"),
    ],
)
def test_who_was_not_asked_everything_is_open_or_clear(
    window: tuple[int, int], is_open: bool, said: str
) -> None:
    """A sweep that was stopped must not say that the other items could have changed nothing."""
    evidence = Evidence(in_looks(make_run(0), window))
    (found,) = (v for v in verdict.verdicts(evidence) if v.trial.candidate.window == window)
    assert (found.asked, found.is_open) == (0.5, is_open)
    assert said in verdict_sentence(found)
