"""Known values, and what matters more: how often the verdicts are wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf.errors import RysError
from rys_gguf.stats import paired as statistics
from rys_gguf.stats import verdict
from rys_gguf.stats.paired import (
    bootstrap,
    detectable_effect,
    flipped,
    holm,
    mcnemar,
    noise_line,
    sign_flip_p,
    wilson,
)
from rys_gguf.stats.pairs import Evidence, Families, Pairs, pair
from tests.fake_runs import WINNER, FakeRun, make_run, name_of

# -- known values ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [(6, 0, 0.03125), (5, 0, 0.0625), (0, 6, 0.03125), (25, 14, 0.11), (6, 17, 0.035),
     (28, 31, 0.795), (1, 5, 0.22), (50, 75, 0.031), (25, 40, 0.08)],
)  # fmt: skip
def test_mcnemar_known(wins: int, losses: int, p: float) -> None:
    """Exact two-sided p-values of published pairs of counts."""
    assert mcnemar(wins, losses).p == pytest.approx(p, abs=0.005)


def test_mcnemar_needs_six_wins_against_none() -> None:
    """How many wins significance takes beside 0 to 6 losses; mid-p is smaller, never larger."""
    least = [
        next(w for w in range(50) if w > losses and mcnemar(w, losses).p <= 0.05)
        for losses in range(7)
    ]
    assert least == [6, 8, 10, 12, 13, 15, 17]
    assert mcnemar(6, 0).mid_p == pytest.approx(1 / 64)
    assert mcnemar(0, 0) == statistics.McNemar(0, 0, 1.0, 1.0)
    assert all(mcnemar(w, 9).mid_p <= mcnemar(w, 9).p for w in range(20))


def test_wilson_known() -> None:
    """Intervals of small fractions, one of them 0."""
    assert (wilson(9, 17).low, wilson(9, 17).high) == pytest.approx((0.310, 0.738), abs=5e-4)
    assert (wilson(0, 17).low, wilson(0, 17).high) == pytest.approx((0.0, 0.184), abs=5e-4)
    assert wilson(0, 0) == statistics.Interval(0.0, 1.0)


@pytest.mark.parametrize(
    ("n", "discordance", "gain"),
    [(155, 0.2, 0.1), (626, 0.2, 0.05), (57, 0.3, 0.2), (234, 0.3, 0.1), (940, 0.3, 0.05)],
)
def test_detectable_effect_known(n: int, discordance: float, gain: float) -> None:
    """Items for 80 % power, read the other way round."""
    assert detectable_effect(n, discordance) == pytest.approx(gain, abs=0.001)


def test_no_effect_is_detectable() -> None:
    """Too few items for even an effect on every discordant one, or none at all."""
    assert detectable_effect(5, 0.2) is None
    assert detectable_effect(100, 0.0) is None


def test_holm_known() -> None:
    """Step-down, monotone, at most 1, in the order given."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_properties(p_values: list[float]) -> None:
    """Never below the raw value, never above Bonferroni's, and the order is kept."""
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1.0, p * len(p_values)) + 1e-12 or q == max(adjusted[: len(p_values)])
    ranked = sorted(zip(p_values, adjusted, strict=True))
    assert [q for _, q in ranked] == sorted(adjusted)


def test_bootstrap_of_a_mean_is_the_normal_interval() -> None:
    """For many items the percentile interval is mean +- 1.96 SE."""
    x = np.random.default_rng(3).normal(0.1, 0.5, 500)
    found = bootstrap([x])
    half = 1.96 * x.std(ddof=1) / math.sqrt(len(x))
    assert found.low == pytest.approx(x.mean() - half, abs=0.006)
    assert found.high == pytest.approx(x.mean() + half, abs=0.006)
    assert found == bootstrap([x]), "the seed is fixed"


def test_bootstrap_is_stratified() -> None:
    """A large family does not outvote a small one, and its certainty does not cover for it."""
    many, few = np.full(1000, 1.0), np.array([0.0, 1.0] * 10)
    found = bootstrap([many, few])
    assert 0.5 < found.low < 0.70
    assert 0.80 < found.high < 1.0
    assert bootstrap([many, np.array([0.5])]).low == -math.inf, "one item has no spread"


