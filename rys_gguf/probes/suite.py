"""Suites: items of several families in one fixed order, and what answers that ignore the question score.

The order is shuffled once and stratified: however short a prefix, every family and topic has its
share of it, so that a search may ask the first items of all candidates and go on with the few.

Splits share no question, whatever the seeds, and no event of the scenarios about emotions. They do
share names, wordings and kinds of events: they are other draws of one generator.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from statistics import fmean, pstdev
from types import ModuleType
from typing import Any

from rys_gguf.probes.draw import Place, item_random
from rys_gguf.probes.families import arithmetic as math
from rys_gguf.probes.families import emotions, reasoning
from rys_gguf.probes.item import DIGITS, Contrast, Item, Number, Ratings, dump, load
from rys_gguf.probes.score import (
    best_constant,
    eq_percent,
    partial_credit,
    partial_credit_at_random,
    skill,
)

FAMILIES: dict[str, ModuleType] = {m.FAMILY: m for m in (math, emotions, reasoning)}
SIZES: dict[str, dict[str, int]] = {
    "quick": {"math": 32, "eq": 24, "reasoning": 80},
    "standard": {"math": 64, "eq": 48, "reasoning": 200},
    "validate": {"math": 120, "eq": 96, "reasoning": 400},
}
SPLITS = ("search", "heldout", "audit")
LEVELS = (0, 1, 2, 3)


@dataclass(frozen=True, slots=True)
class Baseline:
    """Mean scores of answers that ignore the question: the best constant one, and random ones."""

    constant: float
    random: float


@dataclass(frozen=True)
class Suite:
    """Items in the order in which they are asked."""

    items: tuple[Item, ...]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Suite:
        """The suite of a file. Raises InvalidSuite naming file, line and field."""
        return cls(load(path))

    @cached_property
    def suite_id(self) -> str:
        """A hash of all items and their order: equal for equal suites only."""
        return hashlib.sha256(dump(self.items).encode()).hexdigest()[:16]

    @cached_property
    def families(self) -> tuple[str, ...]:
        """The families, in the order in which they first come."""
        return tuple(dict.fromkeys(i.family for i in self.items))

    def halves(self) -> tuple[Suite, Suite]:
        """Two suites, each with half of every answer of every topic; one item is in the first."""
        groups: dict[tuple[str, str, str], int] = {}
        sides: tuple[list[Item], list[Item]] = ([], [])
        for item in self.items:
            key = (item.family, item.topic, str(item.gold))
            # The first of every other group goes to the other side: single items are shared, too.
            first = groups.setdefault(key, len(groups))
            sides[first % 2].append(item)
            groups[key] = first + 1
        return Suite(tuple(sides[0])), Suite(tuple(sides[1]))

    @cached_property
    def eq_baseline(self) -> float:
        """The EQ percent of the best constant answer, which skill is measured from."""
        return best_constant(self.items)

    @cached_property
    def baselines(self) -> dict[str, dict[str, Baseline]]:
        """Baselines of quick scores by family and topic; topic "" is the whole family.

        A family's constant answer may differ from topic to topic.
        """
        return self._baselines(generated=False)

    @cached_property
    def generated_baselines(self) -> dict[str, dict[str, Baseline]]:
        """Baselines of generated answers, as `baselines`."""
        return self._baselines(generated=True)

    def _baselines(self, *, generated: bool) -> dict[str, dict[str, Baseline]]:
        baselines: dict[str, dict[str, Baseline]] = {}
        for family in self.families:
            topics: dict[str, list[Item]] = {}
            for item in self.items:
                if item.family == family:
                    topics.setdefault(item.topic, []).append(item)
            by_topic = {
                t: _baseline(members, self.eq_baseline, generated=generated)
                for t, members in topics.items()
            }
            weights = [len(items) for items in topics.values()]
            whole = Baseline(
                *(
                    sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
                    for values in zip(
                        *((b.constant, b.random) for b in by_topic.values()), strict=True
                    )
                )
            )
            baselines[family] = {"": whole, **by_topic}
        return baselines

    def statistics(self) -> list[dict[str, Any]]:
        """One plain record per family, topic and level: counts, answers, lengths in characters."""
        groups: dict[tuple[str, str, int], list[Item]] = {}
        for item in self.items:
            groups.setdefault((item.family, item.topic, item.level), []).append(item)
        return [_statistics(key, items, self) for key, items in sorted(groups.items())]


def _statistics(key: tuple[str, str, int], items: Sequence[Item], suite: Suite) -> dict[str, Any]:
    family, topic, level = key
    lengths = sorted(len(request.prompt) for item in items for request in item.requests())
    baseline = suite.baselines[family][topic]
    record = {
        "family": family,
        "topic": topic,
        "level": level,
        "n": len(items),
        "answers": dict(sorted(Counter(map(_quick_answer, items)).items())),
        "asks": len(lengths),
        "characters": {"median": lengths[len(lengths) // 2], "most": lengths[-1]},
        "constant": baseline.constant,
        "random": baseline.random,
    }
    ratings = [r for item in items if isinstance(item, Ratings) for r in item.reference]
    if ratings:
        record["references"] = {
            "mean": fmean(ratings),
            "sd": pstdev(ratings),
            "zeros_and_ones": sum(r <= 1 for r in ratings) / len(ratings),
            "best_constant": suite.eq_baseline,
        }
    return record


def _quick_answer(item: Item) -> str:
    """The answer to a quick request, in a form that can be counted."""
    if isinstance(item, Number):
        return item.letter if item.texts else str(item.answer)[0]
    if isinstance(item, Ratings):
        return item.emotions[item.reference.index(max(item.reference))]
    return str(item.gold)


# -- baselines -----------------------------------------------------------------------------------


def _baseline(items: Sequence[Item], eq_baseline: float, *, generated: bool) -> Baseline:
    """Of the items of one topic, which are of one kind as a rule: weighted over kinds if not."""
    parts: dict[object, list[Item]] = {}
    for item in items:
        exact = isinstance(item, Number) and (item.partial, bool(item.texts))
        parts.setdefault((type(item), exact), []).append(item)
    baselines = [
        (len(p), _baseline_of_kind(p, eq_baseline, generated=generated)) for p in parts.values()
    ]
    return Baseline(
        sum(n * b.constant for n, b in baselines) / len(items),
        sum(n * b.random for n, b in baselines) / len(items),
    )


def _baseline_of_kind(items: Sequence[Item], eq_baseline: float, *, generated: bool) -> Baseline:
    first = items[0]
    if isinstance(first, Contrast):
        return Baseline(0.0, 0.0)
    if isinstance(first, Ratings):
        # The formula is a sum over ratings: its mean over random digits is that of each rating.
        at_random = fmean(
            fmean(eq_percent([r], [int(d)]) for d in DIGITS)
            for item in items
            if isinstance(item, Ratings)
            for r in item.reference
        )
        best = best_constant(items)
        return Baseline(skill(best, eq_baseline), skill(at_random, eq_baseline))
    if isinstance(first, Number) and generated:
        answers = [item.answer for item in items if isinstance(item, Number)]
        return _number_baseline(answers, partial=first.partial)
    common = max(Counter(map(_quick_answer, items)).values()) / len(items)
    return Baseline(common, fmean(item.chance for item in items))


def _number_baseline(answers: Sequence[int], *, partial: bool) -> Baseline:
    if not partial:
        return Baseline(max(Counter(answers).values()) / len(answers), 0.0)
    lengths = range(min(len(str(a)) for a in answers), max(len(str(a)) for a in answers) + 1)
    guesses = {lead * 10 ** (n - 1) // 10 for n in lengths for lead in range(10, 100)} - {0}
    best = max(fmean(partial_credit(a, g) for a in answers) for g in guesses)
    return Baseline(best, fmean(map(partial_credit_at_random, answers)))


# -- building ------------------------------------------------------------------------------------


def build_suite(
    size: str = "quick",
    *,
    levels: Mapping[str, int] | None = None,
    seed: int = 0,
    split: str = "search",
    families: Sequence[str] = tuple(FAMILIES),
) -> Suite:
    """The suite of a size: the same items for the same arguments, on any machine.

    `levels` by family; 1 where not named. ValueError for names or levels that do not exist.
    """
    if size not in SIZES or split not in SPLITS or not families or set(families) - set(FAMILIES):
        raise ValueError(f"no such suite: {size!r}, {split!r}, {tuple(families)!r}")
    levels = {family: (levels or {}).get(family, 1) for family in families}
    if set(levels.values()) - set(LEVELS):
        raise ValueError(f"no such level: {levels}, expected {LEVELS[0]} to {LEVELS[-1]}")
    ordered: list[tuple[Fraction, int, Item]] = []
    for family in families:
        n = SIZES[size][family]
        items = _family(family, n, levels[family], seed, split)
        # Item k of n comes at (k + 1/2) / n of the suite: families are mixed in proportion.
        ordered += [
            (Fraction(2 * k + 1, 2 * n), list(FAMILIES).index(family), item)
            for k, item in enumerate(items)
        ]
    ordered.sort(key=lambda entry: entry[:2])
    return Suite(tuple(item for _, _, item in ordered))


def _family(family: str, n: int, level: int, seed: int, split: str) -> list[Item]:
    """Items of a family, one of every topic in each round, rounds shuffled within themselves."""
    topics = FAMILIES[family].topics(level)
    made: dict[str, list[Item]] = {topic: [] for topic in topics}
    seen: set[str] = set()
    for k in range(n):
        topic = topics[k % len(topics)]
        index = len(made[topic])
        made[topic].append(_item(family, topic, level, index, seed, split, seen))
    order = random.Random(f"{family} {level} {seed} {split}")  # noqa: S311 - not for secrets
    queues = {topic: order.sample(items, len(items)) for topic, items in made.items()}
    items: list[Item] = []
    while len(items) < n:
        turn = order.sample(topics, len(topics))
        items += [queues[topic].pop() for topic in turn if queues[topic]]
    return items


def _item(
    family: str, topic: str, level: int, index: int, seed: int, split: str, seen: set[str]
) -> Item:
    """An item of the split that is not among those `seen`, to which it is added."""
    name = f"{family}-{topic}-{level}-{split}-{seed}-{index}"
    number = SPLITS.index(split)
    # What happens in one split's suite never happens in another's.
    place = Place(topic, level, index, name, slice(number, None, len(SPLITS)))
    for attempt in range(1000):
        rng = item_random(family, topic, level, index, seed=seed, split=split, attempt=attempt)
        item: Item = FAMILIES[family].make(rng, place)
        asked = _essence(item)
        # Every question belongs to one split, whatever the seed: small ones would meet else.
        if hashlib.sha256(asked.encode()).digest()[0] % len(SPLITS) == number and asked not in seen:
            seen.add(asked)
            return item
    raise AssertionError(f"{name}: everything has been asked already")


def _essence(item: Item) -> str:
    """What must not come twice, whatever the wording around it or the order of versions."""
    if isinstance(item, Contrast):
        return min(item.question, item.other)
    if isinstance(item, Number) and item.partial:
        numbers = [c.strip("?.,") for c in item.question.split()]
        numbers = [c for c in numbers if c.isdigit()]
        if item.topic in {"sum", "product"}:  # 8 times 9 is 9 times 8
            numbers.sort()
        return " ".join([*numbers, item.topic])
    return item.question
