"""The host: makes an engine of a layer map."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rys_gguf.engines.base import Engine, EngineOptions
from rys_gguf.formats.model import Model
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Hosted:
    """A candidate that is made but not loaded: `with hosted.engine` loads it.

    Making it took `n_written` bytes on disk, `n_shared` bytes shared with the source, and
    `write_seconds`.
    """

    engine: Engine
    n_written: int = 0
    n_shared: int = 0
    write_seconds: float = 0.0


class Host(Protocol):
    """Turns layer maps of one model into engines, one at a time, by whatever means.

    A host belongs to one worker. The identity map is the model as it is and costs nothing to make.
    """

    def open(self, layer_map: LayerMap) -> AbstractContextManager[Hosted]:
        """A model that computes what the map says; it is there until the block ends.

        Raises Refused for a map that may not be written, OutputFailed where there is no room. The
        engine raises EngineFailed where llama.cpp does not do its part. After an error the host is
        as usable as before.
        """

    def stop(self) -> None:
        """End the engine that runs, from another thread; whatever it is being asked then fails."""

    def close(self) -> None:
        """Give back everything: files, memory, processes. Closing twice is fine."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """The model that a host works on, the folder and `name` of its files, and how it loads them."""

    model: Model
    folder: Path
    name: str
    schedule: Schedule
    options: EngineOptions


MakeHost = Callable[[Workplace], Host]
