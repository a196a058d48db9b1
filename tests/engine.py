"""What the real engine makes of a model, for tests: the package's own engine, one thread.

Unless LLAMA_SERVER names another one, all models of a test process are loaded in one child process,
which takes a tenth of the time that servers take.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from rys_gguf import Model
from rys_gguf.checks import edited
from rys_gguf.checks.prove import Proof, make_prompts, prove
from rys_gguf.checks.variant import VariantPair
from rys_gguf.engines.base import Engine, EngineOptions
from rys_gguf.engines.find import find_engine, open_engine
from tests import tiny
from tests.direct import DirectEngine

# xllamacpp, or with LLAMA_SERVER in the environment that binary.
OPTIONS = EngineOptions(find_engine(), n_ctx=256, n_threads=1, load_seconds=60, answer_seconds=60)


@functools.cache
def shared() -> DirectEngine:
    """The engine in which this process runs its models; it ends with the process."""
    lasting = contextlib.ExitStack()
    atexit.register(lasting.close)
    return lasting.enter_context(DirectEngine())


Computing = Engine | DirectEngine


def computing(path: Path, options: EngineOptions) -> contextlib.AbstractContextManager[Computing]:
    """A model that gives logits: in the shared engine, or in the one that LLAMA_SERVER names."""
    return (open_engine if OPTIONS.binary else shared().open_engine)(path, options)


def logprobs(
    path: Path,
    prompts: Sequence[Sequence[int]] = (),
    n_vocab: int = tiny.N_VOCAB,
    options: EngineOptions | None = None,
) -> npt.NDArray[np.float64]:
    """Log-probabilities after each prompt, shape (n_prompts, n_vocab); equal models, equal bits.

    The prompts are those of a proof if none are given: the longest goes past every window. With
    `options` the engine is that of a user who has these. Raises EngineFailed if llama.cpp does not
    load or run the model.
    """
    if not prompts:
        with Model(path) as model:
            prompts = make_prompts(model)
    open_model = open_engine if options else computing
    with open_model(path, options or OPTIONS) as engine:
        return np.stack([engine.logprobs(ids, n_vocab) for ids in prompts])


def direct_proof(pair: VariantPair) -> Proof:
    """The proof of a variant by silenced copies of both files."""
    with patch.object(edited, "open_engine", computing):
        return prove(pair, OPTIONS)


def embeddings(path: Path) -> npt.NDArray[np.float32]:
    """What an embedding model makes of the prompts of a proof, shape (n_prompts, width).

    Raises EngineFailed if llama.cpp does not load or run the model.
    """
    with Model(path) as model:
        prompts = make_prompts(model)
    return np.concatenate([shared().logits(path, ids) for ids in prompts])
