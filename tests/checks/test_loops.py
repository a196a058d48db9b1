"""What counts as a loop, and what does not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf.checks.loops import Kind, find_loop, judge, repeated_share
from tests.checks.texts import COUNTED, GOOD_START, LOOPS, NUMBERED, POEM, SOUND


def kinds(text: str, *, truncated: bool = True) -> set[Kind]:
    """The kinds of all findings on a text."""
    return {finding.kind for finding in judge(text, truncated=truncated)}


@pytest.mark.parametrize("name", SOUND)
def test_sound_text_has_no_finding(name: str) -> None:
    """Lists, code, tables, poems and short answers pass, complete or cut off."""
    assert judge(SOUND[name], truncated=False) == []
    assert judge(SOUND[name], truncated=True) == []


@pytest.mark.parametrize("name", LOOPS)
def test_exact_loops_are_found_and_shown(name: str) -> None:
    """A repeated period is a loop, and the excerpt shows the loop."""
    finding = next(f for f in judge(LOOPS[name], truncated=True) if f.kind is Kind.LOOP)
    assert finding.score > 0.2
    assert finding.excerpt
    assert finding.excerpt in LOOPS[name]


@pytest.mark.parametrize("name", COUNTED)
def test_a_counter_does_not_hide_a_loop(name: str) -> None:
    """Sentences that differ only in a number are a loop, and are marked as masked."""
    loop = find_loop(COUNTED[name])
    assert loop is not None
    assert loop.masked
    assert Kind.MASKED_LOOP in kinds(COUNTED[name])


def test_the_loop_is_measured() -> None:
    """Period, number of copies and position describe the stretch."""
    text = "Once more: " + "a way to go, " * 9
    loop = find_loop(text)
    assert loop is not None
    assert (loop.period, loop.copies, loop.masked) == (5, 9.0, False)
    assert text[loop.start : loop.end] == ("a way to go, " * 9).strip()


def test_repetition_without_a_period_is_found() -> None:
    """Sentences that return with new ordinals are repetition, though not a loop."""
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
def test_garbage_is_found(text: str) -> None:
    """Broken characters, mixed scripts, words without spaces and bare marks are garbage."""
    assert Kind.GARBAGE in kinds(text)


@pytest.mark.parametrize("text", ["", " \n\n ", "...", "\n.\n.\n**"])
def test_a_text_without_words_is_empty(text: str) -> None:
    """A model that writes no word does not pass."""
    assert Kind.EMPTY in kinds(text, truncated=False)


def test_half_a_character_at_the_limit_is_not_garbage() -> None:
    """The token limit may split a character; a text that ended by itself has no such excuse."""
    assert kinds("Yes \ufffd\ufffd", truncated=True) == set()
    assert kinds("Yes \ufffd\ufffd", truncated=False) == {Kind.GARBAGE}


@given(st.text(max_size=400), st.sampled_from([*LOOPS.values(), *COUNTED.values()]))
def test_text_before_a_loop_does_not_hide_it(prefix: str, loop: str) -> None:
    """A loop is found after any text and a line end."""
    assert find_loop(f"{prefix}\n{loop}") is not None


@given(st.text(max_size=400), st.booleans())
def test_any_text_is_judged_the_same_twice(text: str, truncated: bool) -> None:
    """No text breaks the detectors; scores are shares and do not change."""
    findings = judge(text, truncated=truncated)
    assert findings == judge(text, truncated=truncated)
    assert all(0 <= f.score <= 1 for f in findings)


@given(st.integers(0, 2**32), st.integers(0, 300))
def test_random_words_are_not_a_loop(seed: int, n: int) -> None:
    """Words drawn at random from prose do not look like a loop."""
    vocabulary = sorted({w.strip(".,:\"'()") for w in (GOOD_START + NUMBERED + POEM).split()})
    text = " ".join(random.Random(seed).choices(vocabulary, k=n))
    assert find_loop(text) is None
    assert repeated_share(text)[0] < 0.1
