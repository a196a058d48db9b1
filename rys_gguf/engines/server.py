"""Run llama.cpp and ask it questions: the only module that knows how.

Two engines serve the same HTTP API, each in a process of its own, so that a model that makes
llama.cpp abort is an error message here: the prebuilt `xllamacpp` package (rys-gguf[engine]), and
any llama-server binary. A process is watched while it loads, believed only once it names the
model it was started with, and stopped by its own pid whatever happens.

API: llama.cpp tools/server/README.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from rys_gguf.engines.base import EngineOptions
from rys_gguf.errors import EngineFailed
from rys_gguf.text import printable

_LOG_LINES = 8
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.02
# In logits: no real ones differ by as much, and float32 still tells options apart by 1e-5.
_OPTION_BIAS = 100.0


class Engine:
    """One running llama.cpp with one model. Use it as a context manager.

    Raises EngineFailed, with the engine's last log lines, whenever it does not do its part.
    """

    def __init__(self, model: str | os.PathLike[str], options: EngineOptions) -> None:
        self.model = Path(model).resolve()
        self.options = options
        self.build = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._port = 0
        self._sampled: int | None = None

    def __enter__(self) -> Engine:
        try:
            self._start()
            self._wait_until_healthy()
            self._check_identity()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the process: ask, then insist."""
        process, self._process = self._process, None
        if process is not None:
            _signal_group(process, signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            finally:
                _signal_group(process, getattr(signal, "SIGKILL", signal.SIGTERM))
                process.wait()
        if self._log is not None:
            self._log.close()
            self._log = None

    @property
    def url(self) -> str:
        """Where it serves, while it runs."""
        return f"http://127.0.0.1:{self._port}"

    # -- questions -----------------------------------------------------------------------------

    def complete(self, prompt: str | Sequence[int], **parameters: Any) -> dict[str, Any]:
        """One answer of /completion; parameters are those of llama.cpp."""
        body = {"prompt": prompt if isinstance(prompt, str) else list(prompt), **parameters}
        return self._ask("POST", "/completion", body)

    def logprobs(
        self, tokens: Sequence[int], n_vocab: int, n_probs: int | None = None
    ) -> npt.NDArray[np.float64]:
        """Log-probabilities of the token after `tokens`, shape (n_vocab,), in nats.

        With `n_probs` only of that many, the most likely ones; the others are -inf.
        """
        values = np.full(n_vocab, -np.inf)
        for token, value in self.top_logprobs(tokens, n_probs or n_vocab).items():
            values[token] = value
        return values

    def top_logprobs(self, tokens: Sequence[int], n: int) -> dict[int, float]:
        """The `n` most likely tokens after `tokens` and their log-probabilities, in nats.

        All are -inf where the model gives no numbers.
        """
        if self._sampled is None:
            self._sampled = self.tokenize("a", special=False)[-1]
        answer = self.complete(
            tokens,
            n_predict=1,
            n_probs=n,
            temperature=0.0,
            cache_prompt=False,
            # An end of text or half a character as the answer would come without probabilities,
            # so a plain letter is made the answer. Those reported are from before the sampler.
            logit_bias=[[self._sampled, 1000.0]],
        )
        try:
            top = answer["completion_probabilities"][0]["top_logprobs"]
            # JSON has no NaN: llama.cpp writes null.
            return {e["id"]: -np.inf if e["logprob"] is None else e["logprob"] for e in top}
        except (KeyError, IndexError, TypeError) as e:
            raise self._failed("answered /completion without log-probabilities") from e

    def option_probabilities(
        self, tokens: Sequence[int], options: Sequence[int], *, same_prompt: bool = False
    ) -> list[float]:
        """Probabilities of the token after `tokens` among distinct `options`, with sum 1.

        `same_prompt` lets the engine keep what it computed of the prompt it shares with the last
        question; what it then computes may depend on that question.
        """
        answer = self.complete(
            tokens,
            n_predict=1,
            n_probs=len(options),
            # Far above all others, the options are what is left after top_k, as they relate.
            logit_bias=[[option, _OPTION_BIAS] for option in options],
            samplers=["top_k"],
            top_k=len(options),
            temperature=1.0,
            post_sampling_probs=True,
            cache_prompt=same_prompt,
            seed=0,
        )
        try:
            top = answer["completion_probabilities"][0]["top_probs"]
            found = {entry["id"]: entry["prob"] for entry in top}
            values = [float(found.get(option) or 0.0) for option in options]
        except (KeyError, IndexError, TypeError) as e:
            raise self._failed("answered /completion without probabilities") from e
        total = sum(values)
        if not total > 0:
            raise self._failed("gave no probability to any option: its logits are not numbers")
        return [value / total for value in values]

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of a text, with the model's own special tokens in front."""
        body = {"content": text, "add_special": special, "parse_special": True}
        return list(self._ask("POST", "/tokenize", body)["tokens"])

    def chat(self, messages: Sequence[dict[str, str]], **parameters: Any) -> dict[str, Any]:
        """One answer of /v1/chat/completions, thinking switched off."""
        body = {
            "messages": list(messages),
            "chat_template_kwargs": {"enable_thinking": False},
            **parameters,
        }
        return self._ask("POST", "/v1/chat/completions", body)

    def templated(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt the model's chat template makes of messages, thinking switched off."""
        body = {
            "messages": list(messages),
            "chat_template_kwargs": {"enable_thinking": False},
        }
        return str(self._ask("POST", "/apply-template", body)["prompt"])

    def properties(self) -> dict[str, Any]:
        """What /props says of model, template and build."""
        return self._ask("GET", "/props")

    # -- the process ---------------------------------------------------------------------------

    def _start(self) -> None:
        self._port = _free_port()
        options = self.options
        # A file, not a pipe: nobody has to keep reading for the engine to keep running.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        if options.binary is None:
            settings = {
                "model": str(self.model),
                "port": self._port,
                "n_ctx": options.n_ctx,
                "n_threads": options.n_threads,
                "n_ubatch": options.n_ubatch,
            }
            command = [sys.executable, "-m", "rys_gguf.engines.child", json.dumps(settings)]
        else:
            command = [
                str(options.binary),
                *("--model", str(self.model)),
                *("--host", "127.0.0.1", "--port", str(self._port)),
                *("--ctx-size", str(options.n_ctx), "--parallel", "1", "--no-warmup"),
                *(("--threads", str(options.n_threads)) if options.n_threads else ()),
                *(("--ubatch-size", str(options.n_ubatch)) if options.n_ubatch else ()),
                *options.arguments,
            ]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                # An abort should end with its assertion, not with a debugger's attempts.
                env={**os.environ, "GGML_NO_BACKTRACE": "1", **dict(options.environment)},
                stdout=self._log,
                stderr=subprocess.STDOUT,
                # Out of the terminal's process group: Ctrl-C reaches us, and we stop the engine.
                start_new_session=True,
                # One system call and nothing else: safe between fork and exec.
                preexec_fn=_die_with_parent  # noqa: PLW1509
                if sys.platform == "linux"
                else None,
            )
        except OSError as e:
            raise EngineFailed(f"{printable(command[0])}: {e.strerror or e}") from e

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + self.options.load_seconds
        while time.monotonic() < deadline:
            self._require_alive("while it loaded")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._request("GET", "/health", None, timeout=5.0)[0] == http.HTTPStatus.OK:
                    return
            time.sleep(_POLL_SECONDS)
        raise self._failed(f"did not finish loading within {self.options.load_seconds:g} s")

    def _check_identity(self) -> None:
        """Another server may hold the port: only one that names our model is ours."""
        properties = self.properties()
        self._require_alive("right after it loaded")
        served = properties.get("model_path")
        if served is None or Path(served).resolve() != self.model:
            raise self._failed(f"serves {printable(str(served))!r}, not {printable(self.model)!r}")
        self.build = str(properties.get("build_info", ""))

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        try:
            status, raw = self._request(method, path, body, self.options.answer_seconds)
        except TimeoutError as e:
            seconds = self.options.answer_seconds
            raise self._failed(f"did not answer {path} within {seconds:g} s") from e
        except (OSError, http.client.HTTPException) as e:
            self._require_alive(f"while it answered {path}")
            raise self._failed(f"broke off its answer to {path}: {e}") from e
        try:
            answer = json.loads(raw)
        except ValueError as e:
            raise self._failed(f"answered {path} with something that is not JSON") from e
        if status != http.HTTPStatus.OK or not isinstance(answer, dict):
            said = printable(raw[:300])
            raise self._failed(f"answered {path} with status {status}: {said}")
        return answer

    def _request(self, method: str, path: str, body: Any, timeout: float) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _require_alive(self, when: str) -> None:
        assert self._process is not None
        code = self._process.poll()
        if code is None:
            return
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise self._failed(f"ended {when} ({how})")

    def _failed(self, what: str) -> EngineFailed:
        name = self.options.binary.name if self.options.binary else "llama.cpp (xllamacpp)"
        lines = self.last_lines()
        log = "".join(f"\n  | {line}" for line in lines)
        return EngineFailed(
            f"{printable(name)} {what}; model {printable(self.model.name)}{log}", lines
        )

    def last_lines(self) -> list[str]:
        """The last lines the engine logged, safe to print."""
        if self._log is None:
            return []
        size = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), 8192, max(0, size - 8192))
        lines = tail.decode("utf-8", "replace").splitlines()
        return [printable(line, 160) for line in lines if line.strip()][-_LOG_LINES:]


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    """Signal the engine and whatever it started: a llama-server may be a wrapper script."""
    if not hasattr(os, "killpg"):
        process.terminate()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)  # it leads a session of its own


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    # prctl(PR_SET_PDEATHSIG, SIGKILL): an engine must not outlive a run that was killed.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
