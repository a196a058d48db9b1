"""Thinking before an answer: the marks, the thought, and what is read after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import gguf
import pytest

from rys_gguf.engines.base import LIVE, SERVER, EngineOptions, Generation
from rys_gguf.engines.find import open_engine
from rys_gguf.errors import InvalidOptions, Refused
from rys_gguf.probes.ask import Answer, think_and_answer, think_and_ask
from rys_gguf.probes.item import Item
from rys_gguf.probes.thinking import Marks, Thinking, think, thinking_marks, thinking_of
from rys_gguf.runs.records import ItemAnswer, decode, encode
from rys_gguf.runs.stage import FINAL
from tests import tiny
from tests.engine import OPTIONS
from tests.fake_engine import FakeEngine
from tests.probes.own_items import MOOD, TWO, YES

MARKS = Marks("<think>\n", "</think>", "\n\n")


class Thinker(FakeEngine):
    """An engine that thinks a thought of eight letters about everything, and answers "yes"."""

    def __init__(self, *, n_thought: int = 8) -> None:
        self._n_thought = n_thought
        self.thought_about: list[str] = []
        self.asked: list[str] = []

    def templated(self, question: str, *, thinking: bool = False) -> str:
        """A question, and an empty thought unless thinking is on."""
        return f"U:{question}\nA:" + ("" if thinking else "<think>\n\n</think>\n\n")

    def reply(
        self, prompt: str | Sequence[int], n_tokens: int, stop: tuple[str, ...], with_nll: bool
    ) -> Generation:
        """A thought, or the answer after one."""
        assert not isinstance(prompt, str)
        text = _spelled(prompt)
        if not stop:
            self.asked.append(text)
            return Generation("Yes.", 2, truncated=False)
        assert stop == ("</think>",)
        self.thought_about.append(text)
        n = min(n_tokens, self._n_thought)
        return Generation("abcdefgh"[:n], n, truncated=n_tokens < self._n_thought)

    def option_probabilities(
        self, tokens: Sequence[int], options: Sequence[int], *, same_prompt: bool = False
    ) -> list[float]:
        """All options alike."""
        self.asked.append(_spelled(tokens))
        return super().option_probabilities(tokens, options, same_prompt=same_prompt)


def _spelled(tokens: Sequence[int]) -> str:
    return "".join(map(chr, tokens))


# -- marks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "off", "marks"),
    [
        pytest.param("", "<think>\n\n</think>\n\n", MARKS, id="Qwen3"),
        pytest.param(
            "<think>\n", "<think>\n\n</think>\n\n", Marks("", "</think>", "\n\n"), id="Qwen3.5"
        ),
        pytest.param("<think>", "</think>", Marks("", "</think>", ""), id="DeepSeek-V3.1"),
        pytest.param("<think>\n", "", Marks("", "</think>", "\n\n"), id="no empty thought"),
        pytest.param(
            "", "<|channel>thought\n<channel|>",
            Marks("<|channel>thought\n", "<channel|>", ""), id="Gemma 4",
        ),
    ],
)  # fmt: skip
def test_the_marks_are_those_of_the_template(on: str, off: str, marks: Marks) -> None:
    """What it writes with thinking on and off tells where a thought begins and ends."""

    class Templated(FakeEngine):
        def templated(self, question: str, *, thinking: bool = False) -> str:
            """A template that also speaks of marks before the question."""
            return f"[THINK] is not for you\n{question}\n{on if thinking else off}"

    assert thinking_marks(Templated()) == marks


@pytest.mark.parametrize(
    ("on", "message"),
    [
        ("", "m.gguf: --thinking needs a model that thinks if it is told to"),
        ("Think!", "switches thinking on with marks that are not known .expected one of <think>,"),
    ],
)
def test_a_template_that_does_not_let_think_is_refused(on: str, message: str) -> None:
    """The message says why, and what to do."""

    class Templated(FakeEngine):
        def templated(self, question: str, *, thinking: bool = False) -> str:
            """The same with and without, or something unknown."""
            return question + (on if thinking else "")

    with pytest.raises(Refused, match=message) as e:
        thinking_marks(Templated())
    assert "leave out --thinking" in str(e.value)


def test_a_model_without_a_template_cannot_think() -> None:
    """Nor one whose context is too small for a thought about the longest item."""
    with pytest.raises(Refused, match="needs a chat template, and the model has none"):
        thinking_of(Thinker(), [YES], 8, chats=False, n_ctx=4096)
    items = [YES, replace(YES, id="long", question=100 * "word ")]
    with pytest.raises(InvalidOptions, match=r"--thinking 300 takes a context of 1,0.* use --ctx-"):
        thinking_of(Thinker(), items, 300, chats=True, n_ctx=900)
    assert thinking_of(Thinker(), items, 100, chats=True, n_ctx=900) == Thinking(100, MARKS)


# -- thoughts and answers ------------------------------------------------------------------------


def test_an_answer_is_read_after_its_thought() -> None:
    """The thought is closed as the template closes it, and kept with the answer."""
    engine = Thinker()
    (answered,) = think_and_ask(engine, [YES], Thinking(20, MARKS))
    before = f"U:{YES.prompt()}\nA:<think>\n"
    assert engine.thought_about == [before]
    assert engine.asked == [f"{before}abcdefgh\n</think>\n\nAnswer: "]
    assert [(t.text, t.n_tokens, t.is_cut) for t in answered.thoughts] == [("abcdefgh", 8, False)]
    assert answered.probabilities == ({"yes": 0.5, "no": 0.5},)


def test_a_long_thought_is_cut_and_closed() -> None:
    """The answer follows what was thought so far."""
    engine = Thinker()
    (answered,) = think_and_ask(engine, [YES], Thinking(3, MARKS))
    assert engine.asked[0].endswith("<think>\nabc\n</think>\n\nAnswer: ")
    assert answered.thoughts[0].is_cut
    assert answered.fields()["thoughts_cut"] == 1


def test_each_prompt_is_thought_about_once() -> None:
    """Two cases are two prompts, the emotions of one scenario share theirs, as equal items do."""
    engine = Thinker()
    two, mood, again = think_and_ask(
        engine, [TWO, MOOD, replace(MOOD, id="again")], Thinking(20, MARKS)
    )
    assert len(engine.thought_about) == 3
    assert (len(two.thoughts), len(mood.thoughts)) == (2, 1)
    assert two.fields()["thought_tokens"] == 16
    assert again.thoughts == mood.thoughts
    assert think_and_ask(engine, [], Thinking(20, MARKS)) == []


def test_words_follow_a_thought_too() -> None:
    """The words alone are read as the answer."""
    engine = Thinker()
    (answered,) = think_and_answer(engine, [YES], Thinking(5, MARKS))
    assert engine.asked == [f"U:{YES.prompt()}\nA:<think>\nabcde\n</think>\n\n"]
    assert (answered.response, answered.score, answered.n_tokens) == ("Yes.", 1.0, 2)
    assert answered.thoughts[0].n_tokens == 5
    assert think_and_answer(engine, [], Thinking(5, MARKS)) == []


def test_a_run_keeps_thoughts() -> None:
    """Their fields are a record's, and the record of an answer without one does not name them."""
    (answered,) = think_and_ask(Thinker(), [YES], Thinking(3, MARKS))
    record = ItemAnswer(candidate="0-3", stage=FINAL, **answered.fields())
    assert decode(encode(record), ItemAnswer, "line 1") == record
    assert (record.n_thought, record.thoughts) == (3, ("abc",))
    plain = ItemAnswer(candidate="0-3", stage=FINAL, item="i", family="f")
    assert plain.n_thought is None
    assert b"thought" not in encode(plain)


