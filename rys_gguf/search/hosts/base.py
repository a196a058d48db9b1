"""The host: makes an engine of a layer map."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from rys_gguf.engines.base import Engine
from rys_gguf.layers.layer_map import LayerMap


@dataclass(frozen=True, slots=True)
class Hosted:
    """A candidate that runs, and what it took to make it: bytes written and shared, seconds.

    `write_seconds` were spent on making it, `load_seconds` on loading it.
    """

    engine: Engine
    n_written: int
    n_shared: int
    write_seconds: float
    load_seconds: float


class Host(Protocol):
    """Turns layer maps of one model into engines, one at a time, however it does that.

    A host belongs to one worker. The identity map is the model as it is, and costs nothing to make.
    """

    def open(self, layer_map: LayerMap) -> AbstractContextManager[Hosted]:
        """An engine that computes what the map says.

        Raises Refused for a map that may not be written, OutputFailed where there is no room,
        EngineFailed where llama.cpp does not do its part. After an error the host is as usable as
        before.
        """

    def stop(self) -> None:
        """End the engine that runs, from another thread; what it is asked then fails."""

    def close(self) -> None:
        """Give back everything: files, memory, processes. Closing twice is fine."""
