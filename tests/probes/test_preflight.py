"""The preflight refuses suites that could show nothing, and says what to do instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from rys_gguf.engines.find import open_engine
from rys_gguf.errors import Unsuitable
from rys_gguf.probes.ask import answer
from rys_gguf.probes.item import Choice, Item, Number
from rys_gguf.probes.preflight import (
    require_answers,
    require_repeatable,
    require_room,
    room_notes,
    room_problems,
)
from rys_gguf.probes.requests import Compiler
from rys_gguf.probes.score import partial_credit_at_random, score_text
from rys_gguf.probes.suite import Suite, build_suite
from rys_gguf.probes.summary import summarise
from tests.engine import OPTIONS
from tests.fake_engine import FakeEngine, Replying
from tests.probes.own_items import SUM, TWO, YES


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (Replying("I would rather not say"), "0% of 2 answers can be read"),
        (Replying("", thoughts="Hmm, 7?"), "2 of 2 answers contain thoughts"),
        (Replying("Answer: 7 because", truncated=True), "hit the token limit"),
    ],
)
def test_answers_that_cannot_be_read_are_refused(engine: Replying, message: str) -> None:
    """Unreadable answers, thoughts and cut answers are named with the family and a remedy."""
    other = replace(SUM, id="n2", question="3 + 5?")
    with pytest.raises(Unsuitable, match=rf"math: .*{message}"):
        require_answers(engine, [SUM, other], chats=True)


def test_readable_and_repeatable_answers_pass(smollm2: Path) -> None:
    """Readable words pass, and so does the real engine, which repeats its probabilities."""
    require_answers(Replying("Answer: 7"), [SUM], chats=True)
    with open_engine(smollm2, OPTIONS) as engine:
        require_repeatable(engine, [YES], [Compiler(engine, chats=True).compile(YES)])


def test_an_engine_that_changes_its_mind_is_found() -> None:
    """Noise of the engine would be taken for differences between windows."""

    class Moody(FakeEngine):
        n = 0

        def option_probabilities(
            self, tokens: Sequence[int], options: Sequence[int], *, same_prompt: bool = False
        ) -> list[float]:
            """Other values each time."""
            self.n += 1
            return [1 / (k + self.n) for k in range(len(options))]

    engine = Moody()
    with pytest.raises(Unsuitable, match="other probabilities when it is asked again"):
        require_repeatable(engine, [YES], [Compiler(engine, chats=False).compile(YES)])


# -- room for a difference -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Result:
    """What the preflight reads of an answer."""

    score: float | None
    probabilities: tuple[dict[str, float], ...] = ()


def yes_no(
    n: int, *, level: int = 2, prefix: str = "reasoning", n_yes: int | None = None
) -> list[Choice]:
    """Items of which the first `n_yes`, or every other one, have the answer yes."""
    return [
        Choice(
            id=f"{prefix}-{k}", family="reasoning", topic="t", level=level, question=f"{k}?",
            answer="yes" if (k % 2 == 0 if n_yes is None else k < n_yes) else "no",
        )
        for k in range(n)
    ]  # fmt: skip


def results(items: Sequence[Item], scores: Sequence[float | None], p: float) -> list[Any]:
    """Items with results; `p` is the probability of the right option."""
    pairs = []
    for item, score in zip(items, scores, strict=True):
        rest = "no" if item.gold == "yes" else "yes"
        pairs.append((item, Result(score, ({item.gold: p, rest: 1 - p},))))
    return pairs


def test_a_model_at_its_baseline_is_refused_and_an_easier_level_named() -> None:
    """Score or probability may beat it; a little more confidence in right options is enough."""
    items = yes_no(40)
    guesses = [0, 0, 1, 1] * 10
    with pytest.raises(Unsuitable, match=r"baseline 0.500; 40 items, level 2\); use --level reas"):
        require_room(results(items, guesses, 0.5))
    require_room(results(items, [1, 1, 1, 0] * 10, 0.5))
    surer = [
        results([i], [s], 0.52 + 0.01 * (k % 3))[0]
        for k, (i, s) in enumerate(zip(items, guesses, strict=True))
    ]
    require_room(surer)
    with pytest.raises(Unsuitable, match="leave its items out of the suite"):
        require_room([(replace(TWO, id=f"{k}"), Result((-1.0) ** k)) for k in range(40)])


def test_items_of_ones_own_have_no_levels_to_choose_from() -> None:
    """The remedy is to leave them out."""
    own = yes_no(40, prefix="mine")
    with pytest.raises(Unsuitable) as e:
        require_room(results(own, [0, 0, 1, 1] * 10, 0.5))
    assert "--level" not in str(e.value)
    assert "leave its items out of the suite" in str(e.value)


def test_always_yes_is_no_ability_where_most_answers_are_yes() -> None:
    """The baseline is the score of the best constant answer, however unbalanced the suite."""
    items = yes_no(40, n_yes=32)
    scores = [float(item.gold == "yes") for item in items]
    pairs = [(i, Result(s, ({"yes": 0.9, "no": 0.1},))) for i, s in zip(items, scores, strict=True)]
    with pytest.raises(Unsuitable, match=r"score 0.800, SE 0.064; baseline 0.800"):
        require_room(pairs)


def test_topics_named_after_their_answers_are_no_constant_answer() -> None:
    """A model does not see the topic: one answer for all items is what it has to beat."""
    items = [replace(item, topic=item.answer) for item in yes_no(40)]
    require_room(results(items, [1, 1, 1, 0] * 10, 0.5))
    require_room(results(items, [0, 0, 1, 1] * 10, 0.6))
    (problem,) = room_problems(results(items, [0, 0, 1, 1] * 10, 0.5))
    assert "baseline 0.500" in problem.reason


def test_options_of_their_own_are_no_constant_answers() -> None:
    """Where each item has other words to choose from, no answer can be constant."""
    items = [
        Choice(
            id=f"mine-{k}", family="own", topic="t", level=0, question=f"{k}?",
            options=(f"a{k}", f"b{k}"), answer=(f"a{k}", f"b{k}")[k % 2],
        )
        for k in range(40)
    ]  # fmt: skip
    assert Suite(tuple(items)).baselines["own"][""].constant == 0.5

    def pairs(scores: Sequence[int]) -> list[tuple[Item, Result]]:
        return [
            (i, Result(s, ({o: 0.1 + 0.8 * (o == i.answer) for o in i.options} if s else
                           {o: 0.9 - 0.8 * (o == i.answer) for o in i.options},)))
            for i, s in zip(items, scores, strict=True)
        ]  # fmt: skip

    require_room(pairs([1, 1, 1, 0] * 10))
    with pytest.raises(Unsuitable, match=r"score 0.500, SE 0.080; baseline 0.500"):
        require_room(pairs([1, 0, 0, 1] * 10))


def test_a_few_items_do_not_make_an_answer_common() -> None:
    """One answer of two items is half of them by luck; of many items it is a habit."""
    shared = [replace(i, options=("yes", "no", f"{k // 4}")) for k, i in enumerate(yes_no(40))]
    assert Suite(tuple(shared)).baselines["reasoning"][""].constant == pytest.approx(1 / 3)
    same = [replace(i, answer="yes") for i in shared]
    assert Suite(tuple(same)).baselines["reasoning"][""].constant == 1


def test_the_message_has_the_numbers_of_the_table() -> None:
    """It repeats score, standard error and baseline from the family's row."""
    items = build_suite("quick", levels={"math": 1}, families=("math",)).items
    answers = [answer(Replying("Answer: 2718"), item, chats=True) for item in items]
    (row, *_) = summarise(Suite(items), answers)
    (problem,) = room_problems(zip(items, answers, strict=True))
    numbers = (
        f"score {row.score:.3f}, SE {row.error:.3f}; baseline {row.baseline:.3f}; {row.n} items"
    )
    assert numbers in str(problem)
    assert str(problem).startswith("math: the model does not beat the best constant answer by two ")