# -- engines -------------------------------------------------------------------------------------


def _model(path: Path, closing: int | None = None) -> Path:
    """A tiny model with the template; its token `closing` is a control token that ends thoughts."""
    keys = tiny.THINKING
    if closing is not None:
        plain = tiny.tokenizer()
        tokens, types = (list(plain[f"tokenizer.ggml.{n}"]) for n in ("tokens", "token_type"))
        tokens[closing], types[closing] = "</think>", int(gguf.TokenType.CONTROL)
        keys = {**keys, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    return tiny.write(path, "llama", 2, extra=keys)


def _options(kind: str) -> EngineOptions:
    return replace(OPTIONS, kind=kind, n_ctx=2048)


def _asked(model: Path, kind: str, items: Sequence[Item], n_tokens: int) -> list[Answer]:
    with open_engine(model, _options(kind)) as engine:
        thinking = thinking_of(engine, items, n_tokens, chats=True, n_ctx=2048)
        return [*think_and_ask(engine, items, thinking), *think_and_answer(engine, items, thinking)]


def test_both_engines_think_the_same(tmp_path: Path) -> None:
    """Thoughts, words and probabilities; in one of them thoughts are written side by side."""
    model = _model(tmp_path / "m.gguf")
    items = [YES, TWO, MOOD]
    live, served = (_asked(model, kind, items, 12) for kind in (LIVE, SERVER))
    for one, other in zip(live, served, strict=True):
        assert one.thoughts == other.thoughts
        assert one.thoughts[0].is_cut
        # The limit may split a character, of which the server writes a part.
        words = [(given.response or "").rstrip("\ufffd") for given in (one, other)]
        assert words[0] == words[1]
        for a, b in zip(one.probabilities, other.probabilities, strict=True):
            # The server keeps what two requests have in common, which rounds differently.
            assert a == pytest.approx(b, abs=0.01)


@pytest.mark.parametrize("kind", [LIVE, SERVER])
def test_a_control_token_ends_a_thought(tmp_path: Path, kind: str) -> None:
    """It has no text, and some models close their thoughts with one."""
    with open_engine(_model(tmp_path / "m.gguf"), _options(LIVE)) as engine:
        prompt = tuple(engine.tokenize(engine.templated("Well?", thinking=True) + MARKS.start))
        written: list[int] = []
        while len(written) < 6:
            (token,) = engine.top_logprobs([*prompt, *written], 1)
            written.append(token)
    closing = written[-1]
    with open_engine(_model(tmp_path / "c.gguf", closing), _options(kind)) as engine:
        (thought,) = think(engine, ["Well?"], Thinking(20, MARKS)).values()
    assert (thought.n_tokens, thought.is_cut) == (written.index(closing) + 1, False)
    assert "</think>" not in thought.text
