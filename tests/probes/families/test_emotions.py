"""Emotions: versions differ in one respect, and references are spread."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import pytest

from rys_gguf.probes.families import emotions
from rys_gguf.probes.item import Contrast, Ratings
from rys_gguf.probes.names import LEVELS, SIZES, SPLITS
from rys_gguf.probes.suite import Suite
from tests.probes.made import built, items


def test_contrasts_differ_in_one_clause_and_show_who_is_meant() -> None:
    """The person asked about occurs in both versions, which differ in one clause only."""
    for kind in emotions.KINDS:
        for case in kind.cases:
            assert "{A}" in case.event or ("{A}" in case.strong and "{A}" in case.weak), case
            assert case.strong != case.weak
            assert case.weight in (-1, 0, 1)
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
    """Settings name no season, time of day, weather or sound, as cases do."""
    for text in emotions._SCENES + emotions._BEFORE:
        assert not re.search(CLASHES, text), text


def test_it_is_what_happened_to_the_one_who_is_asked_for() -> None:
    """The question says "it", so another person's case comes before the one that is meant."""
    for item in items("ratings", levels=(3,)):
        asked = re.search(r"(?:does|make) (\w+) feel", item.question)
        assert asked
        case, beside = sorted(told_cases(item.question), key=lambda c: asked.group(1) in c[1])[::-1]
        assert item.question.index(beside[1]) < item.question.index(case[1])
        assert asked.group(1) not in beside[1]


# Each event, and how it is told.
TOLD = [
    (case.event, re.compile(re.sub(r"\\{\w+\\}", r"\\w+", re.escape(f"{case.event} {clause}"))))
    for kind in emotions.KINDS
    for case in kind.cases
    for clause in (case.strong, case.weak)
]


def told_cases(text: str) -> list[tuple[str, str]]:
    """The events of the cases in a text, each with the words in which it is told."""
    return [(event, m.group()) for event, pattern in TOLD for m in pattern.finditer(text)]


def test_every_kind_has_a_dominant_emotion_two_others_and_three_absent_ones() -> None:
    """Ratings are drawn by the order of the emotions, and cases are divided among the splits."""
    for kind in emotions.KINDS:
        main, *mild = list(kind.felt.values())[:3]
        assert main > max(mild) > 0
        assert list(kind.felt.values())[3:] == [0, 0, 0]
        assert len(kind.cases) % len(SPLITS) == 0


def test_references_are_spread() -> None:
    """One emotion is strong and at least one absent, so no constant answer scores well."""
    for size in SIZES:
        for level in LEVELS:
            suite = Suite(built(size, "eq", level, level, SPLITS[level % 3]))
            rated = [i for i in suite.items if isinstance(i, Ratings)]
            (record,) = [r for r in suite.statistics() if r["topic"] == "ratings"]
            assert record["references"]["sd"] >= 2.5
            assert record["references"]["zeros_and_ones"] >= 0.3
            assert record["references"]["best_constant"] <= 60
            assert all(max(i.reference) >= 7 and min(i.reference) == 0 for i in rated)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("level", [0, 3, 7])
def test_splits_share_no_event(size: str, level: int) -> None:
    """This includes events of other people; only contrasts of the largest size repeat any."""
    events = []
    for seed, split in enumerate(SPLITS):
        told: Counter[str] = Counter()
        first: Counter[str] = Counter()
        for item in built(size, "eq", level, seed, split):
            cases = [shared for shared, _ in told_cases(item.question)]
            assert len(cases) == max(1, level - 1), item.question
            told.update(cases)
            first.update(cases * (isinstance(item, Contrast) and level == 0))
        assert max(first.values(), default=0) <= (2 if size == "validate" else 1)
        events.append(set(told))
    assert all(a.isdisjoint(b) for a, b in pairwise([*events, events[0]]))
    told_once = [case.event for kind in emotions.KINDS for case in kind.cases]
    assert len(set(told_once)) == len(told_once)
