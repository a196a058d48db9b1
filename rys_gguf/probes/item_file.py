"""Read items from a file of JSON lines, and say exactly what is wrong with a line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

from rys_gguf.errors import InvalidSuite, RysError
from rys_gguf.files.text_file import read_text
from rys_gguf.probes.extract import bare_text
from rys_gguf.probes.item import HIGHEST, KINDS, LETTERS, Choice, Contrast, Item, Number, Ratings
from rys_gguf.probes.names import MAX_NAME
from rys_gguf.text import printable, quoted

# Names that reports use for something other than a family.
RESERVED = ("overall", "damage", "base")
# Of letters and texts: fewer than two leave no choice.
_FEWEST_OPTIONS = 2
# Of a number. Near misses of a longer one would take minutes to judge, and no model hits it.
_MAX_DIGITS = 18


def load(path: str | os.PathLike[str]) -> tuple[Item, ...]:
    """The items of a file. Raises InvalidSuite naming file, line and field."""
    name = printable(path)
    try:
        lines = read_text(path, "the suite").split("\n")
    except RysError as e:
        raise InvalidSuite(str(e)) from e
    items: dict[str, Item] = {}
    seen: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        item = _item(line, where, number)
        if item.id in items:
            raise InvalidSuite(f"{where}: id {quoted(item.id)} is taken by an earlier line")
        asked = tuple(request.prompt + request.opening for request in item.requests())
        if asked in seen:
            raise InvalidSuite(f"{where}: the same question as in line {seen[asked]}")
        items[item.id], seen[asked] = item, number
    if not items:
        raise InvalidSuite(f"{name}: no items; a suite is a file with one JSON object a line")
    return tuple(items.values())


def _item(line: str, where: str, number: int) -> Item:
    value = _object(line, where)
    made = _class(value.pop("kind", None), where)
    known = {f.name: f for f in fields(made)}
    for key in value:
        if key not in known:
            raise InvalidSuite(
                f"{where}: {printable(key)}: not a field of a {made.kind} item, which has "
                f"{', '.join(known)}"
            )
    defaults = {"id": f"line-{number}", "family": "own", "topic": made.kind, "level": 0}
    given = {}
    for key, field in known.items():
        if key in value:
            given[key] = _value(made, key, value[key], where)
        elif key in defaults:
            given[key] = defaults[key]
        else:
            _require_optional(made, field, where)
    if made is Choice and "options" not in given and given.get("texts"):
        given["options"] = LETTERS[: len(given["texts"])]
    item = made(**given)
    for fault in _faults(item):
        raise InvalidSuite(f"{where}: {fault}")
    return item


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as e:
        reason = printable(str(e))
        raise InvalidSuite(f"{where}: not a line of JSON ({reason}): one item a line") from e
    if not isinstance(value, dict):
        raise InvalidSuite(f'{where}: expected an object, {{"kind": ..., "question": ...}}')
    return value


def _class(kind: object, where: str) -> type[Item]:
    if not isinstance(kind, str) or kind not in KINDS:
        raise InvalidSuite(f"{where}: kind: expected one of {', '.join(KINDS)}")
    return KINDS[kind]


# -- fields --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a field's value must be, in words and as a test."""

    expected: str
    is_met: Callable[[object], bool]


def _value(made: type[Item], key: str, value: object, where: str) -> Any:
    rule = _rule(made, key)
    if not rule.is_met(value):
        raise InvalidSuite(f"{where}: {key}: expected {rule.expected}")
    return tuple(value) if isinstance(value, list) else value


def _require_optional(made: type[Item], field: Field[Any], where: str) -> None:
    if field.default is MISSING:
        expected = _rule(made, field.name).expected
        raise InvalidSuite(f"{where}: {field.name}: missing, expected {expected}")


def _rule(made: type[Item], key: str) -> _Rule:
    return _INTEGER if made is Number and key == "answer" else _RULES[key]


_SURROGATE = re.compile("[\ud800-\udfff]")


