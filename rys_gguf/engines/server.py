"""An Engine that asks llama.cpp's HTTP server; the replies' JSON becomes values here.

API: llama.cpp tools/server/README.md.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from rys_gguf.engines.base import EngineOptions, Generation, OneByOne, Speed
from rys_gguf.engines.serving import Json, Server

# All of these are spelled out: a GGUF may bring sampling defaults (general.sampling.*), and a
# penalty on repetition would hide what the checks look for.
_GREEDY: Json = {
    "temperature": 0.0,
    "top_k": 1,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "dry_multiplier": 0.0,
    "mirostat": 0,
    "seed": 0,
    "cache_prompt": False,
}
# In logits: larger than any real difference, and float32 still resolves 1e-5 beside it.
_OPTION_BIAS = 100.0
_CERTAIN_BIAS = 1000.0


class ServerEngine(OneByOne):
    """One llama.cpp server with one model; see `Engine` for what its methods promise."""

    def __init__(self, model: str | os.PathLike[str], options: EngineOptions) -> None:
        self._server = Server(model, options)
        self.model = self._server.model
        self._letter: int | None = None

    def __enter__(self) -> ServerEngine:
        try:
            self._server.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, whatever it is doing; safe to call twice and from any thread."""
        self._server.close()

    @property
    def build(self) -> str:
        """Its program, package version and build."""
        return self._server.build

    @property
    def url(self) -> str:
        """The address it serves at while it runs."""
        return self._server.url

    @property
    def api_key(self) -> str:
        """The key that every request must send as a bearer token."""
        return self._server.key

    @property
    def pid(self) -> int:
        """The id of its process. Raises EngineFailed if it is not running."""
        return self._server.process.pid

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of a text, with the model's own special tokens in front if `special`."""
        body = {"content": text, "add_special": special, "parse_special": True}
        reply = self._server.ask("POST", "/tokenize", body)
        with self._reading("/tokenize", "without token ids"):
            return [int(token) for token in reply["tokens"]]

    def templated(self, question: str, *, thinking: bool = False) -> str:
        """The prompt that the model's chat template makes of a user message.

        Thinking is off, or on if `thinking`.
        """
        body = _conversation(question, thinking=thinking)
        reply = self._server.ask("POST", "/apply-template", body)
        with self._reading("/apply-template", "without a prompt"):
            return str(reply["prompt"])

    def generate(
        self,
        prompt: str | Sequence[int],
        n_tokens: int,
        *,
        stop: Sequence[str] = (),
        with_nll: bool = False,
    ) -> Generation:
        """Continue a prompt greedily by at most `n_tokens`, up to the first of the `stop` texts."""
        reply = self._complete(
            prompt,
            n_predict=n_tokens,
            stop=list(stop),
            # A control token has no text unless it is named here.
            preserved_tokens=list(stop),
            n_probs=int(with_nll),
            **_GREEDY,
        )
        with self._reading("/completion", "without text"):
            return Generation(
                text=str(reply["content"]),
                n_tokens=int(reply["tokens_predicted"]),
                truncated=reply["stop_type"] == "limit",
                mean_nll=_mean_nll(reply.get("completion_probabilities")) if with_nll else None,
            )

    def chat(self, question: str, n_tokens: int, *, with_nll: bool = False) -> Generation:
        """Answer a user message greedily through the chat template, with thinking off."""
        body = {**_conversation(question), "max_tokens": n_tokens, **_GREEDY}
        if with_nll:
            body.update(logprobs=True, top_logprobs=1)
        reply = self._server.ask("POST", "/v1/chat/completions", body)
        with self._reading("/v1/chat/completions", "without text"):
            (choice,) = reply["choices"]
            message = choice["message"]
            chosen = (choice.get("logprobs") or {}).get("content")
            return Generation(
                text=message.get("content") or "",
                n_tokens=int(reply["usage"]["completion_tokens"]),
                truncated=choice["finish_reason"] == "length",
                thoughts=message.get("reasoning_content") or "",
                mean_nll=_mean_nll(chosen) if with_nll else None,
            )

    def logprobs(
        self, tokens: Sequence[int], n_vocab: int, n_probs: int | None = None
    ) -> npt.NDArray[np.float64]:
        """Log-probabilities of the token after `tokens`, shape (n_vocab,), in nats.

        With `n_probs` only the values of that many most likely tokens; the others are -inf.
        """
        top = self.top_logprobs(tokens, n_probs or n_vocab)
        values = np.full(n_vocab, -np.inf)
        with self._reading("/completion", f"with a token outside the {n_vocab} of the vocabulary"):
            values[list(top)] = list(top.values())
        return values

    def top_logprobs(self, tokens: Sequence[int], n: int) -> dict[int, float]:
        """The `n` most likely tokens after `tokens` and their log-probabilities, in nats.

        All are -inf if the model's logits are not numbers.
        """
        if self._letter is None:
            self._letter = self.tokenize("a", special=False)[-1]
        reply = self._complete(
            tokens,
            n_predict=1,
            n_probs=n,
            temperature=0.0,
            cache_prompt=False,
            # llama.cpp reports no probabilities beside an end of text or half a character, so a
            # plain letter is made to win. Those reported are from before the sampler.
            logit_bias=[[self._letter, _CERTAIN_BIAS]],
        )
        with self._reading("/completion", "without log-probabilities"):
            top = reply["completion_probabilities"][0]["top_logprobs"]
            return {int(entry["id"]): _logprob(entry) for entry in top}

    def option_probabilities(
        self, tokens: Sequence[int], options: Sequence[int], *, same_prompt: bool = False
    ) -> list[float]:
        """Probabilities of the token after `tokens` among distinct `options`, with sum 1.

        With `same_prompt` the engine may reuse what it computed for a prompt shared with the last
        question; the rounding of the result may then depend on that question.
        """
        reply = self._complete(
            tokens,
            n_predict=1,
            n_probs=len(options),
            # Lifted far above all others, the options are what top_k leaves, with the same ratios.
            logit_bias=[[option, _OPTION_BIAS] for option in options],
            samplers=["top_k"],
            top_k=len(options),
            temperature=1.0,
            post_sampling_probs=True,
            cache_prompt=same_prompt,
            seed=0,
        )
        with self._reading("/completion", "without probabilities"):
            top = reply["completion_probabilities"][0]["top_probs"]
            by_id = {entry["id"]: entry["prob"] for entry in top}
            values = [float(by_id.get(option) or 0.0) for option in options]
        total = sum(values)
        if not total > 0:
            raise self._server.failure(
                "gave no probability to any option: its logits are not numbers"
            )
        return [value / total for value in values]

    def speed(self, tokens: Sequence[int], n_tokens: int) -> Speed:
        """Measure the reading of a prompt and the writing of exactly `n_tokens`."""
        reply = self._complete(tokens, n_predict=n_tokens, ignore_eos=True, **_GREEDY)
        with self._reading("/completion", "with timings that are not numbers"):
            timings = reply.get("timings") or {}
            return Speed(
                prompt=_positive(timings.get("prompt_per_second")),
                generation=_positive(timings.get("predicted_per_second")),
            )

    def _complete(self, prompt: str | Sequence[int], **parameters: Any) -> Json:
        body = {"prompt": prompt if isinstance(prompt, str) else list(prompt), **parameters}
        return self._server.ask("POST", "/completion", body)

    @contextlib.contextmanager
    def _reading(self, path: str, fault: str) -> Iterator[None]:
        """Raise EngineFailed if the reply to `path` does not have the expected form."""
        try:
            yield
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as e:
            raise self._server.failure(f"answered {path} {fault}") from e


def _conversation(question: str, *, thinking: bool = False) -> Json:
    return {
        "messages": [{"role": "user", "content": question}],
        "chat_template_kwargs": {"enable_thinking": thinking},
    }


def _mean_nll(chosen: Sequence[Json] | None) -> float | None:
    return fmean(-_logprob(entry) for entry in chosen) if chosen else None


def _logprob(entry: Json) -> float:
    # JSON has no NaN: llama.cpp writes null.
    return -math.inf if entry["logprob"] is None else float(entry["logprob"])


def _positive(value: float | None) -> float | None:
    return float(value) if value and 0 < value < math.inf else None
