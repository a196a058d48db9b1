"""An Engine in llama.cpp's library: a base, or a variant that shares its weights."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rys_gguf.engines.base import EngineOptions, Generation, Question, Speed, Writing
from rys_gguf.engines.live.batches import Prompt
from rys_gguf.engines.live.context import Logits, NextToken
from rys_gguf.engines.live.loaded import Loaded
from rys_gguf.engines.live.session import UBATCH, Session
from rys_gguf.errors import EngineFailed
from rys_gguf.text import printable

_THOUGHTS = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)


class Answers(Protocol):
    """What a model in the child answers, as `Loaded` does it. Its methods raise EngineFailed."""

    def logits(
        self, prompts: Sequence[Prompt], ids: Sequence[Sequence[int]] | None = None
    ) -> list[Logits]:
        """The logits of the token after each prompt, all of them or those of its `ids`."""

    def write(
        self,
        prompts: Sequence[Prompt],
        limits: Sequence[int],
        next_token: NextToken,
        *,
        n_wanted: int | None = None,
    ) -> None:
        """Continue each prompt by tokens that `next_token` chooses, until it gives None."""


OpenModel = Callable[[Session], contextlib.AbstractContextManager[Answers]]


class LiveEngine:
    """A model in a child process; see `Engine` for what its methods promise.

    By default it is the file `model`, in a session of its own. With a `session` it is a model of
    that session, opened by `variant` or the session's base; the session goes on when this engine
    ends. Of the options such a model has its own n_ubatch only.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        options: EngineOptions,
        session: Session | None = None,
        variant: OpenModel | None = None,
    ) -> None:
        self.model = Path(model).absolute()
        self._session = session or Session(model, options)
        self._owns = session is None
        self._variant = variant
        self._n_ubatch = options.n_ubatch or UBATCH
        self._stack = contextlib.ExitStack()
        self._loaded: Answers | None = None
        self._closed = False

    def __enter__(self) -> LiveEngine:
        if self._closed:
            raise self._failure("is closed")
        try:
            if self._owns:
                self._session.start()
            else:
                self._session.require_running()
            opened: Answers = self._session.base
            if self._variant is not None:
                opened = self._stack.enter_context(self._variant(self._session))
            if isinstance(opened, Loaded):
                opened.compute_at_once(self._n_ubatch)
            self._loaded = opened
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, whatever it is doing; safe to call twice and from any thread."""
        self._closed = True
        if self._owns:
            self._session.close()
        self._stack.close()
        self._loaded = None

    @property
    def build(self) -> str:
        """Its library, build and device."""
        return self._session.build

    @property
    def gives_layer_inputs(self) -> bool:
        """Whether its library gives and takes what comes into a layer."""
        return bool(self._session.about["gives_layer_inputs"])

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._session.pid

    def _failure(self, what: str) -> EngineFailed:
        return EngineFailed(f"the engine {what}; model {printable(self.model.name)}")

    @property
    def _open(self) -> Answers:
        loaded = self._loaded
        if loaded is None:
            raise self._failure("is closed" if self._closed else "was not started")
        return loaded

    # -- tokens --------------------------------------------------------------------------------

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of a text, with the model's own special tokens in front if `special`."""
        self._open  # noqa: B018 - a closed engine answers nothing
        return self._session.tokenize(text, special=special)

    def templated(self, question: str, *, thinking: bool = False) -> str:
        """The prompt that the model's chat template makes of a user message.

        Thinking is off, or on if `thinking`.
        """
        self._open  # noqa: B018 - a closed engine answers nothing
        return self._session.templated([question], thinking=thinking)[0]

    # -- log-probabilities ---------------------------------------------------------------------

    def logprobs(
        self, tokens: Sequence[int], n_vocab: int, n_probs: int | None = None
    ) -> npt.NDArray[np.float64]:
        """Log-probabilities of the token after `tokens`, shape (n_vocab,), in nats.

        With `n_probs` only the values of that many most likely tokens; the others are -inf.
        """
        (row,) = self._open.logits([tuple(tokens)])
        if len(row) != n_vocab:
            raise self._failure(f"has {len(row)} tokens and not the {n_vocab} of the vocabulary")
        values = _log_softmax(row)
        if n_probs is not None and n_probs < n_vocab:
            kept = _highest(values, n_probs)
            values[~kept] = -np.inf
        return values

    def top_logprobs(self, tokens: Sequence[int], n: int) -> dict[int, float]:
        """The `n` most likely tokens after `tokens` and their log-probabilities, in nats.

        All are -inf if the model's logits are not numbers.
        """
        return self.top_logprobs_of([tokens], n)[0]

    def top_logprobs_of(self, prompts: Sequence[Sequence[int]], n: int) -> list[dict[int, float]]:
        """`top_logprobs` of each prompt."""
        found = []
        for row in self._open.logits([tuple(prompt) for prompt in prompts]):
            values = _log_softmax(row)
            top = np.flatnonzero(_highest(values, n))
            order = top[np.argsort(-values[top], kind="stable")]
            found.append({int(token): float(values[token]) for token in order})
        return found

    def option_probabilities(
        self, tokens: Sequence[int], options: Sequence[int], *, same_prompt: bool = False
    ) -> list[float]:
        """Probabilities of the token after `tokens` among distinct `options`, with sum 1."""
        return self.probabilities_of([Question(tuple(tokens), tuple(options), same_prompt)])[0]

    def probabilities_of(self, questions: Sequence[Question]) -> list[list[float]]:
        """`option_probabilities` of each question."""
        rows = self._open.logits([q.tokens for q in questions], [q.options for q in questions])
        found = []
        for row in rows:
            if not np.isfinite(row).all():
                raise self._failure("gave no probability to any option: its logits are not numbers")
            found.append(np.exp(_log_softmax(row)).tolist())
        return found

    # -- text ----------------------------------------------------------------------------------

    def generate(
        self,
        prompt: str | Sequence[int],
        n_tokens: int,
        *,
        stop: Sequence[str] = (),
        with_nll: bool = False,
    ) -> Generation:
        """Continue a prompt greedily by at most `n_tokens`, up to the first of the `stop` texts."""
        given = prompt if isinstance(prompt, str) else tuple(prompt)
        return self.write([Writing(given, n_tokens, tuple(stop), with_nll=with_nll)])[0]

    def chat(self, question: str, n_tokens: int, *, with_nll: bool = False) -> Generation:
        """Answer a user message greedily through the chat template, with thinking off."""
        return self.write([Writing(question, n_tokens, chat=True, with_nll=with_nll)])[0]

    def write(self, tasks: Sequence[Writing]) -> list[Generation]:
        """`generate` or `chat` for each task, in parallel sequences."""
        self._open  # noqa: B018 - a closed engine answers nothing
        prompts = [self._tokens(task) for task in tasks]
        writers = [_Writer(self._session, task) for task in tasks]
        limits = [task.n_tokens for task in tasks]
        self._open.write(prompts, limits, lambda n, row: writers[n].add(row))
        return [writer.generation() for writer in writers]

    def _tokens(self, task: Writing) -> Prompt:
        """The tokens of a task's prompt."""
        if not isinstance(task.prompt, str):
            return task.prompt
        return tuple(self.tokenize(self.templated(task.prompt) if task.chat else task.prompt))

    def speed(self, tokens: Sequence[int], n_tokens: int) -> Speed:
        """Measure the reading of a prompt and the writing of exactly `n_tokens`."""
        times = [time.perf_counter()]

        def same_again(_n: int, _row: Logits) -> int:
            times.append(time.perf_counter())
            return int(tokens[-1])

        self._open.write([tuple(tokens)], [n_tokens], same_again, n_wanted=1)
        return Speed(
            prompt=len(tokens) / (times[1] - times[0]),
            generation=(n_tokens - 1) / (times[-1] - times[1]) if n_tokens > 1 else None,
        )


