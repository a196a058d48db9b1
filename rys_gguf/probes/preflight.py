"""Is this suite able to tell this model's variants apart? Asked of the base, before anything else.

What fails here would make every later number a comparison of noise, or of answer formats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from rys_gguf.engines.server import Engine
from rys_gguf.errors import Unsuitable
from rys_gguf.probes.ask import TokenizedRequest, answer, ask
from rys_gguf.probes.item import Choice, Item, Number
from rys_gguf.probes.score import partial_credit_at_random
from rys_gguf.probes.suite import LEVELS

MIN_ANSWERED = 0.9
MAX_TRUNCATED = 0.05
_TRIED = 20  # answers of a family
_TWICE = 4  # items that are asked again
_SIGMAS = 2.0
_CEILING = 0.95
_WAYS_OUT = "leave the family out (--families), or keep it with --no-preflight"
_WAYS_OUT_OF_OWN = "leave its items out of the suite, or keep them with --no-preflight"


def level_for(n_parameters: int) -> int:
    """The difficulty at which a model of that size is likely neither at chance nor perfect."""
    return sum(n_parameters >= limit for limit in _LEVEL_LIMITS)


# Parameters from which on a model is asked level 1, 2, 3.
_LEVEL_LIMITS = (500_000_000, 3_000_000_000, 20_000_000_000)


def require_repeatable(
    engine: Engine, items: Sequence[Item], requests: Sequence[Sequence[TokenizedRequest]]
) -> None:
    """Raise Unsuitable unless the same question gets the same answer twice."""
    for item, asked in list(zip(items, requests, strict=True))[:_TWICE]:
        first, second = (ask(engine, item, asked) for _ in range(2))
        if first.probabilities != second.probabilities:
            raise Unsuitable(
                f"{engine.model.name}: the engine gives other probabilities when it is asked again "
                f"(item {item.id}); fix its number of threads and slots, so that differences "
                f"between candidates are theirs"
            )


def require_room(answers: Iterable[tuple[Item, Mapping[str, Any]]]) -> None:
    """Raise Unsuitable, naming every family in which the base leaves no room for a difference.

    `answers` are items with the base's lines as in items.jsonl, all quick or all generated. A base
    at chance cannot lose, one that knows nearly everything cannot gain. Above chance is a mean more
    than two standard errors above that of answers at random, by score or by the probability of the
    right option.
    """
    families: dict[str, list[tuple[Item, Mapping[str, Any]]]] = {}
    for item, line in answers:
        families.setdefault(item.family, []).append((item, line))
    faults = []
    for family, asked in families.items():
        scored = [(line, item) for item, line in asked if line["score"] is not None]
        level = max(item.level for item, _ in asked)
        is_ours = all(item.id.startswith(f"{family}-") for item, _ in asked)
        ways_out = _WAYS_OUT if is_ours else _WAYS_OUT_OF_OWN
        if (answered := len(scored) / len(asked)) < MIN_ANSWERED:
            faults.append(
                f"{family}: {1 - answered:.0%} of {len(asked)} answers of the base say nothing of "
                f"the options; {ways_out}"
            )
            continue
        score = fmean(line["score"] for line, _ in scored)
        chances = [_chance(line, item) for line, item in scored]
        gains = [line["score"] - chance for (line, _), chance in zip(scored, chances, strict=True)]
        sure = [
            _probability(line, item) - item.chance
            for line, item in scored
            if isinstance(item, Choice) and line["probabilities"]
        ]
        if not _is_above(gains) and not _is_above(sure):
            easier = f"use --level {family}={level - 1}, " if is_ours and level > 0 else ""
            faults.append(
                f"{family}: the base is at chance level ({score:.2f}, chance {fmean(chances):.2f}, "
                f"{len(asked)} items, level {level}); {easier}{ways_out}"
            )
        elif score > _CEILING:
            harder = level < LEVELS[-1] and is_ours
            faults.append(
                f"{family}: the base has next to nothing to gain ({score:.2f}, {len(asked)} items, "
                f"level {level}); {f'use --level {family}={level + 1}, ' * harder}{ways_out}"
            )
    _refuse("the suite cannot show a gain on this model", faults)


def _chance(line: Mapping[str, Any], item: Item) -> float:
    if line["probabilities"] or not isinstance(item, Number):
        return item.chance
    return partial_credit_at_random(item.answer) if item.partial else 0.0


def _probability(line: Mapping[str, Any], item: Choice) -> float:
    """Of the right option, among all options."""
    (given,) = line["probabilities"]
    return float(given[item.answer] / sum(given.values()))


def _is_above(gains: Sequence[float]) -> bool:
    if len(gains) < 2:  # noqa: PLR2004 - no spread to be had from one
        return bool(gains) and gains[0] > 0
    return fmean(gains) > _SIGMAS * stdev(gains) / math.sqrt(len(gains))


def require_answers(engine: Engine, items: Sequence[Item], *, chats: bool) -> None:
    """Raise Unsuitable unless the base's generated answers can be read and end by themselves."""
    families: dict[str, list[Item]] = {}
    for item in items:
        families.setdefault(item.family, []).append(item)
    faults = []
    for family, members in families.items():
        got = [answer(engine, item, chats=chats) for item in members[:_TRIED]]
        n = len(got)
        answered = sum(a.scored.status == "ok" for a in got) / n
        truncated = sum(a.scored.status == "truncated" for a in got) / n
        thinking = sum("<think>" in (a.response or "") for a in got)
        if thinking:
            faults.append(
                f"{family}: {thinking} of {n} answers hold thoughts, though thinking is off: the "
                f"model's chat template does not read enable_thinking; give llama-server one that "
                f"does (--llama-server PATH ... -- --chat-template-file FILE)"
            )
        elif answered < MIN_ANSWERED or truncated > MAX_TRUNCATED:
            faults.append(
                f"{family}: {answered:.0%} of {n} answers can be read (at least {MIN_ANSWERED:.0%} "
                f"must), {truncated:.0%} hit the token limit; leave the family out (--families), "
                f"take an easier --level, or score by probabilities, without --generate"
            )
    _refuse("this model does not answer the suite", faults)


def _refuse(what: str, faults: Sequence[str]) -> None:
    if faults:
        raise Unsuitable("\n  ".join([what, *faults]))
