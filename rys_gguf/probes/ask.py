"""Ask a model an item: by forward passes whose next token is read, or for an answer in words.

An answer that did not come is an error, never a wrong answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rys_gguf.engines.base import Engine, Generation, Question, Writing
from rys_gguf.probes.item import Choice, Contrast, Item, Number, Ratings
from rys_gguf.probes.requests import Compiler, TokenizedRequest
from rys_gguf.probes.score import Scored, score_probabilities, score_text
from rys_gguf.probes.thinking import Thinking, Thought, think

Probabilities = dict[str, float]


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to one item.

    `probabilities` has the options' probabilities of each request of a quick answer, `response` the
    words of a generated one. `n_tokens` counts the prompts' tokens of a quick answer and the
    generated tokens of the other kind. `thoughts` are those before it, one for each prompt, where
    the model was to think.
    """

    item: Item
    scored: Scored
    response: str | None
    probabilities: tuple[Probabilities, ...]
    n_tokens: int
    seconds: float
    thoughts: tuple[Thought, ...] = ()

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
            **(self._thought() if self.thoughts else {}),
        }

    def _thought(self) -> dict[str, Any]:
        return {
            "thoughts": tuple(thought.text for thought in self.thoughts),
            "thought_tokens": sum(thought.n_tokens for thought in self.thoughts),
            "thoughts_cut": sum(thought.is_cut for thought in self.thoughts),
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


def think_and_ask(
    engine: Engine, items: Sequence[Item], thinking: Thinking, baseline: float = 0.0
) -> list[Answer]:
    """`ask_all` after a thought about each prompt. Raises EngineFailed."""
    start = time.monotonic()
    prompts = [tuple(dict.fromkeys(r.prompt for r in item.requests())) for item in items]
    thoughts = think(engine, (prompt for each in prompts for prompt in each), thinking)
    contexts = {prompt: thought.context for prompt, thought in thoughts.items()}
    compiler = Compiler(engine, chats=True, contexts=contexts)
    requests = [compiler.compile(item) for item in items]
    seconds = time.monotonic() - start
    given = ask_all(engine, items, requests, baseline)
    return [
        _after(answered, [thoughts[prompt] for prompt in each], seconds / len(given))
        for answered, each in zip(given, prompts, strict=True)
    ]


def _after(answered: Answer, thoughts: Sequence[Thought], seconds: float) -> Answer:
    """An answer with the thoughts before it, and the time that they took."""
    return replace(answered, thoughts=tuple(thoughts), seconds=answered.seconds + seconds)


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
    return _in_words(engine, items, [_task(item, chats=chats) for item in items], baseline)


def think_and_answer(
    engine: Engine, items: Sequence[Item], thinking: Thinking, baseline: float = 0.0
) -> list[Answer]:
    """`answer_all` after a thought about each item. Raises EngineFailed."""
    start = time.monotonic()
    thoughts = think(engine, (item.prompt() for item in items), thinking)
    compiler = Compiler(engine, chats=True)
    tasks = [
        Writing(tuple(compiler.tokens(thoughts[item.prompt()].context)), n_predict(item))
        for item in items
    ]
    seconds = time.monotonic() - start
    given = _in_words(engine, items, tasks, baseline)
    return [_after(a, [thoughts[a.item.prompt()]], seconds / len(given)) for a in given]


def _in_words(
    engine: Engine, items: Sequence[Item], tasks: Sequence[Writing], baseline: float
) -> list[Answer]:
    start = time.monotonic()
    written = engine.write(tasks)
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
