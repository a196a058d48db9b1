"""How strong a feeling is, in scenarios built from the appraisals that feelings depend on.

Appraisal theory says that guilt needs something one did oneself, anger somebody else's intent,
surprise something unexpected, and so on. Every case in emotions.json is one event told in two
versions, which differ in one such appraisal. A contrast asks only which version has more of the
feeling; ratings ask for four intensities, one of them high and at least one of them 0.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from rys_gguf.probes import families
from rys_gguf.probes.draw import Place
from rys_gguf.probes.families.words import HE, SHE
from rys_gguf.probes.item import HIGHEST, Contrast, Item, Ratings

FAMILY = "eq"

PROVENANCE = (
    "The direction of every contrast follows from appraisal theory; the reference ratings are one "
    "author's, built by rule from the same appraisals. They are no human norms: they compare "
    "variants of one model, and are not comparable with EQ-Bench."
)


@dataclass(frozen=True, slots=True)
class Case:
    """One event, told in two versions: `event` and then the `strong` or the `weak` clause.

    {A} is the person whose feelings are asked for, {B} is another; {him} and {his} stand for {A}.
    `weight` says how much the event matters: -1 little, 0 somewhat, 1 a lot.
    """

    event: str
    strong: str
    weak: str
    weight: int


@dataclass(frozen=True, slots=True)
class Kind:
    """One appraisal, and the emotion that depends on it.

    The two versions of a case differ in that appraisal only. `felt` are the reference ratings of
    the strong version of an event of weight 0: the dominant emotion first, then two that are also
    present, then three that are absent.
    """

    differ_in: str
    felt: dict[str, int]
    cases: tuple[Case, ...]

    @property
    def emotion(self) -> str:
        """The dominant one."""
        return next(iter(self.felt))


def _read_kinds() -> tuple[Kind, ...]:
    text = files(families).joinpath("emotions.json").read_text(encoding="utf-8")
    return tuple(
        Kind(kind["differ_in"], kind["felt"], tuple(Case(**case) for case in kind["cases"]))
        for kind in json.loads(text)
    )


KINDS = _read_kinds()

# Settings. Neither these nor _BEFORE may name a season, an hour or the weather, since a case may
# name another one.
_SCENES = (
    *("It was a Tuesday.", "It was a Thursday.", "The calendar showed the seventeenth."),
    *("It was the second week of the month.", "The price of bread had just gone up."),
    *("The capital had a new mayor.", "A new spacecraft was on its way to Mars."),
    *("Everybody was talking about a new novel.", "The papers were full of a new opera."),
)
# An earlier event with a feeling of its own, the same in both versions.
_BEFORE = (
    "The day before, {A} had found a coin in the street.",
    "The day before, {A} had argued with a neighbour about the bins.",
    "Two days before, {A} had laughed at a joke in the paper.",
    "The week before, {A} had slept badly because of a dripping tap.",
    "Two days before, {A} had been stuck in traffic.",
    "The week before, {A} had had good news about a friend.",
)
_FEELS = (
    "How does {A} feel about it?",
    "What does {A} feel about this?",
    "What did it make {A} feel?",
)


def references(kind: Kind, weight: int) -> dict[str, int]:
    """The ratings of an event of some weight: an emotion that is present grows with the weight."""
    return {name: rating and min(rating + weight, HIGHEST) for name, rating in kind.felt.items()}


def topics(level: int) -> tuple[str, ...]:  # noqa: ARG001 - as in the other families
    """The topics of a level. Contrasts, which need no norms, come twice as often as ratings."""
    return ("contrast", "ratings", "contrast")


def make(rng: random.Random, place: Place) -> Item:
    """One item. Its kind, its case and the version that has more depend on the index in turn.

    Only the place's share of the cases of each kind is used, also for what happens to others.
    """
    turn, which = divmod(place.index, len(KINDS))
    kind = KINDS[which]
    tell = _Teller(rng, place.level)
    if place.topic == "ratings":
        return _ratings(rng, place, kind, turn, tell)
    return _contrast(rng, place, kind, turn, tell)


def _ratings(rng: random.Random, place: Place, kind: Kind, turn: int, tell: _Teller) -> Ratings:
    cases = kind.cases[place.share]
    case = cases[(turn + 2) % len(cases)]
    beside = rng.choice(rng.choice([k for k in KINDS if k is not kind]).cases[place.share])
    besides = [beside, *_more_beside(rng, place, (case, beside))]
    felt = references(kind, case.weight)
    main, *names = felt
    mild, absent = rng.sample(names[:2], 2), rng.sample(names[2:], 2)
    emotions = [main, mild[0], absent[0], (absent if place.index % 2 else mild)[1]]
    rng.shuffle(emotions)
    return Ratings(
        id=place.name,
        family=FAMILY,
        topic=place.topic,
        level=place.level,
        event=case.event,
        question=tell(case, besides, strong=True, question=rng.choice(_FEELS), last=True),
        emotions=tuple(emotions),
        reference=tuple(felt[e] for e in emotions),
    )


def _contrast(rng: random.Random, place: Place, kind: Kind, turn: int, tell: _Teller) -> Contrast:
    cases = kind.cases[place.share]
    repeat, nth = divmod(turn, len(cases))
    case = cases[nth]
    beside = rng.choice([c for c in cases if c is not case])
    besides = [beside, *_more_beside(rng, place, (case, beside))]
    question = f"How much {kind.emotion} does {{A}} feel?"
    versions = [tell(case, besides, strong=strong, question=question) for strong in (True, False)]
    # When a case comes again, its versions come in the other order.
    strong_first = (place.index + turn + repeat) % 2 == 0
    return Contrast(
        id=place.name,
        family=FAMILY,
        topic=place.topic,
        level=place.level,
        event=case.event,
        question=versions[not strong_first],
        other=versions[strong_first],
        emotion=kind.emotion,
        higher="question" if strong_first else "other",
    )


def _more_beside(rng: random.Random, place: Place, used: Sequence[Case]) -> list[Case]:
    """The cases that levels above 3 add."""
    unused = [c for kind in KINDS for c in kind.cases[place.share] if c not in used]
    return rng.sample(unused, max(0, place.level - 3))


class _Teller:
    """Tells cases with one set of names and one setting, so that versions differ in nothing else.

    Level 0 is the bare case. Level 1 adds a setting, level 2 also an earlier feeling. At level 3
    another person lives through the opposite version of a second case, as a distraction; at each
    level above one more does.
    """

    def __init__(self, rng: random.Random, level: int) -> None:
        self._people = rng.sample(SHE + HE, 4)
        self._others = self._people[2:]
        if level > 3:  # noqa: PLR2004 - a level
            unnamed = [name for name in SHE + HE if name not in self._people]
            self._others += rng.sample(unnamed, 2 * (level - 3))
        self._scene = rng.choice(_SCENES)
        self._before = rng.choice(_BEFORE)
        self._other_first = rng.random() < 0.5  # noqa: PLR2004 - a coin
        self._level = level

    def __call__(
        self,
        case: Case,
        besides: Sequence[Case],
        *,
        strong: bool,
        question: str,
        last: bool = False,
    ) -> str:
        """The text. With `last` the case comes last, since the question only says "it"."""
        a, b, *_ = self._people
        told = [_told(case, a, b, strong=strong)]
        if self._level in {1, 2}:
            told.insert(0, self._scene)
        if self._level == 2:  # noqa: PLR2004 - a level
            told.insert(1, self._before.format(A=a))
        if self._level >= 3:  # noqa: PLR2004 - a level
            others = zip(besides, self._others[::2], self._others[1::2], strict=True)
            place = 0 if last or self._other_first else 1
            told[place:place] = [_told(other, c, d, strong=not strong) for other, c, d in others]
        return " ".join([*told, question.format(A=a)])


def _told(case: Case, a: str, b: str, *, strong: bool) -> str:
    him, his = ("her", "her") if a in SHE else ("him", "his")
    return f"{case.event} {case.strong if strong else case.weak}".format(A=a, B=b, him=him, his=his)
