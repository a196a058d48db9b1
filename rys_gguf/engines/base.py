"""The Engine protocol: a loaded model that answers questions with values.

Servers and libraries may implement it; each must pass the tests of tests/engines/contract.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rys_gguf.errors import Refused
from rys_gguf.text import printable

# The ways to run llama.cpp; "auto" is one of the others, once it is known whether the first works.
LIVE, SERVER, AUTO = "live", "server", "auto"


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run llama.cpp: the llama-server binary, or None for the xllamacpp package.

    `arguments` are passed to llama-server. `kind` is "live" for the library in a child process,
    "server" for the program. `n_ubatch` is the number of tokens computed at once, None for
    llama.cpp's default. `environment` is added to the environment of this process. With
    `texts_only` the engine will only be asked for tokens and templates. Times are in seconds.
    """

    binary: Path | None = None
    arguments: tuple[str, ...] = ()
    kind: str = SERVER
    n_ctx: int = 2048
    n_threads: int | None = None
    n_ubatch: int | None = None
    environment: tuple[tuple[str, str], ...] = ()
    texts_only: bool = False
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
class Question:
    """Which of some tokens comes after a prompt.

    With `same_prompt` the engine may reuse what it computed for a prompt shared with the last
    question; the rounding of the result may then depend on that question.
    """

    tokens: tuple[int, ...]
    options: tuple[int, ...]
    same_prompt: bool = False


@dataclass(frozen=True, slots=True)
class Writing:
    """What to write: at most `n_tokens` after a prompt, up to the first of the `stop` texts.

    The prompt is a text or its tokens. With `chat` it is a user message for the chat template, with
    thinking off.
    """

    prompt: str | tuple[int, ...]
    n_tokens: int
    stop: tuple[str, ...] = ()
    chat: bool = False
    with_nll: bool = False


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second as the engine measured them; None if it did not."""

    prompt: float | None
    generation: float | None


def no_next_token(model: str) -> Refused:
    """The refusal of a model without a memory of the tokens that it has read."""
    return Refused(
        f"{printable(model)}: llama-server predicts no next token with this model, as with any "
        f"diffusion or embedding model; prove, smoke, validate, probe and sweep need one"
    )


class Engine(Protocol):
    """One loaded model. Use it as a context manager, once; it is ready inside the block.

    Every method raises EngineFailed, with the engine's last log lines, if the engine fails or is
    closed. Threads may share an engine.
    """

    @property
    def model(self) -> Path:
        """The absolute path of the model's file."""

    @property
    def build(self) -> str:
        """Identifies the engine: its program, package version and build. Known inside the block."""

    def __enter__(self) -> Engine: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def close(self) -> None:
        """End it, whatever it is doing; safe to call twice and from any thread.

        A method that is running in another thread raises EngineFailed.
        """

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of a text, with the model's own special tokens in front if `special`."""

    def templated(self, question: str, *, thinking: bool = False) -> str:
        """The prompt that the model's chat template makes of a user message.

        Thinking is off, or on if `thinking`.
        """

    def generate(
        self,
        prompt: str | Sequence[int],
        n_tokens: int,
        *,
        stop: Sequence[str] = (),
        with_nll: bool = False,
    ) -> Generation:
        """Continue a prompt greedily by at most `n_tokens`, up to the first of the `stop` texts.

        The text does not include the stop text, which may be the name of a control token.
        """

    def chat(self, question: str, n_tokens: int, *, with_nll: bool = False) -> Generation:
        """Answer a user message greedily through the chat template, with thinking off."""

    def logprobs(
        self, tokens: Sequence[int], n_vocab: int, n_probs: int | None = None
    ) -> npt.NDArray[np.float64]:
        """Log-probabilities of the token after `tokens`, shape (n_vocab,), in nats.

        With `n_probs` only the values of that many most likely tokens; the others are -inf.
        """

    def top_logprobs(self, tokens: Sequence[int], n: int) -> dict[int, float]:
        """The `n` most likely tokens after `tokens` and their log-probabilities, in nats.

        All are -inf if the model's logits are not numbers.
        """

    def option_probabilities(
        self, tokens: Sequence[int], options: Sequence[int], *, same_prompt: bool = False
    ) -> list[float]:
        """Probabilities of the token after `tokens` among distinct `options`, with sum 1.

        With `same_prompt` the engine may reuse what it computed for a prompt shared with the last
        question; the rounding of the result may then depend on that question.
        """

    def speed(self, tokens: Sequence[int], n_tokens: int) -> Speed:
        """Measure the reading of a prompt and the writing of exactly `n_tokens`."""

    # Many questions at once, side by side where the engine can.

    def probabilities_of(self, questions: Sequence[Question]) -> list[list[float]]:
        """`option_probabilities` of each question."""

    def top_logprobs_of(self, prompts: Sequence[Sequence[int]], n: int) -> list[dict[int, float]]:
        """`top_logprobs` of each prompt."""

    def write(self, tasks: Sequence[Writing]) -> list[Generation]:
        """`generate` or `chat` for each task."""


class OneByOne:
    """The questions of an engine that is asked one after another."""

    def probabilities_of(self: Engine, questions: Sequence[Question]) -> list[list[float]]:
        """`option_probabilities` of each question."""
        return [
            self.option_probabilities(q.tokens, q.options, same_prompt=q.same_prompt)
            for q in questions
        ]

    def top_logprobs_of(
        self: Engine, prompts: Sequence[Sequence[int]], n: int
    ) -> list[dict[int, float]]:
        """`top_logprobs` of each prompt."""
        return [self.top_logprobs(prompt, n) for prompt in prompts]

    def write(self: Engine, tasks: Sequence[Writing]) -> list[Generation]:
        """`generate` or `chat` for each task."""
        return [
            self.chat(task.prompt, task.n_tokens, with_nll=task.with_nll)
            if task.chat and isinstance(task.prompt, str)
            else self.generate(task.prompt, task.n_tokens, stop=task.stop, with_nll=task.with_nll)
            for task in tasks
        ]
