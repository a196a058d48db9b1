"""Orders: which of several things stands at some position, by clues that leave one order."""

# Levels and coins are small numbers that mean themselves.
# ruff: noqa: PLR2004

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache, reduce
from itertools import permutations
from operator import and_

from rys_gguf.probes.draw import Place
from rys_gguf.probes.families.reasoning.puzzle import choice, with_answer
from rys_gguf.probes.families.words import NAMES, NUMBERS, ORDINALS, listed
from rys_gguf.probes.item import LETTERS, Item

_COLOURS = ("red", "blue", "green", "white", "black", "yellow", "brown", "grey", "pink", "purple")

# What is in order; then the wordings of "x comes before y", "x comes after y", "x is next to y",
# "x is nth" and "x is at neither end"; then the question.
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
_ORDERS_OF_PEOPLE = tuple(words for words in _ORDERS if "Who" in words[6])
# By level. More than 7 have too many orders to go through.
_OBJECTS = (2, 3, 5, 7, 7, 7, 7, 7)

# From level 4 on clues call people by what they have. Each kind of thing: what somebody is called
# by it, how it is told who that is, and the things.
_CALLED_BY = (
    ("the one in the {} hat", "{who} wears the {} hat", _COLOURS),
    (
        "the one with the {}",
        "{who} has the {}",
        ("dog", "cat", "horse", "goat", "parrot", "rabbit", "turtle", "pony", "duck"),
    ),
    (
        "the one from {}",
        "{who} comes from {}",
        ("Rome", "Oslo", "Cairo", "Lima", "Paris", "Tokyo", "Delhi", "Quito", "Berlin"),
    ),
    (
        "the one who plays the {}",
        "{who} plays the {}",
        ("piano", "violin", "flute", "drums", "harp", "cello", "guitar", "trumpet", "organ"),
    ),
)

_Clue = tuple[str, int]  # a sentence, and the orders that it allows: a bit for each of _orders(n)


@cache
def _orders(n: int) -> tuple[tuple[int, ...], ...]:
    """All orders of n objects, each as the positions of the objects."""
    return tuple(permutations(range(n)))


@cache
def _allowed(n: int, relation: str, x: int, y: int) -> int:
    """The orders of n in which object x is "before" or "beside" object y, or "at" position y."""
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
    """Every clue that is true of an order, where object x is at position at[x]."""
    _, before, after, beside, place, inside, _ = words
    n = len(names)
    clues: list[_Clue] = []
    for x in range(n):
        for y in range(n):
            if at[x] < at[y]:
                text, a, b = rng.choice(((before, x, y), (after, y, x)))
                clues.append((text.format(x=names[a], y=names[b]), _allowed(n, "before", x, y)))
            if n > 2 and at[x] == at[y] + 1:
                clues.append((beside.format(x=names[x], y=names[y]), _allowed(n, "beside", x, y)))
        if level < 3 and n > 2:
            text = place.format(x=names[x], nth=ORDINALS[at[x]])
            clues.append((text, _allowed(n, "at", x, at[x])))
        if n > 3 and 0 < at[x] < n - 1:
            ends = _allowed(n, "at", x, 0) | _allowed(n, "at", x, n - 1)
            clues.append((inside.format(x=names[x]), _every(n) & ~ends))
    return clues


def _every(n: int) -> int:
    return (1 << len(_orders(n))) - 1


def _is_one(orders: int) -> bool:
    return orders > 0 and orders & (orders - 1) == 0


def _left(clues: Sequence[_Clue], n: int) -> int:
    """The orders that all clues allow."""
    return reduce(and_, (orders for _, orders in clues), _every(n))


def _enough(rng: random.Random, clues: Sequence[_Clue], n: int) -> list[_Clue]:
    """A minimal part of the clues that still leaves one order of n. All clues together must."""
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


def _called_by(
    rng: random.Random, names: Sequence[str], n_steps: int
) -> tuple[list[str], list[str]]:
    """What clues call the people, and the sentences that lead from there to the names.

    Each step calls them by another kind of thing, as in "The one in the red hat has the dog".
    """
    called, links = list(names), []
    for call, tell, things in rng.sample(_CALLED_BY, n_steps):
        own = rng.sample(things, len(names))
        links += [tell.format(thing, who=who) for thing, who in zip(own, called, strict=True)]
        called = [call.format(thing) for thing in own]
    rng.shuffle(links)
    return called, links


def make(rng: random.Random, place: Place) -> Item:
    """One item, with 2, 3, 5 or 7 things by level, and above with 7 people under other names."""
    n = _OBJECTS[place.level]
    words = rng.choice(_ORDERS if place.level < 4 else _ORDERS_OF_PEOPLE)
    if "Which" in words[6]:
        thing = "book" if "books" in words[0] else "box"
        names = [f"the {colour} {thing}" for colour in rng.sample(_COLOURS, n)]
    else:
        names = rng.sample(NAMES, n)
    at = rng.sample(range(n), n)
    asked = rng.randrange(n)
    right = names[at.index(asked)]
    called, links = _called_by(rng, names, max(0, place.level - 3))
    clues = _true_clues(rng, words, called, at, place.level)
    # The text must not state the answer in the words of the question.
    given = words[4].format(x=called[at.index(asked)], nth=ORDINALS[asked])
    chosen = _enough(rng, [c for c in clues if c[0] != given], n)
    rng.shuffle(chosen)
    sentences = [*links, *(text for text, _ in chosen)]
    told = ". ".join(text[0].upper() + text[1:] for text in sentences)
    intro = words[0].format(n=NUMBERS[n].capitalize(), all=listed(rng.sample(names, n)))
    question = words[6].format(nth=ORDINALS[asked])
    texts = with_answer(rng, right, [x for x in names if x != right], place.index)
    answer = LETTERS[texts.index(right)]
    asked_text = f"{intro} {told}. {question}"
    return choice(place, asked_text, answer, texts, template=words[6])
