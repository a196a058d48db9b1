"""What an engine is told, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