def test_sign_flip_agrees_with_mcnemar() -> None:
    """On 0/1 items the flips are those of the discordant pairs."""
    x = np.array([1.0] * 9 + [-1.0] * 2 + [0.0] * 40)
    assert sign_flip_p(x) == pytest.approx(mcnemar(9, 2).p, abs=0.01)
    assert sign_flip_p(np.zeros(30)) == 1.0


def test_noise_line_is_the_maximum_of_independent_windows() -> None:
    """Windows that differ independently: the expected maximum of K normals."""
    rng = np.random.default_rng(5)
    parts = rng.choice([-1.0, 1.0], (30, 400)) / 400
    found = noise_line(parts)
    assert found.factor == pytest.approx(2.04, abs=0.07), "E[max] of 30 standard normals"
    assert found.expected == pytest.approx(2.04 / 20, abs=0.005)
    assert found.p95 > found.expected


def test_noise_line_keeps_correlations() -> None:
    """Thirty copies of one window are one window: their best is no better."""
    row = np.random.default_rng(5).choice([-1.0, 1.0], (1, 400)) / 400
    copies = noise_line(np.repeat(row, 30, axis=0))
    assert copies.factor == pytest.approx(0.0, abs=0.03)
    sums = flipped(np.repeat(row, 2, axis=0), 50)
    assert np.array_equal(sums[:, 0], sums[:, 1])


def test_noise_line_of_identical_models_is_zero() -> None:
    """Nothing differs, nothing can look good by luck."""
    assert noise_line(np.zeros((4, 20))) == statistics.NoiseLine(4, 0.0, 0.0, 0.0)
    assert noise_line(np.zeros((0, 0))).n_windows == 0


