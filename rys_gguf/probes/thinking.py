"""Let a model think before it answers, for at most so many tokens.

The model's own template asks it to think. What it then writes, greedily, is a thought, up to the
mark that ends it. A thought that is too long is cut off and closed. llama.cpp's reasoning budget
does that (common/reasoning-budget.cpp, b11549), and Muennighoff et al. 2025 (arXiv:2501.19393) call
it budget forcing. The answer is read after the thought, in the same way as without one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rys_gguf.engines.base import Engine, Writing
from rys_gguf.errors import InvalidOptions, Refused
from rys_gguf.probes.item import Item
from rys_gguf.probes.requests import Compiler
from rys_gguf.text import printable

# The marks around thoughts in the templates of llama.cpp that read enable_thinking
# (models/templates, b11549).
_MARKS = (
    ("<think>", "</think>"),
    ("<|channel>thought", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
_AFTER = "\n\n"  # what most templates write between a thought and the answer
# For the answer, and for prompts of more tokens than the one with the most characters.
_ROOM = 192
_QUESTION = "How many are left?"
_WAYS_OUT = (
    "leave out --thinking, or give llama-server a template that reads enable_thinking "
    "(--llama-server PATH ... -- --chat-template-file FILE)"
)


@dataclass(frozen=True, slots=True)
class Marks:
    """The texts around a thought: before it, at its end, and between it and the answer.

    `start` is empty if the template itself begins the thought.
    """

    start: str
    end: str
    after: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """How a model thinks: between which marks, and for at most how many tokens."""

    n_tokens: int
    marks: Marks


@dataclass(frozen=True, slots=True)
class Thought:
    """What a model wrote before an answer; `is_cut` if the limit ended it.

    `n_tokens` counts the mark that ends it. `context` is all that the answer follows: the prompt
    and the closed thought.
    """

    text: str
    n_tokens: int
    is_cut: bool
    context: str


def thinking_marks(engine: Engine) -> Marks:
    """The marks of the model's own template.

    Raises Refused if the template cannot switch thinking on, or has marks that are not known.
    """
    name = printable(engine.model.name)
    on, off = (engine.templated(_QUESTION, thinking=thinking) for thinking in (True, False))
    if on == off:
        raise Refused(
            f"{name}: --thinking needs a model that thinks if it is told to, and its chat template "
            f"does not read enable_thinking; {_WAYS_OUT}"
        )
    # Templates also describe the marks in front of the question.
    on, off = (prompt.rpartition(_QUESTION)[2] for prompt in (on, off))
    for start, end in _MARKS:
        if start in on or end in off:
            after = off.rpartition(end)[2] if end in off else _AFTER
            return Marks("" if start in on else f"{start}\n", end, after)
    known = ", ".join(start for start, _ in _MARKS)
    raise Refused(
        f"{name}: its chat template switches thinking on with marks that are not known (expected "
        f"one of {known}); {_WAYS_OUT}"
    )


def thinking_of(
    engine: Engine, items: Iterable[Item], n_tokens: int, *, chats: bool, n_ctx: int
) -> Thinking:
    """How the engine's model thinks about items.

    Raises Refused if it has no template (`chats` false) that lets it, InvalidOptions if thoughts
    about the longest item do not fit into a context of `n_ctx` tokens.
    """
    if not chats:
        raise Refused(
            f"{printable(engine.model.name)}: --thinking needs a chat template, and the model has "
            f"none; {_WAYS_OUT}"
        )
    marks = thinking_marks(engine)
    questions = {q for i in items for q in (i.prompt(), *(r.prompt for r in i.requests()))}
    prompt = opened(engine, max(sorted(questions), key=len), marks)
    needed = len(engine.tokenize(prompt)) + n_tokens + _ROOM
    if needed > n_ctx:
        raise InvalidOptions(
            f"--thinking {n_tokens} takes a context of {needed:,} tokens with these items, and it "
            f"has {n_ctx:,}: use --ctx-size {needed}"
        )
    return Thinking(n_tokens, marks)


def opened(engine: Engine, question: str, marks: Marks) -> str:
    """The prompt that makes the model think about a user message: the thought begins at its end."""
    return engine.templated(question, thinking=True) + marks.start


def think(engine: Engine, questions: Iterable[str], thinking: Thinking) -> dict[str, Thought]:
    """The thought about each different user message. Raises EngineFailed.

    Thoughts are written side by side where the engine can.
    """
    marks = thinking.marks
    prompts = {q: opened(engine, q, marks) for q in dict.fromkeys(questions)}
    compiler = Compiler(engine, chats=True)
    written = engine.write(
        [
            Writing(tuple(compiler.tokens(prompt)), thinking.n_tokens, stop=(marks.end,))
            for prompt in prompts.values()
        ]
    )
    thoughts = {}
    for (question, prompt), generation in zip(prompts.items(), written, strict=True):
        text = generation.text.strip().rstrip("\ufffd")  # the limit may split a character
        thoughts[question] = Thought(
            text,
            generation.n_tokens,
            generation.truncated,
            f"{prompt}{text}\n{marks.end}{marks.after}",
        )
    return thoughts
