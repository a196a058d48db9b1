"""One question of a suite: what is asked, in both forms, and which answer is right.

An item is a line of JSON whose keys are the fields of its class, and "kind". It can be put to a
model in two ways: `prompt()` is a user message the model answers in its own words; `requests()` are
forward passes in which only the next token counts, read as probabilities of the options.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, ClassVar

from rys_gguf.errors import InvalidSuite
from rys_gguf.probes.extract import bare_text
from rys_gguf.text import printable

LETTERS = tuple("ABCDEFGH")
DIGITS = tuple("0123456789")
YES_NO = ("yes", "no")
OPENING = "Answer:"
RESERVED = ("overall", "damage", "base")
HIGHEST = 9  # of a rating: one digit is one token


@dataclass(frozen=True, slots=True)
class Request:
    """One forward pass: `opening` is put into the assistant's mouth, then the next token is read.

    `options` are the spellings of each option as they follow the opening, the first of them
    naming it. With `digits`, the options are all tokens of the vocabulary that are digit strings.
    """

    prompt: str
    opening: str
    options: tuple[tuple[str, ...], ...] = ()
    digits: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """What the options are called in probabilities: " yes" is "yes"."""
        return tuple(spellings[0].strip() for spellings in self.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What every question has. `level` 0 is for models below 500M parameters, 3 for 20B up."""

    kind: ClassVar[str] = ""
    id: str
    family: str
    topic: str
    level: int
    question: str

    @property
    def gold(self) -> Any:
        """The right answer, as plain JSON."""
        raise NotImplementedError

    @property
    def chance(self) -> float:
        """The mean quick score of answers at random."""
        return 0.0

    def prompt(self) -> str:
        """The user message for an answer in the model's own words."""
        raise NotImplementedError

    def requests(self) -> tuple[Request, ...]:
        """The forward passes that read the answer off probabilities."""
        raise NotImplementedError

    def as_json(self) -> dict[str, Any]:
        """The item as a JSON object."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(Item):
    """One of `options`: letters, each with its text in `texts`, or words such as yes and no."""

    kind: ClassVar[str] = "choice"
    answer: str
    options: tuple[str, ...] = YES_NO
    texts: tuple[str, ...] = ()

    @property
    def gold(self) -> str:
        """The option that is right."""
        return self.answer

    @property
    def chance(self) -> float:
        """One over the number of options."""
        return 1 / len(self.options)

    def prompt(self) -> str:
        """The question, its options and the form of the answer."""
        if self.texts:
            return _with_options(self.question, self.options, self.texts)
        return f"{self.question}\nAnswer with {' or '.join(self.options)} only."

    def requests(self) -> tuple[Request, ...]:
        """One, over the options."""
        return (Request(self.prompt(), OPENING, _spellings(self.options)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Number(Item):
    """An integer. `partial`: near misses count; `texts`: numbers a quick score chooses from."""

    kind: ClassVar[str] = "number"
    answer: int
    partial: bool = False
    texts: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """The letters of the texts."""
        return LETTERS[: len(self.texts)]

    @property
    def gold(self) -> int:
        """The number."""
        return self.answer

    @property
    def letter(self) -> str:
        """The option that is right. Only where there are texts."""
        return self.options[self.texts.index(str(self.answer))]

    @property
    def chance(self) -> float:
        """One over the number of options, or of first digits."""
        return 1 / (len(self.texts) or HIGHEST)

    def prompt(self) -> str:
        """The question, to be answered by a number alone."""
        return f"{self.question}\nAnswer with the number only."

    def requests(self) -> tuple[Request, ...]:
        """One: over the texts if there are some, else over what the number may begin with."""
        if self.texts:
            prompt = _with_options(self.question, self.options, self.texts)
            return (Request(prompt, OPENING, _spellings(self.options)),)
        return (Request(self.prompt(), OPENING, digits=True),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratings(Item):
    """How strong several emotions are, each 0 to 9."""

    kind: ClassVar[str] = "ratings"
    emotions: tuple[str, ...]
    reference: tuple[int, ...]

    @property
    def gold(self) -> list[int]:
        """The reference ratings."""
        return list(self.reference)

    def prompt(self) -> str:
        """The scenario, and one line to be written for every emotion."""
        names = ", ".join(self.emotions)
        return (
            f"{self.question}\nRate each from 0 (not at all) to {HIGHEST} (extremely): {names}.\n"
            "Answer with one line for each, like this: emotion: number"
        )

    def requests(self) -> tuple[Request, ...]:
        """One for every emotion, of one and the same prompt."""
        prompt = self.prompt()
        return tuple(Request(prompt, f"{name}:", _spellings(DIGITS)) for name in self.emotions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast(Item):
    """Two versions of a scenario, `question` and `other`: in `higher` the emotion is stronger."""

    kind: ClassVar[str] = "contrast"
    other: str
    emotion: str
    higher: str

    @property
    def gold(self) -> str:
        """Which version has more of the emotion: "question" or "other"."""
        return self.higher

    def prompt(self) -> str:
        """Both versions, to be rated in two lines."""
        return (
            f"Case 1: {self.question}\nCase 2: {self.other}\n"
            f"Rate the {self.emotion} in each case from 0 (none) to {HIGHEST} (extreme).\n"
            "Answer with two lines, like this:\nCase 1: number\nCase 2: number"
        )

    def requests(self) -> tuple[Request, ...]:
        """Two, a version each; neither shows the other."""
        rate = (
            f"Rate the {self.emotion} from 0 (none) to {HIGHEST} (extreme). Answer with one digit."
        )
        return tuple(
            Request(f"{version}\n{rate}", OPENING, _spellings(DIGITS))
            for version in (self.question, self.other)
        )


def _with_options(question: str, options: Sequence[str], texts: Sequence[str]) -> str:
    lines = [f"{name}) {text}" for name, text in zip(options, texts, strict=True)]
    return "\n".join([question, *lines, "Answer with the letter only."])


def _spellings(options: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        tuple(dict.fromkeys((f" {o}", f" {o[0].upper()}{o[1:]}", f" {o[0].lower()}{o[1:]}")))
        if len(o) > 1
        else (f" {o}",)
        for o in options
    )


KINDS: dict[str, type[Item]] = {c.kind: c for c in (Choice, Number, Ratings, Contrast)}


# -- lines of JSON -------------------------------------------------------------------------------


def dump(items: Iterable[Item]) -> str:
    """Items as lines of JSON, the same bytes for the same items."""
    return "".join(json.dumps(i.as_json(), ensure_ascii=False) + "\n" for i in items)


def load(path: str | os.PathLike[str]) -> tuple[Item, ...]:
    """The items of a file. Raises InvalidSuite naming file, line and field."""
    name = printable(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().split("\n")
    except OSError as e:
        raise InvalidSuite(f"{name}: cannot read the suite: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise InvalidSuite(f"{name}: the suite is not UTF-8 text (byte {e.start})") from e
    items: dict[str, Item] = {}
    seen: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        item = _parse(line, where, number)
        if item.id in items:
            raise InvalidSuite(f"{where}: id {printable(item.id)!r} is taken by an earlier line")
        asked = tuple(a.prompt + a.opening for a in item.requests())
        if asked in seen:
            raise InvalidSuite(f"{where}: the same question as in line {seen[asked]}")
        items[item.id], seen[asked] = item, number
    if not items:
        raise InvalidSuite(f"{name}: no items; a suite is a file with one JSON object a line")
    return tuple(items.values())


def _parse(line: str, where: str, number: int) -> Item:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as e:
        reason = printable(str(e))
        raise InvalidSuite(f"{where}: not a line of JSON ({reason}): one item a line") from e
    if not isinstance(value, dict):
        raise InvalidSuite(f'{where}: expected an object, {{"kind": ..., "question": ...}}')
    kind = value.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise InvalidSuite(f"{where}: kind: expected one of {', '.join(KINDS)}")
    made = KINDS[kind]
    known = {f.name: f for f in fields(made)}
    for key in value:
        if key not in known:
            raise InvalidSuite(
                f"{where}: {printable(key)}: no field of a {kind} item, which has "
                f"{', '.join(known)}"
            )
    defaults = {"id": f"line-{number}", "family": "own", "topic": kind, "level": 0}
    given: dict[str, Any] = {}
    for key, field in known.items():
        if key in value:
            expected, check = _CHECKS[key]
            if key == "answer" and made is Number:
                expected, check = _CHECKS["level"]
            if not check(value[key]):
                raise InvalidSuite(f"{where}: {key}: expected {expected}")
            given[key] = tuple(value[key]) if isinstance(value[key], list) else value[key]
        elif key in defaults:
            given[key] = defaults[key]
        elif field.default is MISSING:
            raise InvalidSuite(f"{where}: {key}: missing, expected {_CHECKS[key][0]}")
    if made is Choice and "options" not in given and given.get("texts"):
        given["options"] = LETTERS[: len(given["texts"])]
    item = made(**given)
    for fault in _faults(item):
        raise InvalidSuite(f"{where}: {fault}")
    return item


_SURROGATE = re.compile("[\ud800-\udfff]")


def _is_text(value: object) -> bool:
    # JSON can spell half of a surrogate pair, which no engine and no file takes.
    return isinstance(value, str) and bool(value.strip()) and not _SURROGATE.search(value)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_integer(value: object) -> bool:
    return type(value) is int


def _are_ratings(value: object) -> bool:
    return isinstance(value, list) and all(_is_integer(v) and 0 <= v <= HIGHEST for v in value)


_TEXT = ("a text that is not empty", _is_text)
_TEXTS = ("a list of texts", _are_texts)
_CHECKS: dict[str, tuple[str, Callable[[object], bool]]] = {
    **dict.fromkeys(("id", "family", "topic", "question", "other", "emotion", "answer"), _TEXT),
    **dict.fromkeys(("options", "texts", "emotions"), _TEXTS),
    "level": ("an integer", _is_integer),
    "partial": ("true or false", lambda v: isinstance(v, bool)),
    "reference": (f"a list of integers 0 to {HIGHEST}", _are_ratings),
    "higher": ('"question" or "other"', lambda v: v in ("question", "other")),
}


def _faults(item: Item) -> Iterator[str]:
    if item.family in RESERVED:
        yield f"family: reports call something else {item.family}; expected another name"
    if isinstance(item, Choice):
        yield from _option_faults(item)
    elif isinstance(item, Number):
        yield from _number_faults(item)
    elif isinstance(item, Ratings):
        if len(item.emotions) != len(item.reference) or not item.emotions:
            yield "reference: expected one rating for each of the emotions"
        if len({e.casefold() for e in item.emotions}) != len(item.emotions):
            yield "emotions: the same one twice"
    elif isinstance(item, Contrast) and item.question == item.other:
        yield "other: the same as question; expected a version that differs"


def _option_faults(item: Choice) -> Iterator[str]:
    if not 2 <= len(item.options) <= len(LETTERS):  # noqa: PLR2004 - a choice needs two
        yield f"options: expected 2 to {len(LETTERS)}"
    if len({o.casefold() for o in item.options}) != len(item.options):
        yield "options: the same one twice"
    if any(o != o.strip() for o in item.options):
        yield "options: expected no space around one; whether a space comes first is looked after"
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
    if not 2 <= len(texts) <= len(LETTERS):  # noqa: PLR2004 - a choice needs two
        yield f"texts: expected 2 to {len(LETTERS)}"
    if len({bare_text(text) for text in texts}) != len(texts):
        yield "texts: the same one twice, but for case or what surrounds it"
