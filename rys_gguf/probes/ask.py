"""Ask a model an item: by forward passes whose next token is read, or for an answer in words.

An answer that did not come is an error, never a wrong answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rys_gguf.engines.base import Engine, Generation, Question, Writing
from rys_gguf.probes.item import Choice, Contrast, Item, Number, Ratings
from rys_gguf.probes.requests import TokenizedRequest
from rys_gguf.probes.score import Scored, score_probabilities, score_text

Probabilities = dict[str, float]


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to one item.

    `probabilities` has the options' probabilities of each request of a quick answer, `response` the
    words of a generated one. `n_tokens` counts the prompts' tokens of a quick answer and the
    generated tokens of the other kind.
    """

    item: Item
    scored: Scored
    response: str | None
    probabilities: tuple[Probabilities, ...]
    n_tokens: int
    seconds: float

    @property
    def scoring(self) -> str:
        """How it was asked: "quick" or "generate"."""
        return "quick" if self.response is None else "generate"

    @property
    def status(self) -> str:
        """Whether it could be read: "ok", "no_answer" or "truncated"."""
        return self.scored.status

    @property
    def score(self) -> float | None:
        """The family's own measure; None for emotions that could not be read."""
        return None if self._is_unrated else self.scored.score

    @property
    def soft_score(self) -> float | None:
        """The finer score. None where `score` is None."""
        return None if self._is_unrated else self.scored.soft_score

    @property
    def _is_unrated(self) -> bool:
        return self.status != "ok" and isinstance(self.item, (Contrast, Ratings))

    def fields(self) -> dict[str, Any]:
        """The answer as flat fields with the names and the order of `runs.records.ItemAnswer`."""
        return {
            "scoring": self.scoring,
            "item": self.item.id,
            "family": self.item.family,
            "topic": self.item.topic,
            "cluster": self.item.common,
            "binary": self.scored.binary,
            "status": self.status,
            "score": self.score,
            "soft_score": self.soft_score,
            "parsed": self.scored.parsed,
            "gold": self.item.gold,
            "response": self.response,
            "probabilities": tuple(
                {name: round(p, 6) for name, p in options.items()} for options in self.probabilities
            ),
            "n_tokens": self.n_tokens,
            "seconds": round(self.seconds, 4),
        }


def ask(
    engine: Engine, item: Item, requests: Sequence[TokenizedRequest], baseline: float = 0.0
) -> Answer:
    """A quick answer: one forward pass per request. Raises EngineFailed.

    `baseline` is the EQ percent of the best constant answer, as in `score`.
    """
    return ask_all(engine, [item], [requests], baseline)[0]


def ask_all(
    engine: Engine,
    items: Sequence[Item],
    requests: Sequence[Sequence[TokenizedRequest]],
    baseline: float = 0.0,
) -> list[Answer]:
    """Quick answers to many items, asked together: each has an equal share of the time."""
    start = time.monotonic()
    values = iter(engine.probabilities_of([_question(r) for each in requests for r in each]))
    probabilities = [[_by_option(r, next(values)) for r in each] for each in requests]
    seconds = (time.monotonic() - start) / max(1, len(items))
    return [
        Answer(
            item,
            score_probabilities(item, given, baseline=baseline),
            None,
            tuple(given),
            sum(len(request.tokens) for request in each),
            seconds,
        )
        for item, each, given in zip(items, requests, probabilities, strict=True)
    ]


def _question(request: TokenizedRequest) -> Question:
    ids = tuple(token for _, tokens in request.options for token in tokens)
    return Question(request.tokens, ids, request.follows)


def _by_option(request: TokenizedRequest, values: Sequence[float]) -> Probabilities:
    """The probability of each option from those of all tokens that options begin with."""
    left = iter(values)
    return {name: sum(next(left) for _ in tokens) for name, tokens in request.options}


def answer(engine: Engine, item: Item, *, chats: bool, baseline: float = 0.0) -> Answer:
    """An answer in the model's own words, greedy, thinking off. Raises EngineFailed."""
    return answer_all(engine, [item], chats=chats, baseline=baseline)[0]


def answer_all(
    engine: Engine, items: Sequence[Item], *, chats: bool, baseline: float = 0.0
) -> list[Answer]:
    """Answers in words to many items, written together: each has an equal share of the time."""
    start = time.monotonic()
    written = engine.write([_task(item, chats=chats) for item in items])
    seconds = (time.monotonic() - start) / max(1, len(items))
    answers = []
    for item, generation in zip(items, written, strict=True):
        text = _response(generation)
        scored = score_text(item, text, truncated=generation.truncated, baseline=baseline)
        answers.append(Answer(item, scored, text, (), generation.n_tokens, seconds))
    return answers


def _task(item: Item, *, chats: bool) -> Writing:
    if chats:
        return Writing(item.prompt(), n_predict(item), chat=True)
    return Writing(f"{item.prompt()}\nAnswer:", n_predict(item), stop=("\n\n",))


def _response(generation: Generation) -> str:
    thoughts = f"<think>{generation.thoughts}</think>" if generation.thoughts else ""
    return thoughts + generation.text


def answer_line(answered: Answer) -> dict[str, Any]:
    """An answer as an object of the file that `probe` writes."""
    # Files of version 0.1.0 call the soft score "credit".
    line = {
        "credit" if key == "soft_score" else key: value for key, value in answered.fields().items()
    }
    return {**line, "probabilities": list(line["probabilities"])}


def n_predict(item: Item) -> int:
    """The most tokens that an answer may have."""
    if isinstance(item, Number):
        return 24 + 2 * len(str(item.answer))
    return 32 if isinstance(item, (Choice, Contrast)) else 64
