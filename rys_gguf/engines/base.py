"""What an engine is told, and what it answers: values, whatever server or library stands behind.

Every implementation passes the same tests (tests/engines/contract.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run llama.cpp: which binary (None for xllamacpp), and what with.

    `arguments` go to llama-server as they are. `n_ubatch` is the number of tokens computed at once,
    llama.cpp's own choice with None. `environment` is added to that of this process. Times are in
    seconds.
    """

    binary: Path | None = None
    arguments: tuple[str, ...] = ()
    n_ctx: int = 2048
    n_threads: int | None = None
    n_ubatch: int | None = None
    environment: tuple[tuple[str, str], ...] = ()
    load_seconds: float = 600.0
    answer_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Generation:
    """What a model wrote, greedily; `truncated` if the token limit ended it.

    `thoughts` is what a thinking model wrote before its answer although it was told not to think.
    `mean_nll` is the mean of -log p over the tokens it chose, in nats: None if it was not asked for
    or there are no such tokens, infinite if a probability was not a number. llama.cpp reports no
    probability for a token that ends inside a character; such tokens do not count.
    """

    text: str
    n_tokens: int
    truncated: bool
    thoughts: str = ""
    mean_nll: float | None = None


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second, as the engine counts them; None where it does not say."""

    prompt: float | None
    generation: float | None


class Engine(Protocol):
    """One loaded model. Use it as a context manager; it is ready inside the block.

    Every method raises EngineFailed, with the engine's last log lines, where the engine does not
    do its part. `build` is what identifies llama.cpp and its version.
    """

    @property
    def model(self) -> Path:
        """The file it was opened with."""

    @property
    def build(self) -> str:
        """What the engine calls itself: its program, package version and build."""

    def __enter__(self) -> Engine: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def close(self) -> None:
        """End it, whatever it is doing; may be called from another thread, and twice."""

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of a text, with the model's own special tokens in front if `special`."""

    def templated(self, question: str) -> str:
        """The prompt the model's chat template makes of a user message, thinking switched off."""

    def generate(
        self,
        prompt: str | Sequence[int],
        n_tokens: int,
        *,
        stop: Sequence[str] = (),
        with_nll: bool = False,
    ) -> Generation:
        """Go on from a prompt, at most `n_tokens`, greedily, up to one of the `stop` texts."""

    def chat(self, question: str, n_tokens: int, *, with_nll: bool = False) -> Generation:
        """Answer a user message through the model's chat template, greedily, thinking off."""

    def logprobs(
        self, tokens: Sequence[int], n_vocab: int, n_probs: int | None = None
    ) -> npt.NDArray[np.float64]:
        """Log-probabilities of the token after `tokens`, shape (n_vocab,), in nats.

        With `n_probs` only of that many, the most likely ones; the others are -inf.
        """

    def top_logprobs(self, tokens: Sequence[int], n: int) -> dict[int, float]:
        """The `n` most likely tokens after `tokens` and their log-probabilities, in nats.

        All are -inf where the model gives no numbers.
        """

    def option_probabilities(
        self, tokens: Sequence[int], options: Sequence[int], *, same_prompt: bool = False
    ) -> list[float]:
        """Probabilities of the token after `tokens` among distinct `options`, with sum 1.

        `same_prompt` lets the engine keep what it computed of the prompt it shares with the last
        question; what it then computes may depend on that question.
        """

    def speed(self, tokens: Sequence[int], n_tokens: int) -> Speed:
        """Read a prompt and write exactly `n_tokens`, and say how fast each went."""
