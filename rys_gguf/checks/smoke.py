"""Let a model write a little, and see whether it falls into a loop or stops writing language.

Wrong per-layer metadata and badly chosen windows both show as repetition, often within a few
sentences, and never as an error. So: greedy answers to prompts that ask for things without
repetition, and detectors that need nothing but the text. What a broken model writes without
repeating itself looks like text to them, so how sure it was of its own words counts as well. Small
models loop by themselves, which is why a variant is judged beside its source where that is at hand.

A pass says that the variant still writes; it does not say that what it writes is right.
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import fmean
from typing import Any

from rys_gguf.engines.base import Engine, EngineOptions
from rys_gguf.engines.find import open_engine
from rys_gguf.engines.sampling import has_template
from rys_gguf.text import printable

# -- detectors: text in, findings out ------------------------------------------------------------

# A word, a number, a run of one punctuation mark, or one character of a script without spaces.
_TOKEN = re.compile(
    r"(?P<wide>[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff])"
    r"|(?P<word>[^\W\d\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]+)"
    r"|(?P<number>\d+)"
    r"|(?P<mark>[^\w\s])(?P=mark)*"
)
_NUMBER = "0"  # what every number becomes where counters must not hide a loop

# How often a period has to follow itself to be a loop: (longest period in tokens, copies). Shorter
# periods occur in sound text more often: "ha ha ha", a row of equal table cells.
_COPIES = ((1, 8.0), (4, 6.0), (16, 4.0), (128, 3.0))
_MIN_TOKENS = 12
# A period without a word ("| --- | --- |", "0, 0, 0,") is a loop only if it goes on and on.
_MIN_TOKENS_BARE = 60
# With numbers masked, rows of a table or of sums are alike: so many different words make a period
# a sentence.
_MIN_WORDS_MASKED = 4
# Text without spaces is one word, and a line of dashes one mark: their loops are of characters.
# A rule of dashes below a heading or between cells is none.
_MAX_CHARACTER_PERIOD = 16
_MIN_CHARACTERS = 24
_MIN_CHARACTERS_NUMBER = 48
_MIN_CHARACTERS_BARE = 100
_MIN_CHARACTER_COPIES = 8.0

_GRAM = 5
_MAX_NUMBERS = 2  # in a run of 5: sums are alike by right
_MIN_MASS_WORDS = 32
_MAX_MASS = 0.5

_MAX_BAD_SHARE = 0.02
_MIN_WORDY_SHARE = 0.35
_LONGEST_WORD = 45
_MAX_LONG_SHARE = 0.2
_MAX_MIXED_SHARE = 0.05
_MIN_JUDGED = 20
_EXCERPT = 160


class Kind(str, Enum):
    """What may be wrong with an answer."""

    LOOP = "loop"
    MASKED_LOOP = "loop with a counter"
    REPETITION = "repetition"
    GARBAGE = "not text"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with an answer.

    `score` is the share of the text concerned, 0 to 1; `excerpt` the offending text, as it came.
    """

    kind: Kind
    score: float
    what: str
    excerpt: str


@dataclass(frozen=True, slots=True)
class Loop:
    """A stretch of text that is one period over and over.

    `period` is in tokens (words, numbers, marks) or, for `of_characters`, in characters; `copies`
    counts the first one. Character offsets `start` and `end` are those of the stretch.
    """

    period: int
    copies: float
    start: int
    end: int
    masked: bool = False
    of_characters: bool = False

    def excerpt(self, text: str, limit: int = _EXCERPT) -> str:
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
    """The longest loop of a text: of words, of sentences that differ in a counter, of characters.

    A loop is one wherever it stands, so nothing written before it hides it.

    find_loop("a way to go, " * 9).period == 5
    """
    tokens = _tokens(text)
    plain = [t.text for t in tokens]
    masked = [_NUMBER if t.is_number else t.text for t in tokens]
    found = [
        *_word_loops(tokens, plain, masked=False),
        *_word_loops(tokens, masked, masked=True),
    ] or _character_loops(text)
    # Of equally long ones the first: exact before masked, short periods before their multiples.
    return max(found, key=lambda loop: loop.end - loop.start, default=None)


