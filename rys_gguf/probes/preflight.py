"""Whether this suite can tell variants of this model apart, asked of the model itself.

A suite that fails here would make every later number a comparison of noise, or of answer formats.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

from rys_gguf.engines.base import Engine
from rys_gguf.errors import Unsuitable
from rys_gguf.probes.ask import answer, ask, think_and_answer
from rys_gguf.probes.item import Choice, Item
from rys_gguf.probes.names import LEVELS
from rys_gguf.probes.requests import TokenizedRequest
from rys_gguf.probes.suite import Suite, constant_share
from rys_gguf.probes.summary import standard_error
from rys_gguf.probes.thinking import Thinking
from rys_gguf.text import printable

MIN_ANSWERED = 0.9
MAX_TRUNCATED = 0.05
_TRIED = 20  # answers in words of each family
_TWICE = 4  # items that are asked again
_SIGMAS = 2.0
_CEILING = 0.95
_WAYS_OUT = "leave the family out (--families), or keep it with --no-preflight"
_WAYS_OUT_OF_OWN = "leave its items out of the suite, or keep them with --no-preflight"


class ItemResult(Protocol):
    """What the preflight reads of an answer: `ask.Answer` and a run's `ItemAnswer` both have it."""

    @property
    def score(self) -> float | None:
        """The family's own measure, None if the answer could not be read and has none."""

    @property
    def probabilities(self) -> Sequence[Mapping[str, float]]:
        """The options' probabilities of each request; empty for an answer in words."""


@dataclass(frozen=True, slots=True)
class RoomProblem:
    """Why a family leaves no room for a difference, and what to do about it.

    `is_unread` if the reason is that too many answers say nothing about the options.
    """

    family: str
    reason: str
    is_unread: bool = False

    def __str__(self) -> str:
        return f"{printable(self.family)}: {self.reason}"


def require_repeatable(
    engine: Engine, items: Sequence[Item], requests: Sequence[Sequence[TokenizedRequest]]
) -> None:
    """Raise Unsuitable unless the same question gets the same answer twice."""
    for item, tokenized in list(zip(items, requests, strict=True))[:_TWICE]:
        first, second = (ask(engine, item, tokenized) for _ in range(2))
        if first.probabilities != second.probabilities:
            raise Unsuitable(
                f"{printable(engine.model.name)}: the engine gives other probabilities when it is "
                f"asked again (item {printable(item.id)}); fix its number of threads and slots, so "
                f"that differences between candidates are not the engine's"
            )


def require_answers(
    engine: Engine, items: Sequence[Item], *, chats: bool, thinking: Thinking | None = None
) -> None:
    """Raise Unsuitable unless the model's answers in words can be read and end by themselves."""
    families: dict[str, list[Item]] = {}
    for item in items:
        families.setdefault(item.family, []).append(item)
    faults = []
    for family, members in families.items():
        if thinking is None:
            answers = [answer(engine, item, chats=chats) for item in members[:_TRIED]]
        else:
            answers = think_and_answer(engine, members[:_TRIED], thinking)
        n = len(answers)
        answered = sum(a.status == "ok" for a in answers) / n
        truncated = sum(a.status == "truncated" for a in answers) / n
        thoughts = sum("<think>" in (a.response or "") for a in answers)
        if thoughts and thinking is None:
            faults.append(
                f"{printable(family)}: {thoughts} of {n} answers contain thoughts, though thinking "
                f"is off: the model's chat template does not read enable_thinking; give "
                f"llama-server one that does (--llama-server PATH ... -- --chat-template-file FILE)"
            )
        elif answered < MIN_ANSWERED or truncated > MAX_TRUNCATED:
            faults.append(
                f"{printable(family)}: {answered:.0%} of {n} answers can be read (at least "
                f"{MIN_ANSWERED:.0%} must), {truncated:.0%} hit the token limit; leave the family "
                f"out (--families), take an easier --level, or score by probabilities, without "
                f"--generate"
            )
    _refuse("this model does not answer the suite", faults)


# -- room for a difference -----------------------------------------------------------------------


def require_room(answers: Iterable[tuple[Item, ItemResult]]) -> None:
    """Raise Unsuitable, naming every family in which the model leaves no room for a difference."""
    _refuse("the suite cannot show a gain on this model", room_problems(answers))


