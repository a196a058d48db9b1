"""Engines without llama.cpp, whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from rys_gguf.engines.base import Generation, OneByOne, Speed


class FakeEngine(OneByOne):
    """An engine with a tokenizer that makes up to three digits one token, and nothing else.

    Numbers below 1000 are tokens from 10,000 up by their length; other characters are their code.
    """

    model = Path("m.gguf")
    build = "fake"

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to end."""

    def close(self) -> None:
        """Nothing to end."""

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Groups of digits and single characters."""
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

    def templated(self, question: str, *, thinking: bool = False) -> str:
        """A template that adds nothing."""
        return question

    def generate(
        self,
        prompt: str | Sequence[int],
        n_tokens: int,
        *,
        stop: Sequence[str] = (),
        with_nll: bool = False,
    ) -> Generation:
        """The engine's reply to a plain text."""
        return self.reply(prompt, n_tokens, tuple(stop), with_nll)

    def chat(self, question: str, n_tokens: int, *, with_nll: bool = False) -> Generation:
        """The engine's reply to a user message."""
        return self.reply(question, n_tokens, (), with_nll)

    def reply(
        self, prompt: str | Sequence[int], n_tokens: int, stop: tuple[str, ...], with_nll: bool
    ) -> Generation:
        """No test expects words unless its engine overrides this."""
        raise AssertionError

    def logprobs(
        self, tokens: Sequence[int], n_vocab: int, n_probs: int | None = None
    ) -> npt.NDArray[np.float64]:
        """No probe asks for these."""
        raise AssertionError

    def top_logprobs(self, tokens: Sequence[int], n: int) -> dict[int, float]:
        """No probe asks for these."""
        raise AssertionError

    def option_probabilities(
        self, tokens: Sequence[int], options: Sequence[int], *, same_prompt: bool = False
    ) -> list[float]:
        """All options alike."""
        return [1 / len(options)] * len(options)

    def speed(self, tokens: Sequence[int], n_tokens: int) -> Speed:
        """No probe asks for this."""
        raise AssertionError


class Replying(FakeEngine):
    """An engine that gives every question the same answer in words, and records the questions."""

    def __init__(self, text: str, *, thoughts: str = "", truncated: bool = False) -> None:
        self.generation = Generation(text, 3, truncated, thoughts)
        self.asked: list[tuple[str, int, tuple[str, ...]]] = []

    def reply(
        self, prompt: str | Sequence[int], n_tokens: int, stop: tuple[str, ...], with_nll: bool
    ) -> Generation:
        """The answer."""
        assert isinstance(prompt, str)
        self.asked.append((prompt, n_tokens, stop))
        return self.generation
