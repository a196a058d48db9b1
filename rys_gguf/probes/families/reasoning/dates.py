"""Dates: which day is some steps away from the one that the text fixes."""

# Levels and coins are small numbers that mean themselves.
# ruff: noqa: PLR2004

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import date, timedelta
from math import prod

from rys_gguf.probes.draw import Place, wording
from rys_gguf.probes.families.reasoning.puzzle import choice, with_answer
from rys_gguf.probes.families.words import NAMES, ORDINALS
from rys_gguf.probes.item import LETTERS, Item

_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_FORMATS: tuple[Callable[[date], str], ...] = (
    lambda d: f"{d.day} {_MONTHS[d.month - 1]} {d.year}",
    lambda d: f"{_MONTHS[d.month - 1]} {d.day}, {d.year}",
    lambda d: d.isoformat(),
)
_SHORT: tuple[Callable[[date], str], ...] = (
    lambda d: f"{d.day} {_MONTHS[d.month - 1]}",
    lambda d: f"{_MONTHS[d.month - 1]} {d.day}",
)

_Span = tuple[int, int]  # days and months


def _moved(day: date, step: _Span, times: int = 1) -> date:
    """The day some days and months later. Moved by months, it must be a day that the month has.

    Raises ValueError if it is not, or out of the calendar's range.
    """
    days, months = (n * times for n in step)
    month = day.year * 12 + day.month - 1 + months
    return day.replace(year=month // 12, month=month % 12 + 1) + timedelta(days)


def _present(
    rng: random.Random, level: int, today: date, say: Callable[[date], str]
) -> tuple[str, _Span]:
    """A text that fixes today's date, and how far the date it names is from today."""
    kinds = ("today", "yesterday", "tomorrow", "anniversary", "after", "weekday", "deadline")
    kind = rng.choice(kinds[: (1, 3, 7)[min(level, 2)]])
    n = rng.randint(2, 12)
    a, b = rng.sample(NAMES, 2)
    first = today.replace(day=1)
    away = {
        "today": (0, 0),
        "yesterday": (-1, 0),
        "tomorrow": (1, 0),
        "anniversary": (0, -12 * n),
        "after": (-n, 0),
        "weekday": (1 - today.day, 0),
        "deadline": (7 * n, 0),
    }[kind]
    shown = say(_moved(today, away))
    text = {
        "today": f"Today is {shown}.",
        "yesterday": f"Yesterday was {shown}.",
        "tomorrow": f"Tomorrow is {shown}.",
        "anniversary": f"{a} and {b} married on {shown}. Today is exactly {n} years later.",
        "after": f"The fair opened on {shown}. Today, {n} days later, it is still open.",
        "weekday": f"{shown} is a {_DAYS[first.weekday()]}. Today is the "
        f"{ORDINALS[(today.day - 1) // 7]} {_DAYS[today.weekday()]} of that month.",
        "deadline": f"The deadline is {shown}. That is exactly {n} weeks from today.",
    }[kind]
    return text, away


def _question(rng: random.Random, level: int) -> tuple[str, list[_Span]]:
    """The question, and the steps from today to the date it asks for."""
    if level >= 3:
        text, steps = "From today, count", []
        for k in range(2 * level - 3):
            n, unit = rng.randint(2, 10 * level - 18), rng.choice((1, 7))
            sign = rng.choice((-1, 1))
            text += f"{', then' if k else ''} {n} {'weeks' if unit == 7 else 'days'} "
            text += "back" if sign < 0 else "forward"
            steps.append((n * unit * sign, 0))
        return f"{text}. Which date is that?", steps
    n = rng.randint(2, 5) if level == 0 else rng.randint(3, 20)
    questions = [
        ("What date is it tomorrow?", (1, 0)),
        ("What date was it yesterday?", (-1, 0)),
        (f"What date was it {n} days ago?", (-n, 0)),
        (f"What date will it be in {n} days?", (n, 0)),
        ("What date was it a week ago?", (-7, 0)),
        ("What date will it be in a week?", (7, 0)),
        ("What date was it two weeks ago?", (-14, 0)),
        ("What date will it be two weeks from today?", (14, 0)),
        ("What date was it one month ago?", (0, -1)),
        ("What date will it be one month from today?", (0, 1)),
        ("What date was it one year ago?", (0, -12)),
        ("What date will it be one year from today?", (0, 12)),
    ]
    question, step = rng.choice(questions[: 6 if level == 0 else None])
    return question, [step]


def _grid(
    rng: random.Random, right: date, by: tuple[_Span, _Span], shape: tuple[int, int]
) -> list[date]:
    """A grid of dates, some steps of one kind by some of another, with the right one among them.

    The right date is equally likely to be at any position, so the options do not give it away.
    """
    down, along = (
        range(-at, n - at) for at, n in zip(map(rng.randrange, shape), shape, strict=True)
    )
    return [_moved(_moved(right, by[0], y), by[1], x) for y in down for x in along]


def _dated(
    rng: random.Random, level: int, say: Callable[[date], str]
) -> tuple[str, str, date, list[date]] | None:
    """A text, a question, the right date and all options, or None if this draw cannot be used.

    Whether it can be used may depend on the set of options, but not on which of them is right.
    """
    right = date(1950, 1, 1) + timedelta(rng.randrange(90 * 365))
    while True:
        question, steps = _question(rng, level)
        days, months = (sum(n) for n in zip(*steps, strict=True))
        # Months differ in length, and not every year has a 29th of February: ask about neither.
        if (level == 0 or months) and right.day > 28:
            return None
        today = _moved(right - timedelta(days), (0, -months))
        if level or (today.month == right.month and today.day <= 28):
            break
    try:
        text, away = _present(rng, level, today, say)
        # Likely mistakes leave out or reverse a step, or the way from the text's date to today.
        mistakes = [away, *steps, *((2 * d, 2 * m) for d, m in steps)]
        mistakes = [s for s in mistakes if abs(s[0]) > 1 or s[1]]
        near = [(1, 0), (1, 0), (7, 0), (0, 1), *[(0, 12)] * bool(level)]
        by = rng.choice(mistakes), rng.choice(near)
        shape = rng.choice(((2, 3), (3, 2))) if level else (2, 2)
        dates = _grid(rng, right, by, shape)
    except ValueError:  # a day that the month does not have
        return None
    if len(set(map(say, dates))) < len(dates) or _moved(today, away) == right:
        return None
    if level == 0 or months or by[0][1] or by[1][1]:
        # Short months would distort the grid, and only the right date would keep its day.
        if any(d.day > 28 for d in dates):
            return None
        expected = prod(n for n, (_, m) in zip(shape, by, strict=True) if m)
        if not (months and expected == 1) and len({(d.year, d.month) for d in dates}) > expected:
            return None
    return text, question, right, dates


def make(rng: random.Random, place: Place) -> Item:
    """One item, with four options at level 0 and six above."""
    say = rng.choice(_SHORT if place.level == 0 else _FORMATS)
    while (drawn := _dated(rng, place.level, say)) is None:
        pass
    text, question, right, dates = drawn
    texts = with_answer(rng, say(right), [say(d) for d in dates if d != right], place.index)
    answer = LETTERS[texts.index(say(right))]
    return choice(place, f"{text} {question}", answer, texts, template=wording(question))
