"""Suites: the right answers found again from the text alone, balance, baselines, stable order."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal, localcontext
from functools import cache
from itertools import pairwise, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rys_gguf.probes.draw import VERSION, Place
from rys_gguf.probes.families import arithmetic as math
from rys_gguf.probes.families import emotions, reasoning
from rys_gguf.probes.item import Choice, Contrast, Item, Number, Ratings, dump
from rys_gguf.probes.score import eq_percent, partial_credit, score_probabilities, score_text
from rys_gguf.probes.suite import FAMILIES, LEVELS, SIZES, SPLITS, Suite, build_suite

SEEDS = (0, 1, 7)


@cache
def built(size: str, family: str, level: int, seed: int, split: str) -> tuple[Item, ...]:
    """The items of one family, made once for all tests."""
    levels = {family: level}
    return build_suite(size, levels=levels, seed=seed, split=split, families=[family]).items


def items(topic: str, levels: tuple[int, ...] = LEVELS) -> list[Item]:
    """Items of one topic, of several seeds, splits and levels."""
    family = next(f for f, m in FAMILIES.items() if topic in m.topics(3) + m.topics(0))
    return [
        item
        for level in levels
        for seed, split in zip(SEEDS, SPLITS, strict=True)
        for item in built("quick", family, level, seed, split)
        if item.topic == topic
    ]


@cache
def made(topic: str, level: int, n: int) -> list[Item]:
    """Many items of one topic of the reasoning family, without a suite around them."""
    rng = random.Random(f"{topic} {level}")
    return [reasoning.make(rng, Place(topic, level, k, f"{k}", slice(None))) for k in range(n)]


@cache
def suites(size: str = "quick") -> list[Suite]:
    """All levels, each with another seed and split."""
    return [
        build_suite(
            size, levels=dict.fromkeys(FAMILIES, level), seed=level, split=SPLITS[level % 3]
        )
        for level in LEVELS
    ]


# -- right answers, found again ------------------------------------------------------------------


def test_math_by_decimals() -> None:
    """Every answer is within half of the value that high precision gives."""
    for topic in ("sqrt", "cbrt", "product", "mixed", "sum", "difference"):
        for item in items(topic):
            assert isinstance(item, Number)
            numbers = [Decimal(n) for n in re.findall(r"\d+", item.question)]
            with localcontext() as context:
                context.prec = 80
                third = Decimal(1) / 3
                value = {
                    "sqrt": lambda a: a.sqrt(),
                    "cbrt": lambda a, third=third: a**third,
                    "product": lambda a, b: a * b,
                    "sum": lambda a, b: a + b,
                    "difference": lambda a, b: a - b,
                    "mixed": lambda a, b, third=third, divided="dividing" in item.question: (
                        a.sqrt() / b if divided else a**third * b
                    ),
                }[topic](*numbers)
                assert abs(value - item.answer) <= Decimal("0.5"), item.question


@given(st.integers(0, 10**40))
def test_roots_are_the_nearest(n) -> None:
    """Compared without fractions: (2r - 1) / 2 is below the root, (2r + 1) / 2 is not."""
    r = math.nearest_root(n)
    assert max(2 * r - 1, 0) ** 2 <= 4 * n < (2 * r + 1) ** 2
    c = math.nearest_cube_root(n)
    assert max(2 * c - 1, 0) ** 3 <= 8 * n < (2 * c + 1) ** 3


ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
NTH = {w: k for k, w in enumerate(ORDINALS)}
BESIDE = (
    r"(.+) and (.+) stand side by side",
    r"nobody finished between (.+) and (.+)",
    r"nobody stands between (.+) and (.+)",
    r"(.+) and (.+) touch each other",
)
BEFORE = (
    r"(.+) is to the left of (.+)",
    r"(.+) finished before (.+)",
    r"(.+) is somewhere in front of (.+)",
    r"(.+) is somewhere below (.+)",
)
AFTER = (
    r"(.+) is to the right of (.+)",
    r"(.+) finished after (.+)",
    r"(.+) is somewhere behind (.+)",
    r"(.+) is somewhere above (.+)",
)
INSIDE = (
    r"(.+) is not at either end",
    r"(.+) was neither first nor last",
    r"(.+) is neither at the front nor at the back",
    r"(.+) is neither at the top nor at the bottom",
)
PLACE = (
    r"(.+) is (\w+) from the left",
    r"(.+) finished (\w+)",
    r"(.+) is (\w+) in the queue",
    r"(.+) is (\w+) from the bottom",
)


def clue(text: str, n: int) -> Callable[[dict[str, int]], bool]:
    """What a sentence says of places, from its words alone."""
    for kinds, holds in (
        (BESIDE, lambda at, x, y: abs(at[x] - at[y]) == 1),
        (BEFORE, lambda at, x, y: at[x] < at[y]),
        (AFTER, lambda at, x, y: at[x] > at[y]),
        (INSIDE, lambda at, x: 0 < at[x] < n - 1),
        (PLACE, lambda at, x, nth: at[x] == NTH[nth]),
    ):
        for kind in kinds:
            if match := re.fullmatch(kind, text, re.IGNORECASE):
                names = [g.lower() for g in match.groups()]
                return lambda at, names=names, holds=holds: holds(at, *names)  # type: ignore[misc]
    raise AssertionError(text)


def test_logic_by_brute_force() -> None:
    """All orders tried: exactly one fits the clues, none of which can be spared."""
    for item in items("logic", levels=(0, 1, 2)) + items("logic", levels=(3,))[:8]:
        assert isinstance(item, Choice)
        _, rest = item.question.split(": ", 1)
        names, *said, question = [s.strip() for s in re.split(r"\.", rest)]
        things = [x.lower() for x in re.split(r", | and ", names)]
        assert sorted(things) == sorted(t.lower() for t in item.texts)
        clues = [clue(s, len(things)) for s in said]
        orders = [dict(zip(order, range(9), strict=False)) for order in permutations(things)]
        left = [at for at in orders if all(c(at) for c in clues)]
        assert len(left) == 1, item.question
        nth = next(w for w in question.rstrip("?").split() if w in NTH)
        right = next(x for x, place in left[0].items() if place == NTH[nth])
        assert item.texts[item.options.index(item.answer)].lower() == right
        for spared in clues:
            assert sum(all(c(at) for c in clues if c is not spared) for at in orders) > 1


def test_navigate_by_walking() -> None:
    """The walk in the text, step by step."""
    near = []
    for item in items("navigate"):
        place, facing, sides = 0j, 1j, {"forward": 1, "backward": -1, "left": 1j, "right": -1j}
        told = re.findall(r"Turn (\w+)\.|Take (\d+) steps?(?: (\w+))?\.", item.question)
        for turn, steps, side in told:
            if turn:
                facing *= {"left": 1j, "right": -1j, "around": -1}[turn]
            else:
                place += int(steps) * facing * sides.get(side, 1)
        assert item.gold == ("yes" if place == 0 else "no"), item.question
        if place:
            near.append(0 in (place.real, place.imag))
    assert sum(near) >= 0.4 * len(near)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("turning", [False, True])
def test_parity_does_not_give_a_walk_away(level, turning) -> None:
    """Neither the parity of all steps nor, on walks without turns, of those on one axis."""
    right: Counter[str] = Counter()
    walks = [i for i in made("navigate", level, 600) if ("Turn" in i.question) is turning]
    for item in walks:
        told = re.findall(r"Take (\d+) steps?(?: (\w+))?\.", item.question)
        for way, sides in (
            ("all", {"", "left", "right", "forward", "backward"}),
            ("x", {"left", "right"}),
            ("y", {"forward", "backward"}),
        ):
            even = sum(int(n) for n, side in told if side in sides) % 2 == 0
            right[way] += item.gold == ("yes" if even else "no")
    assert len(walks) > 100
    for way in ("all",) if turning else ("all", "x", "y"):
        assert 0.4 <= right[way] / len(walks) <= 0.6, way


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
    """The sums of the text, sentence by sentence; all numbers on the way are above 0."""
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
                (change, found.groups())
                for pattern, change in STEPS
                if (found := re.search(pattern.format(a=a, things=things), sentence))
            ]
            assert len(read) == 1, sentence
            have = read[0][0](have, *map(int, read[0][1]))
            assert 0 < have <= 100_000
        assert have == item.answer, item.question
        assert item.texts.count(str(have)) == 1


def test_causal_by_acting_it_out() -> None:
    """Both outcomes from the words of the rule; aims are read where they are stated."""
    for item in items("causal"):
        text = item.question
        if " can each " not in text:
            aim(item)
            continue
        names = re.split(r", | and ", text.split(" can each ")[0])
        rule = text.split(". ")[1]
        did = {x for x in names if re.search(rf"\b{x}\b", did_part(text))}
        first = outcome(rule, names, did)
        if "Did the" in text:
            assert item.gold == ("yes" if first else "no"), text
            continue
        question = text.split(". ", 2)[2].split("?")[0]
        patterns = r"[Ii]f (\w+) alone had|if (\w+), and nobody|Suppose that (\w+), and"
        target = next(g for g in re.search(patterns, question).groups() if g)  # type: ignore[union-attr]
        changed = outcome(rule, names, did ^ {target}) != first
        assert item.gold == ("yes" if changed else "no"), text


@pytest.mark.parametrize("level", LEVELS)
def test_no_rule_gives_its_answer_away(level) -> None:
    """Of every rule half of the items are answered yes: what is known before anybody acts."""
    answers: dict[str, Counter[str]] = {}
    for item in made("causal", level, 2000):
        if found := re.search(r" if, and only if, (.+?)\. ", item.question):
            words = re.sub(r"\b[A-Z]\w+", "X", found.group(1))
            words = re.sub(r"^X does not .+ but", "no X but", words)
            kind = re.match(r"at least \w+|exactly|both of|all of|no X but \w+|X", words)
            assert kind, words
            answers.setdefault(kind.group(), Counter())[str(item.gold)] += 1
    assert len(answers) >= 2
    for rule, counts in answers.items():
        assert counts.total() > 60
        assert 0.4 < counts["yes"] / counts.total() < 0.6, rule


def did_part(text: str) -> str:
    """The sentence that says who acted: the third, unless nobody did."""
    sentence = text.split(". ")[2]
    return "" if sentence.endswith("did not") else sentence


def outcome(rule: str, names: list[str], did: set[str]) -> bool:
    """Whether the thing happens, by the words of the rule."""
    # "If" says nothing of the other case, and "only if" nothing of this one.
    _, rule = rule.split(" if, and only if, ")
    if never := re.match(r"(\w+) does not .+ but (at least one of the others|either) ", rule):
        if never.group(1) in did:
            return False
        if "others" in rule:
            return bool(did)
        a, b, c = re.search(r"either (\w+) does or both (\w+) and (\w+) do$", rule).groups()  # type: ignore[union-attr]
        return a in did or {b, c} <= did
    if both := re.match(r"(\w+) and at least one of the others", rule):
        return both.group(1) in did and len(did) > 1
    if first := re.match(r"(\w+) .* or all of (\w+), (\w+) and (\w+) do$", rule):
        a, *others = first.groups()
        return a in did or set(others) <= did
    for words, test in (
        ("at least one", len(did) >= 1),
        ("at least two", len(did) >= 2),
        ("exactly one", len(did) == 1),
        ("all of them", len(did) == len(names)),
        ("both of them", len(did) == len(names)),
    ):
        if words in rule:
            return test
    raise AssertionError(rule)


def aim(item: Item) -> None:
    """An item about what somebody wanted: the answer by the sentence that says so."""
    asked = re.search(
        r"(?:Was it (\w+)'s aim to|Did (\w+) do it in order to) (.+)\?", item.question
    )
    assert asked
    who, what = asked.group(1) or asked.group(2), asked.group(3)
    told = item.question[: asked.start()]
    if pair := re.match(r"(\w+) and (\w+) .+ together", told):
        # Both did it: each had an aim.
        a, b = pair.groups()
        for words in (
            f"together: {a} in order to (.+), {b} in order to (.+?)\\.",
            f"together to (.+) and (.+): {a} wanted only the first, {b} the second\\.",
            f"All that {a} wanted was to (.+); {b} only wanted to (.+?)\\.",
        ):
            if aims := re.search(words, told):
                wanted = aims.group((a, b).index(who) + 1)
                break
        else:
            raise AssertionError(told)
    else:
        assert re.match(rf"(All that )?{who} ", told), told
        found = re.search(r"(?:in order to|wanted was to) (.+?)(?:\.|,)", told)
        assert found
        wanted = found.group(1)
    assert item.gold == ("yes" if wanted == what else "no"), item.question


MONTHS = {date(2000, m, 1).strftime("%B"): m for m in range(1, 13)}


def dates(text: str) -> list[date]:
    """All dates in a text, in any of the forms; without a year they are in 2001."""
    found = []
    for m in re.finditer(
        r"(\d{4})-(\d\d)-(\d\d)|(\d+) ([A-Z][a-z]+)(?: (\d{4}))?|([A-Z][a-z]+) (\d+)(?:, (\d{4}))?",
        text,
    ):
        g = m.groups()
        if g[0]:
            found.append(date(int(g[0]), int(g[1]), int(g[2])))
        elif g[4] in MONTHS:
            found.append(date(int(g[5] or 2001), MONTHS[g[4]], int(g[3])))
        elif g[6] in MONTHS:
            found.append(date(int(g[8] or 2001), MONTHS[g[6]], int(g[7])))
    return found


def months_later(day: date, n: int) -> date:
    """The same day of another month."""
    month = day.year * 12 + day.month - 1 + n
    return day.replace(year=month // 12, month=month % 12 + 1)


def test_dates_by_counting() -> None:
    """Today from the first sentences, then what is asked for; one option only is right."""
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
            right = {
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
            }[re.sub(r"^What date (?:is it|was it|will it be) ", "", question)](today)
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
def test_options_do_not_tell_the_date(level) -> None:
    """Whoever sees the options only does no better than chance, however they are compared."""
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


def test_slips_are_among_the_options() -> None:
    """The date in the text, the wrong way and the like still come: they make items hard."""
    text = [dates(i.question)[0] in {dates(t)[0] for t in i.texts} for i in made("date", 0, 300)]
    assert sum(text) >= 0.2 * len(text)


def test_contrasts_differ_in_one_clause_and_show_who_is_meant() -> None:
    """Whoever is asked for occurs in both versions, and nothing but one respect differs."""
    for kind in emotions.KINDS:
        for shared, strong, weak, weight in kind.cases:
            assert "{A}" in shared or ("{A}" in strong and "{A}" in weak), (shared, strong, weak)
            assert strong != weak
            assert weight in (-1, 0, 1)
    for item in items("contrast", levels=(0, 1, 2)):
        assert isinstance(item, Contrast)
        versions = [re.split(r"(?<=\.) ", v) for v in (item.question, item.other)]
        differ = [a != b for a, b in zip(*versions, strict=False)]
        assert sum(differ) == 1 or len(versions[0]) != len(versions[1]), item


CLASHES = (
    r"spring|summer|autumn|winter|January|March|season|morning|noon|lunch|breakfast|evening|night\b"
    r"|o'clock|clock|hour|rain|snow|sun|heat|cold|cloud|storm|quiet|earlier|radio|train\b"
)


def test_scenes_contradict_no_case() -> None:
    """They name no season, time of day, weather or sound, which cases do."""
    for text in emotions._SCENES + emotions._BEFORE:
        assert not re.search(CLASHES, text), text


def test_it_is_what_happened_to_the_one_who_is_asked_for() -> None:
    """Ratings ask about "it": what happened to somebody else is told before."""
    for item in items("ratings", levels=(3,)):
        asked = re.search(r"(?:does|make) (\w+) feel", item.question)
        assert asked
        case, beside = sorted(told_cases(item.question), key=lambda c: asked.group(1) in c[1])[::-1]
        assert item.question.index(beside[1]) < item.question.index(case[1])
        assert asked.group(1) not in beside[1]


def told_cases(text: str) -> list[tuple[str, str]]:
    """The cases that a text tells, each with the words that tell it."""
    found = []
    for kind in emotions.KINDS:
        for shared, *clauses, _ in kind.cases:
            for clause in clauses:
                pattern = re.sub(r"\\{\w+\\}", r"\\w+", re.escape(f"{shared} {clause}"))
                found += [(shared, m.group()) for m in re.finditer(pattern, text)]
    return found


def test_references_are_spread() -> None:
    """One emotion is high, at least one absent; no constant answer does well."""
    for size in SIZES:
        for level in LEVELS:
            suite = Suite(built(size, "eq", level, level, SPLITS[level % 3]))
            rated = [i for i in suite.items if isinstance(i, Ratings)]
            (record,) = [r for r in suite.statistics() if r["topic"] == "ratings"]
            assert record["references"]["sd"] >= 2.5
            assert record["references"]["zeros_and_ones"] >= 0.3
            assert record["references"]["best_constant"] <= 60
            assert all(max(i.reference) >= 7 and min(i.reference) == 0 for i in rated)


# -- suites --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "n"), [("quick", 136), ("standard", 312), ("validate", 616)])
def test_sizes_and_no_repeats(size, n) -> None:
    """As many items as promised, in all levels, none of them twice."""
    for suite in suites(size):
        assert len(suite.items) == n
        assert Counter(i.family for i in suite.items) == SIZES[size]
        assert len({i.id for i in suite.items}) == n
        assert len({i.question for i in suite.items}) == n


def test_answers_are_balanced() -> None:
    """By topic: no answer is more than one turn ahead of the others."""
    for suite in suites("quick"):
        for record in suite.statistics():
            if record["topic"] == "ratings":
                continue
            counts = record["answers"].values()
            assert max(counts) - min(counts) <= 1, record


def test_no_constant_answer_helps() -> None:
    """Baselines of quick scores are those of chance, but for the remainder of the division."""
    for suite in suites("quick"):
        for topics in suite.baselines.values():
            for topic, baseline in topics.items():
                assert baseline.constant <= max(baseline.random, 0) + 0.1, topic
        assert suite.baselines["math"][""].constant < 0.2
        assert suite.baselines["eq"][""].constant == pytest.approx(0)
        assert suite.generated_baselines["math"][""].constant < 0.7


def test_baselines_are_what_such_answers_score() -> None:
    """The best constant first digit, option and rating, scored as an answer would be."""
    suite = build_suite("quick", levels={"math": 2})
    by_math = [i for i in suite.items if i.topic == "sqrt"]
    best = max(
        sum(score_probabilities(i, [{str(d): 1.0}]).score for i in by_math) for d in range(10)
    )
    assert suite.baselines["math"]["sqrt"].constant == pytest.approx(best / len(by_math))
    rated = [i for i in suite.items if isinstance(i, Ratings)]
    scores = []
    for digit in range(10):
        text = ", ".join([str(digit)] * 4)
        results = [score_text(i, text, baseline=suite.eq_baseline).score for i in rated]
        scores.append(sum(results) / len(results))
    assert suite.baselines["eq"]["ratings"].constant == pytest.approx(max(scores)) == 0
    assert suite.baselines["eq"]["ratings"].random == pytest.approx(sum(scores) / 10)


def test_generated_baseline_of_math() -> None:
    """No constant of two leading digits does better on partial credit."""
    suite = build_suite("quick", levels={"math": 2}, families=["math"])
    numbers = [i.answer for i in suite.items if isinstance(i, Number) and i.topic == "cbrt"]
    baseline = suite.generated_baselines["math"]["cbrt"].constant
    for guess in (20_000, 15_000, 4_000, 30_000, 12_000, 50_000):
        assert sum(partial_credit(a, guess) for a in numbers) / len(numbers) <= baseline + 1e-9


def test_the_same_arguments_make_the_same_bytes(tmp_path) -> None:
    """And the file of a suite is the suite, with its id."""
    one, two = build_suite("quick", seed=3), build_suite("quick", seed=3)
    assert dump(one.items) == dump(two.items)
    (tmp_path / "one.jsonl").write_text(dump(one.items))
    assert Suite.read(tmp_path / "one.jsonl") == one
    assert Suite.read(tmp_path / "one.jsonl").suite_id == one.suite_id
    assert build_suite("quick", seed=4).suite_id != one.suite_id
    assert Suite(one.items[::-1]).suite_id != one.suite_id


def test_suites_stay_what_they_are() -> None:
    """Runs are compared by suite id: a change of any item needs a new version of the generators."""
    ids = [build_suite("quick", levels=dict.fromkeys(FAMILIES, k)).suite_id for k in LEVELS]
    assert VERSION == 2
    assert ids == ["f27bad1385dc0a4f", "08c8f24583513f10", "344609ff8dce234f", "ee87e50138ef6199"]


def test_splits_share_no_question() -> None:
    """Of any seeds, however small the numbers."""
    for level in LEVELS:
        levels = dict.fromkeys(FAMILIES, level)
        asked = [
            {i.question for i in build_suite("quick", levels=levels, split=s, seed=seed).items}
            for seed, s in enumerate(SPLITS)
        ]
        assert all(a.isdisjoint(b) for a, b in pairwise([*asked, asked[0]]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("level", [0, 3])
def test_splits_share_no_event(size, level) -> None:
    """Nor one that somebody else goes through; up to standard, contrasts do not repeat any."""
    events = []
    for seed, split in enumerate(SPLITS):
        told: Counter[str] = Counter()
        first: Counter[str] = Counter()
        for item in built(size, "eq", level, seed, split):
            cases = [shared for shared, _ in told_cases(item.question)]
            assert len(cases) == (2 if level == 3 else 1), item.question
            told.update(cases)
            first.update(cases * (isinstance(item, Contrast) and level == 0))
        assert max(first.values(), default=0) <= (2 if size == "validate" else 1)
        events.append(set(told))
    assert all(a.isdisjoint(b) for a, b in pairwise([*events, events[0]]))
    shared = [case[0] for kind in emotions.KINDS for case in kind.cases]
    assert len(set(shared)) == len(shared)


def test_order_does_not_make_another_sum() -> None:
    """8 times 9 and 9 times 8 are one question, within splits and across them."""
    asked: Counter[tuple[str, ...]] = Counter()
    for seed, split in enumerate(SPLITS):
        mine = set()
        for item in built("validate", "math", 0, seed, split):
            numbers = re.findall(r"\d+", item.question)
            key = (item.topic, *(numbers if item.topic == "difference" else sorted(numbers)))
            assert key not in mine, item.question
            mine.add(key)
        asked.update(mine)
    assert max(asked.values()) == 1


def test_a_longer_suite_keeps_the_items_of_a_shorter_one() -> None:
    """Items hang on their address, not on how many there are."""
    short, long = (set(build_suite(size).items) for size in ("quick", "standard"))
    assert short < long


@settings(deadline=None)
@given(st.integers(1, 136), st.sampled_from(LEVELS))
def test_every_prefix_is_stratified(n, level) -> None:
    """No family is more than one item off its share, no topic more than one round."""
    suite = suites("quick")[level]
    prefix = suite.items[:n]
    for family, size in SIZES["quick"].items():
        have = [i for i in prefix if i.family == family]
        assert abs(len(have) - n * size / 136) <= 1.5
        topics = FAMILIES[family].topics(level)
        for topic in set(topics):
            share = len(have) * topics.count(topic) / len(topics)
            assert abs(sum(i.topic == topic for i in have) - share) <= topics.count(topic)


def test_prompts_are_short() -> None:
    """At the levels of small models, about 120 tokens at most: four characters are one token."""
    for level in (0, 1):
        suite = suites("quick")[level]
        lengths = sorted(len(a.prompt) for i in suite.items for a in i.requests())
        assert lengths[int(0.95 * len(lengths))] <= 360
        assert all(len(i.question) <= 360 for i in suite.items if i.family == "eq")


def test_what_does_not_exist() -> None:
    """Names are checked, so that a typing error makes no other suite."""
    for wrong in ({"size": "tiny"}, {"split": "test"}, {"families": ["maths"]}, {"families": []}):
        with pytest.raises(ValueError, match="no such suite"):
            build_suite(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no such level"):
        build_suite(levels={"math": 4})


def test_mixed_users_suites_have_baselines() -> None:
    """A topic may hold several kinds; each has its own baseline, weighted."""
    base = {"family": "own", "topic": "t", "level": 0}
    suite = Suite(
        (
            Choice(**base, id="a", question="?", answer="yes"),
            Choice(**base, id="b", question="?!", answer="no"),
            Number(**base, id="c", question="??", answer=7),
            Ratings(**base, id="d", question="!", emotions=("joy",), reference=(5,)),
        )
    )
    assert suite.eq_baseline == eq_percent([5], [5]) == 100
    assert suite.baselines["own"]["t"].constant == pytest.approx((1 + 1) / 4)
