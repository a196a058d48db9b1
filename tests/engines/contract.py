"""What every Engine promises, as tests that each implementation inherits.

A subclass named Test... says how to open a model and how to make the engine crash.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rys_gguf.engines.base import Engine, Question, Writing
from rys_gguf.errors import EngineFailed
from tests import tiny

PROMPT = [1, 50, 60, 70, 81]
QUESTION = "What is 2+2? Answer with one number."
OPENING = "The capital of France is"


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether the condition came true in time."""
    waiting = threading.Event()
    for _ in range(round(seconds / 0.02)):
        if condition():
            return True
        waiting.wait(0.02)
    return False


class EngineContract:
    """The tests. Models are a tiny one with a token per byte, and SmolLM2 where text matters."""

    def open(self, model: Path) -> Engine:
        """The implementation under test, not yet entered."""
        raise NotImplementedError

    def crash(self, engine: Engine) -> None:
        """End what runs the model, as an abort would."""
        raise NotImplementedError

    def ask_until_it_fails(self, engine: Engine) -> None:
        """Keep the engine busy, for somebody else to end it."""
        while True:
            engine.speed([1, 50, 60], 200)

    # Tests that end their engine open one of their own; the others share one, as users do.

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A model with 259 tokens: three special ones, then one for each byte."""
        return tiny.write(tmp_path_factory.mktemp("contract") / "m.gguf", "llama", 2)

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, model: Path) -> Iterator[Engine]:
        """An engine with the tiny model."""
        with cls().open(model) as engine:
            yield engine

    @pytest.fixture(scope="class")
    @classmethod
    def smol(cls, smollm2: Path) -> Iterator[Engine]:
        """An engine with a model that writes text and has a chat template."""
        with cls().open(smollm2) as engine:
            yield engine

    # -- identity ------------------------------------------------------------------------------

    def test_it_says_what_it_is(self, engine: Engine, model: Path) -> None:
        """Model and build are known inside the block."""
        assert engine.model == model
        assert engine.build.strip()

    # -- tokens --------------------------------------------------------------------------------

    def test_tokens_spell_the_text(self, engine: Engine) -> None:
        """With a token per byte the ids are the bytes, in order; a word begins with a space."""
        text = "caf\u00e9 \U0001f600"
        ids = engine.tokenize(text, special=False)
        assert bytes(n - 3 for n in ids).decode().replace("\u2581", " ") == f" {text}"

    def test_a_text_may_have_more_tokens_than_bytes(self, engine: Engine) -> None:
        """A space is three tokens here."""
        text = 40 * " a"
        assert len(engine.tokenize(text, special=False)) > len(text) + 40

    def test_special_tokens_come_in_front(self, engine: Engine) -> None:
        """The text's own tokens follow the token that begins a text, which is there by default."""
        ids = engine.tokenize("a b", special=False)
        assert engine.tokenize("a b", special=True) == [1, *ids]
        assert engine.tokenize("a b") == [1, *ids]
        assert engine.tokenize("") == [1]

    def test_special_tokens_in_a_text_are_recognised(self, smol: Engine) -> None:
        """A template's marks are single tokens, as the model was trained on them."""
        assert len(smol.tokenize("<|im_start|>", special=False)) == 1

    # -- log-probabilities ---------------------------------------------------------------------

    def test_logprobs_are_normalised_and_repeat(self, engine: Engine) -> None:
        """Finite values over the vocabulary with sum 1, bit for bit the same when asked again."""
        first, second = (engine.logprobs(PROMPT, tiny.N_VOCAB) for _ in range(2))
        assert first.shape == (tiny.N_VOCAB,)
        assert first.dtype == np.float64
        assert np.isfinite(first).all()
        assert np.exp(first).sum() == pytest.approx(1, abs=1e-4)
        assert np.array_equal(first, second)

    def test_what_was_asked_before_does_not_matter(self, engine: Engine) -> None:
        """No other prompt and no other question changes an answer."""
        before = engine.logprobs(PROMPT, tiny.N_VOCAB)
        engine.generate([*PROMPT, 99], 7)
        engine.option_probabilities(PROMPT[:3], [40, 41])
        engine.logprobs(PROMPT[:2], tiny.N_VOCAB)
        assert np.array_equal(engine.logprobs(PROMPT, tiny.N_VOCAB), before)

    def test_the_most_likely_tokens_are_the_top_of_all(self, engine: Engine) -> None:
        """The n most likely tokens carry the same values as in the full distribution."""
        every = engine.logprobs(PROMPT, tiny.N_VOCAB)
        top = engine.top_logprobs(PROMPT, 10)
        assert len(top) == 10
        assert set(top) == set(np.argsort(every)[-10:].tolist())
        assert every[list(top)] == pytest.approx(list(top.values()), abs=1e-5)
        some = engine.logprobs(PROMPT, tiny.N_VOCAB, 10)
        assert {int(n): some[n] for n in np.flatnonzero(np.isfinite(some))} == top

    def test_options_share_their_probability(self, engine: Engine) -> None:
        """They sum to 1, in the ratios and the order that the full distribution gives them."""
        options = [200, 40, 2, 77, 41]
        got = engine.option_probabilities(PROMPT, options)
        assert sum(got) == pytest.approx(1)
        p = np.exp(engine.logprobs(PROMPT, tiny.N_VOCAB)[options])
        assert got == pytest.approx(p / p.sum(), rel=1e-3)
        assert engine.option_probabilities(PROMPT, options) == got

    def test_a_shared_prompt_may_be_kept(self, engine: Engine) -> None:
        """With same_prompt an answer stays the same but for rounding."""
        fresh = engine.option_probabilities(PROMPT, [40, 41])
        engine.option_probabilities(PROMPT, [50, 51])
        kept = engine.option_probabilities(PROMPT, [40, 41], same_prompt=True)
        assert kept == pytest.approx(fresh, abs=0.01)

    def test_logits_that_are_not_numbers_do_not_pass_for_answers(self, tmp_path: Path) -> None:
        """Log-probabilities are -inf, options raise, and a mean nll is not finite."""
        broken = tiny.write(tmp_path / "nan.gguf", "llama", 2)
        tiny.break_numbers(broken)
        with self.open(broken) as engine:
            assert not np.isfinite(engine.logprobs(PROMPT, tiny.N_VOCAB)).any()
            with pytest.raises(EngineFailed, match="not numbers"):
                engine.option_probabilities(PROMPT, [40, 41])
            nll = engine.generate(PROMPT, 3, with_nll=True).mean_nll
            assert nll is None or not math.isfinite(nll)

    # -- text ----------------------------------------------------------------------------------

    def test_generation_is_greedy(self, smol: Engine) -> None:
        """The text is that of the most likely tokens, and its mean nll that of their logprobs."""
        ids = smol.tokenize(OPENING)
        n_prompt = len(ids)
        nlls = []
        for _ in range(6):
            ((token, logprob),) = smol.top_logprobs(ids, 1).items()
            ids.append(token)
            nlls.append(-logprob)
        written = smol.generate(OPENING, 6, with_nll=True)
        assert smol.tokenize(OPENING + written.text)[n_prompt:] == ids[n_prompt:]
        assert written.mean_nll == pytest.approx(np.mean(nlls), abs=0.05)

    def test_generation_repeats(self, engine: Engine) -> None:
        """The same prompt is continued in the same way, and without a mean nll nobody asked for."""
        first, second = (engine.generate(PROMPT, 4) for _ in range(2))
        assert first == second
        assert (first.n_tokens, first.truncated, first.mean_nll) == (4, True, None)

    def test_a_text_prompt_means_its_tokens(self, smol: Engine) -> None:
        """A prompt of text and one of its token ids are continued alike."""
        assert smol.generate(OPENING, 8) == smol.generate(smol.tokenize(OPENING), 8)

    def test_generation_ends_at_a_stop_text(self, smol: Engine) -> None:
        """The text ends before the stop text, and is not called truncated."""
        free = smol.generate(OPENING, 12)
        assert free.truncated
        assert free.n_tokens == 12
        stop = free.text.split()[2]
        stopped = smol.generate(OPENING, 12, stop=["\x00", stop])
        assert not stopped.truncated
        assert stopped.text == free.text[: free.text.index(stop)]
        assert stopped.n_tokens < 12

    def test_generation_ends_by_itself(self, smol: Engine) -> None:
        """An answer that the model ended is not called truncated."""
        answer = smol.chat(QUESTION, 100)
        assert not answer.truncated
        assert answer.n_tokens < 100

    def test_the_token_limit_cuts_a_reply_off(self, smol: Engine) -> None:
        """The reply has as many tokens as allowed and is called truncated."""
        answer = smol.chat(QUESTION, 3)
        assert answer.truncated
        assert answer.n_tokens == 3

    def test_a_chat_uses_the_template(self, smol: Engine) -> None:
        """A reply is what the model writes after its template's prompt, with thinking off."""
        prompt = smol.templated(QUESTION)
        assert QUESTION in prompt
        assert prompt.rstrip().endswith("<|im_start|>assistant")
        reply = smol.chat(QUESTION, 12, with_nll=True)
        assert "4" in reply.text
        assert reply.thoughts == ""
        assert reply.mean_nll is not None
        assert 0 <= reply.mean_nll < 2
        assert reply == smol.chat(QUESTION, 12, with_nll=True)
        assert smol.chat(QUESTION, 12).mean_nll is None
        plain = smol.generate(prompt, 12)
        assert (reply.text, reply.n_tokens) == (plain.text, plain.n_tokens)

    def test_speed_is_measured(self, engine: Engine) -> None:
        """Both speeds are positive numbers."""
        speed = engine.speed([1, *range(40, 72)], 16)
        assert speed.prompt is not None
        assert speed.generation is not None
        assert 0 < speed.prompt < math.inf
        assert 0 < speed.generation < math.inf

    # -- many at once --------------------------------------------------------------------------

    def test_many_questions_have_the_answers_of_each(self, engine: Engine) -> None:
        """In order, with different options, prompts that begin alike, and one asked twice."""
        questions = [
            Question((*PROMPT, 90 + n % 3), (40 + n, 41 + n, 77), same_prompt=n == 2)
            for n in range(5)
        ]
        questions += [Question(tuple(PROMPT[:2]), (40, 41)), questions[0]]
        got = engine.probabilities_of(questions)
        assert len(got) == len(questions)
        for question, values in zip(questions, got, strict=True):
            want = engine.option_probabilities(question.tokens, question.options)
            assert values == pytest.approx(want, abs=1e-4)
        assert engine.probabilities_of([]) == []

    def test_many_prompts_have_the_most_likely_tokens_of_each(self, engine: Engine) -> None:
        """In order, whatever their lengths."""
        prompts = [PROMPT, PROMPT[:2], [*PROMPT, 99, 98, 97], PROMPT]
        got = engine.top_logprobs_of(prompts, 4)
        for prompt, top in zip(prompts, got, strict=True):
            want = engine.top_logprobs(prompt, 4)
            assert top.keys() == want.keys()
            assert [top[k] for k in want] == pytest.approx(list(want.values()), abs=1e-4)
        assert engine.top_logprobs_of([], 4) == []

    def test_many_texts_are_those_of_each(self, smol: Engine) -> None:
        """Chats and continuations of different lengths, with and without a stop text."""
        tasks = [
            Writing(OPENING, 12, with_nll=True),
            Writing(QUESTION, 9, chat=True, with_nll=True),
            Writing(OPENING, 8, stop=(".", " is")),
            Writing(QUESTION, 4),
            Writing(OPENING, 12, with_nll=True),
        ]
        got = smol.write(tasks)
        want = [
            smol.generate(OPENING, 12, with_nll=True),
            smol.chat(QUESTION, 9, with_nll=True),
            smol.generate(OPENING, 8, stop=[".", " is"]),
            smol.generate(QUESTION, 4),
        ]
        for one, other in zip(got, [*want, want[0]], strict=True):
            assert replace(one, mean_nll=None) == replace(other, mean_nll=None)
            assert one.mean_nll == pytest.approx(other.mean_nll, abs=1e-3)
        assert smol.write([]) == []

    # -- failures ------------------------------------------------------------------------------

    def test_a_prompt_that_does_not_fit_is_an_error(self, engine: Engine) -> None:
        """It is not cut silently, and the engine goes on to answer others."""
        with pytest.raises(EngineFailed):
            engine.logprobs([1, *[50] * 5000], tiny.N_VOCAB)
        assert np.isfinite(engine.logprobs(PROMPT, tiny.N_VOCAB)).all()

    def test_a_file_that_is_not_a_model_is_an_error(self, tmp_path: Path) -> None:
        """The message names the file, and the log says what llama.cpp thought of it."""
        path = tmp_path / "not-a-model.gguf"
        path.write_bytes(b"no magic here")
        with pytest.raises(EngineFailed, match=r"not-a-model\.gguf") as e, self.open(path):
            pass
        assert e.value.log

    def test_closing_twice_is_harmless(self, model: Path) -> None:
        """Also before the block has ended, and before it has begun."""
        with self.open(model) as engine:
            engine.close()
            engine.close()
        engine.close()
        self.open(model).close()

    def test_a_closed_engine_does_not_answer(self, model: Path) -> None:
        """Every question raises, inside the block and after it."""
        with self.open(model) as engine:
            engine.close()
            with pytest.raises(EngineFailed, match="closed"):
                engine.tokenize("a")
        for ask in (
            lambda: engine.generate(PROMPT, 1),
            lambda: engine.chat("a", 1),
            lambda: engine.templated("a"),
            lambda: engine.logprobs(PROMPT, tiny.N_VOCAB),
            lambda: engine.option_probabilities(PROMPT, [40, 41]),
            lambda: engine.speed(PROMPT, 1),
        ):
            with pytest.raises(EngineFailed, match="closed"):
                ask()

    def test_an_engine_that_was_not_entered_does_not_answer(self, model: Path) -> None:
        """It has not loaded its model yet."""
        with pytest.raises(EngineFailed):
            self.open(model).tokenize("a")

    def test_closing_from_another_thread_ends_a_running_question(self, smollm2: Path) -> None:
        """The thread that waits for an answer gets an error soon, and not an answer."""
        with self.open(smollm2) as smol:
            self.require_end_of_question(smol)

    def require_end_of_question(self, smol: Engine) -> None:
        """Close an engine that is answering another thread."""
        failures: list[EngineFailed] = []
        asked = threading.Event()

        def ask() -> None:
            asked.set()
            try:
                self.ask_until_it_fails(smol)
            except EngineFailed as e:
                failures.append(e)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        assert asked.wait(20)
        threading.Event().wait(0.2)
        smol.close()
        thread.join(20)
        assert not thread.is_alive()
        assert len(failures) == 1

    def test_closing_from_another_thread_ends_the_loading(self, smollm2: Path) -> None:
        """An engine that is closed while it loads never becomes ready."""
        engine = self.open(smollm2)
        timer = threading.Timer(0.1, engine.close)
        timer.start()
        with pytest.raises(EngineFailed), engine:
            self.ask_until_it_fails(engine)  # if it was ready before it was closed
        timer.join()

    def test_a_crash_is_an_error_with_the_log(self, model: Path) -> None:
        """The question after it raises, with the last lines the engine logged."""
        with self.open(model) as engine:
            engine.tokenize("a")
            self.crash(engine)
            with pytest.raises(EngineFailed) as e:
                engine.generate(PROMPT, 4)
        assert e.value.log
        assert all(line.isprintable() for line in e.value.log)

    def test_it_outlives_the_thread_that_started_it(self, model: Path) -> None:
        """Another thread may go on asking: a sweep runs each batch in threads of its own."""
        engine = self.open(model)
        starter = threading.Thread(target=engine.__enter__)
        starter.start()
        starter.join()
        try:
            # Its end would come a moment after the thread's.
            assert not wait_until(lambda: not engine.tokenize("a"), 0.3)
        finally:
            engine.close()

    def test_threads_may_share_it(self, engine: Engine) -> None:
        """Questions of several threads are all answered, and rightly."""
        prompts = [[1, *range(40 + n, 50 + n)] for n in range(6)]
        want = [engine.top_logprobs(prompt, 3) for prompt in prompts]
        got: dict[int, dict[int, float]] = {}
        threads = [
            threading.Thread(
                target=lambda n=n, prompt=prompt: got.update({n: engine.top_logprobs(prompt, 3)})
            )
            for n, prompt in enumerate(prompts)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [got[n] for n in range(6)] == want
