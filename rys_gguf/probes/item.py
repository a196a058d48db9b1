"""One item of a suite: its question, in two forms, and its right answer.

A model can be asked in two ways. `prompt()` is a user message that it answers in its own words;
`requests()` are forward passes, of which only the next token is read, as probabilities of the
options. In a file an item is a line of JSON: the fields of its class, and "kind".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

LETTERS = tuple("ABCDEFGH")
DIGITS = tuple("0123456789")
YES_NO = ("yes", "no")
OPENING = "Answer:"
HIGHEST = 9  # rating: one digit is one token


@dataclass(frozen=True, slots=True)
class Request:
    """One forward pass: the answer begins with `opening`, and the token after it is read.

    `options` holds the spellings of each option as they follow the opening; the first spelling
    names it. With `digits` the options are instead all tokens that are strings of digits.
    """

    prompt: str
    opening: str
    options: tuple[tuple[str, ...], ...] = ()
    digits: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the options in probabilities: "yes" for " yes"."""
        return tuple(spellings[0].strip() for spellings in self.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What all items have. `level` is the difficulty of a generated one, 0 the easiest.

    Answers to items that have something in common are alike, and count for less than as many
    others. `template` names the wording that the generator filled in, `event` what happens in it:
    both follow from the generator's version. `cluster` is a user's own name for what is in common.
    """

    kind: ClassVar[str] = ""
    id: str
    family: str
    topic: str
    level: int
    question: str
    template: str = ""
    event: str = ""
    cluster: str = ""

    @property
    def common(self) -> str:
        """What the item has in common with others of its family; its own id if nothing."""
        return self.cluster or self.event or self.template or self.id

    @property
    def gold(self) -> Any:
        """The right answer, as plain JSON."""
        raise NotImplementedError

    @property
    def chance(self) -> float:
        """The mean quick score of random answers."""
        return 0.0

    def prompt(self) -> str:
        """The user message to which the model answers in its own words."""
        raise NotImplementedError

    def requests(self) -> tuple[Request, ...]:
        """The forward passes whose probabilities are taken as the answer."""
        raise NotImplementedError

    def as_json(self) -> dict[str, Any]:
        """The item as a JSON object, without what it has in common where that is nothing."""
        fields = {"kind": self.kind, **asdict(self)}
        return {k: v for k, v in fields.items() if v or k not in ("template", "event", "cluster")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(Item):
    """One of `options`: letters, each with its text in `texts`, or words such as yes and no."""

    kind: ClassVar[str] = "choice"
    answer: str
    options: tuple[str, ...] = YES_NO
    texts: tuple[str, ...] = ()

    @property
    def gold(self) -> str:
        """The right option."""
        return self.answer

    @property
    def chance(self) -> float:
        """One over the number of options."""
        return 1 / len(self.options)

    def prompt(self) -> str:
        """The question, its options, and how to answer."""
        if self.texts:
            return _with_options(self.question, self.options, self.texts)
        return f"{self.question}\nAnswer with {' or '.join(self.options)} only."

    def requests(self) -> tuple[Request, ...]:
        """One request, for the options."""
        return (Request(self.prompt(), OPENING, _spellings(self.options)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Number(Item):
    """An integer. With `partial` near misses count; a quick score chooses from `texts`, if any."""

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
        """The right option. There must be texts."""
        return self.options[self.texts.index(str(self.answer))]

    @property
    def chance(self) -> float:
        """One over the number of options, or of first digits."""
        return 1 / (len(self.texts) or HIGHEST)

    def prompt(self) -> str:
        """The question, to be answered by a number alone."""
        return f"{self.question}\nAnswer with the number only."

    def requests(self) -> tuple[Request, ...]:
        """One request: for the texts, or without any for the digits the number begins with."""
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
        """The scenario, and the request for one line per emotion."""
        names = ", ".join(self.emotions)
        return (
            f"{self.question}\nRate each from 0 (not at all) to {HIGHEST} (extremely): {names}.\n"
            "Answer with one line for each, like this: emotion: number"
        )

    def requests(self) -> tuple[Request, ...]:
        """One request per emotion, all with the same prompt."""
        prompt = self.prompt()
        return tuple(Request(prompt, f"{name}:", _spellings(DIGITS)) for name in self.emotions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast(Item):
    """Two versions of a scenario, `question` and `other`; `higher` names the stronger one."""

    kind: ClassVar[str] = "contrast"
    other: str
    emotion: str
    higher: str

    @property
    def gold(self) -> str:
        """The version that has more of the emotion: "question" or "other"."""
        return self.higher

    def prompt(self) -> str:
        """Both versions, and the request for two lines."""
        return (
            f"Case 1: {self.question}\nCase 2: {self.other}\n"
            f"Rate the {self.emotion} in each case from 0 (none) to {HIGHEST} (extreme).\n"
            "Answer with two lines, like this:\nCase 1: number\nCase 2: number"
        )

    def requests(self) -> tuple[Request, ...]:
        """Two requests, one per version; neither shows the other version."""
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


def dump(items: Iterable[Item]) -> str:
    """Items as lines of JSON, the same bytes for the same items."""
    return "".join(json.dumps(i.as_json(), ensure_ascii=False) + "\n" for i in items)


def dump_asked(items: Iterable[Item]) -> str:
    """`dump` without what follows from the version of the generator: what a suite's id is of."""
    return dump(replace(item, template="", event="") for item in items)
