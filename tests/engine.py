"""What the real engine makes of a model, for tests: the package's own engine, one thread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rys_gguf import Model
from rys_gguf.checks.prove import make_prompts
from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.find import find_engine, open_engine
from rys_gguf.errors import EngineFailed
from tests import tiny

# xllamacpp, or with LLAMA_SERVER in the environment that binary.
OPTIONS = EngineOptions(find_engine(), n_ctx=256, n_threads=1, load_seconds=60, answer_seconds=60)


def logprobs(
    path: Path,
    prompts: Sequence[Sequence[int]] = (),
    n_vocab: int = tiny.N_VOCAB,
    options: EngineOptions = OPTIONS,
) -> npt.NDArray[np.float64]:
    """Log-probabilities after each prompt, shape (n_prompts, n_vocab); equal models, equal bits.

    The prompts are those of a proof if none are given: the longest goes past every window.
    """
    if not prompts:
        with Model(path) as model:
            prompts = make_prompts(model)
    with open_engine(path, options) as engine:
        return np.stack([engine.logprobs(ids, n_vocab) for ids in prompts])


# In a process of its own, since llama.cpp aborts where it does not refuse.
_EMBED = """
import json, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.embedding, params.embd_normalize = True, -1
params.n_ctx, params.n_parallel, params.warmup, params.fit_params = 256, 1, False, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
answers = [server.handle_embeddings({"input": ids}) for ids in json.loads(sys.argv[2])]
print("answers", json.dumps([answer["data"][0]["embedding"] for answer in answers]))
"""


def embeddings(path: Path) -> npt.NDArray[np.float64]:
    """What an embedding model makes of the prompts of a proof, shape (n_prompts, width).

    Raises EngineFailed if llama.cpp does not load or run the model.
    """
    with Model(path) as model:
        prompts = make_prompts(model)
    done = subprocess.run(
        [sys.executable, "-c", _EMBED, path, json.dumps(prompts)],
        capture_output=True, text=True, env=os.environ | {"GGML_NO_BACKTRACE": "1"},
    )  # fmt: skip
    for line in done.stdout.splitlines():
        if line.startswith("answers "):
            return np.array(json.loads(line.removeprefix("answers ")))
    raise EngineFailed(done.stderr)