def _is_text(value: object) -> bool:
    # JSON can spell half of a surrogate pair, which no engine and no file accepts.
    return isinstance(value, str) and bool(value.strip()) and not _SURROGATE.search(value)


def _is_name(value: object) -> bool:
    return _is_text(value) and len(str(value)) <= MAX_NAME


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_name, value))


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_integer(value: object) -> bool:
    return type(value) is int and abs(value) < 10**_MAX_DIGITS


def _are_ratings(value: object) -> bool:
    return isinstance(value, list) and all(_is_integer(v) and 0 <= v <= HIGHEST for v in value)


_TEXT = _Rule("a text that is not empty", _is_text)
_TEXTS = _Rule("a list of texts", _are_texts)
_NAME = _Rule(f"a text of 1 to {MAX_NAME} characters", _is_name)
_INTEGER = _Rule(f"an integer of at most {_MAX_DIGITS} digits", _is_integer)
_RULES = {
    **dict.fromkeys(("id", "family", "topic", "template", "event", "cluster"), _NAME),
    **dict.fromkeys(("question", "other", "emotion", "answer"), _TEXT),
    **dict.fromkeys(("texts", "emotions"), _TEXTS),
    "options": _Rule(f"a list of texts of 1 to {MAX_NAME} characters", _are_names),
    "level": _INTEGER,
    "partial": _Rule("true or false", lambda v: isinstance(v, bool)),
    "reference": _Rule(f"a list of integers 0 to {HIGHEST}", _are_ratings),
    "higher": _Rule('"question" or "other"', lambda v: v in ("question", "other")),
}


# -- items ---------------------------------------------------------------------------------------


def _faults(item: Item) -> Iterator[str]:
    """What is wrong with an item whose fields are all of the right type."""
    if item.family in RESERVED:
        yield f"family: reports use the name {item.family} for something else; choose another"
    if isinstance(item, Choice):
        yield from _choice_faults(item)
    elif isinstance(item, Number):
        yield from _number_faults(item)
    elif isinstance(item, Ratings):
        if len(item.emotions) != len(item.reference) or not item.emotions:
            yield "reference: expected one rating for each of the emotions"
        if len({e.casefold() for e in item.emotions}) != len(item.emotions):
            yield "emotions: the same one twice"
    elif isinstance(item, Contrast) and item.question == item.other:
        yield "other: the same as question; expected a version that differs"


def _choice_faults(item: Choice) -> Iterator[str]:
    if not _FEWEST_OPTIONS <= len(item.options) <= len(LETTERS):
        yield f"options: expected {_FEWEST_OPTIONS} to {len(LETTERS)}"
    if len({o.casefold() for o in item.options}) != len(item.options):
        yield "options: the same one twice"
    if any(o != o.strip() for o in item.options):
        yield "options: expected no space around one; the space in front of an answer is added"
    if item.texts:
        yield from _text_faults(item.texts)
        if item.options != LETTERS[: len(item.texts)]:
            yield "options: with texts, expected the letters A, B, ..., as many as texts, or none"
    if item.answer not in item.options:
        yield f"answer: expected one of {printable(', '.join(item.options))}"


def _number_faults(item: Number) -> Iterator[str]:
    if item.texts:
        yield from _text_faults(item.texts)
        if str(item.answer) not in item.texts:
            yield f"texts: expected the answer, {item.answer}, among them"
    elif item.answer < 0:
        yield "answer: negative; expected texts to choose from, as only digits are scored"
    if item.partial and item.answer <= 0:
        yield "answer: expected a number above 0 for partial credit"


def _text_faults(texts: Sequence[str]) -> Iterator[str]:
    if not _FEWEST_OPTIONS <= len(texts) <= len(LETTERS):
        yield f"texts: expected {_FEWEST_OPTIONS} to {len(LETTERS)}"
    if len({bare_text(text) for text in texts}) != len(texts):
        yield "texts: two are the same apart from case and the marks around them"