def test_missing_extra_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without scipy one message says what to install."""

    def gone(_name: str) -> None:
        raise ModuleNotFoundError

    monkeypatch.setattr(statistics.importlib, "import_module", gone)
    with pytest.raises(RysError, match=r"needs scipy: pip install 'rys-gguf\[report\]'"):
        mcnemar(3, 1)


# -- verdicts ----------------------------------------------------------------------------------


def finalists(rng: np.random.Generator, gains: Mapping[str, float]) -> dict[str, Families]:
    """200 right-or-wrong and 100 graded items; every answer is a fresh draw, all share the base."""
    ease = rng.beta(1.2, 1.2, 200)
    right = (rng.random(200) < ease).astype(float)
    graded = rng.normal(0.3, 0.4, 100)
    found = {}
    for name, gain in gains.items():
        answers = (rng.random(200) < np.clip(ease + gain, 0, 1)).astype(float)
        grades = graded + rng.normal(gain, 0.3, 100)
        found[name] = {
            "reasoning": pairs(right, answers, binary=True),
            "eq": pairs(graded, grades, binary=False),
        }
    return found


def pairs(
    base: np.ndarray, window: np.ndarray, *, binary: bool, parsed: int | None = None
) -> Pairs:
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
    found = false = 0
    for _ in range(30):
        judged = verdict.judge(finalists(rng, {"a": 0.12, "b": 0.0, "c": 0.0}), n_resamples=500)
        found += judged["a"].word == verdict.BETTER
        false += any(judged[k].word != verdict.NO_EVIDENCE for k in "bc")
    assert found >= 26
    assert false <= 1


def test_the_correction_counts_all_finalists() -> None:
    """What convinces alone convinces less among many."""
    rng = np.random.default_rng(11)
    many = finalists(rng, {"a": 0.09, **{f"w{k}": 0.0 for k in range(11)}})
    alone = verdict.judge({"a": many["a"]})["a"].overall
    among = verdict.judge(many)["a"].overall
    assert alone.p == among.p
    assert among.holm_p > alone.holm_p


def ones(n: int, right: int) -> np.ndarray:
    """The first `right` of n items right."""
    return np.array([1.0] * right + [0.0] * (n - right))


def word(**families: Pairs) -> str:
    """The verdict on one finalist."""
    return verdict.judge({"a": families})["a"].word


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
    found = verdict.verdicts(Evidence(unread_eq(make_run(0), n_read)))
    (winner,) = (v for v in found if v.candidate.window == WINNER)
    assert winner.judgement.word == verdict.FORMAT_CHANGE
    assert winner.judgement.parsed[1] == pytest.approx((280 + n_read) / 340)


def test_nothing_that_can_be_read_is_still_a_verdict() -> None:
    """A finalist does not vanish because all of its answers are unreadable."""
    run = make_run(0)
    run.items = [line for line in run.items if line["family"] == "eq"]
    found = verdict.verdicts(Evidence(unread_eq(run, 0)))
    (winner,) = (v for v in found if v.candidate.window == WINNER)
    assert (winner.judgement.word, winner.judgement.overall.n) == (verdict.FORMAT_CHANGE, 0)
    assert "n = 0" in winner.sentence


def test_a_loss_that_is_certain_in_one_family_is_said() -> None:
    """Where the mean over families hides it too."""
    down = pairs(ones(200, 100), ones(200, 75), binary=True)
    rng = np.random.default_rng(0)
    graded = rng.normal(0, 1, 40)
    other = pairs(graded, graded + rng.normal(0.05, 1, 40), binary=False)
    judged = verdict.judge({"a": {"reasoning": down, "eq": other}})["a"]
    assert not judged.overall.significant
    assert judged.word == verdict.WORSE


def test_a_small_loss_is_not_hidden_behind_a_large_gain() -> None:
    """A family that loses by its own interval makes it a trade-off, corrected or not."""
    up = pairs(ones(200, 30), ones(200, 160), binary=True)
    slightly_down = pairs(ones(100, 50), ones(100, 45), binary=True)
    assert word(math=up, eq=slightly_down) == verdict.TRADE_OFF


def test_a_planted_winner_is_told_with_its_price() -> None:
    """From lines of a run to a sentence with n, interval, search score and cost."""
    evidence = Evidence(make_run(0))
    best, *rest = verdict.verdicts(evidence)
    assert best.candidate.window == WINNER
    assert best.judgement.word == verdict.BETTER
    assert all(v.judgement.word == verdict.NO_EVIDENCE for v in rest)
    assert best.speed == pytest.approx(0.86)
    assert best.extra_bytes == 4 * 2_217_024
    said = best.sentence
    whole = best.judgement.overall
    assert whole.n == 340
    for part in ("n = 340", "95 % interval", "Holm p", "credit", "+4 layers", "+8.5 MiB", "0.86"):
        assert part in said


def test_scores_of_right_or_wrong_items_have_intervals() -> None:
    """Wilson's, of the score itself; graded items and the mean over families have none."""
    judged = verdict.judge({"a": {
        "reasoning": pairs(ones(17, 4), ones(17, 9), binary=True),
        "eq": pairs(ones(17, 4), ones(17, 9), binary=False),
    }})["a"]  # fmt: skip
    reasoning, eq = judged.families
    assert reasoning.base_interval == wilson(4, 17)
    assert reasoning.window_interval == wilson(9, 17)
    assert verdict.score_text(reasoning.window, wilson(9, 17)) == "52.9 (31.0 to 73.8)"
    for effect in (eq, judged.overall):
        assert effect.base_interval is None
        assert effect.window_interval is None
    assert verdict.score_text(eq.window, None) == "52.9"


def test_where_no_item_differs_the_interval_is_no_point() -> None:
    """None of 17 may be as many as 18 in a hundred; with another family, half of that."""
    same = pairs(ones(17, 4), ones(17, 4), binary=True)
    (alone,) = verdict.judge({"a": {"x": same}})["a"].families
    assert (alone.interval.low, alone.interval.high) == pytest.approx((-0.184, 0.184), abs=5e-4)
    other = pairs(ones(100, 40), ones(100, 50), binary=True)
    both = verdict.judge({"a": {"x": same, "y": other}})["a"]
    (y,) = (e for e in both.families if e.name == "y")
    half = wilson(0, 17).high / 2
    assert both.overall.interval.low == pytest.approx(y.interval.low / 2 - half, abs=0.005)
    assert both.overall.interval.high == pytest.approx(y.interval.high / 2 + half, abs=0.005)


def test_a_control_family_is_told_whatever_it_shows() -> None:
    """And counts for nothing where search and held-out items are compared."""
    run = make_run(0)
    plain = verdict.verdicts(Evidence(run))[0]
    assert plain.controls == ()
    run.items = [
        line for line in run.items if line["stage"] == "final" or line["family"] != "math"
    ]  # fmt: skip
    found = verdict.verdicts(Evidence(run))[0]
    assert found.controls == ("math",)
    (math_effect,) = (e for e in found.judgement.families if e.name == "math")
    assert f"math (control) {verdict.points(math_effect.difference)}" in found.sentence
    held_out = Evidence(run).pairs(found.candidate.name, ["final"], "credit")
    assert found.held_out_gain == pytest.approx(
        (held_out["eq"].mean + held_out["reasoning"].mean) / 2
    )


