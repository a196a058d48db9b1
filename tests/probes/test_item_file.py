"""Files of items: a user's line may be short, and faults are named with line and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf.errors import InvalidSuite, RysError
from rys_gguf.probes.item import Choice, dump
from rys_gguf.probes.item_file import load
from tests.probes.test_item import ITEMS


def test_items_survive_a_file(tmp_path: Path) -> None:
    """Items that are written and read back are equal."""
    path = tmp_path / "suite.jsonl"
    path.write_text(dump(ITEMS), encoding="utf-8")
    assert load(path) == ITEMS


def test_a_users_line_needs_little(tmp_path: Path) -> None:
    """Id, family, topic, level and options have defaults, and blank lines are skipped."""
    path = tmp_path / "own.jsonl"
    path.write_text(
        '\ufeff{"kind": "choice", "question": "Is it?", "answer": "no"}\n\n'
        '{"kind": "choice", "question": "Which?", "answer": "B", "texts": ["x", "y\u2028z"]}\n',
        encoding="utf-8",
    )
    first, second = load(path)
    assert first == Choice(
        id="line-1", family="own", topic="choice", level=0, question="Is it?", answer="no"
    )
    assert isinstance(second, Choice)
    assert (second.id, second.options) == ("line-3", ("A", "B"))


NUMBER = {"kind": "number", "question": "How many?", "answer": 3}
CHOICE = {"kind": "choice", "question": "Which?", "answer": "yes"}
FAULTS = {
    "not JSON": ("{", "not a line of JSON"),
    "a list": ("[]", "expected an object"),
    "no kind": ({"question": "q"}, "kind: expected one of choice, number"),
    "kind of a wrong type": ({"kind": []}, "kind: expected one of"),
    "unknown field": ({**NUMBER, "anwser": 1}, "anwser: not a field of a number item"),
    "no answer": ({"kind": "number", "question": "q"}, "answer: missing, expected"),
    "answer a text": ({**NUMBER, "answer": "3"}, "answer: expected an integer"),
    "answer of too many digits": ({**NUMBER, "answer": 10**18}, "answer: expected an integer"),
    "long id": ({**NUMBER, "id": "x" * 4097}, "id: expected a text of 1 to 4096 characters"),
    "long family": ({**NUMBER, "family": "x" * 4097}, "family: expected a text of 1 to 4096"),
    "long topic": ({**NUMBER, "topic": "x" * 4097}, "topic: expected a text of 1 to 4096"),
    "long option": (
        {**CHOICE, "options": ["yes", "x" * 4097]},
        "options: expected a list of texts",
    ),
    "endless level": ({**NUMBER, "level": 10**400}, "level: expected an integer of at most 18"),
    "answer a truth": ({**NUMBER, "answer": True}, "answer: expected an integer"),
    "empty question": ({**NUMBER, "question": " "}, "question: expected a text"),
    "half a pair": ('{"kind": "number", "question": "\\ud800", "answer": 1}', "question: expected"),
    "negative": ({**NUMBER, "answer": -3}, "answer: negative"),
    "partial zero": ({**NUMBER, "answer": 0, "partial": True}, "answer: expected a number above 0"),
    "answer not in texts": ({**NUMBER, "texts": ["1", "2"]}, "texts: expected the answer, 3"),
    "same text": ({**NUMBER, "texts": ["3", "3"]}, "texts: two are the same"),
    "texts alike": (
        {**CHOICE, "texts": ["<5", ">5", "7"], "answer": "A"},
        "texts: two are the same apart from case and the marks around them",
    ),
    "spaced option": (
        {**CHOICE, "options": [" yes", "no"], "answer": " yes"},
        "options: expected no space around one",
    ),
    "reserved": (
        {**CHOICE, "family": "overall"},
        "family: reports use the name overall for something else",
    ),
    "one text": ({**NUMBER, "texts": ["3"]}, "texts: expected 2 to 8"),
    "not an option": (
        {"kind": "choice", "question": "q", "answer": "maybe"},
        "answer: expected one of yes, no",
    ),
    "own letters": (
        {
            "kind": "choice",
            "question": "q",
            "answer": "X",
            "options": ["X", "Y"],
            "texts": ["1", "2"],
        },
        "options: with texts",
    ),
    "ratings too high": (
        {"kind": "ratings", "question": "q", "emotions": ["joy"], "reference": [10]},
        "reference: expected a list of integers 0 to 9",
    ),
    "ratings too few": (
        {"kind": "ratings", "question": "q", "emotions": ["joy", "fear"], "reference": [1]},
        "reference: expected one rating for each",
    ),
    "no difference": (
        {"kind": "contrast", "question": "q", "other": "q", "emotion": "joy", "higher": "other"},
        "other: the same as question",
    ),
    "higher": (
        {"kind": "contrast", "question": "q", "other": "r", "emotion": "joy", "higher": "r"},
        'higher: expected "question" or "other"',
    ),
}


@pytest.mark.parametrize(("line", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_file_line_and_field(
    tmp_path: Path, line: object, message: str
) -> None:
    """Each fault is on the second line of a file whose first line is sound."""
    path = tmp_path / "own.jsonl"
    text = line if isinstance(line, str) else json.dumps(line)
    sound = json.dumps({"kind": "number", "question": "Sound?", "answer": 1})
    path.write_text(f"{sound}\n{text}\n", encoding="utf-8")
    with pytest.raises(InvalidSuite) as caught:
        load(path)
    assert "own.jsonl, line 2: " in str(caught.value)
    assert message in str(caught.value)


def test_the_same_id_or_question_twice(tmp_path: Path) -> None:
    """Two items may share neither their id nor their question."""
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({**NUMBER, "id": "a"}) + "\n" + json.dumps({**NUMBER, "id": "b"}))
    with pytest.raises(InvalidSuite, match="line 2: the same question as in line 1"):
        load(path)
    other = {**NUMBER, "id": "a", "question": "Else?"}
    path.write_text(json.dumps({**NUMBER, "id": "a"}) + "\n" + json.dumps(other))
    with pytest.raises(InvalidSuite, match="line 2: id 'a' is taken"):
        load(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, binary and empty files each have their message."""
    with pytest.raises(InvalidSuite, match="cannot read"):
        load(tmp_path / "none.jsonl")
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidSuite, match="not UTF-8"):
        load(path)
    path.write_bytes(b"\n")
    with pytest.raises(InvalidSuite, match="no items"):
        load(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(
    st.sampled_from([item.as_json() for item in ITEMS]),
    st.dictionaries(
        st.sampled_from(["kind", *{k for item in ITEMS for k in item.as_json()}]), JSON, max_size=3
    ),
)
def test_any_line_is_an_item_or_a_fault(
    tmp_path_factory: pytest.TempPathFactory, item: dict[str, Any], changes: dict[str, Any]
) -> None:
    """Any values either raise RysError or give an item that can be asked."""
    path = tmp_path_factory.mktemp("own") / "own.jsonl"
    path.write_text(json.dumps({**item, **changes}), encoding="utf-8")
    try:
        (loaded,) = load(path)
    except RysError:
        return
    assert loaded.requests()
    assert loaded.prompt()
