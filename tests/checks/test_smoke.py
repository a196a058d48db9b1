"""What a loop is, what none is, and that a broken SmolLM2 is told from a sound one."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf import LayerMap, Model, make_plan, write_plan
from rys_gguf.checks.smoke import (
    PROMPTS,
    Answer,
    Kind,
    Prompt,
    as_json,
    compare,
    find_loop,
    judge,
    repeated_share,
    report,
    run_smoke,
)
from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.server import ServerEngine
from rys_gguf.errors import EngineFailed

OPTIONS = EngineOptions(n_ctx=1024, n_threads=1, load_seconds=120, answer_seconds=120)
N_PREDICT = 56

GOOD_START = (
    "The keeper climbed the stairs before dawn and lit the lamp, as she had done for thirty years. "
    "Below, the boats were leaving, and somebody waved a red scarf at her from the pier. "
)
NUMBERED = """1. Lanterns flicker above the stall of an old noodle cook.
2. Somewhere a violin starts, and two children stop to listen.
3. Steam rises from dumplings while a cat waits under the bench.
4. A tailor measures a sailor by the light of his phone.
5. Rain taps on the canvas, so the bookseller covers her maps.
6. Nobody buys the blue parrot, which sings all the louder.
7. Beside the fountain, a fortune teller counts her coins.
8. At last the gate closes and the street smells of oranges."""
CODE = '''```python
def median(values):
    """Middle of the sorted values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2 == 1:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


