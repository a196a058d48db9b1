"""llama.cpp's HTTP server as an Engine.

The prebuilt `xllamacpp` package and any llama-server binary serve the same API, each in a process
of its own. The server is ready once it names the model it was started with, and its process is
ended whatever happens.

API: llama.cpp tools/server/README.md.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from rys_gguf.engines.base import EngineOptions, Generation, Speed
from rys_gguf.engines.connection import Connection
from rys_gguf.engines.interpreter import python_file
from rys_gguf.engines.process import EngineProcess
from rys_gguf.engines.sampling import GREEDY
from rys_gguf.errors import EngineFailed
from rys_gguf.text import printable

_POLL_SECONDS = 0.02
_HEALTH_SECONDS = 5.0
# In logits: larger than any real difference, and float32 still resolves 1e-5 beside it.
_OPTION_BIAS = 100.0
_CERTAIN_BIAS = 1000.0
_CHILD = Path(__file__).with_name("child.py")

Json = dict[str, Any]


class ServerEngine:
    """One llama.cpp server with one model; see `Engine` for what its methods promise."""

    def __init__(self, model: str | os.PathLike[str], options: EngineOptions) -> None:
        self.model = Path(model).resolve()
        self.options = options
        self.build = ""
        # Without a key, every user of the machine and every web page could ask the engine.
        self.api_key = secrets.token_hex(16)
        self._connection = Connection(_free_port(), self.api_key)
        self._process: EngineProcess | None = None
        self._closed = False
        self._letter: int | None = None

    def __enter__(self) -> ServerEngine:
        try:
            self._start()
            self._wait_until_healthy()
            self._check_identity()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, whatever it is doing; may be called from another thread, and twice."""
        self._closed = True
        if self._process is not None:
            self._process.stop()
        self._connection.close()

    @property
    def url(self) -> str:
        """The address it serves at while it runs."""
        return f"http://127.0.0.1:{self._connection.port}"

    @property
    def pid(self) -> int:
        """The id of its process. Raises EngineFailed before it was started."""
        return self._running().pid

    def last_lines(self) -> list[str]:
        """The last lines the engine logged, safe to print."""
        return [] if self._process is None else self._process.last_lines()

    # -- questions -----------------------------------------------------------------------------

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of a text, with the model's own special tokens in front if `special`."""
        body = {"content": text, "add_special": special, "parse_special": True}
        reply = self._ask("POST", "/tokenize", body)
        with self._reading("/tokenize", "without token ids"):
            return [int(token) for token in reply["tokens"]]

    def templated(self, question: str) -> str:
        """The prompt the model's chat template makes of a user message, thinking switched off."""
        reply = self._ask("POST", "/apply-template", _conversation(question))
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
        """Go on from a prompt, at most `n_tokens`, greedily, up to one of the `stop` texts."""
        reply = self.complete(
            prompt, n_predict=n_tokens, stop=list(stop), n_probs=int(with_nll), **GREEDY
        )
        with self._reading("/completion", "without text"):
            return Generation(
                text=str(reply["content"]),
                n_tokens=int(reply["tokens_predicted"]),
                truncated=reply["stop_type"] == "limit",
                mean_nll=_mean_nll(reply.get("completion_probabilities")) if with_nll else None,
            )

    def chat(self, question: str, n_tokens: int, *, with_nll: bool = False) -> Generation:
        """Answer a user message through the model's chat template, greedily, thinking off."""
        body = {**_conversation(question), "max_tokens": n_tokens, **GREEDY}
        if with_nll:
            body.update(logprobs=True, top_logprobs=1)
        reply = self._ask("POST", "/v1/chat/completions", body)
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

        With `n_probs` only of that many, the most likely ones; the others are -inf.
        """
        top = self.top_logprobs(tokens, n_probs or n_vocab)
        values = np.full(n_vocab, -np.inf)
        with self._reading("/completion", f"with a token outside the {n_vocab} of the vocabulary"):
            values[list(top)] = list(top.values())
        return values

    def top_logprobs(self, tokens: Sequence[int], n: int) -> dict[int, float]:
        """The `n` most likely tokens after `tokens` and their log-probabilities, in nats.

        All are -inf where the model gives no numbers.
        """
        if self._letter is None:
            self._letter = self.tokenize("a", special=False)[-1]
        reply = self.complete(
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

        `same_prompt` lets the engine keep what it computed of the prompt it shares with the last
        question; what it then computes may depend on that question.
        """
        reply = self.complete(
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
            raise self._failure("gave no probability to any option: its logits are not numbers")
        return [value / total for value in values]

    def speed(self, tokens: Sequence[int], n_tokens: int) -> Speed:
        """Read a prompt and write exactly `n_tokens`, and say how fast each went."""
        reply = self.complete(tokens, n_predict=n_tokens, ignore_eos=True, **GREEDY)
        with self._reading("/completion", "with timings that are not numbers"):
            timings = reply.get("timings") or {}
            return Speed(
                prompt=_positive(timings.get("prompt_per_second")),
                generation=_positive(timings.get("predicted_per_second")),
            )

    # -- the API's own form, on its way out ----------------------------------------------------

    def complete(self, prompt: str | Sequence[int], **parameters: Any) -> Json:
        """One reply of /completion; parameters are those of llama.cpp."""
        body = {"prompt": prompt if isinstance(prompt, str) else list(prompt), **parameters}
        return self._ask("POST", "/completion", body)

    def chat_messages(self, messages: Sequence[dict[str, str]], **parameters: Any) -> Json:
        """One reply of /v1/chat/completions, thinking switched off."""
        body = {**_conversation(""), "messages": list(messages), **parameters}
        return self._ask("POST", "/v1/chat/completions", body)

    def properties(self) -> Json:
        """What /props says of model, template and build."""
        return self._ask("GET", "/props")

    # -- starting ------------------------------------------------------------------------------

    def _start(self) -> None:
        name = "llama.cpp (xllamacpp)" if (b := self.options.binary) is None else b.name
        environment = {**dict(self.options.environment), "LLAMA_API_KEY": self.api_key}
        self._process = EngineProcess(self._command(), environment, name, self.model.name)
        if self._closed:  # from another thread, which found no process to stop
            self._process.stop()

    def _command(self) -> list[str]:
        options = self.options
        port = self._connection.port
        if options.binary is None:
            settings = {
                "model": str(self.model),
                "port": port,
                "n_ctx": options.n_ctx,
                "n_threads": options.n_threads,
                "n_ubatch": options.n_ubatch,
            }
            return python_file(_CHILD, json.dumps(settings))
        return [
            str(options.binary),
            *("--model", str(self.model)),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--ctx-size", str(options.n_ctx), "--parallel", "1", "--no-warmup"),
            *(("--threads", str(options.n_threads)) if options.n_threads else ()),
            *(("--ubatch-size", str(options.n_ubatch)) if options.n_ubatch else ()),
            *options.arguments,
        ]

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + self.options.load_seconds
        while time.monotonic() < deadline:
            self._running().require_alive("while it loaded")
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, _ = self._connection.request("GET", "/health", None, _HEALTH_SECONDS)
                if status == http.HTTPStatus.OK:
                    return
            time.sleep(_POLL_SECONDS)
        raise self._failure(f"did not finish loading within {self.options.load_seconds:g} s")

    def _check_identity(self) -> None:
        """Another server may hold the port: only one that names our model is ours."""
        properties = self.properties()
        self._running().require_alive("right after it loaded")
        served = properties.get("model_path")
        if not isinstance(served, str) or Path(served).resolve() != self.model:
            raise self._failure(f"serves {printable(str(served))!r}, not {printable(self.model)!r}")
        binary = self.options.binary
        program = f"xllamacpp {_xllamacpp_version()}" if binary is None else binary.name
        self.build = f"{program} ({properties.get('build_info') or 'unknown build'})"

    # -- requests ------------------------------------------------------------------------------

    def _ask(self, method: str, path: str, body: Any = None) -> Json:
        process = self._running()
        seconds = self.options.answer_seconds
        try:
            status, raw = self._connection.request(method, path, body, seconds)
        except TimeoutError as e:
            raise self._failure(f"did not answer {path} within {seconds:g} s") from e
        except (OSError, http.client.HTTPException) as e:
            process.require_alive(f"while it answered {path}")
            raise self._failure(f"broke off its answer to {path}: {e}") from e
        try:
            reply = json.loads(raw)
        except ValueError as e:
            raise self._failure(f"answered {path} with something that is not JSON") from e
        if status != http.HTTPStatus.OK or not isinstance(reply, dict):
            text = printable(raw[:300])
            raise self._failure(f"answered {path} with status {status}: {text}")
        return reply

    def _running(self) -> EngineProcess:
        if self._closed or self._process is None:
            raise self._failure("is closed" if self._closed else "was not started")
        return self._process

    @contextlib.contextmanager
    def _reading(self, path: str, fault: str) -> Iterator[None]:
        """Turn what goes wrong in reading a reply into EngineFailed."""
        try:
            yield
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as e:
            raise self._failure(f"answered {path} {fault}") from e

    def _failure(self, what: str) -> EngineFailed:
        if self._process is not None:
            return self._process.failure(what)
        return EngineFailed(f"the engine {what}; model {printable(self.model.name)}")


Engine = ServerEngine


def _conversation(question: str) -> Json:
    return {
        "messages": [{"role": "user", "content": question}],
        "chat_template_kwargs": {"enable_thinking": False},
    }


def _mean_nll(chosen: Sequence[Json] | None) -> float | None:
    return fmean(-_logprob(entry) for entry in chosen) if chosen else None


def _logprob(entry: Json) -> float:
    # JSON has no NaN: llama.cpp writes null.
    return -math.inf if entry["logprob"] is None else float(entry["logprob"])


def _positive(value: float | None) -> float | None:
    return float(value) if value and 0 < value < math.inf else None


def _xllamacpp_version() -> str:
    try:
        return metadata.version("xllamacpp")
    except metadata.PackageNotFoundError:
        return "of unknown version"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
