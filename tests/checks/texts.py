"""Texts to judge: sound ones, loops, and loops with a counter."""

from __future__ import annotations

GOOD_START = (
    "The keeper climbed the stairs before dawn and lit the lamp, as she had done for thirty years. "
    "Below, the boats were leaving, and somebody waved a red scarf at her from the pier. "
)
NUMBERED = """1. Lanterns flicker above the stall of an old noodle cook.
2. Somewhere a violin starts, and two children stop to listen.
3. Steam rises from dumplings while a cat waits under the bench.
4. A tailor measures a sailor by the light of his phone.
5. Rain taps on the canvas, so the bookseller covers her maps.
6. Nobody buys the blue parrot, which sings all the louder.
7. Beside the fountain, a fortune teller counts her coins.
8. At last the gate closes and the street smells of oranges."""
CODE = '''```python
def median(values):
    """Middle of the sorted values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2 == 1:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


assert median([3]) == 3
assert median([3, 1]) == 2
assert median([3, 1, 2]) == 2
assert median([4, 3, 1, 2]) == 2.5
print(median([3, 1, 2]))
print(median([7, 5, 9]))
print(median([1, 1, 8]))
print(median([6, 0, 2]))
```'''
TABLE = """| Animal   | Home     | Food    |
|----------|----------|---------|
| Badger   | Sett     | Worms   |
| Beaver   | Lodge    | Bark    |
| Fox      | Den      | Mice    |
| Squirrel | Drey     | Nuts    |
| Eagle    | Eyrie    | Fish    |
| Rabbit   | Burrow   | Grass   |"""
POEM = """Row me over, ferryman, over to the mill,
The moon is on the water and the wind is still.
I left my heart with Mary on the far green hill,
And the bell rings, and the bell rings.

Row me over, ferryman, I cannot pay you gold,
But I have got a story that was never told,
Of summer in the orchard when the world was old,
And the bell rings, and the bell rings."""
SUM = """The baker sells 14 + 23 = 37 loaves.
Each loaf costs 3 coins, so 37 x 3 = 111.
Check: 14 x 3 = 42, 23 x 3 = 69, and 42 + 69 = 111.
The baker earned 111 coins."""
OTHER_SCRIPTS = (
    "\u4e2d\u4f4d\u6570\u53ef\u4ee5\u7528Python\u7684sorted\u51fd\u6570\u6765\u6c42\uff0c"
    "\u5148\u6392\u5e8f\uff0c\u518d\u53d6\u4e2d\u95f4\u7684\u6570\u3002"
)
SOUND = {
    "numbered list": NUMBERED,
    "code": CODE,
    "table": TABLE,
    "poem": POEM,
    "sum": SUM,
    "Chinese with English names": OTHER_SCRIPTS,
    "one word": "Yes.",
    "one number": "42",
    "refrain": "Ha ha ha! No, no, no, said the fox.",
    "rule of dashes": "Title\n" + "-" * 72 + "\nText under it.",
    "multiplication": "\n".join(f"7 x {n} = {7 * n}" for n in range(1, 13)),
    "squares": ", ".join(str(n * n) for n in range(30)),
}
LOOPS = {
    "sentence": "The harbour is a beautiful place. " * 5,
    "one word": "recal " * 20,
    "two words": "I am, " * 12,
    "after a good start": GOOD_START + "She saw the sea. " * 6,
    "paragraph": GOOD_START * 3,
    "rows": TABLE + "\n| Mouse | Mouse | Food |" * 6,
    "letters without spaces": "It" * 40,
    "one letter": "Well, " + "\u05d2" * 60,
    "one digit": "It is 1" + "0" * 76,
    "line ends": "Here it is:" + "\n" * 200,
    "empty cells": "| Dog |" + " |" * 80,
}
COUNTED = {
    "numbered": "\n".join(f"{n}. A family takes a class to cook a dinner." for n in range(1, 7)),
    "years": " ".join(f"In {n} the king went to war again." for n in range(1100, 1106)),
    "after a good start": GOOD_START
    + " ".join(f"On day {n} she lit the lamp again." for n in range(8)),
}
