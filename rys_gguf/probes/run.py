"""Ask one model a whole suite."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rys_gguf.engines.base import LIVE, Engine, EngineOptions
from rys_gguf.engines.find import open_kept_engine
from rys_gguf.engines.live.kept import sessions_kept
from rys_gguf.engines.template import has_template
from rys_gguf.probes.ask import (
    Answer,
    answer_all,
    answer_line,
    ask_all,
    think_and_answer,
    think_and_ask,
)
from rys_gguf.probes.item import Item
from rys_gguf.probes.preflight import require_answers, require_repeatable
from rys_gguf.probes.requests import Compiler
from rys_gguf.probes.score import best_constant
from rys_gguf.probes.thinking import Thinking, thinking_of

# Items that a live engine is asked at once.
_TOGETHER = 32


@sessions_kept()
def run_probe(
    model: Path,
    options: EngineOptions,
    items: Sequence[Item],
    *,
    generate: bool = False,
    thinking: int = 0,
    preflight: bool = True,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Answer, ...]:
    """The model's answers to the items, in their order.

    It thinks for up to `thinking` tokens before each, not at all if that is 0. `progress` is called
    with the number of items that were answered. Raises Unsuitable if the preflight finds that the
    answers could show nothing, Refused or InvalidOptions if the model cannot think like that,
    EngineFailed if an answer did not come.
    """
    chats = has_template(model, options)
    with open_kept_engine(model, options) as engine:
        how = None
        if thinking:
            how = thinking_of(engine, items, thinking, chats=chats, n_ctx=options.n_ctx)
        asking = _asking_in_words if generate else _asking_quickly
        ask_some = asking(engine, items, chats=chats, preflight=preflight, thinking=how)
        answers: list[Answer] = []
        n = _TOGETHER if options.kind == LIVE else 1
        for start in range(0, len(items), n):
            some = items[start : start + n]
            answers += ask_some(some)
            progress(len(some))
    return tuple(answers)


def _asking_in_words(
    engine: Engine,
    items: Sequence[Item],
    *,
    chats: bool,
    preflight: bool,
    thinking: Thinking | None,
) -> Callable[[Sequence[Item]], list[Answer]]:
    if preflight:
        require_answers(engine, items, chats=chats, thinking=thinking)
    baseline = best_constant(items)
    if thinking is not None:
        return lambda some: think_and_answer(engine, some, thinking, baseline)
    return lambda some: answer_all(engine, some, chats=chats, baseline=baseline)


def _asking_quickly(
    engine: Engine,
    items: Sequence[Item],
    *,
    chats: bool,
    preflight: bool,
    thinking: Thinking | None,
) -> Callable[[Sequence[Item]], list[Answer]]:
    baseline = best_constant(items)
    if thinking is not None:
        return lambda some: think_and_ask(engine, some, thinking, baseline)
    compiler = Compiler(engine, chats=chats)
    if preflight:
        require_repeatable(engine, items[:1], [compiler.compile(item) for item in items[:1]])
    return lambda some: ask_all(engine, some, [compiler.compile(item) for item in some], baseline)


def dump_answers(answers: Iterable[Answer]) -> str:
    """Answers as the lines of JSON that `probe` keeps."""
    return "".join(json.dumps(answer_line(a)) + "\n" for a in answers)