def test_answers_of_another_length_are_told() -> None:
    """What a window gains by longer answers may be no ability."""
    run = make_run(0, generate=True)
    for line in run.items:
        longer = line["candidate"] == name_of(WINNER) and line["stage"] == "generate"
        line["n_tokens"] = 19 if longer else 10
    best, *others = verdict.verdicts(Evidence(run))
    assert best.length == pytest.approx(1.9)
    assert "answers are 1.9 times as long as the base's" in best.sentence
    for other in others:
        assert other.length == 1
        assert "as long" not in other.sentence
    assert all(v.length is None for v in verdict.verdicts(Evidence(make_run(0))))


def test_failed_requests_are_no_zeros() -> None:
    """An item whose request failed counts for neither side."""
    run = make_run(0)
    lost = {"h-reasoning-3", "h-reasoning-4"}
    for line in run.items:
        if line["candidate"] == name_of(WINNER) and line["item"] in lost:
            line.update(status="error", score=0.0)
    found = Evidence(run).pairs(name_of(WINNER), ["final"])
    assert len(found["reasoning"].items) == 198
    assert not lost & set(found["reasoning"].items)
    assert len(Evidence(run).pairs(name_of((9, 13)), ["final"])["reasoning"].items) == 200


def test_generated_answers_outrank_probabilities_once_complete() -> None:
    """Verdicts move to the generated answers only when every finalist has them."""
    run = make_run(0, generate=True)
    assert Evidence(run).judged_stage() == "generate"
    run.items = [
        line for line in run.items
        if (line["candidate"], line["stage"]) != (name_of((9, 13)), "generate")
    ]  # fmt: skip
    assert Evidence(run).judged_stage() == "final"
    assert Evidence(make_run(0, final=False)).judged_stage() is None


def test_search_ranks_the_winner_above_the_noise() -> None:
    """The planted window is first; a null search has nothing far above its line."""
    found = verdict.search(Evidence(make_run(0)))
    first = found.ranks[0]
    assert first.candidate.window == WINNER
    assert first.overall
    assert first.overall.above_noise
    assert found.ranks[-1].overall is None, "what was dropped or failed comes last"
    null = verdict.search(Evidence(make_run(1, gain={(i, i + 4): 0.0 for i in range(21)})))
    top = null.ranks[0].overall
    assert top
    assert top.mean < null.noise[verdict.OVERALL].p95 * 1.5


def test_later_rounds_add_items() -> None:
    """A candidate's search score is over all rounds it was asked in; its line is lower for it."""
    run = make_run(0)
    for line in [x for x in run.items if x["stage"] == "round1"]:
        if line["candidate"] in (name_of(None), name_of(WINNER)):
            run.items.append({**line, "stage": "round2", "item": line["item"] + "-more"})
    evidence = Evidence(run)
    ranks = {r.candidate.name: r for r in verdict.search(evidence).ranks}
    assert evidence.rounds == ("round1", "round2")
    assert ranks[name_of(WINNER)].n_items == 2 * ranks[name_of((9, 13))].n_items


def test_pareto() -> None:
    """Not beaten in gain by anything as small; the base beats every loss."""
    points = {"a": (0.10, 4), "b": (0.08, 4), "c": (0.09, 2), "d": (-0.1, 1), "e": (0.11, 8)}
    assert verdict.pareto(points) == ("c", "a", "e")
    assert verdict.pareto({"d": (0.0, 1)}) == ()


def test_what_could_not_be_read_has_no_score_but_counts_as_asked() -> None:
    """Emotions without a readable answer: no zero in the mean, and a lower share of answers."""
    base = {str(n): {"family": "eq", "status": "ok", "score": 0.5} for n in range(4)}
    unread = {"family": "eq", "status": "no_answer", "score": None}
    window = {**base, "1": unread, "2": {**unread, "status": "error"}}
    found = pair(base, window)["eq"]
    assert found.items == ("0", "3")
    assert found.mean == 0
    assert (found.n_asked, found.base_parsed, found.window_parsed) == (3, 3, 2)