assert median([3]) == 3
assert median([3, 1]) == 2
assert median([3, 1, 2]) == 2
assert median([4, 3, 1, 2]) == 2.5
print(median([3, 1, 2]))
print(median([7, 5, 9]))
print(median([1, 1, 8]))
print(median([6, 0, 2]))
```'''
TABLE = """| Animal   | Home     | Food    |
|----------|----------|---------|
| Badger   | Sett     | Worms   |
| Beaver   | Lodge    | Bark    |
| Fox      | Den      | Mice    |
| Squirrel | Drey     | Nuts    |
| Eagle    | Eyrie    | Fish    |
| Rabbit   | Burrow   | Grass   |"""
POEM = """Row me over, ferryman, over to the mill,
The moon is on the water and the wind is still.
I left my heart with Mary on the far green hill,
And the bell rings, and the bell rings.

Row me over, ferryman, I cannot pay you gold,
But I have got a story that was never told,
Of summer in the orchard when the world was old,
And the bell rings, and the bell rings."""
SUM = """The baker sells 14 + 23 = 37 loaves.
Each loaf costs 3 coins, so 37 x 3 = 111.
Check: 14 x 3 = 42, 23 x 3 = 69, and 42 + 69 = 111.
The baker earned 111 coins."""
OTHER_SCRIPTS = (
    "\u4e2d\u4f4d\u6570\u53ef\u4ee5\u7528Python\u7684sorted\u51fd\u6570\u6765\u6c42\uff0c"
    "\u5148\u6392\u5e8f\uff0c\u518d\u53d6\u4e2d\u95f4\u7684\u6570\u3002"
)
SOUND = {
    "numbered list": NUMBERED,
    "code": CODE,
    "table": TABLE,
    "poem": POEM,
    "sum": SUM,
    "Chinese with English names": OTHER_SCRIPTS,
    "one word": "Yes.",
    "one number": "42",
    "refrain": "Ha ha ha! No, no, no, said the fox.",
    "rule of dashes": "Title\n" + "-" * 72 + "\nText under it.",
    "multiplication": "\n".join(f"7 x {n} = {7 * n}" for n in range(1, 13)),
    "squares": ", ".join(str(n * n) for n in range(30)),
}
LOOPS = {
    "sentence": "The harbour is a beautiful place. " * 5,
    "one word": "recal " * 20,
    "two words": "I am, " * 12,
    "after a good start": GOOD_START + "She saw the sea. " * 6,
    "paragraph": GOOD_START * 3,
    "rows": TABLE + "\n| Mouse | Mouse | Food |" * 6,
    "letters without spaces": "It" * 40,
    "one letter": "Well, " + "\u05d2" * 60,
    "one digit": "It is 1" + "0" * 76,
    "line ends": "Here it is:" + "\n" * 200,
    "empty cells": "| Dog |" + " |" * 80,
}
COUNTED = {
    "numbered": "\n".join(f"{n}. A family takes a class to cook a dinner." for n in range(1, 7)),
    "years": " ".join(f"In {n} the king went to war again." for n in range(1100, 1106)),
    "after a good start": GOOD_START
    + " ".join(f"On day {n} she lit the lamp again." for n in range(8)),
}


def kinds(text: str, *, truncated: bool = True) -> set[Kind]:
    """The kinds of everything wrong with a text."""
    return {finding.kind for finding in judge(text, truncated=truncated)}


@pytest.mark.parametrize("name", SOUND)
def test_sound_text_has_no_finding(name: str) -> None:
    """Lists, code, tables, poems and short answers pass, whether they ended or were cut."""
    assert judge(SOUND[name], truncated=False) == []
    assert judge(SOUND[name], truncated=True) == []


@pytest.mark.parametrize("name", LOOPS)
def test_exact_loops_are_found_and_shown(name: str) -> None:
    """A period that follows itself is a loop, and its excerpt is from the looping stretch."""
    finding = next(f for f in judge(LOOPS[name], truncated=True) if f.kind is Kind.LOOP)
    assert finding.score > 0.2
    assert finding.excerpt
    assert finding.excerpt in LOOPS[name]


@pytest.mark.parametrize("name", COUNTED)
def test_a_counter_does_not_hide_a_loop(name: str) -> None:
    """Sentences that differ in a number only are a loop, and not an exact one."""
    loop = find_loop(COUNTED[name])
    assert loop is not None
    assert loop.masked
    assert Kind.MASKED_LOOP in kinds(COUNTED[name])


def test_the_loop_is_measured() -> None:
    """Period, copies and place are those of the stretch."""
    text = "Once more: " + "a way to go, " * 9
    loop = find_loop(text)
    assert loop is not None
    assert (loop.period, loop.copies, loop.masked) == (5, 9.0, False)
    assert text[loop.start : loop.end] == ("a way to go, " * 9).strip()


def test_repetition_without_a_period_is_found() -> None:
    """Sentences that come back in another order and with new ordinals are said before."""
    ordinals = ["first", "second", "third", "fourth", "fifth", "sixth"]
    text = ", ".join(f"the {o} scene is a lively place with a mix of locals" for o in ordinals)
    assert find_loop(text) is None
    assert kinds(text) == {Kind.REPETITION}
    assert repeated_share(text)[0] > 0.6
    assert repeated_share(NUMBERED)[0] == 0


@pytest.mark.parametrize(
    "text",
    [
        "Eagle\ufffd\ufffd the eagle \ufffd lives here",
        "a\x01b\x02 \x03 words and words",
        "the \ue000\ue001 private words are here",
        "The m\u043edi\u0430n \u0440f th\u0435 li\u0455t is th\u0435 middl\u0435 numb\u0435r",
        "The list \u05d2\u05d2\u05d2 is \u0431\u043b\u0430 here \u0e01\u0e02 of \u0a95\u0a96\u0a97",
        "theoftoandinisitthatbewasforonarewithasIhisthey " * 2,
        "a ** } ){ ;; ,, '' <> == ++ ** }} (( )) && %% ^^ ## @@ !!",
    ],
)
def test_what_is_no_text_is_found(text: str) -> None:
    """Broken characters, scripts mixed up, words glued together and marks alone are garbage."""
    assert Kind.GARBAGE in kinds(text)


@pytest.mark.parametrize("text", ["", " \n\n ", "...", "\n.\n.\n**"])
def test_an_answer_without_a_word_is_empty(text: str) -> None:
    """Silence never passes."""
    assert Kind.EMPTY in kinds(text, truncated=False)


def test_half_a_character_at_the_limit_is_no_garbage() -> None:
    """The token limit may cut a character; an answer that ended by itself has no such excuse."""
    assert kinds("Yes \ufffd\ufffd", truncated=True) == set()
    assert kinds("Yes \ufffd\ufffd", truncated=False) == {Kind.GARBAGE}


@given(st.text(max_size=400), st.sampled_from([*LOOPS.values(), *COUNTED.values()]))
def test_nothing_written_before_hides_a_loop(prefix: str, loop: str) -> None:
    """Any text in front, a line end between, and the loop is still found."""
    assert find_loop(f"{prefix}\n{loop}") is not None


@given(st.text(max_size=400), st.booleans())
def test_any_text_is_judged_alike_twice(text: str, truncated: bool) -> None:
    """No text breaks the detectors; scores are shares, and the same each time."""
    findings = judge(text, truncated=truncated)
    assert findings == judge(text, truncated=truncated)
    assert all(0 <= f.score <= 1 for f in findings)


@given(st.integers(0, 2**32), st.integers(0, 300))
def test_random_words_are_no_loop(seed: int, n: int) -> None:
    """Words drawn from a vocabulary of prose do not repeat by chance."""
    vocabulary = sorted({w.strip(".,:\"'()") for w in (GOOD_START + NUMBERED + POEM).split()})
    text = " ".join(random.Random(seed).choices(vocabulary, k=n))
    assert find_loop(text) is None
    assert repeated_share(text)[0] < 0.1


def answers(*texts: str) -> tuple[Answer, ...]:
    """Answers to as many prompts as there are texts."""
    return tuple(Answer(p.name, t, True, 64) for p, t in zip(PROMPTS, texts, strict=False))


def mixed(n_loops: int, n_garbage: int = 0) -> tuple[Answer, ...]:
    """Eight answers of which so many loop and so many are empty."""
    loops, empty = [LOOPS["sentence"]] * n_loops, [""] * n_garbage
    return answers(*loops, *empty, *[NUMBERED] * (8 - n_loops - n_garbage))


@pytest.mark.parametrize(
    ("variant", "base", "passes"),
    [
        (mixed(0), None, True),
        (mixed(4), None, True),
        (mixed(5), None, False),
        (mixed(0, 1), None, True),
        (mixed(0, 2), None, False),
        (mixed(5), mixed(5), True),
        (mixed(6), mixed(5), True),
        (mixed(2), mixed(0), True),
        (mixed(3), mixed(0), False),
        (mixed(4, 2), mixed(6), False),
        (mixed(0), mixed(5), True),
    ],
)
def test_the_verdict_is_relative_to_the_base(
    variant: Sequence[Answer], base: Sequence[Answer] | None, passes: bool
) -> None:
    """A variant may loop as its base does and not clearly more; without a base half may."""
    verdict = compare(variant, base)
    assert verdict.passed is passes
    assert bool(verdict.reasons) is not passes


def test_answers_that_degrade_further_fail_where_the_count_cannot_rise() -> None:
    """Where the base already loops in most answers, how early the loop begins still tells."""
    late, early = GOOD_START * 2 + "She saw the sea. " * 6, "She saw the sea. " * 20
    verdict = compare(answers(*[early] * 8), answers(*[late] * 8))
    assert not verdict.passed
    assert compare(answers(*[late] * 8), answers(*[early] * 8)).passed


@pytest.mark.parametrize("surprise", [1.4, math.inf])
def test_a_model_that_guesses_its_words_fails(surprise: float) -> None:
    """Text without a finding fails where the model was unsure of it, or its logits not numbers."""
    sure = [replace(a, surprise=0.6) for a in mixed(0)]
    unsure = [replace(a, surprise=surprise) for a in mixed(0)]
    assert compare(sure).passed
    assert not compare(unsure).passed
    assert not compare(unsure, sure).passed
    assert compare(unsure, unsure).passed
    assert json.dumps(as_json(compare(unsure)), allow_nan=False)


def test_only_answers_to_the_same_prompts_are_compared() -> None:
    """No answers, or others than the base's, are a mistake of the caller."""
    with pytest.raises(ValueError, match="no answers"):
        compare(())
    with pytest.raises(ValueError, match="different prompts"):
        compare(mixed(0), mixed(0)[1:])


def test_a_hostile_answer_is_printed_escaped() -> None:
    """The offending text is shown, and cannot reach the terminal as control characters."""
    lines = list(report(compare(answers("\x1b[2J\x1b[1m boo " * 9))))
    assert any("boo" in line for line in lines)
    assert all(line.isprintable() for line in lines)


# -- in the engine -----------------------------------------------------------------------------


def written(source: Path, folder: Path, spec: str) -> Path:
    """The variant of SmolLM2 that a spec describes."""
    out = folder / "variant.gguf"
    with Model(source) as model:
        write_plan(make_plan(model, LayerMap.parse(spec, model.n_trunk)), out)
    return out


@pytest.fixture(scope="module")
def base(smollm2: Path) -> tuple[Answer, ...]:
    """SmolLM2's own answers."""
    return run_smoke(smollm2, OPTIONS, n_predict=N_PREDICT)


def test_smollm2_itself_passes(base: tuple[Answer, ...]) -> None:
    """The base writes text that ends or goes on, with or without a comparison."""
    assert [a.prompt for a in base] == [p.name for p in PROMPTS]
    assert all(0 < a.n_tokens <= N_PREDICT for a in base)
    assert compare(base).passed
    assert compare(base, base).passed


def test_repeating_its_last_layers_makes_smollm2_loop(
    base: tuple[Answer, ...], smollm2: Path, tmp_path: Path
) -> None:
    """blocks:28,30 is rejected alone and beside the base, and the looping text is printed."""
    seen: list[Answer] = []
    path = written(smollm2, tmp_path, "blocks:28,30")
    variant = run_smoke(path, OPTIONS, n_predict=N_PREDICT, progress=seen.append)
    assert tuple(seen) == variant
    assert not compare(variant).passed
    verdict = compare(variant, base)
    assert not verdict.passed
    loops = [f for a in variant for f in a.findings if f.kind is Kind.LOOP]
    assert len(loops) >= 4
    printed = "\n".join(report(verdict))
    assert all(f.excerpt.split()[0] in printed for f in loops)
    assert "failed: " in printed


def test_repeating_its_first_layers_makes_smollm2_write_no_text(
    base: tuple[Answer, ...], smollm2: Path, tmp_path: Path
) -> None:
    """blocks:1,3 falls silent: an empty answer is damage and not the absence of loops."""
    variant = run_smoke(written(smollm2, tmp_path, "blocks:1,3"), OPTIONS, n_predict=N_PREDICT)
    assert not compare(variant).passed
    assert not compare(variant, base).passed


def test_dropping_middle_layers_makes_smollm2_guess(
    base: tuple[Answer, ...], smollm2: Path, tmp_path: Path
) -> None:
    """layers:0..9,20..29 writes words without sense, which no look at repetition tells."""
    path = written(smollm2, tmp_path, "layers:0..9,20..29")
    prompts = PROMPTS[:3]
    variant = run_smoke(path, OPTIONS, n_predict=24, prompts=prompts)
    verdict = compare(variant, base[:3])
    assert any("nats per token" in reason for reason in verdict.reasons)


def test_repeating_middle_layers_leaves_smollm2_as_sound_as_it_was(
    base: tuple[Answer, ...], smollm2: Path, tmp_path: Path
) -> None:
    """blocks:10,14 passes beside the base."""
    path = written(smollm2, tmp_path, "blocks:10,14")
    variant = run_smoke(path, OPTIONS, n_predict=N_PREDICT, prompts=PROMPTS[:4])
    assert compare(variant, base[:4]).passed


def test_a_model_without_a_template_continues_text(
    gemma3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gemma 3 270M brings no template; the one llama.cpp makes up for it is not used."""

    def chat(*_args: object, **_parameters: object) -> dict[str, Any]:
        raise AssertionError("asked to chat")

    monkeypatch.setattr(ServerEngine, "chat", chat)
    prompt = Prompt("capital", "Capitals of Europe, by country.", "The capital of France is")
    (answer,) = run_smoke(gemma3, OPTIONS, n_predict=6, prompts=[prompt])
    assert "Paris" in answer.text
    assert answer.truncated
    assert answer.n_tokens == 6


def test_a_request_that_fails_is_an_error(smollm2: Path) -> None:
    """A prompt the context has no room for is no answer to be judged, nor is a reply without."""
    options = EngineOptions(n_ctx=256, n_threads=1)
    with pytest.raises(EngineFailed, match="status 400"):
        run_smoke(smollm2, options, prompts=[Prompt("long", "again " * 2000, "")])
