"""What the real engine makes of a model, for tests: the package's own engine, one thread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rys_gguf import Model
from rys_gguf.checks.prove import make_prompts
from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.find import find_engine, open_engine
from tests import tiny

# xllamacpp, or with LLAMA_SERVER in the environment that binary.
OPTIONS = EngineOptions(find_engine(), n_ctx=256, n_threads=1, load_seconds=60, answer_seconds=60)


def logprobs(
    path: Path, prompts: Sequence[Sequence[int]] = (), n_vocab: int = tiny.N_VOCAB
) -> npt.NDArray[np.float64]:
    """Log-probabilities after each prompt, shape (n_prompts, n_vocab); equal models, equal bits.

    The prompts are those of a proof if none are given: the longest goes past every window.
    """
    if not prompts:
        with Model(path) as model:
            prompts = make_prompts(model)
    with open_engine(path, OPTIONS) as engine:
        return np.stack([engine.logprobs(ids, n_vocab) for ids in prompts])
