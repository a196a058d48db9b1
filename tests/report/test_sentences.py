"""The words around the numbers: verdicts, headlines, and what to do next."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest

from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.schedule import Schedule
from rys_gguf.report.sentences import (
    SEARCH_ONLY,
    apply_command,
    cost_text,
    headline,
    interval_text,
    next_step,
    noise_sentence,
    p_text,
    points,
    score_text,
    verdict_sentence,
)
from rys_gguf.runs.candidate import Candidate
from rys_gguf.stats.evidence import Evidence
from rys_gguf.stats.paired import Interval, NoiseLine
from rys_gguf.stats.verdict import NEGLIGIBLE, NO_EVIDENCE, Verdict, verdicts
from tests.fake_runs import WINNER, FakeRun, make_run, name_of


def judged(run: FakeRun) -> tuple[Verdict, ...]:
    """The verdicts of a run."""
    return verdicts(Evidence(run))


def changed(
    verdict: Verdict, word: str, *, difference: float, detectable: float, n: int
) -> Verdict:
    """The verdict with another overall effect."""
    judgement = verdict.judgement
    overall = dataclasses.replace(
        judgement.overall, difference=difference, detectable=detectable, n=n
    )
    judgement = dataclasses.replace(judgement, word=word, overall=overall)
    return dataclasses.replace(verdict, judgement=judgement)


def test_numbers_read_as_people_write_them() -> None:
    """Points have signs but for 0, small p-values a bound, scores their interval."""
    assert [points(x) for x in (0.121, -0.03, 0.0004, -0.0004)] == ["+12.1", "-3.0", "0.0", "0.0"]
    assert [p_text(x) for x in (0.04567, 0.0004, 1.0)] == ["0.046", "< 0.001", "1"]
    assert interval_text(Interval(0.03, 0.212)) == "+3.0 to +21.2"
    assert score_text(9 / 17, Interval(0.31, 0.738)) == "52.9 (31.0 to 73.8)"
    assert score_text(9 / 17, None) == "52.9"


def test_an_interval_shows_on_which_side_of_zero_it_is() -> None:
    """A verdict of better beside an interval from 0.0 would be hard to believe."""
    assert interval_text(Interval(0.0002, 0.06)) == "+0.02 to +6.0"
    assert interval_text(Interval(-0.06, -0.0002)) == "-6.0 to -0.02"
    assert interval_text(Interval(0.0, 1e-6)) == "0.0 to 0.0"


def test_a_gain_that_luck_helped_says_what_was_measured() -> None:
    """The gain that is reported is the estimate, and what was measured is no secret."""
    best = judged(make_run(0))[0]
    overall = best.judgement.overall
    text = verdict_sentence(best)
    assert overall.estimate < overall.difference
    assert (
        f"is {points(overall.estimate)} points (95 % interval {interval_text(overall.likely)},"
        in text
    )
    assert f"; {points(overall.difference)} were measured, part of it by luck)." in text


def test_what_is_negligible_says_so() -> None:
    """And that it is no evidence of a gain."""
    best = judged(make_run(0))[0]
    small = changed(best, NEGLIGIBLE, difference=0.001, detectable=0.001, n=300)
    assert "it is less than 0.5 points, which is too little to matter" in verdict_sentence(small)
    assert headline([small]).startswith("No evidence that any finalist is better")


def test_a_verdict_comes_with_everything_it_rests_on() -> None:
    """Word, difference, interval, n, p-value, search score and price."""
    best, *others = judged(make_run(0))
    text = verdict_sentence(best)
    assert text.startswith("blocks:10,14: better. The overall difference is +")
    for part in (
        "95 % interval +", "n = 340 held-out items scored by probability", "Holm p", "12 tests",
        "points in the search", "Cost: +4 layers, +8.5 MiB, 0.86 times the base's tokens",
    ):  # fmt: skip
        assert part in text, part
    for other in others:
        assert ": no evidence. " in verdict_sentence(other)
        (found,) = re.findall(r"below about (\d+) points would", verdict_sentence(other))
        assert int(found) == round(100 * other.judgement.overall.detectable) > 0


def test_a_family_that_only_finalists_were_asked_is_named_as_a_control() -> None:
    """A control is named whatever it shows."""
    run = make_run(0)
    run.items = [x for x in run.items if x["stage"] == "final" or x["family"] != "math"]
    best = judged(run)[0]
    (effect,) = (e for e in best.judgement.families if e.name == "math")
    assert f"In math (control) it is {points(effect.difference)} points (" in verdict_sentence(best)


def test_answers_of_another_length_are_mentioned() -> None:
    """A window may gain by longer answers what is no ability."""
    run = make_run(0, generate=True)
    for line in run.items:
        longer = line["candidate"] == name_of(WINNER) and line["stage"] == "generate"
        line["n_tokens"] = 19 if longer else 10
    best, *others = judged(run)
    assert "answers are 1.9 times as long as the base's" in verdict_sentence(best)
    assert not any("as long" in verdict_sentence(other) for other in others)


def test_unreadable_answers_are_mentioned() -> None:
    """A change of format is no loss of ability, and the sentence says how much was read."""
    run = make_run(0)
    for line in run.items:
        if line["candidate"] == name_of(WINNER) and line["stage"] == "final":
            line.update(status="no_answer", score=None, credit=None)
    (winner,) = (v for v in judged(run) if v.trial.key == name_of(WINNER))
    text = verdict_sentence(winner)
    assert "format change" in text
    assert "0% of its answers could be read and 100% of the base's" in text
    assert "n = 0" in text


def test_hostile_names_are_escaped() -> None:
    """A family is named by whoever wrote the suite."""
    run = make_run(0)
    for line in run.items:
        line["family"] = line["family"].replace("reasoning", "\x1b[2Jx")
    text = verdict_sentence(judged(run)[0])
    assert "\\x1b[2Jx" in text
    assert "\x1b" not in text


def test_the_headline_has_the_interval_of_a_better_window() -> None:
    """A number without one would promise too much."""
    found = judged(make_run(0))
    interval = interval_text(found[0].judgement.overall.likely)
    assert headline(found).startswith("blocks:10,14 is better than the base: +")
    assert headline(found).endswith(f"(95 % interval {interval})")
    assert headline(found[1:]) == "No evidence that any finalist is better than the base"
    assert "Search only" in headline(())
    worse = changed(found[1], "worse", difference=-0.2, detectable=0.1, n=340)
    assert headline((worse,)) == "No finalist is better than the base without reservation"


def test_a_better_window_is_one_command_away() -> None:
    """The command names the model and the blocks, quoted for a shell."""
    found = judged(make_run(0))
    run = make_run(0)
    run.raw["model"]["path"] = "my models/tiny.gguf"
    command = "rys-gguf apply 'my models/tiny.gguf' --blocks 10,14"
    assert next_step(found, run.info).commands == (command,)
    run.raw["identity"]["settings"]["schedule"] = "explicit"
    assert next_step(found, run.info).commands == (f"{command} --schedule explicit",)
    for name in ("a\x1b.gguf", ""):
        shown = apply_command(found[0], name, Schedule.PORTABLE)
        assert shown == "rys-gguf apply MODEL --blocks 10,14"
    damped = Candidate(LayerMap.parse("blocks:2,4;8,10", 24).damped(0.5))
    trial = dataclasses.replace(found[0].trial, candidate=damped)
    verdict = dataclasses.replace(found[0], trial=trial)
    assert apply_command(verdict, "m.gguf", Schedule.PORTABLE) == (
        "rys-gguf apply m.gguf --blocks 2,4@0.5 --blocks 8,10@0.5"
    )


def test_an_unproven_gain_is_told_the_items_it_takes() -> None:
    """Items grow with the square of detectable effect over gain."""
    verdict = judged(make_run(0))[1]
    found = changed(verdict, NO_EVIDENCE, difference=0.05, detectable=0.15, n=100)
    step = next_step((found,), make_run(0).info)
    assert "gained +5.0 points on 100 held-out items" in step.text
    assert "about 900 items" in step.text
    assert not step.commands
    tiny = changed(verdict, NO_EVIDENCE, difference=0.001, detectable=0.15, n=100)
    assert "far more items than a sweep can ask" in next_step((tiny,), make_run(0).info).text
    loss = changed(verdict, NO_EVIDENCE, difference=-0.03, detectable=0.15, n=100)
    assert "Other window sizes might" in next_step((loss,), make_run(0).info).text
    mixed = changed(verdict, "trade-off", difference=0.2, detectable=0.1, n=100)
    assert "what speaks against it" in next_step((mixed,), make_run(0).info).text
    assert "finish" in next_step((), make_run(0).info).text


@pytest.mark.parametrize("text", [SEARCH_ONLY, noise_sentence(NoiseLine(7, 0.02, 0.05, 2.0))])
def test_sentences_are_sentences(text: str) -> None:
    """They begin with a capital letter and end with a full stop."""
    assert text[0].isupper()
    assert text.endswith(".")


def test_an_interval_without_ends_is_no_crash() -> None:
    """One item has no spread, and the sentence still stands."""
    verdict = judged(make_run(0))[0]
    overall = dataclasses.replace(
        verdict.judgement.overall, interval=Interval(-math.inf, math.inf), detectable=0.0
    )
    judgement = dataclasses.replace(verdict.judgement, word=NO_EVIDENCE, overall=overall)
    text = verdict_sentence(dataclasses.replace(verdict, judgement=judgement))
    assert "would usually go unnoticed" not in text


@pytest.mark.parametrize(("spread", "is_uncertain"), [(0.3, True), (0.02, False), (None, False)])
def test_a_speed_that_tells_nothing_is_called_that(
    spread: float | None, *, is_uncertain: bool
) -> None:
    """A speed within what one model's own speeds differed by is no difference."""
    verdict = dataclasses.replace(judged(make_run(0))[0], speed=0.86, speed_spread=spread)
    assert ("so this tells nothing" in cost_text(verdict)) == is_uncertain
    assert "0.86 times" in cost_text(verdict)


def test_one_window_alone_is_no_best_of_many() -> None:
    """The noise line of a search with one window speaks of one window."""
    one = noise_sentence(NoiseLine(1, 0.01, 0.02, 0.5))
    assert one.startswith("If the only window were equal to the base, it would still show")
    assert "all 3 windows" in noise_sentence(NoiseLine(3, 0.01, 0.02, 0.5))