def room_notes(answers: Iterable[tuple[Item, ItemResult]]) -> tuple[str, ...]:
    """The same for a model that was only measured: lines that say why a sweep would refuse.

    Raises Unsuitable if no family's answers could be read, so that nothing was measured.
    """
    asked = list(answers)
    problems = room_problems(asked)
    unread = {p.family for p in problems if p.is_unread}
    if asked and unread == {item.family for item, _ in asked}:
        _refuse("this model does not answer the suite", problems)
    if not problems:
        return ()
    return ("a sweep would refuse this suite on this model:", *(f"  {p}" for p in problems))


def room_problems(answers: Iterable[tuple[Item, ItemResult]]) -> tuple[RoomProblem, ...]:
    """The families in which a model leaves no room for a difference.

    `answers` are all quick or all in words. The baseline is the score of the best constant answer.
    A model that does not beat it cannot lose, and one that knows nearly everything cannot gain. A
    mean beats the baseline if it is more than two standard errors above it: the mean of the scores
    or that of the probabilities of the right options.
    """
    asked = list(answers)
    suite = Suite(tuple(item for item, _ in asked))
    in_words = not any(result.probabilities for _, result in asked)
    baselines = suite.generated_baselines if in_words else suite.baselines
    problems = (
        _problem(
            family,
            [(item, result) for item, result in asked if item.family == family],
            baselines[family][""].constant,
        )
        for family in suite.families
    )
    return tuple(p for p in problems if p is not None)


def _problem(
    family: str,
    asked: Sequence[tuple[Item, ItemResult]],
    baseline: float,
) -> RoomProblem | None:
    n = len(asked)
    level = max(item.level for item, _ in asked)
    is_generated = all(item.id.startswith(f"{family}-") for item, _ in asked)
    ways_out = _WAYS_OUT if is_generated else _WAYS_OUT_OF_OWN
    scores = [result.score for _, result in asked if result.score is not None]
    if (answered := len(scores) / n) < MIN_ANSWERED:
        reason = f"{1 - answered:.0%} of {n} answers say nothing about the options; {ways_out}"
        return RoomProblem(family, reason, is_unread=True)
    score = fmean(scores)
    if not _is_above_zero([s - baseline for s in scores]) and not _is_above_zero(_surer(asked)):
        easier = f"use --level {family}={level - 1}, " if is_generated and level > 0 else ""
        error = f"SE {standard_error(scores):.3f}; " if len(scores) > 1 else ""
        reason = (
            f"the model does not beat the best constant answer by two standard errors (score "
            f"{score:.3f}, {error}baseline {baseline:.3f}; {n} items, level {level}); "
            f"{easier}{ways_out}"
        )
        return RoomProblem(family, reason)
    if score > _CEILING:
        harder = (
            f"use --level {family}={level + 1}, " if is_generated and level < LEVELS[-1] else ""
        )
        reason = (
            f"the model has next to nothing to gain (score {score:.3f}, {n} items, level "
            f"{level}); {harder}{ways_out}"
        )
        return RoomProblem(family, reason)
    return None


def _surer(asked: Sequence[tuple[Item, ItemResult]]) -> list[float]:
    """For each choice, the right option's share of probability above the best constant share."""
    by_options: dict[tuple[str, ...], list[tuple[str, float]]] = {}
    for item, result in asked:
        if isinstance(item, Choice) and result.score is not None and result.probabilities:
            (options,) = result.probabilities
            share = options[item.answer] / sum(options.values())
            by_options.setdefault(item.options, []).append((item.answer, share))
    gains = []
    for words, answered in by_options.items():
        constant = constant_share([answer for answer, _ in answered], 1 / len(words))
        gains += [share - constant for _, share in answered]
    return gains


def _is_above_zero(gains: Sequence[float]) -> bool:
    if len(gains) < 2:  # noqa: PLR2004 - one value has no spread
        return bool(gains) and gains[0] > 0
    return fmean(gains) > _SIGMAS * standard_error(gains)


def _refuse(reason: str, faults: Sequence[object]) -> None:
    if faults:
        raise Unsuitable("\n  ".join([reason, *map(str, faults)]))
