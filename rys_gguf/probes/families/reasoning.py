"""Short puzzles with one right answer: causes, dates, orders, walks and sums told as stories.

Every answer is computed from the structure the text is made of, never from an opinion. The right
option goes round with the index of the item, so that answers are balanced by construction.
"""

# Levels and coins are small numbers that mean themselves.
# ruff: noqa: PLR2004

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from functools import cache, reduce
from itertools import permutations
from math import prod
from operator import and_

from rys_gguf.probes.draw import Place
from rys_gguf.probes.families.words import NAMES, NUMBERS, ORDINALS, THINGS
from rys_gguf.probes.item import LETTERS, YES_NO, Choice, Item, Number

FAMILY = "reasoning"


def _choice(
    topic: str, level: int, name: str, question: str, answer: str, texts: Sequence[str] = ()
) -> Choice:
    return Choice(
        id=name,
        family=FAMILY,
        topic=topic,
        level=level,
        question=question,
        answer=answer,
        options=LETTERS[: len(texts)] if texts else YES_NO,
        texts=tuple(texts),
    )


def _placed(rng: random.Random, right: str, wrong: Sequence[str], index: int) -> list[str]:
    """The options, the right one where `index` puts it."""
    texts = rng.sample(wrong, len(wrong))
    texts.insert(index % (len(wrong) + 1), right)
    return texts


