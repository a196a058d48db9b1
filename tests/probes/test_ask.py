"""What is asked of the engine is what was meant, and an answer that did not come is an error."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rys_gguf.engines.server import Engine
from rys_gguf.errors import EngineFailed, RysError, Unsuitable
from rys_gguf.probes.ask import Compiler, answer, ask, n_predict
from rys_gguf.probes.item import Choice, Contrast, Item, Number, Ratings
from rys_gguf.probes.preflight import level_for, require_answers, require_repeatable, require_room
from rys_gguf.probes.run import row_lines, run_probe, summarise
from rys_gguf.probes.score import partial_credit_at_random
from rys_gguf.probes.suite import Suite, build_suite
from tests import tiny
from tests.command import fails, run
from tests.engine import OPTIONS

YES = Choice(id="y", family="reasoning", topic="t", level=0, question="Is fire hot?", answer="yes")
SUM = Number(id="n", family="math", topic="sum", level=0, question="What is 3 + 4?", answer=7)
MOOD = Ratings(
    id="r", family="eq", topic="ratings", level=0, question="Ann won the race.",
    emotions=("joy", "anger"), reference=(9, 0),
)  # fmt: skip
TWO = Contrast(
    id="c", family="eq", topic="contrast", level=0, question="Ann broke it herself.",
    other="The storm broke it.", emotion="guilt", higher="question",
)  # fmt: skip
LETTERS = Choice(
    id="l", family="reasoning", topic="t", level=0, question="Which is a fruit?", answer="B",
    options=("A", "B", "C"), texts=("stone", "apple", "chair"),
)  # fmt: skip


@pytest.mark.parametrize("item", [YES, SUM, MOOD, TWO, LETTERS], ids=lambda i: i.kind + i.id)
@pytest.mark.parametrize("chats", [True, False])
def test_probabilities_are_those_of_the_whole_vocabulary(
    smollm2: Path, item: Item, chats: bool
) -> None:
    """Each option's share, against the softmax over all 49,152 tokens after the same prompt."""
    with Engine(smollm2, OPTIONS) as engine:
        questions = Compiler(engine, chats=chats).compile(item)
        got = ask(engine, item, questions)
        for question, found in zip(questions, got.probabilities, strict=True):
            p = np.exp(engine.logprobs(question.tokens, 49152))
            mass = {name: sum(p[t] for t in tokens) for name, tokens in question.options}
            total = sum(mass.values())
            # A prompt that goes on from the last one's is computed in other pieces, and rounded.
            close = 0.05 if question.follows else 1e-4
            for name, value in found.items():
                assert value == pytest.approx(mass[name] / total, abs=close)
            assert sum(found.values()) == pytest.approx(1)
    assert len(questions) == len(item.requests())


def test_the_prompt_ends_where_the_option_begins(smollm2: Path) -> None:
    """Prompt and option together are the tokens of the whole text."""
    with Engine(smollm2, OPTIONS) as engine:
        compiler = Compiler(engine, chats=True)
        (question,) = compiler.compile(YES)
        spelled = dict(question.options)
        whole = engine.tokenize(compiler.text(YES.prompt(), "Answer: yes"))
        assert list(question.tokens) == whole[: len(question.tokens)]
        assert whole[len(question.tokens)] in spelled["yes"]
        assert set(spelled["yes"]).isdisjoint(spelled["no"])
        (digits,) = compiler.compile(SUM)
        assert [name for name, _ in digits.options] == list("0123456789")
        whole = engine.tokenize(compiler.text(SUM.prompt(), "Answer: 7"))
        assert (*digits.tokens, dict(digits.options)["7"][0]) == tuple(whole)


