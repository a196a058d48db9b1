"""A file for each candidate: the one that `apply` writes, verified, and removed after use."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rys_gguf.checks.verify import find_problems
from rys_gguf.errors import RysError
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.patch.plan import make_plan
from rys_gguf.patch.writer import write_plan
from rys_gguf.search.hosts.base import Hosted, Workplace
from rys_gguf.search.hosts.loading import Loader
from rys_gguf.text import printable


class WrittenHost:
    """Writes each candidate in full, as `apply` does."""

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self._path = place.folder / f"{place.name}-written.gguf"
        self._loader = Loader(place.options)

    @contextlib.contextmanager
    def open(self, layer_map: LayerMap) -> Iterator[Hosted]:
        """As Host; also raises RysError if the written file is not what the map says."""
        model = self._place.model
        if layer_map.is_identity:
            with self._loader.engine(model.files[0].path) as engine:
                yield Hosted(engine)
            return
        start = time.monotonic()
        try:
            plan = make_plan(model, layer_map, schedule=self._place.schedule)
            written = write_plan(plan, self._path, force=True, may_be_link=False)
            if problems := find_problems(self._path, model.files[0].path):
                raise RysError(f"{printable(self._path)}: {problems[0]}; the file was not used")
            seconds = time.monotonic() - start
            with self._loader.engine(self._path) as engine:
                yield Hosted(engine, written.n_copied, written.n_shared, seconds)
        finally:
            self.close()

    def stop(self) -> None:
        """End the engine that runs."""
        self._loader.stop()

    def close(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
