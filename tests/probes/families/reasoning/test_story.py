"""Stories: the sums of the text, read sentence by sentence."""

from __future__ import annotations

import re
from collections.abc import Callable

from rys_gguf.probes.item import Number
from tests.probes.made import items

STEPS: tuple[tuple[str, Callable[..., int]], ...] = (
    (r"gives {a} (\d+) more {things}", lambda m, n: m + n),
    (r"{a} finds another (\d+) {things}", lambda m, n: m + n),
    (r"{a} buys (\d+) bags with (\d+) {things} in each", lambda m, k, n: m + k * n),
    (r"{a} gives (\d+) {things} to \w+", lambda m, n: m - n),
    (r"{a} loses (\d+) {things}", lambda m, n: m - n),
    (r"{a} sells (\d+) {things} a day for (\d+) days", lambda m, n, k: m - k * n),
    (r"{a} sells (\d+) percent of all the {things} {a} has", lambda m, n: m - m * n // 100),
    (
        r"{a} packs all the {things} {a} has into (\d+) boxes, the same .+ only one of",
        lambda m, k: m // k,
    ),
    (r"Then the number of {things} that {a} has doubles", lambda m: m * 2),
    (r"Then the number of {things} that {a} has triples", lambda m: m * 3),
    (r"Then the number of {things} that {a} has quadruples", lambda m: m * 4),
)
IDLE = r"years old|minutes away|street has|owns \d+ hats|degrees outside|school has"


def test_story_by_reading() -> None:
    """Computing sentence by sentence gives the answer, and no number on the way is below 1."""
    for item in items("story"):
        assert isinstance(item, Number)
        *told, question = [s for s in item.question.split(". ") if not re.search(IDLE, s)]
        asked = re.fullmatch(r"How many (.+) does (\w+) have (?:now|in the end)\?", question)
        assert asked, question
        things, a = asked.groups()
        start = re.fullmatch(f"{a} has (\\d+) {things}", told[0])
        assert start, told
        have = int(start.group(1))
        for sentence in told[1:]:
            # Every sentence names the things and their owner: no "them", which may be some or all.
            read = [
                (change, match.groups())
                for pattern, change in STEPS
                if (match := re.search(pattern.format(a=a, things=things), sentence))
            ]
            assert len(read) == 1, sentence
            have = read[0][0](have, *map(int, read[0][1]))
            assert 0 < have <= 100_000
        assert have == item.answer, item.question
        assert item.texts.count(str(have)) == 1
