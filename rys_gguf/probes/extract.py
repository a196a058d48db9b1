r"""Find the answer in what a model wrote, by fixed rules in a fixed order.

Thoughts are taken out first. What follows the last marker ("answer is", "answer:", "####",
"\boxed{") is the answer; without a marker a first line that is nothing but an answer, else the last
line. Nothing found is None, which is not the same as a wrong answer.
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
# What surrounds an answer without being part of it: emphasis, quotes, brackets, full stops.
_DRESS = " \t*_`\"'$()[]{}<>.,;:!\\\u201c\u201d\u2018\u2019"


def strip_thoughts(text: str) -> str:
    """`text` without what the model thought: closed blocks, an unclosed one, one without start."""
    text = _CLOSED.sub("", text)
    text = _OPENER.sub("", text)
    return _CLOSER.split(text)[-1].strip()


def without_last_line(text: str) -> str:
    """What is left of an answer cut off by the token limit: the lines that are complete."""
    return text.rpartition("\n")[0]


def _spans(text: str) -> Iterator[tuple[str, bool]]:
    """Where to look, best first, and whether the answer has to be all there is."""
    text = strip_thoughts(text).replace("{,}", ",")  # the LaTeX of 1,250
    for marker in reversed(list(_MARKER.finditer(text))):
        rest = text[marker.end() :]
        if marker.group().startswith("\\"):
            rest = rest.partition("}")[0]
        if lines := [s for line in rest.splitlines() if (s := line.strip(_DRESS))]:
            yield lines[0], False
    if lines := [s for line in text.splitlines() if (s := line.strip(_DRESS))]:
        yield lines[0], True
        yield lines[-1], False


def _first(text: str, find: Callable[[str, bool], T | None]) -> T | None:
    found = (find(span, whole) for span, whole in _spans(text))
    return next((value for value in found if value is not None), None)


# -- options -------------------------------------------------------------------------------------


def bare_text(text: str) -> str:
    """A text as an answer is compared with it: without what may surround it."""
    return text.strip(_DRESS).casefold()


def opens_thoughts(prompt: str) -> bool:
    """Whether what follows this prompt would be thoughts: it opens them and does not close them."""
    return strip_thoughts(f"{prompt}x")[-1:] != "x"


def option(text: str, options: Sequence[str], texts: Sequence[str] = ()) -> str | None:
    """The option that `text` answers with: a letter or its text, or one of some words."""
    if texts:
        return _first(text, lambda span, whole: _letter(span, options, texts, whole=whole))
    return _first(text, lambda span, whole: _word(span, options, whole=whole))


def _letter(span: str, options: Sequence[str], texts: Sequence[str], *, whole: bool) -> str | None:
    for name, text in zip(options, texts, strict=True):
        if span.casefold() == bare_text(text):
            return name
        bare = rf"(?:option\s+)?{name}(?:[).:*\s-]+{re.escape(text)})?"
        if re.fullmatch(bare, span, re.IGNORECASE):
            return name
    if whole:
        return None
    within = "".join(options)
    if leading := re.match(rf"([{within}])(?:[).:\]*]|$|\s(?![a-z]))", span):
        return leading.group(1)
    for pattern in (rf"[(\[{{*]([{within}])[)\]}}*]", rf"(?<![\w'])([{within}])(?![\w'])"):
        if found := re.findall(pattern, span):
            return str(found[-1])
    return None


def _word(span: str, options: Sequence[str], *, whole: bool) -> str | None:
    # Folded here and not by re.IGNORECASE, which takes letters for equal that fold to others.
    names = {o.casefold(): o for o in options}
    span = span.casefold()
    if span in names:
        return names[span]
    if whole:
        return None
    any_of = "|".join(re.escape(o) for o in sorted(names, key=len, reverse=True))
    found = re.findall(rf"(?<!\w)({any_of})(?!\w)", span)
    # "Yes, no doubt": a span that begins with an option has said it.
    if found and span.startswith(found[0]):
        return names[found[0]]
    return names[found[-1]] if found else None


# -- numbers -------------------------------------------------------------------------------------

_GROUPED = re.compile(r"(?<![\d.])\d{1,3}(?:(?:,|_|'|\u2019|\\,|[\u00a0\u2009\u202f])\d{3})+(?!\d)")
_SPACED = re.compile(r"-?\d{1,3}(?: \d{3})+")
_CURRENCY = re.compile(r"[$€£¥]\s*")
_NUMBER = re.compile(r"(?<![\w.])(?:(?<!\))-)?(\d+)(\.\d+)?")
_MAX_DIGITS = 100  # an endless number counts as far too long, and must not cost time


def number(text: str) -> int | float | None:
    """The number `text` answers with: a float only if it has a fraction."""
    return _first(text, _last_number)


def _last_number(span: str, whole: bool) -> int | float | None:  # noqa: FBT001 - see _first
    span = _plain(span)
    if _SPACED.fullmatch(span):
        span = span.replace(" ", "")
    if whole and not re.fullmatch(r"-?\d+(?:\.\d+)?", span):
        return None
    found = list(_NUMBER.finditer(span))
    return _value(found[-1]) if found else None


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
        if found := list(re.finditer(pattern, text, re.IGNORECASE)):
            last = found[-1]
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
