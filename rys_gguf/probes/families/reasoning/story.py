"""Stories: sums told with people and things."""

# Levels and coins are small numbers that mean themselves.
# ruff: noqa: PLR2004

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from rys_gguf.probes.draw import Place
from rys_gguf.probes.families.reasoning.puzzle import FAMILY, with_answer
from rys_gguf.probes.families.words import NAMES, THINGS
from rys_gguf.probes.item import Item, Number

# A step: its kind, its text, what it does to the number so far, and what a careless reader does.
_Step = tuple[str, str, Callable[[int], int], Callable[[int], int]]
_PERCENT = (10, 20, 25, 50)
_TIMES = {2: "doubles", 3: "triples", 4: "quadruples"}
# The least and the most steps by level.
_N_STEPS = ((1, 1), (2, 2), (3, 4), (5, 7), (8, 10), (11, 13), (14, 16), (17, 19))
_IDLE = (
    "{a} is {n} years old.",
    "The nearest shop is {n} minutes away.",
    "{a}'s street has {n} houses.",
    "{b} owns {n} hats.",
    "It is {n} degrees outside.",
    "The school has {n} rooms.",
)


def _steps(rng: random.Random, have: int, a: str, b: str, things: str, level: int) -> list[_Step]:
    """The steps that are possible for somebody who has `have` things."""
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
        part: Callable[[int], int] = lambda m: m * percent // 100  # noqa: E731 - as the others
        steps.append(("part", text, lambda m: m - part(m), part))
    return steps


def make(rng: random.Random, place: Place) -> Item:
    """One item, with 1 to 19 steps by level and four numbers to choose from."""
    level = place.level
    while True:
        a, b = rng.sample(NAMES, 2)
        things = rng.choice(THINGS)
        n_steps = rng.randint(*_N_STEPS[level])
        start = have = rng.randint(3, 30) if level < 2 else rng.randint(20, 300)
        steps: list[_Step] = []
        for _ in range(n_steps):
            # There are nine kinds: longer stories use them again, but not at once.
            told = {kind for kind, *_ in (steps if level < 4 else steps[-3:])}
            fresh = [s for s in _steps(rng, have, a, b, things, level) if s[0] not in told]
            steps += [rng.choice(fresh)] if fresh else []
            have = steps[-1][2](have)
        idle = rng.randint(2, 60) if level and rng.random() < 0.3 else 0
        wrong = _wrong(rng, start, steps, idle)
        if len(steps) == n_steps and 0 < have <= 10_000 and len(wrong) >= 3:
            break
    lines = [f"{a} has {start} {things}.", *(text for _, text, *_ in steps)]
    if level > 3:
        idlers = [idle or rng.randint(2, 60), *(rng.randint(2, 60) for _ in range(level - 3))]
        for n, text in zip(idlers, rng.sample(_IDLE, len(idlers)), strict=True):
            lines.insert(rng.randrange(len(lines)), text.format(a=a, b=b, n=n))
    elif idle:
        lines.insert(rng.choice((0, 1)), rng.choice(_IDLE).format(a=a, b=b, n=idle))
    lines.append(f"How many {things} does {a} have {rng.choice(('now', 'in the end'))}?")
    texts = with_answer(rng, str(have), [str(w) for w in wrong[:3]], place.index)
    return Number(
        id=place.name,
        family=FAMILY,
        topic=place.topic,
        level=level,
        question=" ".join(lines),
        template=f"{place.topic}: {', '.join(sorted(kind for kind, *_ in steps))}",
        answer=have,
        texts=tuple(texts),
    )


def _wrong(rng: random.Random, start: int, steps: Sequence[_Step], idle: int) -> list[int]:
    """The results of careless readings: a step is left out or misread, or the idle number used."""

    def run(skipped: int = -1, misread: int = -1) -> int:
        have = start
        for k, (_, _, right, careless) in enumerate(steps):
            if k != skipped:
                have = (careless if k == misread else right)(have)
        return have

    right = run()
    mistakes = [run(skipped=k) for k in range(len(steps))] + [
        run(misread=k) for k in range(len(steps))
    ]
    mistakes += [right + idle] * bool(idle)
    rng.shuffle(mistakes)
    near = [right + 1, right - 1, right + 10, right - 10, right + 2]
    return [
        w for w in dict.fromkeys(mistakes + rng.sample(near, len(near))) if w > 0 and w != right
    ]
