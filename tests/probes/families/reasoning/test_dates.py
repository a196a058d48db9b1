"""Dates: checked by the calendar, and not to be guessed from the options."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta

import pytest

from rys_gguf.probes.item import Choice
from rys_gguf.probes.names import LEVELS
from tests.probes.made import items, made

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
NTH = {word: k for k, word in enumerate(ORDINALS)}


MONTHS = {date(2000, m, 1).strftime("%B"): m for m in range(1, 13)}


def dates(text: str) -> list[date]:
    """All dates in a text, in any format; dates without a year are in 2001."""
    days = []
    for m in re.finditer(
        r"(\d{4})-(\d\d)-(\d\d)|(\d+) ([A-Z][a-z]+)(?: (\d{4}))?|([A-Z][a-z]+) (\d+)(?:, (\d{4}))?",
        text,
    ):
        g = m.groups()
        if g[0]:
            days.append(date(int(g[0]), int(g[1]), int(g[2])))
        elif g[4] in MONTHS:
            days.append(date(int(g[5] or 2001), MONTHS[g[4]], int(g[3])))
        elif g[6] in MONTHS:
            days.append(date(int(g[8] or 2001), MONTHS[g[6]], int(g[7])))
    return days


def months_later(day: date, n: int) -> date:
    """The same day of another month."""
    month = day.year * 12 + day.month - 1 + n
    return day.replace(year=month // 12, month=month % 12 + 1)


def test_dates_by_counting() -> None:
    """The first sentences give today, the question the date; exactly one option is right."""
    for item in items("date"):
        assert isinstance(item, Choice)
        text = item.question
        (shown,) = dates(text)
        today = shown
        if text.startswith("Yesterday"):
            today += timedelta(1)
        elif text.startswith("Tomorrow"):
            today -= timedelta(1)
        elif m := re.search(r"exactly (\d+) years later", text):
            today = months_later(shown, 12 * int(m.group(1)))
        elif m := re.search(r"Today, (\d+) days later", text):
            today += timedelta(int(m.group(1)))
        elif m := re.search(r"exactly (\d+) weeks from today", text):
            today -= timedelta(7 * int(m.group(1)))
        elif m := re.search(r"is a (\w+)\. Today is the (\w+) (\w+) of that month", text):
            assert shown.strftime("%A") == m.group(1)
            every = [shown + timedelta(n) for n in range(31)]
            today = [d for d in every if d.strftime("%A") == m.group(3)][NTH[m.group(2)]]
        question = text[text.rindex(". ") + 2 :] if "Which date" not in text else text
        units = {"days": 1, "weeks": 7}
        if chain := re.findall(r"(\d+) (days|weeks) (back|forward)", question):
            days = sum(int(n) * units[u] * (1 if w == "forward" else -1) for n, u, w in chain)
            right = today + timedelta(days)
        elif m := re.search(r"(\d+) days ago", question):
            right = today - timedelta(int(m.group(1)))
        elif m := re.search(r"in (\d+) days", question):
            right = today + timedelta(int(m.group(1)))
        else:
            moves: dict[str, Callable[[date], date]] = {
                "tomorrow?": lambda d: d + timedelta(1),
                "yesterday?": lambda d: d - timedelta(1),
                "a week ago?": lambda d: d - timedelta(7),
                "in a week?": lambda d: d + timedelta(7),
                "two weeks ago?": lambda d: d - timedelta(14),
                "two weeks from today?": lambda d: d + timedelta(14),
                "one month ago?": lambda d: months_later(d, -1),
                "one month from today?": lambda d: months_later(d, 1),
                "one year ago?": lambda d: months_later(d, -12),
                "one year from today?": lambda d: months_later(d, 12),
            }
            right = moves[re.sub(r"^What date (?:is it|was it|will it be) ", "", question)](today)
        options = [dates(t)[0] for t in item.texts]
        assert len(set(options)) == len(options)
        assert options[item.options.index(item.answer)] == right, text


Score = Callable[[list[date], date], float]
HEURISTICS: dict[str, Score] = {
    "neighbours": lambda o, d: sum(abs((d - x).days) == 1 for x in o),
    "weeks apart": lambda o, d: sum(abs((d - x).days) % 7 == 0 for x in o),
    "median": lambda o, d: -abs(sorted(o).index(d) - len(o) // 2),
    "centre": lambda o, d: -sum(abs((d - x).days) for x in o),
    "first": lambda _, d: -d.toordinal(),
    "last": lambda _, d: d.toordinal(),
    "common day": lambda o, d: sum(d.day == x.day for x in o),
    "common month": lambda o, d: sum(d.month == x.month for x in o),
    "common year": lambda o, d: sum(d.year == x.year for x in o),
    "most in common": lambda o, d: sum(
        (d.day == x.day) + (d.month == x.month) + (d.year == x.year) for x in o
    ),
    "middle of the month": lambda _, d: -abs(d.day - 15),
}


@pytest.mark.parametrize("level", LEVELS)
def test_options_do_not_tell_the_date(level: int) -> None:
    """Comparing the options alone gives no better than chance, by any of these rules."""
    right: Counter[str] = Counter()
    dated = made("date", level, 300)
    for item in dated:
        assert isinstance(item, Choice)
        options = [dates(t)[0] for t in item.texts]
        gold = options[item.options.index(item.answer)]
        for name, score in HEURISTICS.items():
            scores = [score(options, d) for d in options]
            picked = [d for d, s in zip(options, scores, strict=True) if s == max(scores)]
            right[name] += (gold in picked) / len(picked)  # type: ignore[assignment]
    for name, hits in right.items():
        assert hits / len(dated) <= dated[0].chance + 0.08, name


def test_likely_mistakes_are_among_the_options() -> None:
    """Options such as the date in the text make items hard."""
    tempting = []
    for item in made("date", 0, 300):
        assert isinstance(item, Choice)
        tempting.append(dates(item.question)[0] in {dates(t)[0] for t in item.texts})
    assert sum(tempting) >= 0.2 * len(tempting)
