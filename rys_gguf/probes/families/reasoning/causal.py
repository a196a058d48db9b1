"""Causes: whether the outcome would have been different, and what somebody intended."""

# Levels and coins are small numbers that mean themselves.
# ruff: noqa: PLR2004

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from rys_gguf.probes.draw import Place
from rys_gguf.probes.families.reasoning.puzzle import choice
from rys_gguf.probes.families.words import NAMES, NUMBERS, listed
from rys_gguf.probes.item import YES_NO, Item

# A device; its outcome in the present and in the past; what happens instead; the act that causes
# the outcome, as it is worded the first time and later.
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
    """Conditions, each in words and as a function of the set of people who act, by number.

    The text says "if, and only if,": "if" alone or "only if" alone would leave a case open.
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
    if level > 3:
        return _rules_of_groups(names, act)
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


def _rules_of_groups(names: Sequence[str], act: str) -> list[tuple[str, _Rule]]:
    """Conditions of `_rules` for five people or more, most of them about two groups of people."""
    n = len(names)
    half = n // 2
    first, second = frozenset(range(half)), frozenset(range(half, n))
    f, s = listed(names[:half]), listed(names[half:])
    return [
        (f"at least {NUMBERS[half]} of them {act}", lambda who: len(who) >= half),
        (f"exactly {NUMBERS[half]} of them {act}", lambda who: len(who) == half),
        (f"all of {f} or all of {s} {act}", lambda who: first <= who or second <= who),
        (
            f"at least one of {f} and at least one of {s} {act}",
            lambda who: bool(first & who) and bool(second & who),
        ),
        (f"more of {f} than of {s} {act}", lambda who: len(first & who) > len(second & who)),
        (
            f"{names[-1]} does not {act} but at least two of the others do",
            lambda who: n - 1 not in who and len(who) >= 2,
        ),
    ]


def _difference(rng: random.Random, level: int, index: int) -> tuple[str, str, str]:
    """A rule, who acted, and whether one person's act mattered; at level 0 what happened.

    Returns the text, its answer and the device, as `_intention` does with what was done.
    """
    thing, does, did, did_not, may, act = rng.choice(_DEVICES)
    names = rng.sample(NAMES, max(2, level + 1))
    wanted = YES_NO[index % 2]
    # The rule is chosen before the answer, so that the rule alone does not give it away.
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
    lines = [f"{listed(names)} can each {may}. {thing} {does} if, and only if, {condition}."]
    lines += [f"{listed(acted)} {_PAST[verb]} {rest}."] * bool(acted)
    if idle:
        nobody = "Neither" if len(names) == 2 else "None"
        lines.append(
            f"{listed(idle)} did not." if acted else f"{nobody} of them {_PAST[verb]} {rest}."
        )
    if level == 0:
        what = f"{thing[0].lower()}{thing[1:]}"
        base = {"tips": "tip", "goes": "go", "takes": "take", "passes": "pass"}
        first, _, more = does.partition(" ")
        verb = base.get(first, first.removesuffix("s"))
        lines.append(f"Did {what} {verb} {more}".strip() + "?")
        return " ".join(lines), wanted, thing
    lines.append(f"{thing} {did if happened else did_not}.")
    if level < 4:
        lines += [rng.choice(_ASIDES).format(rng.choice(names))] * (level >= 2)
    else:
        lines += [aside.format(rng.choice(names)) for aside in rng.sample(_ASIDES, level - 2)]
    lines.append(rng.choice(_CHANGES).format(names[target]))
    return " ".join(lines), wanted, thing


# What somebody did and two effects of it. Either may be the aim: the text says which.
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


def _intention(rng: random.Random, level: int, index: int) -> tuple[str, str, str]:
    """A stated aim, a side effect, and whether one of the two was intended."""
    did, *effects = rng.choice(_AIMS)
    aim, side = rng.sample(effects, 2)
    a, b = rng.sample(NAMES, 2)
    wordings = _AIMED if level < 3 else _BOTH_AIMED
    text = rng.choice(wordings).format(a=a, b=b, did=did, aim=aim, side=side)
    asides = f" {rng.choice(_ASIDES[1:4]).format(a)}" * (level >= 2)
    wanted = YES_NO[index % 2]
    asked = rng.choice((a, b)) if level >= 3 else a
    own, other = (aim, side) if asked == a else (side, aim)
    what = own if wanted == "yes" else other
    question = rng.choice(("Was it {}'s aim to {}?", "Did {} do it in order to {}?"))
    told = [text + asides]
    if level > 3:
        # As many pairs of others have aims of their own; "it" would not say whose.
        question = "Was it {}'s aim to {}?"
        others = rng.sample([name for name in NAMES if name not in {a, b}], 2 * (level - 3))
        acts = rng.sample([aims for aims in _AIMS if aims[0] != did], level - 3)
        told += [
            rng.choice(_BOTH_AIMED).format(a=c, b=d, did=did, aim=aim, side=side)
            for c, d, (did, aim, side) in zip(others[::2], others[1::2], acts, strict=True)
        ]
        rng.shuffle(told)
    return f"{' '.join(told)} {question.format(asked, what)}", wanted, did


def make(rng: random.Random, place: Place) -> Item:
    """One item; two in three are about outcomes, one in three is about intentions."""
    tell = _intention if place.index // 2 % 3 == 2 else _difference
    text, answer, about = tell(rng, place.level, place.index)
    return choice(place, text, answer, template=about)
