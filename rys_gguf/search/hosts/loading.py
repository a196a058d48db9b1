"""The running engine of a host that loads files; another thread may end it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from rys_gguf.engines.base import Engine, EngineOptions
from rys_gguf.engines.find import open_engine


class Loader:
    """Opens files in engines, one at a time."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._engine: Engine | None = None

    @contextlib.contextmanager
    def engine(self, path: str | os.PathLike[str]) -> Iterator[Engine]:
        """An engine for a file, not started yet; it has ended when the block has."""
        engine = open_engine(path, self._options)
        # Known before it is loaded, so that `stop` ends it then too.
        self._engine = engine
        try:
            yield engine
        finally:
            self._engine = None
            engine.close()

    def stop(self) -> None:
        """End the engine that runs, from another thread."""
        # Read once: the worker's own thread may let go of it meanwhile.
        if (engine := self._engine) is not None:
            engine.close()