def test_a_model_that_knows_everything_is_asked_for_a_harder_level() -> None:
    """Nothing is left to gain; at the hardest level there is no harder one to name."""
    easy, hardest = (yes_no(40, level=level) for level in (2, 7))
    require_room(results(easy, [1] * 37 + [0] * 3, 0.9))
    with pytest.raises(Unsuitable, match=r"nothing to gain \(score 0.975.*--level reasoning=3"):
        require_room(results(easy, [1] * 39 + [0], 0.9))
    with pytest.raises(Unsuitable, match=r"level 7\); leave the family out"):
        require_room(results(hardest, [1] * 40, 0.9))


def test_answers_that_say_nothing_of_the_options_are_counted() -> None:
    """They are not counted as wrong."""
    items = yes_no(40)
    good: list[float | None] = [*[1, 1, 1, 0] * 10]
    with pytest.raises(Unsuitable, match="12% of 40 answers say nothing about the options"):
        require_room(results(items, [None] * 5 + good[5:], 0.6))
    require_room(results(items, [None] * 2 + good[2:], 0.6))


def test_in_words_the_baseline_is_that_of_words() -> None:
    """A constant guess with the right number of digits earns partial credit."""
    items = [
        Number(
            id=f"math-{n}", family="math", topic="sum", level=1, question=f"{n}?", answer=n,
            partial=True,
        )
        for n in range(11_000, 99_000, 2_200)
    ]  # fmt: skip
    baseline = Suite(tuple(items)).generated_baselines["math"][""]
    assert baseline.random == pytest.approx(
        fmean(map(partial_credit_at_random, (i.answer for i in items)))
    )
    best = max(
        range(11_000, 99_000, 1000), key=lambda g: fmean(score_text(i, str(g)).score for i in items)
    )
    constant = [(i, Result(score_text(i, str(best)).score)) for i in items]
    with pytest.raises(Unsuitable, match=r"math: the model does not beat"):
        require_room(constant)
    near = [(i, Result(score_text(i, f"{i.answer * 0.93:.0f}").score)) for i in items]
    assert stdev(r.score or 0 for _, r in near) < 0.1
    require_room(near)


def test_a_probe_is_told_what_a_sweep_would_refuse() -> None:
    """Problems are notes, since the model was measured; without problems there are none."""
    items = yes_no(40)
    note, family = room_notes(results(items, [0, 0, 1, 1] * 10, 0.5))
    assert note == "a sweep would refuse this suite on this model:"
    assert family.startswith("  reasoning: the model does not beat the best constant answer")
    assert room_notes(results(items, [1, 1, 1, 0] * 10, 0.5)) == ()
    assert room_notes([]) == ()


def test_a_probe_without_any_readable_answer_measured_nothing() -> None:
    """It is an error if no family could be read, and a note if only some could not."""
    items = yes_no(20)
    unread = results(items, [None] * 20, 0.5)
    with pytest.raises(Unsuitable, match="100% of 20 answers say nothing"):
        room_notes(unread)
    others = [replace(item, id=f"o{item.id}", family="other") for item in items]
    notes = room_notes([*unread, *results(others, [1, 1, 1, 0] * 5, 0.6)])
    assert [n.split(":")[0] for n in notes[1:]] == ["  reasoning"]
