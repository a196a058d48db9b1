"""Suites: items of several families in one fixed order, with the baselines of their scores.

The order is shuffled once and stratified: every prefix holds each family and topic in proportion.
A search can therefore ask all candidates the first items, and only some of them the rest.

Splits share no question, whatever the seeds, and no event of the scenarios about emotions. They do
share names, wordings and kinds of events, since one generator draws them all.
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
from rys_gguf.probes.item import DIGITS, Choice, Contrast, Item, Number, Ratings, dump_asked
from rys_gguf.probes.item_file import load
from rys_gguf.probes.names import FAMILIES, LEVELS, SIZES, SPLITS
from rys_gguf.probes.score import (
    best_constant,
    eq_percent,
    partial_credit,
    partial_credit_at_random,
    skill,
)

# Each module has topics(level) and make(rng, place).
GENERATORS: dict[str, ModuleType] = {m.FAMILY: m for m in (math, emotions, reasoning)}
# With so many items of a form, the most common answer is common for a reason.
_ENOUGH = 8


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
        """A hash of all items in their order: only equal suites have equal ids."""
        return hashlib.sha256(dump_asked(self.items).encode()).hexdigest()[:16]

    @cached_property
    def families(self) -> tuple[str, ...]:
        """The families, in the order of their first items."""
        return tuple(dict.fromkeys(i.family for i in self.items))

    def halves(self) -> tuple[Suite, Suite]:
        """Two suites, between which the items of every topic and answer are divided evenly.

        A single item goes to the first suite.
        """
        groups: dict[tuple[str, str, str], int] = {}
        sides: tuple[list[Item], list[Item]] = ([], [])
        for item in self.items:
            key = (item.family, item.topic, str(item.gold))
            # Groups start with alternating sides, so that groups of one item are divided as well.
            first = groups.setdefault(key, len(groups))
            sides[first % 2].append(item)
            groups[key] = first + 1
        return Suite(tuple(sides[0])), Suite(tuple(sides[1]))

    @cached_property
    def eq_baseline(self) -> float:
        """The EQ percent of the best constant answer: skill 0."""
        return best_constant(self.items)

    @cached_property
    def baselines(self) -> dict[str, dict[str, Baseline]]:
        """Baselines of quick scores by family and topic; topic "" is the whole family.

        The best constant answer of a family may be another one than those of its topics, and then
        it scores less than they do.
        """
        return self._baselines(generated=False)

    @cached_property
    def generated_baselines(self) -> dict[str, dict[str, Baseline]]:
        """Baselines of generated answers, as `baselines`."""
        return self._baselines(generated=True)

    def _baselines(self, *, generated: bool) -> dict[str, dict[str, Baseline]]:
        groups: dict[str, dict[str, list[Item]]] = {family: {"": []} for family in self.families}
        for item in self.items:
            groups[item.family][""].append(item)
            groups[item.family].setdefault(item.topic, []).append(item)
        return {
            family: {
                topic: _baseline(items, self.eq_baseline, generated=generated)
                for topic, items in topics.items()
            }
            for family, topics in groups.items()
        }

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
    """The right answer of a quick score, in a form that can be counted."""
    if isinstance(item, Number):
        return item.letter if item.texts else str(item.answer)[0]
    if isinstance(item, Ratings):
        return item.emotions[item.reference.index(max(item.reference))]
    return str(item.gold)


# -- baselines -----------------------------------------------------------------------------------


def _baseline(items: Sequence[Item], eq_baseline: float, *, generated: bool) -> Baseline:
    """The baseline of some items: the mean over the forms in which they are to be answered."""
    parts: dict[object, list[Item]] = {}
    for item in items:
        parts.setdefault(_form(item, generated=generated), []).append(item)
    baselines = [
        (len(p), _baseline_of_form(p, eq_baseline, generated=generated)) for p in parts.values()
    ]
    return Baseline(
        sum(n * b.constant for n, b in baselines) / len(items),
        sum(n * b.random for n, b in baselines) / len(items),
    )


def _form(item: Item, *, generated: bool) -> object:
    """What a constant answer may depend on: the form of the answer.

    The length of a number counts as its form where near misses count. Topics have such lengths.
    """
    if isinstance(item, Choice):
        return item.options
    if isinstance(item, Number):
        return item.partial, item.options, item.topic if generated and item.partial else ""
    return item.kind


def _baseline_of_form(items: Sequence[Item], eq_baseline: float, *, generated: bool) -> Baseline:
    first = items[0]
    if isinstance(first, Contrast):
        return Baseline(0.0, 0.0)
    if isinstance(first, Ratings):
        # The formula is a sum over ratings, so its mean over random digits is that of one rating.
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
    chance = fmean(item.chance for item in items)
    return Baseline(constant_share([_quick_answer(item) for item in items], chance), chance)


def constant_share(answers: Sequence[str], chance: float) -> float:
    """The share of items of one form that the best constant answer gets right.

    Among a few items one answer is the most common by luck. Each item with that answer is then
    left out when its own share is taken, and the result is at least `chance`.
    """
    n, common = len(answers), max(Counter(answers).values())
    if n >= _ENOUGH:
        return common / n
    return max(chance, (common - 1) / (n - 1)) if n > 1 else chance


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
    families: Sequence[str] = FAMILIES,
    counts: Mapping[str, int] | None = None,
) -> Suite:
    """The suite of a size: the same arguments give the same items on any machine.

    `counts` are numbers of items by family, in place of those of the size. `levels` is by family,
    1 for those it lacks. Raises ValueError for unknown names and levels.
    """
    if size not in SIZES or split not in SPLITS or not families or set(families) - set(FAMILIES):
        raise ValueError(f"no such suite: {size!r}, {split!r}, {tuple(families)!r}")
    levels = {family: (levels or {}).get(family, 1) for family in families}
    if set(levels.values()) - set(LEVELS):
        raise ValueError(f"no such level: {levels}, expected {LEVELS[0]} to {LEVELS[-1]}")
    ordered: list[tuple[Fraction, int, Item]] = []
    for family in families:
        items = _family(family, (counts or SIZES[size])[family], levels[family], seed, split)
        n = len(items)
        # Item k of n comes at (k + 1/2) / n of the suite: families are mixed in proportion.
        ordered += [
            (Fraction(2 * k + 1, 2 * n), FAMILIES.index(family), item)
            for k, item in enumerate(items)
        ]
    ordered.sort(key=lambda entry: entry[:2])
    return Suite(tuple(item for _, _, item in ordered))


def _family(family: str, n: int, level: int, seed: int, split: str) -> list[Item]:
    """Items of a family: rounds with one item of every topic, each round in an order of its own."""
    topics = GENERATORS[family].topics(level)
    made: dict[str, list[Item]] = {topic: [] for topic in topics}
    seen: set[str] = set()
    left = list(topics)
    for k in range(n):
        topic = topics[k % len(topics)]
        index = len(made[topic])
        item = _item(family, topic, level, index, seed, split, seen) if topic in left else None
        if item is None:
            # Easy levels have so many questions and no more.
            left = [other for other in left if other != topic]
        else:
            made[topic].append(item)
    order = random.Random(f"{family} {level} {seed} {split}")  # noqa: S311 - not for secrets
    queues = {topic: order.sample(items, len(items)) for topic, items in made.items()}
    items: list[Item] = []
    while any(queues.values()):
        turn = order.sample(topics, len(topics))
        items += [queues[topic].pop() for topic in turn if queues[topic]]
    return items


def _item(
    family: str, topic: str, level: int, index: int, seed: int, split: str, seen: set[str]
) -> Item | None:
    """An item of the split whose question is not in `seen`; the question is added to it.

    None if everything has been asked already.
    """
    name = f"{family}-{topic}-{level}-{split}-{seed}-{index}"
    number = SPLITS.index(split)
    # An event that one split uses is never used by another.
    place = Place(topic, level, index, name, slice(number, None, len(SPLITS)))
    for attempt in range(1000):
        rng = item_random(family, topic, level, index, seed=seed, split=split, attempt=attempt)
        item: Item = GENERATORS[family].make(rng, place)
        asked = _essence(item)
        # Every question belongs to one split, whatever the seed; short sums would occur in several.
        if hashlib.sha256(asked.encode()).digest()[0] % len(SPLITS) == number and asked not in seen:
            seen.add(asked)
            return item
    return None


def _essence(item: Item) -> str:
    """The part that must not come twice, whatever the wording or the order of versions."""
    if isinstance(item, Contrast):
        return min(item.question, item.other)
    if isinstance(item, Number) and item.partial:
        numbers = [c.strip("?.,") for c in item.question.split()]
        numbers = [c for c in numbers if c.isdigit()]
        if item.topic in {"sum", "product"}:  # 8 times 9 is 9 times 8
            numbers.sort()
        return " ".join([*numbers, item.topic])
    return item.question
