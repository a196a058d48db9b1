"""Candidates without files: headers whose tensors are those of the base, which is loaded once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rys_gguf.checks.opener import PlanOpener
from rys_gguf.checks.self_test import require_live
from rys_gguf.engines.live.engine import LiveEngine
from rys_gguf.engines.live.kept import take_session
from rys_gguf.errors import EngineFailed
from rys_gguf.layers.carry import ModelRules
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.patch.plan import make_plan
from rys_gguf.search.hosts.base import Hosted, Workplace


class LiveHost:
    """Holds the base in a session; a candidate is made and freed in it in a few milliseconds.

    A candidate computes what the file that `apply` writes computes: a self-test shows it of this
    engine, architecture and device. Raises RysError if it does not.
    """

    def __init__(self, place: Workplace) -> None:
        # On every machine of a cluster, and quick where it has been shown before.
        require_live(place.model.files[0].path, place.options)
        self._place = place
        self._rules = ModelRules.of(place.model)
        self._session = take_session(place.model.files[0].path, place.options)
        self._opener = PlanOpener(self._session)

    @contextlib.contextmanager
    def open(self, layer_map: LayerMap) -> Iterator[Hosted]:
        """As Host."""
        path = self._place.model.files[0].path
        options = self._place.options
        try:
            if layer_map.is_identity:
                yield Hosted(LiveEngine(path, options, self._session))
                return
            start = time.monotonic()
            plan = make_plan(
                self._place.model,
                layer_map,
                schedule=self._place.schedule,
                provenance=False,
                rules=self._rules,
            )
            seconds = time.monotonic() - start
            engine = LiveEngine(path, options, self._session, lambda _: self._opener.open(plan))
            yield Hosted(engine, write_seconds=seconds)
        except EngineFailed:
            # Whatever it was, the next candidate gets a process that knows nothing of it.
            self._session.close()
            raise

    def stop(self) -> None:
        """End the session, whatever it is doing."""
        self._session.close()

    def close(self) -> None:
        """End the session."""
        self._opener.close()
        self._session.close()
