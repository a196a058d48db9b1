"""Ask one model a whole suite."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rys_gguf.engines.base import Engine, EngineOptions
from rys_gguf.engines.find import open_engine
from rys_gguf.engines.template import has_template
from rys_gguf.probes.ask import Answer, answer, answer_line, ask
from rys_gguf.probes.item import Item
from rys_gguf.probes.preflight import require_answers, require_repeatable
from rys_gguf.probes.requests import Compiler
from rys_gguf.probes.score import best_constant


def run_probe(
    model: Path,
    options: EngineOptions,
    items: Sequence[Item],
    *,
    generate: bool = False,
    preflight: bool = True,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Answer, ...]:
    """The model's answers to the items, in their order.

    `progress` is called with 1 after each item. Raises Unsuitable if the preflight finds that the
    answers could show nothing, EngineFailed if an answer did not come.
    """
    chats = has_template(model, options)
    with open_engine(model, options) as engine:
        asking = _asking_in_words if generate else _asking_quickly
        ask_item = asking(engine, items, chats=chats, preflight=preflight)
        answers = []
        for item in items:
            answers.append(ask_item(item))
            progress(1)
    return tuple(answers)


def _asking_in_words(
    engine: Engine, items: Sequence[Item], *, chats: bool, preflight: bool
) -> Callable[[Item], Answer]:
    if preflight:
        require_answers(engine, items, chats=chats)
    baseline = best_constant(items)
    return lambda item: answer(engine, item, chats=chats, baseline=baseline)


def _asking_quickly(
    engine: Engine, items: Sequence[Item], *, chats: bool, preflight: bool
) -> Callable[[Item], Answer]:
    compiler = Compiler(engine, chats=chats)
    if preflight:
        require_repeatable(engine, items[:1], [compiler.compile(item) for item in items[:1]])
    baseline = best_constant(items)
    return lambda item: ask(engine, item, compiler.compile(item), baseline)


def dump_answers(answers: Iterable[Answer]) -> str:
    """Answers as the lines of JSON that `probe` keeps."""
    return "".join(json.dumps(answer_line(a)) + "\n" for a in answers)
