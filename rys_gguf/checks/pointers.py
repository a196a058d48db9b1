"""Plans as models in a live session, without files that hold weights."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rys_gguf.engines.live.loaded import Loaded
from rys_gguf.engines.live.session import HollowFile, Session
from rys_gguf.errors import EngineFailed
from rys_gguf.formats.model import Model
from rys_gguf.patch.hollow import Hollow, hollow, is_tied
from rys_gguf.patch.plan import Plan


@contextlib.contextmanager
def loaded_plan(session: Session, plan: Plan) -> Iterator[Loaded]:
    """What a plan would write, as a model of a session that holds the plan's source.

    Raises EngineFailed where the engine cannot do that.
    """
    if is_tied(plan.model) and session.holds_embedding_twice():
        # Some architectures take no head of their own; their head is then the host's embedding.
        with (
            contextlib.suppress(EngineFailed),
            loaded_hollow(session, plan.model, hollow(plan, untied=True)) as loaded,
        ):
            yield loaded
            return
    with loaded_hollow(session, plan.model, hollow(plan)) as loaded:
        yield loaded


@contextlib.contextmanager
def loaded_hollow(session: Session, model: Model, header: Hollow) -> Iterator[Loaded]:
    """A header as a model of a session that holds `model`; its file is gone in the end."""
    descriptor, name = tempfile.mkstemp(prefix="rys-", suffix=".gguf")
    os.close(descriptor)
    path = Path(name)
    try:
        header.write(model, path)
        with session.variant(HollowFile(path, header.pairs, header.pattern)) as loaded:
            yield loaded
    finally:
        path.unlink(missing_ok=True)
