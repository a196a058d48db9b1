"""Words that several families draw from."""

from __future__ import annotations

from collections.abc import Sequence

# First names and their pronouns; short, common, and one token in most vocabularies.
SHE = (
    *("Anna", "Maria", "Laura", "Emma", "Sara", "Julia", "Nina", "Clara", "Alice", "Helen"),
    *("Ruth", "Diana", "Eva", "Rosa", "Grace", "Lucy", "Amy", "Jane", "Kate", "Irene"),
)
HE = (
    *("Tom", "Paul", "David", "Mark", "Peter", "Leo", "Sam", "Oscar", "Jack", "Simon"),
    *("Adam", "Ben", "Carl", "Daniel", "Eric", "Frank", "George", "Henry", "Ivan", "Luke"),
)
NAMES = SHE + HE

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")

# Things one can count, own, give away and pack.
THINGS = (
    *("apples", "books", "coins", "stamps", "marbles", "pencils", "shells", "cards", "buttons"),
    *("plates", "candles", "eggs", "lemons", "stickers", "beads", "bottles", "cups", "tickets"),
    *("keys", "spoons", "balls", "forks", "roses", "tulips", "photos", "maps", "pens"),
    *("bricks", "tiles", "nails", "screws", "corks", "cookies", "pears", "plums", "nuts"),
    *("ribbons", "postcards", "posters", "notebooks", "rulers", "magnets", "feathers", "stones"),
)


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    listed(["Ann", "Bob", "Cy"]) == "Ann, Bob and Cy"
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
