"""Answers: their probabilities, words and records, and errors where none came."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rys_gguf.engines.base import Engine
from rys_gguf.engines.find import open_engine
from rys_gguf.errors import EngineFailed
from rys_gguf.probes.ask import answer, answer_line, ask, n_predict
from rys_gguf.probes.item import Item
from rys_gguf.probes.requests import Compiler
from rys_gguf.runs.records import ItemAnswer, decode, encode
from rys_gguf.runs.stage import FINAL
from tests.engine import OPTIONS, Computing, computing
from tests.fake_engine import FakeEngine, Replying
from tests.probes.own_items import LETTERS, MOOD, SUM, TWO, YES


@pytest.fixture(scope="module")
def engine(smollm2: Path) -> Iterator[Engine]:
    """SmolLM2, loaded once."""
    with open_engine(smollm2, OPTIONS) as engine:
        yield engine


@pytest.fixture(scope="module")
def whole(smollm2: Path) -> Iterator[Computing]:
    """The same model where all logits come as bytes: a server writes 49,152 numbers as text."""
    with computing(smollm2, OPTIONS) as whole:
        yield whole


@pytest.mark.parametrize("item", [YES, SUM, MOOD, TWO, LETTERS], ids=lambda i: i.kind + i.id)
@pytest.mark.parametrize("chats", [True, False])
def test_probabilities_are_those_of_the_whole_vocabulary(
    engine: Engine, whole: Computing, item: Item, chats: bool
) -> None:
    """Each option's share equals that of the softmax over all 49,152 tokens."""
    requests = Compiler(engine, chats=chats).compile(item)
    answered = ask(engine, item, requests)
    for request, shares in zip(requests, answered.probabilities, strict=True):
        p = np.exp(whole.logprobs(request.tokens, 49152))
        mass = {name: sum(p[t] for t in tokens) for name, tokens in request.options}
        total = sum(mass.values())
        # A prompt that goes on from the last one's is computed in other pieces, and rounded.
        close = 0.05 if request.follows else 1e-4
        for name, share in shares.items():
            assert share == pytest.approx(mass[name] / total, abs=close)
        assert sum(shares.values()) == pytest.approx(1)
    assert len(requests) == len(item.requests())


def test_answers_in_words_have_a_limit_by_kind_and_are_scored() -> None:
    """A chat gets the item's prompt; without a template the text ends in an opening."""
    engine = Replying("Answer: 7.")
    answered = answer(engine, SUM, chats=True)
    assert (answered.score, answered.soft_score, answered.response) == (1.0, 1.0, "Answer: 7.")
    assert engine.asked == [(SUM.prompt(), 26, ())]
    assert n_predict(SUM) == 26
    plain = answer(engine, SUM, chats=False)
    assert plain.response == "Answer: 7."
    assert engine.asked[1:] == [(f"{SUM.prompt()}\nAnswer:", 26, ("\n\n",))]


def test_thoughts_are_kept_and_do_not_count() -> None:
    """They precede the response in a think block, and are not scored."""
    answered = answer(Replying("Answer: 7", thoughts="Is it 8?"), SUM, chats=True)
    assert answered.response == "<think>Is it 8?</think>Answer: 7"
    assert answered.score == 1


def test_a_cut_answer_is_truncated() -> None:
    """The engine reports it, and the last line is not read."""
    answered = answer(Replying("It is 7", truncated=True), SUM, chats=True)
    assert (answered.status, answered.score) == ("truncated", 0.0)


def test_emotions_that_cannot_be_read_have_no_score() -> None:
    """A refusal to rate is not a rating of 0, while an unread number counts as wrong."""
    assert answer(Replying("Hm."), MOOD, chats=True).score is None
    assert answer(Replying("Hm."), TWO, chats=True).soft_score is None
    assert answer(Replying("Hm."), SUM, chats=True).score == 0


def test_the_line_of_an_answer_keeps_its_keys() -> None:
    """Readers of MODEL.probe.jsonl know these names, in this order."""
    engine = FakeEngine()
    line = answer_line(ask(engine, YES, Compiler(engine, chats=False).compile(YES)))
    assert list(line) == [
        "scoring", "item", "family", "topic", "cluster", "binary", "status", "score", "credit",
        "parsed", "gold", "response", "probabilities", "n_tokens", "seconds",
    ]  # fmt: skip
    assert line["probabilities"] == [{"yes": 0.5, "no": 0.5}]
    assert line["scoring"] == "quick"
    assert answer_line(answer(Replying("no"), YES, chats=True))["scoring"] == "generate"


@pytest.mark.parametrize("item", [YES, SUM, MOOD, TWO, LETTERS], ids=lambda i: i.kind + i.id)
def test_the_fields_of_an_answer_are_those_of_a_runs_record(item: Item) -> None:
    """A run keeps an answer by its fields alone, and a probe's line is what the run writes."""
    engine = FakeEngine()
    answered = ask(engine, item, Compiler(engine, chats=False).compile(item), baseline=-100)
    record = ItemAnswer(candidate="0-3", stage=FINAL, **answered.fields())
    line = json.loads(encode(record))
    assert {key: line[key] for key in answer_line(answered)} == json.loads(
        json.dumps(answer_line(answered))
    )
    assert decode(encode(record), ItemAnswer, "line 1") == record


def test_an_engine_that_is_gone_is_an_error_not_a_zero(smollm2: Path) -> None:
    """Without an answer there is no score."""
    with open_engine(smollm2, OPTIONS) as engine:
        requests = Compiler(engine, chats=True).compile(YES)
        engine.close()
        with pytest.raises(EngineFailed):
            ask(engine, YES, requests)
