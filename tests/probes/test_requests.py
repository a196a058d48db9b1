"""Tokenized requests: prompts end where options begin, and options differ in their tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from rys_gguf.engines.find import open_engine
from rys_gguf.errors import RysError
from rys_gguf.probes.item import Choice
from rys_gguf.probes.requests import Compiler
from tests.engine import OPTIONS
from tests.fake_engine import FakeEngine
from tests.probes.own_items import SUM, YES


def test_the_prompt_ends_where_the_option_begins(smollm2: Path) -> None:
    """Prompt and option together are the tokens of the whole text."""
    with open_engine(smollm2, OPTIONS) as engine:
        compiler = Compiler(engine, chats=True)
        (request,) = compiler.compile(YES)
        spelled = dict(request.options)
        tokens = engine.tokenize(compiler.text(YES.prompt(), "Answer: yes"))
        assert list(request.tokens) == tokens[: len(request.tokens)]
        assert tokens[len(request.tokens)] in spelled["yes"]
        assert set(spelled["yes"]).isdisjoint(spelled["no"])
        (digits,) = compiler.compile(SUM)
        assert [name for name, _ in digits.options] == list("0123456789")
        tokens = engine.tokenize(compiler.text(SUM.prompt(), "Answer: 7"))
        assert (*digits.tokens, dict(digits.options)["7"][0]) == tuple(tokens)


def test_where_digits_are_grouped_a_number_may_begin_with_any_group() -> None:
    """The options are 0 to 999; 007 and the like are not among them."""
    (request,) = Compiler(FakeEngine(), chats=False).compile(SUM)
    names = [name for name, _ in request.options]
    assert names[:11] == [*"0123456789", "10"]
    assert len(names) == 1000
    assert len({tokens for _, tokens in request.options}) == 1000


def test_groups_a_tokenizer_did_not_learn_are_no_options() -> None:
    """Tokenizers with merges know 391 and not 392; two tokens cannot be read off one."""

    class Merges(FakeEngine):
        def tokenize(self, text: str, *, special: bool = True) -> list[int]:
            """Groups of three are one token only if they are odd."""
            return [
                part for t in super().tokenize(text, special=special)
                for part in ((t // 10 - 10_000, t) if t >= 30_000 and t % 2 == 0 else (t,))
            ]  # fmt: skip

    (request,) = Compiler(Merges(), chats=False).compile(SUM)
    names = [name for name, _ in request.options]
    assert names[:100] == [str(n) for n in range(100)]
    assert names[100:] == [str(n) for n in range(101, 1000, 2)]
    assert len({tokens for _, tokens in request.options}) == len(names)


def test_only_the_tokenizers_own_beginning_is_taken_off() -> None:
    """The token that tokenizer and template both add counts once; other repeats stay."""

    class Beginning(FakeEngine):
        def tokenize(self, text: str, *, special: bool = True) -> list[int]:
            """Every text begins with token 1."""
            return [1] * special + [1 if t == ord("^") else t for t in super().tokenize(text)]

    assert Compiler(Beginning(), chats=False).tokens("^a") == [1, ord("a")]
    assert Compiler(FakeEngine(), chats=False).tokens("aab") == [*b"aab"]


def test_a_template_that_opens_thoughts_is_refused() -> None:
    """The question would be answered inside the model's thoughts."""

    class Thinking(FakeEngine):
        def templated(self, question: str, *, thinking: bool = False) -> str:
            """A template that opens a thought."""
            return f"user: {question} assistant: <think>"

    with pytest.raises(RysError, match=r"m.gguf: its chat template lets the model think"):
        Compiler(Thinking(), chats=True).compile(YES)


def test_options_that_begin_alike_are_refused_by_name() -> None:
    """No forward pass can tell them apart."""
    item = Choice(
        id="boats", family="own", topic="t", level=0, question="?", answer="barge",
        options=("barge", "boat"),
    )  # fmt: skip
    with pytest.raises(RysError, match="item 'boats': option 'boat' begins with the same token"):
        Compiler(FakeEngine(), chats=False).compile(item)