def _word_loops(tokens: Sequence[_Token], words: Sequence[str], *, masked: bool) -> Iterator[Loop]:
    for period in range(1, min(_COPIES[-1][0], len(words) // 2) + 1):
        start, n = _longest_run(words, period)
        body = tokens[start : start + period]
        n_words = len({t.text for t in body if t.is_word})
        if masked and n_words < _MIN_WORDS_MASKED:
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
        enough = _MIN_CHARACTERS_BARE
        if any(map(str.isalnum, body)):
            enough = _MIN_CHARACTERS if any(map(str.isalpha, body)) else _MIN_CHARACTERS_NUMBER
        if n >= enough and n / period >= _MIN_CHARACTER_COPIES:
            yield Loop(period, n / period, start, start + n, of_characters=True)


def _longest_run(items: Sequence[str], period: int) -> tuple[int, int]:
    """Start and length of the longest stretch in which every item equals the one a period later."""
    best_start = best = run = 0
    for at in range(len(items) - period):
        run = run + 1 if items[at] == items[at + period] else 0
        if run > best:
            best_start, best = at - run + 1, run
    return best_start, best + period


def repeated_share(text: str) -> tuple[float, str]:
    """Which share of a text's words stands in runs of 5 words that occurred before, and the first.

    Numbers are all alike here and punctuation does not count. 0 for fewer than 32 words.
    """
    words = [t for t in _tokens(text) if t.is_word or t.is_number]
    if len(words) < _MIN_MASS_WORDS:
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
    return len(repeated) / len(words), text[start : start + _EXCERPT]


def _garbage(text: str) -> Iterator[Finding]:
    shown = [c for c in text if not c.isspace()]
    if not any(c.isalnum() for c in shown):
        yield Finding(Kind.EMPTY, 1.0, "no word in it", text[:_EXCERPT])
        return
    yield from _bad_characters(text, shown)
    if len(shown) < _MIN_JUDGED:
        return
    # Rules of dashes draw tables: every run of one mark counts once.
    squeezed = re.sub(r"([^\w\s])\1+|\s", r"\1", text)
    wordy = fmean(c.isalnum() or unicodedata.category(c)[0] == "M" for c in squeezed)
    if wordy < _MIN_WORDY_SHARE:
        what = f"{wordy:.0%} letters and digits"
        yield Finding(Kind.GARBAGE, 1 - wordy, what, text[:_EXCERPT])
    words = [t for t in _tokens(text) if t.is_word]
    long = [t for t in words if t.end - t.start > _LONGEST_WORD]
    if (share := sum(t.end - t.start for t in long) / len(shown)) > _MAX_LONG_SHARE:
        what = f"{len(long)} words of more than {_LONGEST_WORD} letters"
        yield Finding(Kind.GARBAGE, share, what, long[0].text[:_EXCERPT])
    yield from _mixed_scripts(text, words)


def _bad_characters(text: str, shown: Sequence[str]) -> Iterator[Finding]:
    """Replacement characters, controls, private and unassigned code points, half characters."""
    bad = [c for c in shown if c == "\ufffd" or unicodedata.category(c) in ("Cc", "Co", "Cn", "Cs")]
    if len(bad) > 1 and len(bad) / len(shown) > _MAX_BAD_SHARE:
        at = max(0, text.index(bad[0]) - _EXCERPT // 4)
        what = f"{len(bad)} characters that are no text"
        yield Finding(Kind.GARBAGE, len(bad) / len(shown), what, text[at : at + _EXCERPT])


def _mixed_scripts(text: str, words: Sequence[_Token]) -> Iterator[Finding]:
    """Words of two scripts each, or letters of a third script beside the text's main two."""
    scripts = Counter(script for t in words for script in map(_script, t.text) if script)
    n_letters = sum(scripts.values())
    if n_letters < _MIN_JUDGED:
        return
    third = n_letters - sum(n for _, n in scripts.most_common(2))
    mixed = [t for t in words if len({_script(c) for c in t.text} - {""}) > 1]
    share = max(third / n_letters, sum(len(t.text) for t in mixed) / n_letters)
    if share > _MAX_MIXED_SHARE:
        first = mixed[0].start if mixed else 0
        what = f"letters of {len(scripts)} scripts"
        yield Finding(Kind.GARBAGE, share, what, text[first : first + _EXCERPT])


def _script(character: str) -> str:
    """A letter's script as its Unicode name begins, Chinese and Japanese as one; else ""."""
    if not character.isalpha():
        return ""
    script = unicodedata.name(character, "").partition(" ")[0]
    return "CJK" if script in ("HIRAGANA", "KATAKANA", "BOPOMOFO") else script


def judge(text: str, *, truncated: bool) -> list[Finding]:
    """Everything wrong with an answer; `truncated` if the token limit ended it."""
    if truncated:
        text = text.rstrip("\ufffd")  # the limit may fall inside a character
    findings = list(_garbage(text))
    if (loop := find_loop(text)) is not None:
        unit = "character" if loop.of_characters else "token"
        what = f"{loop.period} {unit}{'s' * (loop.period > 1)}, {loop.copies:.1f} times"
        share = (loop.end - loop.start) / len(text)
        kind = Kind.MASKED_LOOP if loop.masked else Kind.LOOP
        findings.append(Finding(kind, share, what, loop.excerpt(text)))
    share, excerpt = repeated_share(text)
    if share > _MAX_MASS:
        what = f"{share:.0%} of the words said before"
        findings.append(Finding(Kind.REPETITION, share, what, excerpt))
    return findings


# -- the answers ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question, and how its answer may begin for a model that only continues text."""

    name: str
    question: str
    opening: str

    @property
    def as_text(self) -> str:
        """What a model without a chat template is asked to continue."""
        return f"{self.question}\n\n{self.opening}"


# Each asks for a form whose parts have to differ, so that a repeating answer is a wrong one. None
# asks for a series (a times table, a calendar), which repeats by right.
PROMPTS = (
    Prompt(
        "scenes",
        "Describe an evening at a night market in 10 separate one-sentence scenes, numbered from "
        "1 to 10. No two sentences may open with the same word.",
        "1.",
    ),
    Prompt(
        "table",
        "Make a table with the columns Animal, Home and Food, and fill in six different animals.",
        "| Animal | Home | Food |",
    ),
    Prompt(
        "code",
        "Write a Python function that returns the median of a list of numbers, and show one call "
        "of it.",
        "def",
    ),
    Prompt(
        "sum",
        "A baker sells 14 loaves in the morning and 23 in the afternoon, at 3 coins each. Work out "
        "step by step what the baker earned that day.",
        "First,",
    ),
    Prompt(
        "story",
        "Tell a short story about a lighthouse keeper who finds a letter in a bottle.",
        "One",
    ),
    Prompt(
        "reason",
        "Explain to a child why the sea is salty and lakes mostly are not.",
        "The",
    ),
    Prompt(
        "dialogue",
        "Write a dialogue of ten lines between a tailor and a customer who wants his old coat "
        "mended.",
        "Tailor:",
    ),
    Prompt(
        "steps",
        "List the steps for planting a young tree, in order, each with the reason for it.",
        "1.",
    ),
)
N_PREDICT = 112


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model made of one prompt; `truncated` if the token limit ended it.

    `surprise` is the mean of -log p over the tokens it chose, in nats; infinite if a probability
    was not a number, None if there were no tokens.
    """

    prompt: str
    text: str
    truncated: bool
    n_tokens: int
    surprise: float | None = None

    @property
    def findings(self) -> list[Finding]:
        """Everything wrong with it."""
        return judge(self.text, truncated=self.truncated)

    @property
    def damage(self) -> float:
        """How much of it is no use, 0 to 1: all of what is not text, the repeated share else."""
        findings = self.findings
        if any(f.kind in _NOT_TEXT for f in findings):
            return 1.0
        return max([repeated_share(self.text)[0], *(f.score for f in findings)])


_NOT_TEXT = (Kind.GARBAGE, Kind.EMPTY)


def run_smoke(
    model: str | os.PathLike[str],
    options: EngineOptions,
    *,
    n_predict: int = N_PREDICT,
    prompts: Sequence[Prompt] = PROMPTS,
    progress: Callable[[Answer], None] = lambda _: None,
) -> tuple[Answer, ...]:
    """Answers of at most `n_predict` tokens each, greedy, without thinking.

    A model that has no chat template continues the prompt instead. `progress` gets each answer as
    it comes. Raises EngineFailed if the model does not load or a request fails.
    """
    chats = has_template(model, options)
    answers = []
    with open_engine(model, options) as engine:
        for prompt in prompts:
            answers.append(answer(engine, prompt, n_predict, chats=chats))
            progress(answers[-1])
    return tuple(answers)


def answer(engine: Engine, prompt: Prompt, n_predict: int, *, chats: bool) -> Answer:
    """One answer of a running engine. Raises EngineFailed."""
    if chats:
        reply = engine.chat(prompt.question, n_predict, with_nll=True)
    else:
        reply = engine.generate(prompt.as_text, n_predict, with_nll=True)
    # A model may think although it was told not to; its thoughts must not loop either.
    text = "\n".join(part for part in (reply.thoughts, reply.text) if part)
    return Answer(prompt.name, text, reply.truncated, reply.n_tokens, reply.mean_nll)


# -- the verdict ---------------------------------------------------------------------------------

# Measured on 19 variants of SmolLM2-135M-Instruct and 6 of Gemma 3 270M, read by eye, 112 or 128
# tokens an answer. SmolLM2 itself: 1 to 3 of 8 answers with a finding, 24 to 31 % damage, 0.54 nats
# per token; its readable variants 1 to 3, 25 to 43 %, 0.55 to 0.64; those that loop 6 to 8, 61 to
# 100 %; one between the two (blocks:20,24) 4 to 6, 36 to 50 %. Word salad may have no finding at
# all, but 1.2 to 1.4 nats. Gemma, which has no template, loops by itself in 6 or 7 of 8 answers,
# 65 to 80 %, 0.30 nats.
_MAX_FAILED_SHARE = 0.5
_MAX_NOT_TEXT = 1
_MAX_MORE_FAILED = 3
_MAX_MORE_DAMAGE = 0.25
_MAX_SURPRISE = 1.1
_MAX_MORE_SURPRISE = 0.4
_UNTELLING_DAMAGE = 0.75
_FEW_TOKENS = 0.25


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt: the variant's answer, and the base's where there is one."""

    variant: Answer
    base: Answer | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the answers say of the variant.

    `reasons` says why it failed, and is empty if it passed; `notes` what to keep in mind.
    """

    rows: tuple[Row, ...]
    reasons: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the variant."""
        return not self.reasons


@dataclass(frozen=True, slots=True)
class Tally:
    """Answers to all prompts: how many have a finding, how many are no text, and their means.

    `surprise` is the mean of those that have one, in nats per token.
    """

    n: int
    n_failed: int
    n_not_text: int
    damage: float
    surprise: float
    n_tokens: int

    @classmethod
    def of(cls, answers: Iterable[Answer]) -> Tally:
        """The counts of these answers."""
        answers = list(answers)
        kinds = [{f.kind for f in a.findings} for a in answers]
        return cls(
            len(answers),
            sum(map(bool, kinds)),
            sum(not k.isdisjoint(_NOT_TEXT) for k in kinds),
            fmean(a.damage for a in answers),
            fmean([a.surprise for a in answers if a.surprise is not None] or [0.0]),
            sum(a.n_tokens for a in answers),
        )


def compare(variant: Sequence[Answer], base: Sequence[Answer] | None = None) -> Verdict:
    """The verdict on a variant, beside its base's answers to the same prompts or without.

    Without, half of the answers may not be damaged, and no more than one may be no text. With,
    the variant may not be clearly worse than the base is.
    """
    if not variant:
        raise ValueError("no answers to judge")
    if base is None:
        return Verdict(tuple(Row(a, None) for a in variant), *_alone(Tally.of(variant)))
    if [a.prompt for a in variant] != [a.prompt for a in base]:
        raise ValueError("the two models answered different prompts")
    rows = tuple(Row(a, b) for a, b in zip(variant, base, strict=True))
    return Verdict(rows, *_beside(Tally.of(variant), Tally.of(base)))


def _alone(have: Tally) -> tuple[tuple[str, ...], tuple[str, ...]]:
    reasons = []
    if have.n_not_text > _MAX_NOT_TEXT:
        reasons.append(f"{have.n_not_text} of {have.n} answers are no text")
    if have.n_failed > _MAX_FAILED_SHARE * have.n:
        reasons.append(
            f"{have.n_failed} of {have.n} answers loop, repeat themselves or are no text"
        )
    if have.surprise > _MAX_SURPRISE:
        reasons.append(f"{have.surprise:.2f} nats per token: the model guesses its own words")
    notes = ("small models loop by themselves: compare with the source to be sure",)
    return tuple(reasons), notes if reasons else ()


def _beside(have: Tally, base: Tally) -> tuple[tuple[str, ...], tuple[str, ...]]:
    reasons = []
    if have.n_not_text > base.n_not_text + _MAX_NOT_TEXT:
        reasons.append(
            f"{have.n_not_text} of {have.n} answers are no text, {base.n_not_text} of the base's"
        )
    if have.n_failed >= base.n_failed + _MAX_MORE_FAILED:
        reasons.append(
            f"{have.n_failed} of {have.n} answers loop, repeat themselves or are no text, "
            f"{base.n_failed} of the base's"
        )
    if have.damage > base.damage + _MAX_MORE_DAMAGE:
        reasons.append(
            f"{have.damage:.0%} of the text is repeated or no text, {base.damage:.0%} of the base's"
        )
    if have.surprise > base.surprise + _MAX_MORE_SURPRISE:
        reasons.append(
            f"{have.surprise:.2f} nats per token: the model guesses its own words, the base's "
            f"{base.surprise:.2f} are surer"
        )
    notes = []
    if base.damage > _UNTELLING_DAMAGE:
        notes.append(
            f"{base.damage:.0%} of the base's own text is repeated or no text: a comparison with "
            f"it says little"
        )
    if have.n_tokens < _FEW_TOKENS * base.n_tokens:
        notes.append(f"the answers are short: {have.n_tokens} tokens, the base's {base.n_tokens}")
    return tuple(reasons), tuple(notes)


def report(verdict: Verdict) -> Iterator[str]:
    """The verdict in lines that are safe to print: every prompt, and the text that offends."""
    width = max(len(row.variant.prompt) for row in verdict.rows)
    for row in verdict.rows:
        beside = f"   (base: {_summary(row.base)})" if row.base else ""
        yield f"{row.variant.prompt:{width}}  {_summary(row.variant)}{beside}"
        for excerpt in dict.fromkeys(f.excerpt for f in row.variant.findings):
            yield f"{'':{width}}  | {printable(excerpt, _EXCERPT)}"
    yield from (f"note: {note}" for note in verdict.notes)
    yield from (f"failed: {reason}" for reason in verdict.reasons)


def _summary(answer: Answer) -> str:
    said = "; ".join(f"{f.kind.value}, {f.what}" for f in answer.findings)
    surprise = "" if answer.surprise is None else f" {answer.surprise:.2f} nats"
    return f"{answer.damage:4.0%}{surprise} {said or 'no finding'}"


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict as plain values, with every answer in full."""
    return {
        "ok": verdict.passed,
        "reasons": list(verdict.reasons),
        "notes": list(verdict.notes),
        "prompts": [
            {
                "prompt": row.variant.prompt,
                "variant": _answer_json(row.variant),
                "base": _answer_json(row.base) if row.base else None,
            }
            for row in verdict.rows
        ],
    }


def _answer_json(answer: Answer) -> dict[str, Any]:
    findings = [
        {"kind": f.kind.value, "score": f.score, "what": f.what, "excerpt": f.excerpt}
        for f in answer.findings
    ]
    return {
        "text": answer.text,
        "truncated": answer.truncated,
        "tokens": answer.n_tokens,
        "damage": answer.damage,
        "surprise": answer.surprise if answer.surprise not in (math.inf, None) else None,
        "findings": findings,
    }
