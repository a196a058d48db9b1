"""Detect loops, repetition and garbage in a text, from nothing but the text.

Wrong per-layer metadata and badly chosen windows both show as repetition, often within a few
sentences, and never as an error.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import fmean

# A word, a number, a run of one punctuation mark, or one character of a script without spaces.
_TOKEN = re.compile(
    r"(?P<wide>[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff])"
    r"|(?P<word>[^\W\d\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]+)"
    r"|(?P<number>\d+)"
    r"|(?P<mark>[^\w\s])(?P=mark)*"
)
_NUMBER = "0"  # stands for every number where a counter must not hide a loop

# How many copies of a period make a loop: (longest period in tokens, copies). Sound text repeats
# short periods more often: "ha ha ha", a row of equal table cells.
_COPIES = ((1, 8.0), (4, 6.0), (16, 4.0), (128, 3.0))
_MIN_TOKENS = 12
# A period without a word ("| --- | --- |", "0, 0, 0,") must go on for longer to be a loop.
_MIN_TOKENS_BARE = 60
# With numbers masked, the rows of a table or of sums look alike. A period of at least this many
# different words is a sentence.
_MIN_MASKED_WORDS = 4
# Text without spaces is a single word, and a line of dashes a single mark, so their loops are
# looked for in characters. A rule of dashes below a heading or between cells is not a loop.
_MAX_CHARACTER_PERIOD = 16
_MIN_CHARACTERS = 24
_MIN_CHARACTERS_NUMBER = 48
_MIN_CHARACTERS_BARE = 100
_MIN_CHARACTER_COPIES = 8.0

# Repetition without a fixed period: which share of the words stands in sequences seen before.
_GRAM = 5
_MAX_NUMBERS = 2  # in a sequence: sums may look alike
_MIN_WORDS = 32
_MAX_REPEATED_SHARE = 0.5

# What is not text: shares of all characters but white space, and of a text's letters.
_MAX_BAD_SHARE = 0.02
_MIN_WORDY_SHARE = 0.35
_LONGEST_WORD = 45
_MAX_LONG_SHARE = 0.2
_MAX_MIXED_SHARE = 0.05
_MIN_CHARACTERS_JUDGED = 20

EXCERPT = 160  # characters


class Kind(str, Enum):
    """What may be wrong with a text."""

    LOOP = "loop"
    MASKED_LOOP = "loop with a counter"
    REPETITION = "repetition"
    GARBAGE = "not text"
    EMPTY = "empty"

    @property
    def is_text(self) -> bool:
        """Whether a text with this fault is text at all."""
        return self not in (Kind.GARBAGE, Kind.EMPTY)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a text.

    `score` is the affected share of the text, 0 to 1; `what` describes the finding, and `excerpt`
    is the beginning of the offending text, unescaped.
    """

    kind: Kind
    score: float
    what: str
    excerpt: str


@dataclass(frozen=True, slots=True)
class Loop:
    """A stretch of text that repeats one period.

    `period` is in tokens (words, numbers, marks) or, for `of_characters`, in characters; `copies`
    includes the first one. `start` and `end` are character offsets of the stretch. `masked` loops
    differ in their numbers only.
    """

    period: int
    copies: float
    start: int
    end: int
    masked: bool = False
    of_characters: bool = False

    def excerpt(self, text: str, limit: int = EXCERPT) -> str:
        """The beginning of the stretch."""
        return text[self.start : min(self.end, self.start + limit)]


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    start: int
    end: int
    is_word: bool
    is_number: bool


def _tokens(text: str) -> list[_Token]:
    return [
        _Token(
            m.group().casefold(),
            m.start(),
            m.end(),
            m.lastgroup in ("word", "wide"),
            m.lastgroup == "number",
        )
        for m in _TOKEN.finditer(text)
    ]


def find_loop(text: str) -> Loop | None:
    """The longest loop in a text: of words, of sentences that differ in a counter, of characters.

    Text before a loop does not hide it.

    find_loop("a way to go, " * 9).period == 5
    """
    tokens = _tokens(text)
    plain = [t.text for t in tokens]
    masked = [_NUMBER if t.is_number else t.text for t in tokens]
    loops = [
        *_word_loops(tokens, plain, masked=False),
        *_word_loops(tokens, masked, masked=True),
    ] or _character_loops(text)
    # Of equally long ones take the first: exact before masked, a period before its multiples.
    return max(loops, key=lambda loop: loop.end - loop.start, default=None)