class _Writer:
    """The text that a model writes greedily, token by token."""

    def __init__(self, session: Session, task: Writing) -> None:
        self._session = session
        self._task = task
        self._stop = [text for text in task.stop if text]
        # Those that are one token: a control token has no text to be found.
        self._stop_tokens = {
            ids[0]: text
            for text in self._stop
            if len(ids := session.tokenize(text, special=False)) == 1
        }
        self._nlls: list[float] | None = [] if task.with_nll else None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self._n = 0
        self._ended = False

    def add(self, row: Logits) -> int | None:
        """Choose the next token from its logits; None once the text is over."""
        token = int(np.argmax(row))
        piece, is_end = self._session.piece(token)
        self._n += 1
        self._text += self._decoder.decode(piece)
        # As llama-server, which reports no probability of a token that ends inside a character
        # (server_context::process_token in tools/server/server-context.cpp, b11549).
        if self._nlls is not None and not self._decoder.getstate()[0]:
            value = float(-_log_softmax(row)[token])
            self._nlls.append(value if np.isfinite(value) else np.inf)
        if token in self._stop_tokens and not piece:
            self._text += self._stop_tokens[token]
        found = [(at, text) for text in self._stop if (at := self._text.find(text)) >= 0]
        if found:
            at, text = min(found)
            self._text = self._text[:at]
            self._forget(text)
        self._ended = is_end or bool(found)
        return None if self._ended or self._n >= self._task.n_tokens else token

    def _forget(self, stop: str) -> None:
        # As llama-server, which reports no probabilities of as many tokens as the stop text has
        # (send_final_response in tools/server/server-context.cpp, b11549).
        if self._nlls:
            del self._nlls[-len(self._session.tokenize(stop, special=False)) :]

    def generation(self) -> Generation:
        """All of it."""
        text, thoughts = self._text, ""
        if self._task.chat and (match := _THOUGHTS.match(text)):
            thoughts, text = match[1].strip(), text[match.end() :]
        return Generation(
            text=text,
            n_tokens=self._n,
            truncated=not self._ended,
            thoughts=thoughts,
            mean_nll=float(np.mean(self._nlls)) if self._nlls else None,
        )


def _log_softmax(row: Logits) -> npt.NDArray[np.float64]:
    """Log-probabilities in nats; all -inf if a logit is not a number."""
    values = row.astype(np.float64)
    if not np.isfinite(values.max(initial=-np.inf)):
        return np.full(len(values), -np.inf)
    values -= values.max()
    values -= np.log(np.exp(values).sum())
    return values


def _highest(values: npt.NDArray[np.float64], n: int) -> npt.NDArray[np.bool_]:
    """Which values are the `n` highest."""
    kept = np.zeros(len(values), bool)
    kept[np.argpartition(values, -n)[-n:] if n < len(values) else slice(None)] = True
    return kept
