r"""Find the answer in a model's text, by fixed rules in a fixed order.

Thoughts are removed first. The text after the last marker ("answer is", "answer:", "####",
"\boxed{") is the answer; without a marker, a first line that is nothing but an answer, else the
last line. If there is no answer the result is None, which is not the same as a wrong answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

_TAG = r"(?:think|thinking|thought|thoughts|reasoning)"
_CLOSED = re.compile(rf"<{_TAG}>.*?</{_TAG}>", re.DOTALL | re.IGNORECASE)
_OPENER = re.compile(rf"<{_TAG}>.*", re.DOTALL | re.IGNORECASE)
_CLOSER = re.compile(rf"</{_TAG}>", re.IGNORECASE)

_MARKER = re.compile(
    r"\banswer\b[\s*_`\"')]*(?:is\b|would be\b|:|=)|(?<!#)####(?!#)|\\boxed\s*\{", re.IGNORECASE
)
# Marks around an answer that are not part of it: emphasis, quotes, brackets, full stops.
_MARKS = " \t*_`\"'$()[]{}<>.,;:!\\\u201c\u201d\u2018\u2019"


def strip_thoughts(text: str) -> str:
    """`text` without thoughts: closed blocks, an unclosed one, one without a start."""
    text = _CLOSED.sub("", text)
    text = _OPENER.sub("", text)
    return _CLOSER.split(text)[-1].strip()


def without_last_line(text: str) -> str:
    """The complete lines of an answer that the token limit cut off."""
    return text.rpartition("\n")[0]


def _spans(text: str) -> Iterator[tuple[str, bool]]:
    """The places to look in, best first, and whether the answer must fill the place."""
    text = strip_thoughts(text).replace("{,}", ",")  # the LaTeX of 1,250
    for marker in reversed(list(_MARKER.finditer(text))):
        rest = text[marker.end() :]
        if marker.group().startswith("\\"):
            rest = rest.partition("}")[0]
        if lines := [s for line in rest.splitlines() if (s := line.strip(_MARKS))]:
            yield lines[0], False
    if lines := [s for line in text.splitlines() if (s := line.strip(_MARKS))]:
        yield lines[0], True
        yield lines[-1], False


def _first(text: str, find: Callable[[str, bool], T | None]) -> T | None:
    values = (find(span, fills) for span, fills in _spans(text))
    return next((value for value in values if value is not None), None)


# -- options -------------------------------------------------------------------------------------


def bare_text(text: str) -> str:
    """A text in the form in which answers are compared: without the marks around it."""
    return text.strip(_MARKS).casefold()


def opens_thoughts(prompt: str) -> bool:
    """Whether the prompt opens a block of thoughts and does not close it."""
    return strip_thoughts(f"{prompt}x")[-1:] != "x"


def option(text: str, options: Sequence[str], texts: Sequence[str] = ()) -> str | None:
    """The option that `text` answers with: a letter or its text, or one of some words."""
    if texts:
        return _first(text, lambda span, fills: _letter(span, options, texts, fills=fills))
    return _first(text, lambda span, fills: _word(span, options, fills=fills))


def _letter(span: str, options: Sequence[str], texts: Sequence[str], *, fills: bool) -> str | None:
    for name, text in zip(options, texts, strict=True):
        if span.casefold() == bare_text(text):
            return name
        bare = rf"(?:option\s+)?{name}(?:[).:*\s-]+{re.escape(text)})?"
        if re.fullmatch(bare, span, re.IGNORECASE):
            return name
    if fills:
        return None
    within = "".join(options)
    if leading := re.match(rf"([{within}])(?:[).:\]*]|$|\s(?![a-z]))", span):
        return leading.group(1)
    for pattern in (rf"[(\[{{*]([{within}])[)\]}}*]", rf"(?<![\w'])([{within}])(?![\w'])"):
        if letters := re.findall(pattern, span):
            return str(letters[-1])
    return None


def _word(span: str, options: Sequence[str], *, fills: bool) -> str | None:
    # Casefold here: re.IGNORECASE treats some letters as equal that fold differently.
    names = {o.casefold(): o for o in options}
    span = span.casefold()
    if span in names:
        return names[span]
    if fills:
        return None
    any_of = "|".join(re.escape(o) for o in sorted(names, key=len, reverse=True))
    words = re.findall(rf"(?<!\w)({any_of})(?!\w)", span)
    # "Yes, no doubt" means yes: an option that the span begins with counts.
    if words and span.startswith(words[0]):
        return names[words[0]]
    return names[words[-1]] if words else None


# -- numbers -------------------------------------------------------------------------------------

_GROUPED = re.compile(r"(?<![\d.])\d{1,3}(?:(?:,|_|'|\u2019|\\,|[\u00a0\u2009\u202f])\d{3})+(?!\d)")
_SPACED = re.compile(r"-?\d{1,3}(?: \d{3})+")
_CURRENCY = re.compile(r"[$€£¥]\s*")
_NUMBER = re.compile(r"(?<![\w.])(?:(?<!\))-)?(\d+)(\.\d+)?")
_MAX_DIGITS = 100  # an endless number is wrong anyway, and must not cost time


def number(text: str) -> int | float | None:
    """The number `text` answers with: a float only if it has a fraction."""
    return _first(text, _last_number)


def _last_number(span: str, fills: bool) -> int | float | None:  # noqa: FBT001 - see _first
    span = _plain(span)
    if _SPACED.fullmatch(span):
        span = span.replace(" ", "")
    if fills and not re.fullmatch(r"-?\d+(?:\.\d+)?", span):
        return None
    numbers = list(_NUMBER.finditer(span))
    return _value(numbers[-1]) if numbers else None


def _plain(text: str) -> str:
    text = _CURRENCY.sub("", text.replace("\u2212", "-"))
    return _GROUPED.sub(lambda m: re.sub(r"\D", "", m.group()), text)


def _value(match: re.Match[str]) -> int | float:
    sign = -1 if match.group().startswith("-") else 1
    digits, fraction = match.group(1)[:_MAX_DIGITS], match.group(2) or ""
    if fraction.strip(".0"):
        return sign * float(digits + fraction[:_MAX_DIGITS])
    return sign * int(digits)


def named_numbers(text: str, names: Sequence[str], highest: int) -> list[int | float] | None:
    """One number 0 to `highest` for every name, from "name: number" or as many bare numbers."""
    text = _plain(strip_thoughts(text))
    values: list[int | float] = []
    for name in names:
        pattern = (
            rf"(?<!\w){re.escape(name)}[\s*_`\"')]*[:=\-\u2013\u2014]+[\s*_`\"'(\[]*(\d+)(\.\d+)?"
        )
        if matches := list(re.finditer(pattern, text, re.IGNORECASE)):
            last = matches[-1]
            values.append(
                float(last.group(1)[:9] + last.group(2))
                if last.group(2)
                else int(last.group(1)[:9])
            )
    if not values:
        bare = list(_NUMBER.finditer(text))
        values = [_value(m) for m in bare] if len(bare) == len(names) else []
    complete = len(values) == len(names) and all(0 <= v <= highest for v in values)
    return values if complete else None