class Grouping:
    """A tokenizer that makes up to three digits one token, and every other character one."""

    model = Path("m.gguf")

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Numbers below 1000 are their own tokens, after 2000 for the characters."""
        tokens: list[int] = []
        at = 0
        while at < len(text):
            end = at
            while end < len(text) and text[end].isdigit() and end - at < 3:
                end += 1
            if end > at:
                tokens.append(10_000 * (end - at) + int(text[at:end]))
            at = max(end, at + 1)
            if end < at:
                tokens.append(ord(text[at - 1]))
        return tokens


def test_where_digits_are_grouped_a_number_may_begin_with_any_group() -> None:
    """0 to 999, each told from 007 and the like."""
    compiler = Compiler(Grouping(), chats=False)  # type: ignore[arg-type]
    (question,) = compiler.compile(SUM)
    names = [name for name, _ in question.options]
    assert names[:11] == [*"0123456789", "10"]
    assert len(names) == 1000
    assert len({tokens for _, tokens in question.options}) == 1000


def test_groups_a_tokenizer_did_not_learn_are_no_options() -> None:
    """Tokenizers with merges know 391 and not 392; what is two tokens cannot be read off one."""

    class Merges(Grouping):
        def tokenize(self, text: str, *, special: bool = True) -> list[int]:
            """Groups of three are one token only if they are odd."""
            found = super().tokenize(text, special=special)
            return [
                part for t in found
                for part in ((t // 10 - 10_000, t) if t >= 30_000 and t % 2 == 0 else (t,))
            ]  # fmt: skip

    (question,) = Compiler(Merges(), chats=False).compile(SUM)  # type: ignore[arg-type]
    names = [name for name, _ in question.options]
    assert names[:100] == [str(n) for n in range(100)]
    assert names[100:] == [str(n) for n in range(101, 1000, 2)]
    assert len({tokens for _, tokens in question.options}) == len(names)


def test_only_the_tokenizers_own_beginning_is_taken_off() -> None:
    """Where a template writes it as well; a text may begin with the same token twice."""

    class Beginning(Grouping):
        def tokenize(self, text: str, *, special: bool = True) -> list[int]:
            """1 is what every text begins with."""
            return [1] * special + [1 if t == ord("^") else t for t in super().tokenize(text)]

    compiler = Compiler(Beginning(), chats=False)  # type: ignore[arg-type]
    assert compiler.tokens("^a") == [1, ord("a")]
    assert Compiler(Grouping(), chats=False).tokens("aab") == [*b"aab"]  # type: ignore[arg-type]


def test_a_template_that_opens_thoughts_is_refused() -> None:
    """The question would be put into what the model thinks."""

    class Thinking(Grouping):
        def templated(self, question: str) -> str:
            """A thought, begun."""
            return f"user: {question} assistant: <think>"

    with pytest.raises(RysError, match=r"m.gguf: its chat template lets the model think"):
        Compiler(Thinking(), chats=True).compile(YES)  # type: ignore[arg-type]


def test_options_that_begin_alike_are_refused_by_name() -> None:
    """No forward pass can tell them apart."""
    item = Choice(
        id="boats", family="own", topic="t", level=0, question="?", answer="barge",
        options=("barge", "boat"),
    )  # fmt: skip
    with pytest.raises(RysError, match="item 'boats': option 'boat' begins with the same token"):
        Compiler(Grouping(), chats=False).compile(item)  # type: ignore[arg-type]


class Replying(Grouping):
    """An engine that gives one reply to everything."""

    def __init__(self, content: str, finish: str = "stop", thoughts: str | None = None) -> None:
        self.reply = {
            "choices": [{
                "message": {"content": content, "reasoning_content": thoughts},
                "finish_reason": finish,
            }],
            "usage": {"completion_tokens": 3},
        }  # fmt: skip
        self.asked: list[dict[str, Any]] = []

    def chat_messages(self, messages: Any, **parameters: Any) -> dict[str, Any]:
        """The reply."""
        self.asked.append(parameters)
        return self.reply


def test_answers_in_words_are_greedy_short_and_scored() -> None:
    """Nothing that punishes repetition, a limit by kind, and the parsed answer."""
    engine = Replying("Answer: 7.")
    got = answer(engine, SUM, chats=True)  # type: ignore[arg-type]
    assert (got.scored.score, got.response) == (1.0, "Answer: 7.")
    assert engine.asked[0]["max_tokens"] == n_predict(SUM) == 26
    assert engine.asked[0]["temperature"] == 0.0
    assert engine.asked[0]["repeat_penalty"] == 1.0


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (Replying("I would rather not say"), "0% of 2 answers can be read"),
        (Replying("", thoughts="Hmm, 7?"), "2 of 2 answers hold thoughts"),
        (Replying("Answer: 7 because", finish="length"), "hit the token limit"),
    ],
)
def test_the_preflight_stops_what_cannot_be_read(engine: Replying, said: str) -> None:
    """Unreadable, thinking, cut off: each is named with its family and a way out."""
    other = Number(id="n2", family="math", topic="sum", level=0, question="3 + 5?", answer=7)
    with pytest.raises(Unsuitable, match=rf"math: .*{said}"):
        require_answers(engine, [SUM, other], chats=True)  # type: ignore[arg-type]


def test_the_preflight_passes_what_can(smollm2: Path) -> None:
    """The same answer twice; readable answers."""
    engine = Replying("Answer: 7")
    require_answers(engine, [SUM], chats=True)  # type: ignore[arg-type]
    with Engine(smollm2, OPTIONS) as real:
        require_repeatable(real, [YES], [Compiler(real, chats=True).compile(YES)])


def test_an_engine_that_changes_its_mind_is_found() -> None:
    """Noise of the engine would be taken for differences between windows."""

    class Moody(Grouping):
        n = 0

        def option_probabilities(self, tokens: Any, options: Any, **_: Any) -> list[float]:
            """Other values each time."""
            self.n += 1
            return [1 / (k + self.n) for k in range(len(options))]

    engine: Any = Moody()
    with pytest.raises(Unsuitable, match="other probabilities when it is asked again"):
        require_repeatable(engine, [YES], [Compiler(engine, chats=False).compile(YES)])


def lines(item: Item, scores: list[float], p: float) -> list[dict[str, Any]]:
    """Answers of the base to one item over and over; `p` is what it gives "yes"."""
    rest = ["no"] if getattr(item, "answer", None) == "yes" else []
    return [
        {
            "item": item.id, "family": item.family, "topic": item.topic, "score": s,
            "probabilities": [{"yes": p, **dict.fromkeys(rest, 1 - p)}],
        }
        for s in scores
    ]  # fmt: skip


def test_chance_level_is_found_and_an_easier_level_named() -> None:
    """By score or by probability; a base that is a little above chance every time is above it."""
    hard = Choice(**{**{f: getattr(YES, f) for f in YES.__slots__}, "level": 2, **BASE})
    with pytest.raises(Unsuitable, match="--level reasoning=1"):
        require_room([(hard, row) for row in lines(hard, [0, 1] * 20, 0.5)])
    theirs = replace(hard, id="mine")
    with pytest.raises(Unsuitable) as e:
        require_room([(theirs, row) for row in lines(theirs, [0, 1] * 20, 0.5)])
    assert "--level" not in str(e.value), "own items have no levels to choose from"
    assert "leave its items out of the suite" in str(e.value)
    require_room([(hard, row) for row in lines(hard, [1, 1, 1, 0] * 20, 0.5)])
    varied = [lines(hard, [n % 2], 0.52 + 0.01 * (n % 2))[0] for n in range(40)]
    require_room([(hard, row) for row in varied])
    with pytest.raises(Unsuitable, match="leave its items out of the suite"):
        require_room([(TWO, row) for row in lines(TWO, [1, -1] * 20, 0)])


def test_a_base_that_knows_everything_asks_for_a_harder_level() -> None:
    """Nothing is left to gain; at the hardest level there is no harder one to name."""
    easy, hardest = (
        Choice(**{**{f: getattr(YES, f) for f in YES.__slots__}, "level": n, **BASE})
        for n in (2, 3)
    )
    require_room([(easy, row) for row in lines(easy, [1] * 37 + [0] * 3, 0.9)])
    with pytest.raises(Unsuitable, match=r"nothing to gain \(0.97.*--level reasoning=3"):
        require_room([(easy, row) for row in lines(easy, [1] * 39 + [0], 0.9)])
    with pytest.raises(Unsuitable, match=r"level 3\); leave the family out"):
        require_room([(hardest, row) for row in lines(hardest, [1] * 40, 0.9)])


def test_a_base_that_gives_no_option_any_probability_is_no_base() -> None:
    """What could not be read is counted, not taken for a number."""
    unread: list[Any] = [None] * 5
    with pytest.raises(Unsuitable, match="12% of 40 answers of the base say nothing"):
        require_room([(YES, row) for row in lines(YES, [*unread, *[1, 1, 1, 0] * 9][:40], 0.6)])
    require_room([(YES, row) for row in lines(YES, [*unread[:2], *[1, 1, 1, 0] * 10], 0.6)])


def test_in_words_chance_is_that_of_words() -> None:
    """A guess with the right number of digits earns partial credit, and shows no ability."""
    item = Number(
        id="math-1", family="math", topic="sum", level=1, question="?", answer=26317, partial=True
    )
    chance = partial_credit_at_random(26317)
    assert 0.3 < chance < 0.7

    def in_words(*scores: float) -> list[dict[str, Any]]:
        return [{**line, "probabilities": []} for line in lines(item, [*scores] * 20, 0)]

    with pytest.raises(Unsuitable, match=rf"at chance level \({chance:.2f}, chance {chance:.2f}"):
        require_room([(item, row) for row in in_words(chance - 0.1, chance + 0.1)])
    require_room([(item, row) for row in in_words(chance, chance + 0.2)])


BASE = {"id": "reasoning-h", "family": "reasoning", "topic": "t", "question": "?", "answer": "yes"}


def test_levels_follow_the_number_of_parameters() -> None:
    """Tiny, small, middle, large."""
    assert [level_for(int(n)) for n in (1.3e8, 1e9, 9e9, 3e10)] == [0, 1, 2, 3]


def test_an_engine_that_is_gone_is_an_error_not_a_zero(smollm2: Path) -> None:
    """Scores are of answers; what did not answer has none."""
    with Engine(smollm2, OPTIONS) as engine:
        questions = Compiler(engine, chats=True).compile(YES)
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(EngineFailed):
            ask(engine, YES, questions)


def test_a_probe_of_a_real_model_keeps_every_answer(smollm2: Path, tmp_path: Path) -> None:
    """The command: a table, a file with every answer, the same numbers again from the library."""
    suite = tmp_path / "own.jsonl"
    items = build_suite("quick", levels={"math": 0}, families=("math",)).items[:12]
    suite.write_text("".join(json.dumps(i.as_json()) + "\n" for i in items))
    out = tmp_path / "answers.jsonl"
    args = ["probe", smollm2, "--threads", "1", "-o", out, "--suite", suite, "--no-preflight"]
    done = run(*args, "--json")
    assert done.returncode == 0, done.stderr
    (row, *_) = json.loads(done.stdout)["rows"]
    kept = [json.loads(line) for line in out.read_text().splitlines()]
    assert [k["item"] for k in kept] == [i.id for i in items]
    assert row["n"] == len(kept)
    assert math.isclose(row["score"], sum(k["score"] for k in kept) / len(kept))
    again = run_probe(smollm2, OPTIONS, items, preflight=False)
    strip = [{k: v for k, v in line.items() if k != "seconds"} for line in kept]
    assert [{k: v for k, v in line.items() if k != "seconds"} for line in again] == strip
    assert next(iter(row_lines(summarise(Suite(items), again)))).startswith("family")


def test_a_dry_run_shows_the_items_and_asks_none(tmp_path: Path) -> None:
    """By family and topic, with their baselines; without an engine, and nothing is written."""
    model = tiny.write(tmp_path / "m.gguf", "llama", 2)
    # A family named twice is asked once.
    args = ["probe", model, "--dry-run", "--level", "1", "--families", "math,reasoning,math"]
    done = run(*args, "--llama-server", sys.executable)
    assert done.returncode == 0, done.stderr
    found = json.loads(run(*args, "--json").stdout)
    assert {s["family"] for s in found} == {"math", "reasoning"}
    assert {s["level"] for s in found} == {1}
    suite = build_suite(
        "quick", levels=dict.fromkeys(("math", "reasoning"), 1), families=("math", "reasoning")
    )
    assert sum(s["n"] for s in found) == len(suite.items)
    lines = done.stdout.splitlines()
    assert len(lines) == len(found) + 1
    for line, s in zip(lines[1:], found, strict=True):
        assert line.startswith(f"{s['family']} {s['topic']}")
        assert f"{s['constant']:.3f}" in line
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_missing_parts_are_one_message(smollm2: Path, tmp_path: Path) -> None:
    """No harness, no suite, an empty one."""
    assert "cannot read the suite" in fails("probe", smollm2, "--suite", tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "no items" in fails("probe", smollm2, "--suite", tmp_path / "empty.jsonl")
    (tmp_path / "one.jsonl").write_text('{"kind": "choice", "question": "?", "answer": "no"}\n')
    both = run("probe", smollm2, "--suite", tmp_path / "one.jsonl", "--heldout")
    assert (both.returncode, "with --suite, name their file" in both.stderr) == (2, True)
    assert "rys-gguf[harness]" in fails("probe", smollm2, "--lm-eval", "gsm8k")


STAND_IN = """
import json, os, sys, urllib.request
at = sys.argv.index
options = dict(part.split("=", 1) for part in sys.argv[at("--model_args") + 1].split(","))
assert sys.argv[at("--model") + 1] == "local-chat-completions"
assert "--apply_chat_template" in sys.argv
body = {
    "model": options["model"],
    "messages": [{"role": "user", "content": "Say hello."}],
    "max_tokens": 8,
    "temperature": 0,
}
headers = {
    "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}",
    "Content-Type": "application/json",
}
request = urllib.request.Request(options["base_url"], json.dumps(body).encode(), headers)
reply = json.load(urllib.request.urlopen(request))
print(sys.argv[at("--tasks") + 1], len(reply["choices"][0]["message"]["content"]))
sys.exit(int(sys.argv[at("--limit") + 1]))
"""


def test_the_harness_is_given_our_engine(smollm2: Path, tmp_path: Path) -> None:
    """Called as lm_eval is documented, at the address of a chat that answers; its code counts.

    A stand-in takes the harness's place: the real one brings sixty packages.
    """
    package = tmp_path / "lm_eval"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STAND_IN)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    args = ["probe", smollm2, "--threads", "1", "--lm-eval", "gsm8k", "--lm-eval-arg=--limit"]
    done = run(*args, "--lm-eval-arg=0", env=environment)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"gsm8k [1-9]\d*\n", done.stdout)
    failed = run(*args, "--lm-eval-arg=3", env=environment)
    assert failed.returncode == 1
    assert "lm_eval ended with exit code 3" in failed.stderr


def test_answers_replace_nothing_by_accident(smollm2: Path, tmp_path: Path) -> None:
    """Not the model, not a device, not another file; and no question is asked in vain."""
    import shutil

    model = shutil.copy(smollm2, tmp_path / "m.gguf")
    suite = tmp_path / "own.jsonl"
    suite.write_text(
        '{"kind": "choice", "question": "Is fire hot?", "answer": "yes"}\n'
        '{"kind": "choice", "question": "Is ice hot?", "answer": "no"}\n'
    )
    other = tmp_path / "thesis.txt"
    other.write_text("mine")
    args = ["probe", model, "--suite", suite, "--no-preflight", "--threads", "1"]
    for out, said in [
        (model, "is the source model itself"),
        (suite, "is the source model itself"),
        (other, "--force replaces it"),
        (Path("/dev/null"), "not a regular file"),
    ]:
        force = ["--force"] if out in (model, suite) else []
        done = run(*args, "-o", out, *force)
        assert done.returncode == 1
        assert said in done.stderr
        assert done.stdout == ""
    assert other.read_text() == "mine"
    assert Path("/dev/null").is_char_device()
    assert run(*args, "-o", other, "--force").returncode == 0
    assert [json.loads(x)["item"] for x in other.read_text().splitlines()] == ["line-1", "line-2"]
    assert run(*args).returncode == run(*args).returncode == 0