def _list(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


# -- causal: what would have been otherwise, and what was meant ----------------------------------

# An outcome in the present, in the past, and what happens instead; what brings it about, when it is
# mentioned first and later.
_DEVICES = (
    ("The lamp", "lights up", "lit up", "stayed dark", "press a button", "press a button"),
    ("The gate", "opens", "opened", "stayed shut", "pull a lever", "pull a lever"),
    ("The bell", "rings", "rang", "stayed silent", "pull a cord", "pull a cord"),
    ("The motion", "passes", "passed", "failed", "vote for a motion", "vote for it"),
    ("The letter", "goes out", "went out", "was held back", "sign a letter", "sign it"),
    ("The pump", "starts", "started", "stood still", "turn a key", "turn a key"),
    ("The raft", "tips over", "tipped over", "stayed level", "jump on a raft", "jump on it"),
    ("The trip", "takes place", "took place", "was called off", "ask for a trip", "ask for it"),
    ("The rope", "tears", "tore", "held", "pull at a rope", "pull at it"),
    (
        "The fire",
        "goes out",
        "went out",
        "kept burning",
        "pour water on a fire",
        "pour water on it",
    ),
)
_PAST = {
    "sign": "signed",
    "vote": "voted",
    "press": "pressed",
    "pull": "pulled",
    "turn": "turned",
    "jump": "jumped",
    "ask": "asked",
    "pour": "poured",
}
_ASIDES = (
    "{} had been advised against it.",
    "{} was proud of it afterwards.",
    "{} had slept badly the night before.",
    "Everyone talked about {} that day.",
    "{} had never liked the idea.",
)
_CHANGES = (
    "If {} alone had done the opposite, would the outcome have been different?",
    "Would the outcome have changed if {}, and nobody else, had done the opposite?",
    "Suppose that {}, and nobody else, had done the opposite. Would the outcome be different?",
)

_Rule = Callable[[frozenset[int]], bool]


def _rules(level: int, names: Sequence[str], act: str) -> list[tuple[str, _Rule]]:
    """Conditions: in words, and as functions of the set of those who act, by number.

    They go with "if, and only if,": "if" alone or "only if" alone would leave a case open.
    """
    verb, _, rest = act.partition(" ")
    acts = f"{verb}{'es' if verb.endswith('ss') else 's'} {rest}"
    n = len(names)
    every = "both" if n == 2 else "all"
    simple: list[tuple[str, _Rule]] = [
        (f"at least one of them {acts}", bool),
        (f"{every} of them {act}", lambda who: len(who) == n),
    ]
    counting: list[tuple[str, _Rule]] = [
        (f"at least two of them {act}", lambda who: len(who) >= 2),
        (f"exactly one of them {acts}", lambda who: len(who) == 1),
    ]
    if level < 3:
        return simple + counting * (level == 2)
    a, b, c, d = names
    return [
        *counting,
        (
            f"{d} does not {act} but at least one of the others does",
            lambda w: 3 not in w and bool(w),
        ),
        (
            f"{d} does not {act} but either {a} does or both {b} and {c} do",
            lambda w: 3 not in w and (0 in w or {1, 2} <= w),
        ),
        (f"{a} and at least one of the others {act}", lambda w: 0 in w and len(w) > 1),
        (f"{a} {acts} or all of {b}, {c} and {d} do", lambda w: 0 in w or len(w) == 3),
    ]


def _difference(rng: random.Random, level: int, index: int) -> tuple[str, str]:
    """A rule, who acted, and whether one of them made a difference; level 0: what came of it."""
    thing, does, did, did_not, may, act = rng.choice(_DEVICES)
    names = rng.sample(NAMES, max(2, level + 1))
    wanted = YES_NO[index % 2]
    # Chosen before there is an answer to fit: a rule alone must not give it away.
    condition, rule = rng.choice(_rules(level, names, act))
    while True:
        who = frozenset(k for k in range(len(names)) if rng.random() < 0.5)
        target = rng.randrange(len(names))
        happened = rule(who)
        changed = rule(who ^ {target}) != happened
        if (changed if level else happened) == (wanted == "yes"):
            break
    verb, _, rest = act.partition(" ")
    acted = [names[k] for k in rng.sample(range(len(names)), len(names)) if k in who]
    idle = [name for name in names if name not in acted]
    lines = [f"{_list(names)} can each {may}. {thing} {does} if, and only if, {condition}."]
    lines += [f"{_list(acted)} {_PAST[verb]} {rest}."] * bool(acted)
    if idle:
        nobody = "Neither" if len(names) == 2 else "None"
        lines.append(
            f"{_list(idle)} did not." if acted else f"{nobody} of them {_PAST[verb]} {rest}."
        )
    if level == 0:
        what = f"{thing[0].lower()}{thing[1:]}"
        base = {"tips": "tip", "goes": "go", "takes": "take", "passes": "pass"}
        first, _, more = does.partition(" ")
        verb = base.get(first, first.removesuffix("s"))
        lines.append(f"Did {what} {verb} {more}".strip() + "?")
        return " ".join(lines), wanted
    lines.append(f"{thing} {did if happened else did_not}.")
    lines += [rng.choice(_ASIDES).format(rng.choice(names))] * (level >= 2)
    lines.append(rng.choice(_CHANGES).format(names[target]))
    return " ".join(lines), wanted


# What someone did, and two things that come of it. Either may be the aim: the text says which.
_AIMS = (
    ("opened the window", "cool the room", "let the cat out"),
    ("lit the stove", "warm the room", "dry the wet coats"),
    ("cut down the old tree", "let light into the house", "get some firewood"),
    ("walked to work", "save the bus fare", "get some exercise"),
    ("dug a ditch", "drain the wet lawn", "keep the sheep out"),
    ("sold the car", "pay off a loan", "free up the garage"),
    ("mowed the meadow", "keep the path clear", "make hay for the goats"),
    ("baked six loaves", "feed the guests", "fill the house with a good smell"),
    ("took the night train", "save a hotel bill", "reach the coast by dawn"),
    ("painted the fence", "protect the wood", "brighten up the yard"),
    ("turned up the radio", "hear the news", "wake the children"),
    ("closed the blinds", "keep the sun out", "hide the mess from the street"),
    ("moved the desk", "get more daylight", "make room for a bed"),
    ("joined the choir", "learn to sing", "meet new people"),
)
_AIMED = (
    "{a} {did} in order to {aim}. {a} knew that it would also help to {side}, but did not care.",
    "{a} {did} in order to {aim}. That it would help to {side} as well was news to {a}.",
    "{a} {did}. As {a} knew, it would help to {side}, but all that {a} wanted was to {aim}.",
    "All that {a} wanted was to {aim}, so {a} {did}. By accident it helped to {side} too.",
)
_BOTH_AIMED = (
    "{a} and {b} {did} together: {a} in order to {aim}, {b} in order to {side}.",
    "{a} and {b} {did} together to {aim} and {side}: {a} wanted only the first, {b} the second.",
    "{a} and {b} {did} together. All that {a} wanted was to {aim}; {b} only wanted to {side}.",
)


def _intention(rng: random.Random, level: int, index: int) -> tuple[str, str]:
    """An aim that is stated, something else that came of it, and which of them was meant."""
    did, *effects = rng.choice(_AIMS)
    aim, side = rng.sample(effects, 2)
    a, b = rng.sample(NAMES, 2)
    text = rng.choice(_AIMED if level < 3 else _BOTH_AIMED).format(
        a=a, b=b, did=did, aim=aim, side=side
    )
    asides = f" {rng.choice(_ASIDES[1:4]).format(a)}" * (level >= 2)
    wanted = YES_NO[index % 2]
    asked = rng.choice((a, b)) if level >= 3 else a
    own, other = (aim, side) if asked == a else (side, aim)
    what = own if wanted == "yes" else other
    question = rng.choice(("Was it {}'s aim to {}?", "Did {} do it in order to {}?"))
    return f"{text}{asides} {question.format(asked, what)}", wanted


def _causal(rng: random.Random, level: int, index: int, name: str) -> Item:
    make = _intention if index // 2 % 3 == 2 else _difference
    return _choice("causal", level, name, *make(rng, level, index))


# -- date ----------------------------------------------------------------------------------------

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
    """Some days and months later. Only a day that every month has can be moved by months."""
    days, months = (n * times for n in step)
    month = day.year * 12 + day.month - 1 + months
    return day.replace(year=month // 12, month=month % 12 + 1) + timedelta(days)


def _present(
    rng: random.Random, level: int, today: date, say: Callable[[date], str]
) -> tuple[str, _Span]:
    """A text that fixes today's date, and how far the date that it names is from today."""
    kinds = ("today", "yesterday", "tomorrow", "anniversary", "after", "weekday", "deadline")
    kind = rng.choice(kinds[: (1, 3, 7, 7)[level]])
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
    """What is asked, and the steps that lead there from today."""
    if level >= 3:
        text, steps = "From today, count", []
        for k in range(3):
            n, unit = rng.randint(2, 12), rng.choice((1, 7))
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
    """Dates that lie some steps of either kind apart, among them the right one.

    It is as likely in any place of the grid, so that the options do not tell which of them it is.
    """
    down, along = (
        range(-at, n - at) for at, n in zip(map(rng.randrange, shape), shape, strict=True)
    )
    return [_moved(_moved(right, by[0], y), by[1], x) for y in down for x in along]


def _dated(
    rng: random.Random, level: int, say: Callable[[date], str]
) -> tuple[str, date, list[date]] | None:
    """A question, the right date and all to choose from, or None if what was drawn will not do.

    Whether it will do may depend on all options, but not on which of them is right.
    """
    right = date(1950, 1, 1) + timedelta(rng.randrange(90 * 365))
    while True:
        question, steps = _question(rng, level)
        days, months = (sum(n) for n in zip(*steps, strict=True))
        # Months have different ends, and only some Februaries a 29th: no question about that.
        if (level == 0 or months) and right.day > 28:
            return None
        today = _moved(right - timedelta(days), (0, -months))
        if level or (today.month == right.month and today.day <= 28):
            break
    try:
        text, away = _present(rng, level, today, say)
        # Slips: a step, or the way to the date in the text, forgotten or gone the other way.
        slips = [away, *steps, *((2 * d, 2 * m) for d, m in steps)]
        slips = [s for s in slips if abs(s[0]) > 1 or s[1]]
        near = [(1, 0), (1, 0), (7, 0), (0, 1), *[(0, 12)] * bool(level)]
        by = rng.choice(slips), rng.choice(near)
        shape = rng.choice(((2, 3), (3, 2))) if level else (2, 2)
        dates = _grid(rng, right, by, shape)
    except ValueError:  # a day that the month does not have
        return None
    if len(set(map(say, dates))) < len(dates) or _moved(today, away) == right:
        return None
    if level == 0 or months or by[0][1] or by[1][1]:
        # Short months would warp the grid, and the right date would have a day that others lack.
        if any(d.day > 28 for d in dates):
            return None
        expected = prod(n for n, (_, m) in zip(shape, by, strict=True) if m)
        if not (months and expected == 1) and len({(d.year, d.month) for d in dates}) > expected:
            return None
    return f"{text} {question}", right, dates


def _date(rng: random.Random, level: int, index: int, name: str) -> Item:
    say = rng.choice(_SHORT if level == 0 else _FORMATS)
    while (drawn := _dated(rng, level, say)) is None:
        pass
    question, right, dates = drawn
    texts = _placed(rng, say(right), [say(d) for d in dates if d != right], index)
    answer = LETTERS[texts.index(say(right))]
    return _choice("date", level, name, question, answer, texts)


# -- logic: an order from clues ------------------------------------------------------------------

_COLOURS = ("red", "blue", "green", "white", "black", "yellow", "brown", "grey", "pink", "purple")

# Who or what stands in order; "x comes before y", "after", "next to", "x is nth", "x is at no end",
# and the question.
_ORDERS = (
    (
        "{n} books stand on a shelf: {all}.",
        "{x} is to the left of {y}",
        "{x} is to the right of {y}",
        "{x} and {y} stand side by side",
        "{x} is {nth} from the left",
        "{x} is not at either end",
        "Which one is {nth} from the left?",
    ),
    (
        "{n} runners finished a race, no two at the same time: {all}.",
        "{x} finished before {y}",
        "{x} finished after {y}",
        "nobody finished between {x} and {y}",
        "{x} finished {nth}",
        "{x} was neither first nor last",
        "Who finished {nth}?",
    ),
    (
        "{n} people stand in a queue: {all}.",
        "{x} is somewhere in front of {y}",
        "{x} is somewhere behind {y}",
        "nobody stands between {x} and {y}",
        "{x} is {nth} in the queue",
        "{x} is neither at the front nor at the back",
        "Who is {nth} in the queue?",
    ),
    (
        "{n} boxes are stacked on a table: {all}.",
        "{x} is somewhere below {y}",
        "{x} is somewhere above {y}",
        "{x} and {y} touch each other",
        "{x} is {nth} from the bottom",
        "{x} is neither at the top nor at the bottom",
        "Which one is {nth} from the bottom?",
    ),
)
_OBJECTS = (2, 3, 5, 7)  # by level

_Clue = tuple[str, int]  # a text, and the orders of n that it leaves, a bit each


@cache
def _orders(n: int) -> tuple[tuple[int, ...], ...]:
    """All orders of n objects: the place of each."""
    return tuple(permutations(range(n)))


@cache
def _that(n: int, relation: str, x: int, y: int) -> int:
    """The orders of n in which object x is "before" or "beside" object y, or "at" place y."""
    test: dict[str, Callable[[Sequence[int]], bool]] = {
        "before": lambda at: at[x] < at[y],
        "beside": lambda at: abs(at[x] - at[y]) == 1,
        "at": lambda at: at[x] == y,
    }
    holds = test[relation]
    return sum(1 << k for k, at in enumerate(_orders(n)) if holds(at))


def _true_clues(
    rng: random.Random, words: Sequence[str], names: Sequence[str], at: Sequence[int], level: int
) -> list[_Clue]:
    """Everything one might say of an order, where object x is at place at[x]."""
    _, before, after, beside, place, inside, _ = words
    n = len(names)
    clues: list[_Clue] = []
    for x in range(n):
        for y in range(n):
            if at[x] < at[y]:
                text, a, b = rng.choice(((before, x, y), (after, y, x)))
                clues.append((text.format(x=names[a], y=names[b]), _that(n, "before", x, y)))
            if n > 2 and at[x] == at[y] + 1:
                clues.append((beside.format(x=names[x], y=names[y]), _that(n, "beside", x, y)))
        if level < 3 and n > 2:
            text = place.format(x=names[x], nth=ORDINALS[at[x]])
            clues.append((text, _that(n, "at", x, at[x])))
        if n > 3 and 0 < at[x] < n - 1:
            ends = _that(n, "at", x, 0) | _that(n, "at", x, n - 1)
            clues.append((inside.format(x=names[x]), _every(n) & ~ends))
    return clues


def _every(n: int) -> int:
    return (1 << len(_orders(n))) - 1


def _is_one(orders: int) -> bool:
    return orders > 0 and orders & (orders - 1) == 0


def _left(clues: Sequence[_Clue], n: int) -> int:
    """The orders that all clues leave."""
    return reduce(and_, (orders for _, orders in clues), _every(n))


def _enough(rng: random.Random, clues: Sequence[_Clue], n: int) -> list[_Clue]:
    """Some of the clues, none to spare, that leave one order of n, as all of them must."""
    chosen: list[_Clue] = []
    left = _every(n)
    for clue in rng.sample(clues, len(clues)):
        if left & clue[1] != left:
            chosen.append(clue)
            left &= clue[1]
    assert _is_one(left)
    for clue in list(chosen):
        rest = [c for c in chosen if c is not clue]
        if _is_one(_left(rest, n)):
            chosen = rest
    return chosen


def _logic(rng: random.Random, level: int, index: int, name: str) -> Item:
    n = _OBJECTS[level]
    words = rng.choice(_ORDERS)
    if "Which" in words[6]:
        thing = "book" if "books" in words[0] else "box"
        names = [f"the {colour} {thing}" for colour in rng.sample(_COLOURS, n)]
    else:
        names = rng.sample(NAMES, n)
    at = rng.sample(range(n), n)
    asked = rng.randrange(n)
    right = names[at.index(asked)]
    clues = _true_clues(rng, words, names, at, level)
    # The answer must not stand in the text as it is asked for.
    given = words[4].format(x=right, nth=ORDINALS[asked])
    chosen = _enough(rng, [c for c in clues if c[0] != given], n)
    rng.shuffle(chosen)
    said = ". ".join(text[0].upper() + text[1:] for text, _ in chosen)
    intro = words[0].format(n=NUMBERS[n].capitalize(), all=_list(rng.sample(names, n)))
    question = words[6].format(nth=ORDINALS[asked])
    texts = _placed(rng, right, [x for x in names if x != right], index)
    answer = LETTERS[texts.index(right)]
    return _choice("logic", level, name, f"{intro} {said}. {question}", answer, texts)


# -- navigate: does a walk lead back -------------------------------------------------------------

_WALKS = (((2, 3), (3,)), ((3, 4, 5), (3, 4, 5)), ((5, 6, 7, 8),) * 2, ((8, 9, 10, 11, 12),) * 2)
_SIDES = {"forward": (0, 1), "backward": (0, -1), "left": (-1, 0), "right": (1, 0)}
_TURNS = {"left": -1, "right": 1, "around": 2}
_HEADINGS = ((0, 1), (1, 0), (0, -1), (-1, 0))
_START = ("You walk on a field.", "Follow these instructions.", "You are on an open square.")
_BACK = (
    "Are you back where you started?",
    "Do you end up at the point you started from?",
    "Does this lead you back to the start?",
)


def _walk(
    rng: random.Random, n: int, most: int, *, turning: bool
) -> tuple[list[str], int, int, bool]:
    """A walk of n instructions of up to `most` steps, its end, whether all ways are undone."""
    said: list[str] = []
    ways: set[tuple[int, int]] = set()
    x = y = heading = 0
    for k in range(n):
        last_turned = bool(said) and said[-1].startswith("Turn")
        if turning and not last_turned and k < n - 1 and rng.random() < 0.75:
            turn = rng.choice(tuple(_TURNS))
            heading = (heading + _TURNS[turn]) % 4
            said.append(f"Turn {turn}.")
            continue
        steps = rng.randint(1, most)
        side, (dx, dy) = "", _HEADINGS[heading]
        if not turning:
            side, (dx, dy) = rng.choice(tuple(_SIDES.items()))
        said.append(f"Take {steps} step{'s' * (steps > 1)} {side}".rstrip() + ".")
        x, y = x + steps * dx, y + steps * dy
        ways.add((dx, dy))
    return said, x, y, all((-dx, -dy) in ways for dx, dy in ways)


def _navigate(rng: random.Random, level: int, index: int, name: str) -> Item:
    wanted, turning, near = YES_NO[index % 2], index // 2 % 2 == 1, index // 4 % 2 == 0
    n = rng.choice(_WALKS[level][turning])
    while True:
        said, x, y, undone = _walk(rng, n, 10, turning=turning)
        # Those that do not lead back end an even number of steps away on both axes: no parity
        # gives them away. Half of them lead back on one axis, and go no way without its opposite.
        back, even = (x, y) == (0, 0), x % 2 == y % 2 == 0
        no = even and not back and (0 in (x, y)) is near and (undone or not near)
        if back if wanted == "yes" else no:
            break
    start = rng.choice(_START)
    face = "" if turning else " Always face the same way."
    text = f"{start}{face} {' '.join(said)} {rng.choice(_BACK)}"
    return _choice("navigate", level, name, text, wanted)


# -- story: sums told with things and people -----------------------------------------------------

# A step: its kind, its text, what it makes of the number so far, and what a careless reader does.
_Step = tuple[str, str, Callable[[int], int], Callable[[int], int]]
_PERCENT = (10, 20, 25, 50)
_TIMES = {2: "doubles", 3: "triples", 4: "quadruples"}
_IDLE = (
    "{a} is {n} years old.",
    "The nearest shop is {n} minutes away.",
    "{a}'s street has {n} houses.",
    "{b} owns {n} hats.",
    "It is {n} degrees outside.",
    "The school has {n} rooms.",
)


def _steps(rng: random.Random, have: int, a: str, b: str, things: str, level: int) -> list[_Step]:
    """What may happen to `have` things next."""
    n, k = rng.randint(2, 12 if level < 2 else 60), rng.randint(2, 4 if level < 2 else 9)
    times, percent = rng.randint(2, 4), rng.choice(_PERCENT)
    gain, loss = lambda m: m + n, lambda m: m - n
    steps: list[_Step] = [
        ("get", f"{b} gives {a} {n} more {things}.", gain, loss),
        ("find", f"{a} finds another {n} {things}.", gain, loss),
        ("buy", f"{a} buys {k} bags with {n} {things} in each.", lambda m: m + k * n, gain),
    ]
    if n < have:
        steps.append(("give", f"{a} gives {n} {things} to {b}.", loss, gain))
        steps.append(("lose", f"{a} loses {n} {things}.", loss, gain))
    if n * k < have:
        text = f"{a} sells {n} {things} a day for {k} days."
        steps.append(("daily", text, lambda m: m - k * n, loss))
    if have < 1000:
        text = f"Then the number of {things} that {a} has {_TIMES[times]}."
        steps.append(("times", text, lambda m: m * times, lambda m: m + times))
    if have % k == 0 and have > k:
        text = (
            f"{a} packs all the {things} {a} has into {k} boxes, the same number in each, "
            "and keeps only one of the boxes."
        )
        steps.append(("share", text, lambda m: m // k, lambda m: m - k))
    if level and have * percent % 100 == 0:
        text = f"{a} sells {percent} percent of all the {things} {a} has."
        part: Callable[[int], int] = lambda m: m * percent // 100  # noqa: E731 - as those around it
        steps.append(("part", text, lambda m: m - part(m), part))
    return steps


def _story(rng: random.Random, level: int, index: int, name: str) -> Item:
    while True:
        a, b = rng.sample(NAMES, 2)
        things = rng.choice(THINGS)
        n_steps = rng.randint(*((1, 1), (2, 2), (3, 4), (5, 7))[level])
        start = have = rng.randint(3, 30) if level < 2 else rng.randint(20, 300)
        steps: list[_Step] = []
        for _ in range(n_steps):
            told = {kind for kind, *_ in steps}
            fresh = [s for s in _steps(rng, have, a, b, things, level) if s[0] not in told]
            steps += [rng.choice(fresh)] if fresh else []
            have = steps[-1][2](have)
        idle = rng.randint(2, 60) if level and rng.random() < 0.3 else 0
        wrong = _wrong(rng, start, steps, idle)
        if len(steps) == n_steps and 0 < have <= 10_000 and len(wrong) >= 3:
            break
    lines = [f"{a} has {start} {things}.", *(text for _, text, *_ in steps)]
    if idle:
        lines.insert(rng.choice((0, 1)), rng.choice(_IDLE).format(a=a, b=b, n=idle))
    lines.append(f"How many {things} does {a} have {rng.choice(('now', 'in the end'))}?")
    texts = _placed(rng, str(have), [str(w) for w in wrong[:3]], index)
    return Number(
        id=name,
        family=FAMILY,
        topic="story",
        level=level,
        question=" ".join(lines),
        answer=have,
        texts=tuple(texts),
    )


def _wrong(rng: random.Random, start: int, steps: Sequence[_Step], idle: int) -> list[int]:
    """What careless readings come to: a step left out or misread, the idle number used."""

    def run(skipped: int = -1, misread: int = -1) -> int:
        have = start
        for k, (_, _, right, careless) in enumerate(steps):
            if k != skipped:
                have = (careless if k == misread else right)(have)
        return have

    right = run()
    slips = [run(skipped=k) for k in range(len(steps))] + [
        run(misread=k) for k in range(len(steps))
    ]
    slips += [right + idle] * bool(idle)
    rng.shuffle(slips)
    near = [right + 1, right - 1, right + 10, right - 10, right + 2]
    return [w for w in dict.fromkeys(slips + rng.sample(near, len(near))) if w > 0 and w != right]


# -- the family ----------------------------------------------------------------------------------

_TOPICS: dict[str, Callable[[random.Random, int, int, str], Item]] = {
    "causal": _causal,
    "date": _date,
    "logic": _logic,
    "navigate": _navigate,
    "story": _story,
}


def topics(level: int) -> tuple[str, ...]:  # noqa: ARG001 - as in the other families
    """The topics of a level."""
    return tuple(_TOPICS)


def make(rng: random.Random, place: Place) -> Item:
    """One item. The place of its answer goes round with the index."""
    return _TOPICS[place.topic](rng, place.level, place.index, place.name)