def _word_loops(tokens: Sequence[_Token], words: Sequence[str], *, masked: bool) -> Iterator[Loop]:
    for period in range(1, min(_COPIES[-1][0], len(words) // 2) + 1):
        start, n = _longest_run(words, period)
        body = tokens[start : start + period]
        n_words = len({t.text for t in body if t.is_word})
        if masked and n_words < _MIN_MASKED_WORDS:
            continue
        if n < (_MIN_TOKENS if n_words else _MIN_TOKENS_BARE):
            continue
        if n / period >= next(copies for longest, copies in _COPIES if period <= longest):
            first, last = tokens[start], tokens[start + n - 1]
            yield Loop(period, n / period, first.start, last.end, masked)


def _character_loops(text: str) -> Iterator[Loop]:
    for period in range(1, min(_MAX_CHARACTER_PERIOD, len(text) // 2) + 1):
        start, n = _longest_run(text, period)
        body = text[start : start + period]
        n_enough = _MIN_CHARACTERS_BARE
        if any(map(str.isalnum, body)):
            n_enough = _MIN_CHARACTERS if any(map(str.isalpha, body)) else _MIN_CHARACTERS_NUMBER
        if n >= n_enough and n / period >= _MIN_CHARACTER_COPIES:
            yield Loop(period, n / period, start, start + n, of_characters=True)


def _longest_run(items: Sequence[str], period: int) -> tuple[int, int]:
    """Start and length of the longest stretch that repeats with the given period."""
    best_start = best = run = 0
    for at in range(len(items) - period):
        run = run + 1 if items[at] == items[at + period] else 0
        if run > best:
            best_start, best = at - run + 1, run
    return best_start, best + period


def repeated_share(text: str) -> tuple[float, str]:
    """The share of words in sequences of 5 that occurred before, and where these begin.

    All numbers count as equal, and punctuation is ignored. 0 for fewer than 32 words.
    """
    words = [t for t in _tokens(text) if t.is_word or t.is_number]
    if len(words) < _MIN_WORDS:
        return 0.0, ""
    masked = [_NUMBER if t.is_number else t.text for t in words]
    seen: set[tuple[str, ...]] = set()
    repeated: set[int] = set()
    for at in range(len(words) - _GRAM + 1):
        gram = tuple(masked[at : at + _GRAM])
        if gram.count(_NUMBER) > _MAX_NUMBERS:
            continue
        if gram in seen:
            repeated.update(range(at, at + _GRAM))
        seen.add(gram)
    if not repeated:
        return 0.0, ""
    start = words[min(repeated)].start
    return len(repeated) / len(words), text[start : start + EXCERPT]


def _garbage(text: str) -> Iterator[Finding]:
    """Findings that say that a text is not language."""
    shown = [c for c in text if not c.isspace()]
    if not any(c.isalnum() for c in shown):
        yield Finding(Kind.EMPTY, 1.0, "no words", text[:EXCERPT])
        return
    yield from _bad_characters(text, shown)
    if len(shown) < _MIN_CHARACTERS_JUDGED:
        return
    # Tables are drawn with rules of dashes: count every run of one mark once.
    squeezed = re.sub(r"([^\w\s])\1+|\s", r"\1", text)
    wordy = fmean(c.isalnum() or unicodedata.category(c)[0] == "M" for c in squeezed)
    if wordy < _MIN_WORDY_SHARE:
        what = f"{wordy:.0%} letters and digits"
        yield Finding(Kind.GARBAGE, 1 - wordy, what, text[:EXCERPT])
    words = [t for t in _tokens(text) if t.is_word]
    long = [t for t in words if t.end - t.start > _LONGEST_WORD]
    if (share := sum(t.end - t.start for t in long) / len(shown)) > _MAX_LONG_SHARE:
        what = f"{len(long)} words of more than {_LONGEST_WORD} letters"
        yield Finding(Kind.GARBAGE, share, what, long[0].text[:EXCERPT])
    yield from _mixed_scripts(text, words)


def _bad_characters(text: str, shown: Sequence[str]) -> Iterator[Finding]:
    """Replacement characters, controls, private and unassigned code points, half characters."""
    bad = [c for c in shown if c == "\ufffd" or unicodedata.category(c) in ("Cc", "Co", "Cn", "Cs")]
    if len(bad) > 1 and len(bad) / len(shown) > _MAX_BAD_SHARE:
        at = max(0, text.index(bad[0]) - EXCERPT // 4)
        what = f"{len(bad)} characters that are not text"
        yield Finding(Kind.GARBAGE, len(bad) / len(shown), what, text[at : at + EXCERPT])


def _mixed_scripts(text: str, words: Sequence[_Token]) -> Iterator[Finding]:
    """Words that mix two scripts, or letters of a third script beside the two main ones."""
    scripts = Counter(script for t in words for script in map(_script, t.text) if script)
    n_letters = sum(scripts.values())
    if n_letters < _MIN_CHARACTERS_JUDGED:
        return
    third = n_letters - sum(n for _, n in scripts.most_common(2))
    mixed = [t for t in words if len({_script(c) for c in t.text} - {""}) > 1]
    share = max(third / n_letters, sum(len(t.text) for t in mixed) / n_letters)
    if share > _MAX_MIXED_SHARE:
        first = mixed[0].start if mixed else 0
        what = f"letters of {len(scripts)} scripts"
        yield Finding(Kind.GARBAGE, share, what, text[first : first + EXCERPT])


def _script(character: str) -> str:
    """The first word of a letter's Unicode name, "CJK" for Japanese as well; "" for the rest."""
    if not character.isalpha():
        return ""
    script = unicodedata.name(character, "").partition(" ")[0]
    return "CJK" if script in ("HIRAGANA", "KATAKANA", "BOPOMOFO") else script


def judge(text: str, *, truncated: bool) -> list[Finding]:
    """Everything wrong with a text; `truncated` says that the token limit ended it."""
    if truncated:
        text = text.rstrip("\ufffd")  # the token limit may have split a character
    findings = list(_garbage(text))
    if (loop := find_loop(text)) is not None:
        unit = "character" if loop.of_characters else "token"
        what = f"{loop.period} {unit}{'s' * (loop.period > 1)}, {loop.copies:.1f} times"
        share = (loop.end - loop.start) / len(text)
        kind = Kind.MASKED_LOOP if loop.masked else Kind.LOOP
        findings.append(Finding(kind, share, what, loop.excerpt(text)))
    share, excerpt = repeated_share(text)
    if share > _MAX_REPEATED_SHARE:
        what = f"{share:.0%} of the words repeat earlier ones"
        findings.append(Finding(Kind.REPETITION, share, what, excerpt))
    return findings
