"""Reading answers: what is read as an answer and what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf.probes.extract import named_numbers, number, opens_thoughts, option, strip_thoughts

LETTERS = ("A", "B", "C", "D")
TEXTS = ("the lamp", "a red fox", "01/03/1963", "Plan B")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6", 6),
        ("The answer is 6.", 6),
        ("The answer is [6].", 6),
        ("First 35, and so\n35+4=39\nThe answer is 39", 39),
        ("The answer is 6 trees.", 6),
        (r"The answer is \boxed{6}.", 6),
        (r"So we get $\boxed{1{,}250}$", 1250),
        ("**Answer:** 39", 39),
        ("**Final answer**: **39**", 39),
        ("The answer is: \n\n39", 39),
        ("Step 1: 5\nStep 2: 7\n#### 12", 12),
        ("The answer is 5. No: the answer is 7.", 7),
        ("$1,234.00", 1234),
        ("€ 1 234 567", 1234567),
        ("1'234'567", 1234567),
        ("1_000", 1000),
        ("It is -5.", -5),
        ("\u22125", -5),
        ("10-5", 5),
        ("39.5", 39.5),
        ("about 40%", 40),
        ("39\n\nThat is 35 and 4 more.", 39),
        ("1, 2, 3, 4, 5", 5),
        ("CO2 and H2", None),
        ("", None),
        ("none", None),
        ("<think>It is 39</think>", None),
        ("<think>It is 39", None),
        ("It is 38, no</think>\n39", 39),
        ("<think>The answer is 5</think> The answer is 6", 6),
    ],
)
def test_numbers(text: str, expected: object) -> None:
    """The last integer of the answer counts, whatever surrounds it."""
    assert number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("D", "D"),
        ("d", "D"),
        ("The answer is (D).", "D"),
        ("... the answer is (C) 01/03/1963.", "C"),
        ("<think>The answer is A. hmm</think> The answer is C.", "C"),
        ("**B**", "B"),
        ("**B) a red fox**", "B"),
        ("Option B", "B"),
        ("B\n\nBecause A is wrong and D too.", "B"),
        (r"\boxed{C}", "C"),
        (r"$\boxed{\text{C}}$", "C"),
        ("Answer: (D) Plan B", "D"),
        ("Answer: Plan B", "D"),
        ("a red fox", "B"),
        ("The answer is a red fox.", "B"),
        ("It cannot be A, so it is B", "B"),
        ("I think it's E", None),
        ("It is what it is", None),
        ("<think>C</think>", None),
    ],
)
def test_letters(text: str, expected: object) -> None:
    """An answer may be a letter or the text of an option."""
    assert option(text, LETTERS, TEXTS) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("... The answer is Yes.", "yes"),
        ("NO", "no"),
        ("**No**", "no"),
        ("The answer is clear.\nYes", "yes"),
        ("Yes, no doubt about it", "yes"),
        ("No.\n\nThere are yes-men everywhere, as ever.", "no"),
        ("Is it? I would say no", "no"),
        ("I know the answer", None),
        ("Yesterday nothing happened", None),
        ("", None),
    ],
)
def test_yes_and_no(text: str, expected: object) -> None:
    """Only whole words count."""
    assert option(text, ("yes", "no")) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("EVET", "evet"),
        ("Answer: Hay\u0131r.", "hay\u0131r"),
        ("HAYIR", None),
        ("Stra\u00dfe", "STRASSE"),
        ("It is the STRASSE", "STRASSE"),
    ],
)
def test_words_of_any_language_are_read_or_not(text: str, expected: object) -> None:
    """Letters that casefold to several, or to others than they match, raise nothing."""
    assert option(text, ("evet", "hay\u0131r", "STRASSE")) == expected


@pytest.mark.parametrize(
    ("prompt", "opens"),
    [
        ("<|im_start|>assistant\n", False),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>assistant\n<think>\n", True),
        ("<think>old</think> user <think>", True),
    ],
)
def test_a_prompt_that_opens_thoughts(prompt: str, opens: bool) -> None:
    """Whatever is asked after such a prompt would be part of the thoughts."""
    assert opens_thoughts(prompt) is opens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("joy: 7\nfear: 2", [7, 2]),
        ("- **Joy**: 7/9\n- **Fear**: 2/9", [7, 2]),
        ("Fear = 2, joy = 7", [7, 2]),
        ("7, 2", [7, 2]),
        ("joy: 1\nfear: 1\n\nRevised:\njoy: 7\nfear: 2", [7, 2]),
        ("joy: 7.5\nfear: 2", [7.5, 2]),
        ("1. 7\n2. 2", None),
        ("joy: 7", None),
        ("joy: 10\nfear: 2", None),
        ("joyful: 7\nfear: 2", None),
        ("<think>joy: 7\nfear: 2</think>", None),
    ],
)
def test_named_numbers(text: str, expected: object) -> None:
    """Each name gets its last number; bare numbers count if there are as many as names."""
    assert named_numbers(text, ("joy", "fear"), 9) == expected


def test_a_number_without_end_costs_nothing() -> None:
    """A looping model may write nothing but digits."""
    assert len(str(number("7" * 1_000_000))) == 100


@given(st.text(max_size=30), st.text(max_size=30))
def test_what_was_thought_is_never_an_answer(thought: str, answer: str) -> None:
    """The contents of a think block do not change what is read after it."""
    thought, answer = (t.replace("<", "") for t in (thought, answer))
    text = f"<think>{thought} The answer is 5</think>{answer}"
    assert strip_thoughts(text) == answer.strip()
    assert number(text) == number(answer)


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    """No text raises an error, and the answer is one of the options or None."""
    assert option(text, LETTERS, TEXTS) in {None, *LETTERS}
    assert option(text, ("yes", "no")) in {None, "yes", "no"}
    number(text)
    named_numbers(text, ("joy", "fear"), 9)


@given(st.integers(-(10**12), 10**12))
def test_any_integer_is_found_as_it_is_written(value: int) -> None:
    """It may have separators, emphasis and a unit."""
    for text in (f"{value}", f"{value:,}", f"The answer is {value:,} coins.", f"**{value}**"):
        assert number(text) == value
