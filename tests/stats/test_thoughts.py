"""What thinking does, on runs in which it is planted."""

from __future__ import annotations

import random
from typing import Any

import pytest

from rys_gguf.report.answers import answers
from rys_gguf.report.content import Content
from rys_gguf.report.sentences import verdict_sentence
from rys_gguf.stats.evidence import Evidence
from rys_gguf.stats.verdict import BETTER, Verdict, verdicts
from tests.fake_runs import WINNER, FakeRun, make_run, name_of

PLACEBO = (15, 19)
CUT = 400


def thinking_run(placebo_gain: float = 0.0) -> FakeRun:
    """The base thinks for about 300 tokens, the winner for 40 more, a placebo for 20 more."""
    gain = {WINNER: 0.2, PLACEBO: placebo_gain}
    run = make_run(1, gain=gain, finalists=(WINNER, (2, 6), PLACEBO))
    longer = {name_of(WINNER): 40, name_of(PLACEBO): 20}
    for line in [*run.items, *run.results]:
        if line["candidate"] == name_of(PLACEBO) and line["stage"] == "final":
            line["stage"] = "placebo"
    for line in run.items:
        if line["stage"] in ("final", "placebo"):
            line.update(_thought(line["item"], longer.get(line["candidate"], 0)))
    run.raw["identity"]["settings"] = {"thinking": CUT}
    return run


def _thought(item: str, longer: int) -> dict[str, Any]:
    n = random.Random(item).randint(200, CUT)
    n_cut = int(n + longer >= CUT)
    return {
        "thoughts": ["Let me see."],
        "thought_tokens": min(CUT, n + longer),
        "thoughts_cut": n_cut,
        "thoughts_looping": n_cut * (longer > 0),
    }


def winner(run: FakeRun) -> Verdict:
    """The verdict on the planted winner."""
    return next(v for v in verdicts(Evidence(run)) if v.trial.key == name_of(WINNER))


def test_lengths_are_compared_item_by_item() -> None:
    """Items differ far more than models do, and the interval is that of the difference."""
    thoughts = winner(thinking_run()).thoughts
    assert thoughts is not None
    assert thoughts.base == pytest.approx(300, abs=15)
    assert thoughts.window - thoughts.base == pytest.approx(thoughts.difference.mean)
    around = thoughts.difference.interval
    assert 30 < around.low < thoughts.difference.mean < around.high <= 40
    assert thoughts.cut[0] < 0.03
    assert thoughts.cut[1] > 0.1
    assert thoughts.looping == (0, thoughts.cut[1])


def test_a_placebo_is_no_finalist_but_every_finalist_stands_beside_it() -> None:
    """It gets no verdict, and takes no part in the correction of the others."""
    run = thinking_run()
    found = verdicts(Evidence(run))
    assert {v.trial.key for v in found} == {name_of(WINNER), name_of((2, 6))}
    assert {v.judgement.n_tests for v in found} == {8}
    beside = winner(run).placebo
    assert beside is not None
    assert beside.spec == "blocks:15,19"
    assert beside.difference.interval.low > 0
    assert beside.placebo.interval.low < 0 < beside.placebo.interval.high
    assert beside.n_thought == pytest.approx(315, abs=15)


def test_a_gain_that_the_placebo_has_too_is_said_to_be_anybodys() -> None:
    """The verdict stands: the window is better. But so would others be."""
    own, anybodys = (winner(thinking_run(gain)) for gain in (0.0, 0.2))
    assert own.judgement.word == anybodys.judgement.word == BETTER
    said = "its gain may be what any window adds"
    assert said not in verdict_sentence(own)
    assert said in verdict_sentence(anybodys)
    assert "Against the placebo blocks:15,19, a window that was not chosen" in verdict_sentence(own)


def test_without_thinking_nothing_is_said_of_it() -> None:
    """Neither in words nor in numbers."""
    verdict = winner(make_run(1, gain={WINNER: 0.2}))
    assert verdict.thoughts is None
    assert verdict.placebo is None
    assert "think" not in verdict_sentence(verdict)


def test_the_report_holds_what_was_thought() -> None:
    """Beside the answers of base, finalists and the placebo."""
    content = Content.of(thinking_run())
    shown = answers(content.evidence, content.ranking, content.verdicts, {})
    placebo = shown["candidates"][name_of(PLACEBO)]["stages"]
    assert set(placebo) == {"round1", "final"}
    for by_item in (placebo["final"], shown["base"]["final"]):
        assert all(a["response"].startswith("Let me see.") for a in by_item.values())
