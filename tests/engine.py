"""Run a model in llama.cpp: the log-probabilities of every next token, or embeddings.

llama.cpp aborts the process over some models, so each one is run in a child of its own:
`python -m tests.engine logprobs MODEL N_VOCAB`, prompts on stdin, an array on stdout, the log on
stderr. One thread and no cache: equal models give equal bits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Prompts = Sequence[Sequence[int]]
Array = npt.NDArray[np.float64]

_ROOT = Path(__file__).parent.parent
_LOG_LINES = 12
# The server drops the probabilities if the sampled token is only part of a character. So this
# token is forced, a whole one in every vocabulary used here; they are those before sampling.
_SAMPLED = 68


class EngineFailed(Exception):
    """llama.cpp did not load the model, or died over it; the text ends with its last log lines."""


def logprobs(path: Path, prompts: Prompts, n_vocab: int) -> Array:
    """The log-probability of each token after each prompt, as an array (prompts, vocabulary).

    A probability that is not a number comes as NaN. Raises EngineFailed.
    """
    return _run("logprobs", path, prompts, n_vocab)


def embeddings(path: Path, prompts: Prompts, n_embd: int) -> Array:
    """What an embedding model makes of each prompt, as an array (prompts, width)."""
    return _run("embeddings", path, prompts, n_embd)


def _run(what: str, path: Path, prompts: Prompts, width: int, timeout: float = 60) -> Array:
    argv = [sys.executable, "-m", "tests.engine", what, str(path.resolve()), str(width)]
    try:
        done = subprocess.run(
            argv,
            input=json.dumps([list(prompt) for prompt in prompts]).encode(),
            capture_output=True,
            timeout=timeout,
            cwd=_ROOT,
            env=os.environ | {"GGML_NO_BACKTRACE": "1"},
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        raise EngineFailed(f"{path.name}: no answer in {timeout} s\n{_tail(e.stderr)}") from None
    if done.returncode or len(done.stdout) != 8 * len(prompts) * width:
        raise EngineFailed(f"{path.name}: exit code {done.returncode}\n{_tail(done.stderr)}")
    return np.frombuffer(done.stdout, "<f8").reshape(len(prompts), width)


def _tail(log: bytes | None) -> str:
    lines = (log or b"").decode("utf-8", "replace").splitlines()
    return "\n".join(lines[-_LOG_LINES:])


# -- in the child ---------------------------------------------------------------------------------


def _main(what: str, path: str, width: str) -> None:
    # The engine may print; only the array may go where the parent reads.
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        server = _server(path, embedding=what == "embeddings")
        ask = {"logprobs": _logprobs, "embeddings": _embedding}[what]
        rows = [ask(server, prompt, int(width)) for prompt in json.load(sys.stdin)]
        out.write(np.array(rows, "<f8").tobytes())


def _server(path: str, *, embedding: bool) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.embedding = embedding
    params.n_ctx = 256
    params.n_parallel = 1
    params.warmup = False
    params.verbosity = 2  # warnings and errors
    params.fit_params = False
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    try:
        return xllamacpp.Server(params)
    except RuntimeError as e:  # it says no more than that; the reason stands in the log
        sys.exit(str(e))


def _logprobs(server: Any, prompt: list[int], n_vocab: int) -> Array:
    answer = server.handle_completions({
        "prompt": prompt,
        "max_tokens": 1,
        "logprobs": n_vocab,
        "temperature": 0,
        "logit_bias": [[_SAMPLED, 1e6]],
        "cache_prompt": False,
    })  # fmt: skip
    row = np.full(n_vocab, np.nan)
    for token in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
        row[token["id"]] = np.nan if token["logprob"] is None else token["logprob"]
    return row


def _embedding(server: Any, prompt: list[int], n_embd: int) -> Array:
    vector = server.handle_embeddings({"input": prompt})["data"][0]["embedding"]
    return np.array(vector, np.float64).reshape(n_embd)


if __name__ == "__main__":
    _main(*sys.argv[1:])
